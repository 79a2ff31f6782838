// Mutes: what a person lets pass for a while, as `scripts/rules mute` does it.

import { get, post } from "./api.js";
import { h, moment, name, put, texts } from "./dom.js";

export const SCOPES = [
  ["finding", "this very text, wherever it comes again"],
  ["conversation", "this rule, in this conversation"],
  ["rule", "this rule, everywhere: on trial, it only notes"],
];
const TIMES = [[3600, "1 hour"], [8 * 3600, "8 hours"], [86_400, "1 day"], [7 * 86_400, "1 week"]];
const SCOPE_NAMES = { finding: "one text", conversation: "one conversation", rule: "everywhere" };

export function muteForm(requestId, rule, onProblem) {
  const group = `scope-${crypto.randomUUID()}`;
  const said = h("p", { class: "said", role: "status" });
  const form = h("form", { class: "mute" },
    h("fieldset", {},
      h("legend", { class: "hide" }, "What to let pass"),
      SCOPES.map(([value, label], index) => h("label", {},
        h("input", { type: "radio", name: group, value, checked: index === 0 }), " ", label))),
    h("div", { class: "mute-end" },
      h("label", {}, "for ", h("select", { name: "seconds" }, TIMES.map(([value, label]) => h("option", { value }, label)))),
      h("button", { class: "do" }, "Let it pass")),
    said);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const scope = form.querySelector("input:checked").value;
      const { mutes } = await post("mute", {
        request_id: requestId, rule, scope, seconds: Number(form.elements.seconds.value),
      });
      const until = Math.max(...mutes.map((mute) => mute.until));
      put(said, `Muted until ${moment(until)}. `, h("a", { href: "#/mutes" }, "All mutes"));
      said.className = "said good";
    } catch (error) {
      put(said, ...texts(error.message));
      said.className = "said bad";
      if (error.status === 0 || error.status === 401) onProblem(error);
    } finally {
      button.disabled = false;
    }
  });
  return h("details", { class: "fold" }, h("summary", {}, "A false alarm?"), form);
}

export async function showMutes(place, onProblem) {
  let data;
  try {
    data = await get("mutes");
  } catch (error) {
    if (error.name !== "AbortError") onProblem(error);
    return;
  }
  const body = data.mutes.length
    ? h("ul", { class: "mutes" }, data.mutes.map((mute) => h("li", {},
        h("div", {},
          h("strong", {}, name(mute.guardrail)), " ",
          h("span", { class: "pill" }, SCOPE_NAMES[mute.scope] ?? mute.scope),
          mute.words ? h("p", { dir: "auto" }, texts(mute.words)) : null,
          h("p", { class: "dim small" }, `until ${moment(mute.until)}, after `,
            h("a", { href: `#/c/${encodeURIComponent(mute.request_id)}`, class: "code" }, name(mute.request_id)))),
        h("button", {
          type: "button",
          on: {
            click: async (event) => {
              event.target.disabled = true;
              try {
                await post("unmute", { id: mute.id });
                await showMutes(place, onProblem);
              } catch (error) {
                event.target.disabled = false;
                onProblem(error);
              }
            },
          },
        }, "Take back"))))
    : h("p", { class: "dim" }, "Nothing is muted. A refusal can be let pass from the conversation that it is in.");
  put(place, h("div", { class: "sheet" },
    h("h2", {}, "Mutes"),
    h("p", { class: "dim" }, "What rules found and was let pass for a while. A mute ends by itself; running proxies see a change with their next call."),
    body));
}
