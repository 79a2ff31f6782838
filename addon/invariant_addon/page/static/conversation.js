// One conversation: a chat with its tool calls, and beside each message what rules found in it.

import { get } from "./api.js";
import { duration, h, moment, name, plain, plural, put, texts } from "./dom.js";
import { muteForm } from "./mutes.js";

const EFFECTS = {
  blocked: "blocked", masked: "masked", noted: "noted", shadow: "would have blocked", muted: "muted",
};
const ROLES = {
  user: "User", assistant: "Assistant", system: "System", developer: "Developer", tool: "Tool result",
};
const LONG = 900;

export class Conversation {
  constructor(place, { onProblem }) {
    this.place = place;
    this.onProblem = onProblem;
    this.id = null;
  }

  close() {
    this.id = null;
    put(this.place, h("div", { class: "nothing" },
      h("p", {}, "Choose a conversation."),
      h("p", { class: "dim" }, "What rules found is marked in the text, with the rule beside it.")));
  }

  // id: of any turn. Shows where something was found first, or the end.
  async open(id) {
    const isNew = this.id !== id;
    this.id = id;
    if (isNew) this.earlier = null;
    let data;
    try {
      data = await get("conversation", { id }, "conversation");
    } catch (error) {
      if (error.name === "AbortError") return null;
      if (error.status === 404) {
        put(this.place, h("div", { class: "nothing" }, h("p", {}, "This trace is no longer kept.")));
        return null;
      }
      this.onProblem(error);
      return null;
    }
    if (this.id !== id) return null;
    if (isNew) {
      this.drawn = new Map();
      this.#frame(data);
    }
    this.#draw(data);
    if (isNew) this.#goTo(id);
    return data.id;
  }

  #frame(data) {
    this.turns = h("div", { class: "turns" });
    this.head = h("header", { class: "head" });
    put(this.place,
      h("div", { class: "bar" },
        h("a", { class: "back", href: "#/" , on: { click: (event) => { event.preventDefault(); history.back(); } } }, "‹ Conversations"),
        this.head),
      h("button", { type: "button", class: "earlier", hidden: true, on: { click: () => this.#showEarlier() } }),
      this.turns);
    this.first = data.first;
  }

  #draw(data) {
    const stays = this.turns.childElementCount > 0 && this.#isAtEnd();
    this.data = data;
    const last = data.shown.at(-1);
    put(this.head,
      h("span", {}, plural(data.turns, "turn")),
      last ? h("span", {}, name(last.model || "no model")) : null,
      last?.client ? h("span", {}, name(last.client)) : null,
      data.unreadable ? h("span", { class: "warn" }, `${plural(data.unreadable, "turn")} could not be read`) : null);
    this.#tellEarlier();
    for (const turn of data.shown) this.#put(turn);
    if (stays) this.place.scrollTop = this.place.scrollHeight;
  }

  #tellEarlier() {
    const button = this.place.querySelector(".earlier");
    button.hidden = this.first <= 1;
    button.textContent = `Show earlier turns (${(this.first - 1).toLocaleString("en")})`;
  }

  async #showEarlier() {
    try {
      const data = await get("conversation", { id: this.id, before: this.first }, "earlier");
      const top = this.turns.firstElementChild;
      const at = top?.getBoundingClientRect().top ?? 0;
      this.first = data.first;
      for (const turn of data.shown) this.#put(turn);
      this.#tellEarlier();
      if (top) this.place.scrollTop += top.getBoundingClientRect().top - at;
    } catch (error) {
      if (error.name !== "AbortError") this.onProblem(error);
    }
  }

  // A turn that is as it was is left alone: what somebody has opened in it stays open.
  #put(turn) {
    const text = JSON.stringify(turn);
    const known = this.drawn.get(turn.number);
    if (known?.text === text) return;
    const element = drawTurn(turn, this);
    if (known) known.element.replaceWith(element);
    else {
      const after = [...this.turns.children].find((each) => Number(each.dataset.number) > turn.number);
      this.turns.insertBefore(element, after ?? null);
    }
    this.drawn.set(turn.number, { text, element });
  }

  #isAtEnd() {
    return this.place.scrollHeight - this.place.scrollTop - this.place.clientHeight < 80;
  }

  #goTo(id) {
    const turn = [...this.turns.children].find((each) => each.dataset.id === id) ?? this.turns.lastElementChild;
    const where = turn?.querySelector("mark, .note") ?? this.#noted(turn) ?? turn;
    if (!where || (turn === this.turns.firstElementChild && where === turn)) this.place.scrollTop = 0;
    else where.scrollIntoView({ block: "center" });
  }

  #noted(turn) {
    const key = turn?.dataset.findings?.split(" ")[0];
    return key ? this.turns.querySelector(`[data-about~="${CSS.escape(key)}"]`) : null;
  }

  // n and p
  step(by) {
    const marks = [...this.place.querySelectorAll("mark, .notes.loose .note")];
    if (!marks.length) return;
    const middle = this.place.getBoundingClientRect().top + this.place.clientHeight / 2;
    const tops = marks.map((mark) => mark.getBoundingClientRect().top - middle);
    let at = by > 0 ? tops.findIndex((top) => top > 20) : tops.findLastIndex((top) => top < -20);
    if (at < 0) at = by > 0 ? marks.length - 1 : 0;
    marks[at].scrollIntoView({ block: "center" });
    flash(marks[at]);
  }
}

function flash(element) {
  element.classList.remove("flash");
  void element.offsetWidth;
  element.classList.add("flash");
}

function drawTurn(turn, conversation) {
  const findings = new Map(turn.findings.map((each) => [each.key, each]));
  const all = (key) => findings.get(key) ?? findingOf(conversation, key);
  const shownKeys = new Set(turn.items.flatMap((item) => item.about));
  const loose = turn.findings.filter((each) => !each.places.some((place) => place.item) || !shownKeys.has(each.key));
  const rows = [];
  let cut = turn.left_out > 0;
  turn.items.forEach((item, index) => {
    if (cut && index >= 10) {
      rows.push(h("p", { class: "gap" }, `${plural(turn.left_out, "message")} in between not shown`));
      cut = false;
    }
    rows.push(drawItem(item, turn, all, conversation));
  });
  return h("article", {
    class: "turn",
    data: { number: turn.number, id: turn.id, status: turn.status, findings: turn.findings.map((f) => f.key).join(" ") },
    "aria-label": `Turn ${turn.number}`,
  },
  h("div", { class: "turn-head" },
    h("span", { class: "number" }, `Turn ${turn.number}`),
    h("time", {}, moment(turn.started)),
    h("span", { class: "pill", data: { status: turn.status } }, plain(turn.status)),
    turn.rewritten ? h("span", { class: "dim" }, "the history was changed here") : null),
  rows,
  h("div", { class: "outcome" },
    turn.reason ? h("p", { class: "reason", dir: "auto" }, texts(turn.reason)) : null,
    delivery(turn),
    loose.length ? h("div", { class: "notes loose" }, loose.map((each) => note(each, turn, conversation))) : null,
    facts(turn)));
}

const findingOf = (conversation, key) =>
  conversation.data.shown.flatMap((turn) => turn.findings.map((each) => ({ ...each, turn }))).find((each) => each.key === key);

// The same finding of the same rule in an old message comes with every turn: once is enough.
function unique(findings) {
  const seen = new Set();
  return findings.filter((each) => {
    const key = JSON.stringify([each.id, each.rule, each.words, each.effect]);
    return !seen.has(key) && seen.add(key);
  });
}

function drawItem(item, turn, find, conversation) {
  const findings = unique(item.about.map(find).filter(Boolean));
  const role = ROLES[item.role] ? item.role : "other";
  const box = h("div", { class: "message", data: { role, key: item.key } });
  const fillBox = (shown) => put(box,
    h("div", { class: "who" },
      h("span", { class: "role" }, ROLES[shown.role] ?? name(shown.role)),
      shown.name ? h("span", {}, name(shown.name)) : null,
      shown.answers ? h("span", { class: "dim code" }, "answers ", name(shown.answers)) : null,
      shown.alternatives > 1 ? h("span", { class: "dim" }, `alternative ${shown.choice + 1} of ${shown.alternatives}`) : null,
      shown.finish && shown.finish !== "stop" ? h("span", { class: "dim code" }, name(String(shown.finish))) : null),
    ...shown.blocks.map((block) => drawBlock(block, role, whole)),
    shown.blocks.length ? null : h("p", { class: "dim" }, "(empty)"));
  const whole = async (event) => {
    event.target.disabled = true;
    try {
      fillBox(await get("message", { id: turn.id, key: item.key }, `message ${item.key}`));
      colour();
    } catch (error) {
      event.target.disabled = false;
      if (error.name !== "AbortError") conversation.onProblem(error);
    }
  };
  const effects = new Map(item.about.map((key) => [key, find(key)?.effect]));
  const colour = () => {
    for (const mark of box.querySelectorAll("mark")) {
      const all = mark.dataset.finding.split(" ").map((key) => effects.get(key));
      mark.dataset.effect = all.includes("blocked") ? "blocked" : all[0] ?? "blocked";
    }
  };
  fillBox(item);
  colour();
  const row = h("div", { class: "row", data: { about: item.about.join(" ") } },
    box,
    findings.length
      ? h("div", { class: "notes" }, findings.map((each) => note(each, each.turn ?? turn, conversation)))
      : null);
  const light = (on) => (event) => {
    const keys = (event.target.closest?.("[data-finding]")?.dataset.finding ?? "").split(" ").filter(Boolean);
    for (const each of row.querySelectorAll("[data-finding]")) {
      each.classList.toggle("lit", on && keys.some((key) => each.dataset.finding.split(" ").includes(key)));
    }
  };
  row.addEventListener("pointerover", light(true));
  row.addEventListener("pointerout", light(false));
  return row;
}

function drawBlock(block, role, whole) {
  if (block.kind === "call") return drawCall(block, whole);
  const body = h("div", { class: `text ${block.kind}`, dir: "auto" }, drawPieces(block.pieces, whole));
  const length = block.pieces.reduce((sum, piece) => sum + (piece.t?.length ?? 0), 0);
  const isMarked = block.pieces.some((piece) => piece.m);
  if (block.kind === "reasoning") {
    return h("details", { class: "fold", open: isMarked }, h("summary", {}, "Reasoning"), body);
  }
  if (["image", "audio", "file"].includes(block.kind)) {
    return h("p", { class: "media" }, h("span", { class: "tag" }, block.kind), " ", drawPieces(block.pieces, whole));
  }
  if (length > LONG && !isMarked && (role === "system" || role === "developer" || role === "tool" || length > 3 * LONG)) {
    return clamped(body, length);
  }
  return body;
}

function clamped(body, length) {
  const box = h("div", { class: "clamp", data: { closed: "yes" } }, body);
  const button = h("button", { type: "button", class: "quiet", "aria-expanded": "false" },
    `Show all ${length.toLocaleString("en")} characters`);
  button.addEventListener("click", () => {
    const closes = box.dataset.closed === "no";
    box.dataset.closed = closes ? "yes" : "no";
    button.setAttribute("aria-expanded", String(!closes));
    button.textContent = closes ? `Show all ${length.toLocaleString("en")} characters` : "Show less";
  });
  return h("div", {}, box, button);
}

function drawCall(call, whole) {
  return h("div", { class: "call", data: { withheld: call.withheld ? "yes" : "no", finding: call.about.length ? call.about.join(" ") : null } },
    h("div", { class: "call-head" },
      h("span", { class: "dim" }, "calls "), h("strong", { class: "code" }, drawPieces(call.name, whole)),
      call.id ? h("span", { class: "dim code id" }, name(call.id)) : null,
      call.withheld ? h("span", { class: "badge" }, "not delivered") : null),
    call.members.length
      ? h("dl", { class: "members" }, call.members.map((member) => {
          const depth = Math.min(member.depth, 8);
          return [
            h("dt", { class: `d${depth}` }, name(member.key)),
            h("dd", { class: member.text ? "string" : "value", dir: "auto" }, member.pieces ? drawPieces(member.pieces, whole) : ""),
          ];
        }))
      : null);
}

function drawPieces(pieces, whole) {
  const nodes = [];
  let withheld = null;
  for (const piece of pieces) {
    if (piece.cut !== undefined) {
      nodes.push(h("button", { type: "button", class: "cut", on: { click: whole } },
        piece.cut ? `… ${plural(piece.cut, "character")} more …` : "… more …"));
      continue;
    }
    let part = texts(piece.t);
    if (piece.k) part = [h("span", { class: "masked", title: `masked by ${plain(piece.k)}` }, part)];
    if (piece.m) part = [h("mark", { data: { finding: piece.m.join(" ") } }, part)];
    if (piece.w) {
      withheld ??= h("span", { class: "withheld" });
      withheld.append(...part);
      if (!withheld.parentNode && !nodes.includes(withheld)) nodes.push(withheld);
    } else {
      nodes.push(...part);
    }
  }
  if (withheld) nodes.push(h("span", { class: "badge" }, "not delivered"));
  return nodes;
}

function note(finding, turn, conversation) {
  const places = finding.places.slice(0, 4).map((place) =>
    h("li", {}, `message ${place.message}`, place.role ? ` (${plain(place.role)})` : "",
      place.path ? [", ", h("span", { class: "code" }, name(place.path))] : "",
      place.start !== null ? `, characters ${place.start}–${place.end}` : ""));
  return h("aside", { class: "note", data: { finding: finding.key, effect: finding.effect } },
    h("div", { class: "note-head" },
      h("strong", {}, name(finding.rule || "guardrail")),
      h("span", { class: "pill", data: { effect: finding.effect } }, EFFECTS[finding.effect] ?? plain(finding.effect))),
    h("p", { class: "words", dir: "auto" }, texts(finding.words)),
    places.length ? h("ul", { class: "places" }, places) : null,
    h("p", { class: "dim small" }, plain([finding.action && `action ${finding.action}`, finding.source && `from ${finding.source}`].filter(Boolean).join(", "))),
    finding.text
      ? h("details", { class: "fold" }, h("summary", {}, "Rule"), h("pre", { class: "rule", tabindex: "0" }, texts(finding.text)))
      : null,
    finding.effect === "blocked" ? muteForm(turn.id, finding.rule, conversation.onProblem) : null);
}

function delivery(turn) {
  if (turn.status !== "blocked" && turn.status !== "error") return null;
  const said = turn.delivered + turn.withheld;
  if (!said && !turn.withheld_calls) {
    if (turn.items.some((item) => item.reply)) return null;
    return h("p", { class: "delivery" }, "The call was refused; the model's answer, if there was one, was not delivered.");
  }
  const parts = [];
  if (said) {
    parts.push(`${turn.delivered.toLocaleString("en")} of ${plural(said, "character")} of the reply were delivered`);
  }
  if (turn.withheld_calls) parts.push(`${plural(turn.withheld_calls, "tool call")} withheld`);
  const share = said ? turn.delivered / said : 0;
  const meter = h("span", { class: "meter" }, h("span", {}));
  meter.firstChild.style.width = `${Math.round(share * 100)}%`;
  return h("p", { class: "delivery" }, said ? meter : null, parts.join("; "));
}

function facts(turn) {
  const { timing, usage } = turn;
  const asked = usage.prompt_tokens ?? usage.input_tokens;
  const answered = usage.completion_tokens ?? usage.output_tokens;
  const told = [
    ["took", duration(timing.total)],
    timing.first === null ? null : ["first text", duration(timing.first)],
    timing.held ? ["held", duration(timing.held)] : null,
    timing.checks ? [plural(timing.checks, "check"), duration(timing.judged)] : null,
    asked === undefined ? null : ["tokens", `${asked.toLocaleString("en")} in, ${(answered ?? 0).toLocaleString("en")} out`],
    turn.http_status ? ["status", String(turn.http_status)] : null,
    turn.stream ? ["streamed", ""] : null,
  ].filter(Boolean);
  return h("details", { class: "facts" },
    h("summary", {}, told.map(([what, value]) => h("span", {}, h("span", { class: "dim" }, `${what} `), value))),
    h("dl", { class: "more" },
      h("dt", {}, "Request id"), h("dd", { class: "code" }, name(turn.id)),
      h("dt", {}, "Endpoint"), h("dd", { class: "code" }, name(turn.endpoint)),
      turn.dataset ? [h("dt", {}, "Dataset"), h("dd", { class: "code" }, name(turn.dataset))] : null,
      turn.client ? [h("dt", {}, "Client"), h("dd", { class: "code" }, name(turn.client))] : null,
      h("dt", {}, "Parameters"), h("dd", {}, h("pre", {}, drawPieces(turn.parameters, () => {})))));
}
