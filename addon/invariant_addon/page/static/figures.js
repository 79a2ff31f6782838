// Plots of a span of time: calls, times, tokens. Drawn by hand; no number is set as markup.

import { get } from "./api.js";
import { duration, h, name, plural, s } from "./dom.js";

const SPANS = [["hour", "Hour"], ["day", "Day"], ["week", "Week"], ["month", "30 days"]];
const STATUSES = [
  ["judged", "judged"], ["blocked", "blocked"], ["not scanned", "not-scanned"], ["error", "error"], ["partial", "partial"],
];
const TIMES = [
  ["first", "Time to first text", "until the first byte of a streamed reply"],
  ["held", "Hold time", "that bytes waited for verdicts, in all"],
  ["judged", "Check time", "that engines took for a call, in all"],
];
const W = 720, H = 190, LEFT = 52, RIGHT = 10, TOP = 10, BOTTOM = 26;

let span = "day";
let again;

export function leaveFigures() {
  clearTimeout(again);
}

export async function showFigures(place, onProblem) {
  clearTimeout(again);
  let data;
  try {
    data = await get("figures", { span });
  } catch (error) {
    if (error.name !== "AbortError") onProblem(error);
    return;
  }
  if (!location.hash.startsWith("#/figures")) return;
  const [read, total] = data.progress;
  const top = place.scrollTop;
  place.replaceChildren(h("div", { class: "sheet wide" },
    h("div", { class: "sheet-head" },
      h("h2", {}, "Figures"),
      h("div", { class: "chips", role: "group", "aria-label": "Span" }, SPANS.map(([value, label]) =>
        h("button", {
          type: "button", class: "chip", "aria-pressed": String(value === span),
          on: { click: () => { span = value; showFigures(place, onProblem); } },
        }, label)))),
    read < total
      ? h("p", { class: "dim", role: "status" }, `Times and tokens are from ${read.toLocaleString("en")} of ${plural(total, "call")} so far.`)
      : null,
    callsCard(data),
    h("div", { class: "cards" }, TIMES.map(([key, title, what]) => timesCard(data, key, title, what))),
    tokensCard(data)));
  place.scrollTop = top;
  if (read < total) again = setTimeout(() => showFigures(place, onProblem), 150);
}

const scale = (top) => (value) => H - BOTTOM - (value / top) * (H - TOP - BOTTOM);
const x = (index, count) => LEFT + (index / count) * (W - LEFT - RIGHT);

// The next number of 1, 2, 5, 10 ... above.
function roundTop(value) {
  if (!(value > 0)) return 1;
  const ten = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((n) => n * ten).find((n) => n >= value);
}

function frame(data, top, label, format, ...marks) {
  const y = scale(top);
  const lines = [0, 0.5, 1].map((part) => [
    s("line", { class: "grid", x1: LEFT, x2: W - RIGHT, y1: y(part * top), y2: y(part * top) }),
    s("text", { class: "axis", x: LEFT - 8, y: y(part * top) + 4, "text-anchor": "end" }, format(part * top)),
  ]);
  const days = data.bucket * data.buckets > 2 * 86_400;
  const ticks = [0, 0.25, 0.5, 0.75].map((part) => {
    const when = new Date((data.start + part * data.bucket * data.buckets) * 1000);
    const text = days
      ? when.toLocaleDateString(undefined, { month: "short", day: "numeric" })
      : when.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
    return s("text", { class: "axis", x: x(part, 1), y: H - 6, "text-anchor": "start" }, text);
  });
  return s("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label }, lines, ticks, marks);
}

const at = (data, index) => new Date((data.start + index * data.bucket) * 1000)
  .toLocaleString(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

function callsCard(data) {
  const sums = Object.fromEntries(STATUSES.map(([status]) => [status, data.calls[status].reduce((a, b) => a + b, 0)]));
  const totals = data.calls.judged.map((_, n) => STATUSES.reduce((sum, [status]) => sum + data.calls[status][n], 0));
  const top = Math.max(roundTop(Math.max(...totals)), 2);
  const y = scale(top);
  const width = (W - LEFT - RIGHT) / data.buckets;
  const bars = totals.map((total, n) => {
    if (!total) return null;
    let below = 0;
    const parts = STATUSES.map(([status, kind]) => {
      const count = data.calls[status][n];
      if (!count) return null;
      const part = s("rect", {
        class: `bar ${kind}`, x: x(n, data.buckets) + 1, width: Math.max(width - 2, 1),
        y: y(below + count), height: Math.max(y(below) - y(below + count), 1),
      });
      below += count;
      return part;
    });
    const told = STATUSES.filter(([status]) => data.calls[status][n]).map(([status]) => `${data.calls[status][n]} ${status}`);
    return s("g", {}, s("title", {}, `${at(data, n)}: ${told.join(", ")}`), parts);
  });
  const label = `Calls: ${STATUSES.map(([status]) => `${sums[status]} ${status}`).join(", ")}`;
  return h("section", { class: "card" },
    h("h3", {}, "Calls"),
    h("ul", { class: "legend" }, STATUSES.filter(([status]) => sums[status] || status !== "partial").map(([status, kind]) =>
      h("li", {}, h("span", { class: `key ${kind}` }), status, " ", h("strong", {}, sums[status].toLocaleString("en"))))),
    frame(data, top, label, (v) => Math.round(v).toLocaleString("en"), bars));
}

function timesCard(data, key, title, what) {
  const { p50, p95, all } = data.times[key];
  const top = roundTop(Math.max(0, ...p95.filter((v) => v !== null)));
  const y = scale(top);
  const step = 1 / data.buckets;
  const path = (values) => {
    let text = "", before = false;
    values.forEach((value, n) => {
      if (value === null) { before = false; return; }
      text += `${before ? "L" : "M"}${x((n + 0.5) * step, 1).toFixed(1)} ${y(value).toFixed(1)}`;
      before = true;
    });
    return text;
  };
  const dots = (values, kind) => values.map((value, n) => value === null ? null
    : s("circle", { class: `dot ${kind}`, r: 2.5, cx: x((n + 0.5) * step, 1), cy: y(value) },
      s("title", {}, `${at(data, n)}: ${kind} ${duration(value)}`)));
  const told = (n) => duration(all[n]);
  return h("section", { class: "card" },
    h("h3", {}, title), h("p", { class: "dim small" }, what),
    h("ul", { class: "legend" },
      h("li", {}, h("span", { class: "key p50" }), "p50 ", h("strong", {}, told(0))),
      h("li", {}, h("span", { class: "key p95" }), "p95 ", h("strong", {}, told(1)))),
    frame(data, top, `${title}: p50 ${told(0)}, p95 ${told(1)}`, (v) => duration(v),
      s("path", { class: "curve p95", d: path(p95) }), s("path", { class: "curve p50", d: path(p50) }),
      dots(p95, "p95"), dots(p50, "p50")));
}

function tokensCard(data) {
  const top = Math.max(1, ...data.tokens.map((each) => each.asked + each.said));
  return h("section", { class: "card" },
    h("h3", {}, "Tokens by model"),
    h("ul", { class: "legend" },
      h("li", {}, h("span", { class: "key p50" }), "in"), h("li", {}, h("span", { class: "key p95" }), "out")),
    data.tokens.length
      ? h("table", { class: "tokens" }, h("tbody", {}, data.tokens.map((each) => {
          const bar = h("span", { class: "bars" }, h("span", { class: "p50" }), h("span", { class: "p95" }));
          bar.children[0].style.width = `${(100 * each.asked) / top}%`;
          bar.children[1].style.width = `${(100 * each.said) / top}%`;
          return h("tr", {},
            h("th", { scope: "row" }, name(each.model || "(none)")),
            h("td", { class: "wide" }, bar),
            h("td", {}, `${each.asked.toLocaleString("en")} in, ${each.said.toLocaleString("en")} out`),
            h("td", { class: "dim" }, plural(each.calls, "call")));
        })))
      : h("p", { class: "dim" }, "No reply has told its tokens in this span."));
}
