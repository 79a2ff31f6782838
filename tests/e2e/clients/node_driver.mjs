// Jobs for the openai SDK of npm, as python_driver.py has them for Python.
//
// argv: the folder whose node_modules has it, and its name there ("openai", "openai-6").
// stdin: one job a line: {stream, content}. stdout: JSON lines: start, then for each job text,
// perhaps exception, and end. Default retries; proxy, trust and base URL from the environment.
import { writeSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [folder, name] = process.argv.slice(2);
const require = createRequire(`${folder}/package.json`);
const { OpenAI } = require(name);

const say = (event, more = {}) => writeSync(1, JSON.stringify({ event, ...more }) + "\n");

const bases = (error) => {
  const names = [];
  for (let at = Object.getPrototypeOf(error); at; at = Object.getPrototypeOf(at))
    names.push(at.constructor.name);
  return names;
};

const call = async ({ stream, content }) => {
  const reply = await new OpenAI().chat.completions.create({
    model: "gpt-4o-mini",
    messages: [{ role: "user", content }],
    stream,
  });
  if (!stream) return say("text", { text: reply.choices[0].message.content });
  for await (const chunk of reply)
    for (const choice of chunk.choices)
      if (choice.delta.content) say("text", { text: choice.delta.content });
};

say("start", {
  version: `${require(`${folder}/node_modules/${name}/package.json`).version}, ${process.version}`,
});
for await (const line of createInterface({ input: process.stdin })) {
  try {
    await call(JSON.parse(line));
  } catch (error) {
    say("exception", {
      name: error.constructor.name,
      bases: bases(error),
      text: error.message,
      status: error.status ?? null,
    });
  }
  say("end");
}
