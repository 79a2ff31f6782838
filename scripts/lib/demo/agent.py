"""A small agent, as anybody would write it: it reads prompts, streams answers, uses tools.

It knows nothing of a proxy, and has no base_url. scripts/demo copies it into a folder of its own
and runs it there; its tools know only the folder `files` next to it.
"""

from __future__ import annotations

import json
from pathlib import Path

from openai import APIError, OpenAI
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam

FILES = Path(__file__).resolve().parent / "files"


def list_files() -> str:
    return ", ".join(
        sorted(f"{file.name} ({file.stat().st_size} bytes)" for file in FILES.iterdir())
    )


def delete_file(name: str) -> str:
    (FILES / Path(name).name).unlink()
    return f"{name} is gone"


def tool(name: str, description: str, /, **parameters: str) -> ChatCompletionFunctionToolParam:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {name: {"type": kind} for name, kind in parameters.items()},
                "required": list(parameters),
                "additionalProperties": False,
            },
        },
    }


TOOLS = [
    tool("list_files", "Lists the files, with their sizes."),
    tool("delete_file", "Deletes a file.", name="string"),
]


def run_tool(name: str, arguments: str) -> str:
    given = json.loads(arguments)
    result = list_files() if name == "list_files" else delete_file(**given)
    shown = ", ".join(map(repr, given.values()))
    print(f"[ran {name}({shown}): {result}]")
    return result


def answer(client: OpenAI, prompt: str) -> None:
    """Print the model's answer as it comes; run the tools it asks for, until it asks no more."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": prompt}]
    while True:
        with client.chat.completions.stream(
            model="gpt-4o-mini", messages=messages, tools=TOOLS
        ) as stream:
            for event in stream:
                if event.type == "content.delta":
                    print(event.delta, end="", flush=True)
            message = stream.get_final_completion().choices[0].message
        print()
        if not message.tool_calls:
            return
        calls = [(call.id, call.function) for call in message.tool_calls]
        messages.append(
            {
                "role": "assistant",
                "content": message.content,
                "tool_calls": [
                    {
                        "id": call_id,
                        "type": "function",
                        "function": {"name": function.name, "arguments": function.arguments},
                    }
                    for call_id, function in calls
                ],
            }
        )
        for call_id, function in calls:
            result = run_tool(function.name, function.arguments)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": result})


def main() -> None:
    client = OpenAI()
    while True:
        try:
            prompt = input("you> ")
        except EOFError:
            return
        try:
            answer(client, prompt)
        except APIError as error:
            print(f"\n{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
