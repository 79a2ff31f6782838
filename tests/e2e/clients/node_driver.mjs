// Jobs for the clients of npm, as python_driver.py has them for Python.
//
// argv: the folder whose node_modules has it, its name there ("openai", "openai-6", "ai"), and the
// way to call it: chat, responses, agents or ai.
// stdin: one job a line: {stream, content}. stdout: JSON lines: start, then for each job text,
// perhaps exception, and end. Default retries; proxy, trust and base URL from the environment.
import { writeSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [folder, name, way] = process.argv.slice(2);
const require = createRequire(`${folder}/package.json`);
process.env.OPENAI_AGENTS_DISABLE_TRACING = "1"; // else it sends its own traces to OpenAI
const load = (what) => import(pathToFileURL(require.resolve(what)));
const client = await load(name);
const model = "gpt-4o-mini";

const say = (event, more = {}) => writeSync(1, JSON.stringify({ event, ...more }) + "\n");

const bases = (error) => {
  const names = [];
  for (let at = Object.getPrototypeOf(error); at; at = Object.getPrototypeOf(at))
    names.push(at.constructor.name);
  return names;
};

const chat = async ({ stream, content }) => {
  const reply = await new client.OpenAI().chat.completions.create({
    model,
    messages: [{ role: "user", content }],
    stream,
  });
  if (!stream) return say("text", { text: reply.choices[0].message.content });
  for await (const chunk of reply)
    for (const choice of chunk.choices)
      if (choice.delta.content) say("text", { text: choice.delta.content });
};

const responses = async ({ stream, content }) => {
  const reply = await new client.OpenAI().responses.create({ model, input: content, stream });
  if (!stream) return say("text", { text: reply.output_text });
  for await (const event of reply)
    if (event.type === "response.output_text.delta") say("text", { text: event.delta });
};

const agents = async ({ stream, content }) => {
  const agent = new client.Agent({ name: "a", model });
  if (!stream) return say("text", { text: (await client.run(agent, content)).finalOutput });
  const result = await client.run(agent, content, { stream: true });
  for await (const event of result)
    if (event.type === "raw_model_stream_event" && event.data.type === "output_text_delta")
      say("text", { text: event.data.delta });
  await result.completed;
};

const ai = async ({ stream, content }) => {
  const { openai } = await load("@ai-sdk/openai");
  if (!stream) {
    const { text } = await client.generateText({ model: openai(model), prompt: content });
    return say("text", { text });
  }
  // Its text stream only ends; a program that wants to know why has to look here.
  const result = client.streamText({ model: openai(model), prompt: content, onError: () => {} });
  for await (const part of result.fullStream) {
    if (part.type === "text-delta") say("text", { text: part.text });
    if (part.type === "error") throw part.error;
  }
};

const call = { chat, responses, agents, ai }[way];

say("start", {
  version: `${require(`${folder}/node_modules/${name}/package.json`).version}, ${process.version}`,
});
for await (const line of createInterface({ input: process.stdin })) {
  try {
    await call(JSON.parse(line));
  } catch (error) {
    say("exception", {
      name: error.name === "Error" ? error.constructor.name : error.name,
      bases: bases(error),
      text: error.message,
      status: error.status ?? error.statusCode ?? null,
    });
  }
  say("end");
}
