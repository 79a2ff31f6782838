// Plots of a span of time: calls, times, tokens. Drawn by hand; no number is set as markup.

import { get } from "./api.js";
import { duration, h, name, plural, put, s } from "./dom.js";

const SPANS = [["hour", "Hour"], ["day", "Day"], ["week", "Week"], ["month", "30 days"]];
const STATUSES = [
  ["judged", "judged"], ["blocked", "blocked"], ["not scanned", "not-scanned"], ["error", "error"], ["partial", "partial"],
];
const TIMES = [
  ["first", "Time to first text", "until the first byte of a streamed reply"],
  ["held", "Hold time", "that bytes waited for verdicts, in all"],
  ["judged", "Check time", "that engines took for a call, in all"],
];
const LEFT = 54, RIGHT = 8, TOP = 10, BOTTOM = 26;

// A plot of so many pixels: drawn anew when the room changes, so that its letters keep their size.
class Plot {
  constructor(width, height, top) {
    Object.assign(this, { width, height, top });
  }
  x(part) {
    return LEFT + part * (this.width - LEFT - RIGHT);
  }
  y(value) {
    return this.height - BOTTOM - (value / this.top) * (this.height - TOP - BOTTOM);
  }
}

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
  const style = getComputedStyle(place);
  const room = Math.min(1100, place.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
  const columns = Math.max(1, Math.min(TIMES.length, Math.floor((room + 16) / (280 + 16))));
  put(place, h("div", { class: "sheet wide" },
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
    callsCard(data, room - 42),
    h("div", { class: "cards" }, TIMES.map(([key, title, what]) =>
      timesCard(data, Math.floor((room - 16 * (columns - 1)) / columns) - 42, key, title, what))),
    tokensCard(data)));
  place.scrollTop = top;
  if (read < total) again = setTimeout(() => showFigures(place, onProblem), 150);
}

// The next number of 1, 2, 5, 10 ... above.
function roundTop(value) {
  if (!(value > 0)) return 1;
  const ten = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((n) => n * ten).find((n) => n >= value);
}

function frame(plot, data, label, format, ...marks) {
  const lines = [0, 0.5, 1].map((part) => [
    s("line", { class: "grid", x1: LEFT, x2: plot.x(1), y1: plot.y(part * plot.top), y2: plot.y(part * plot.top) }),
    s("text", { class: "axis", x: LEFT - 8, y: plot.y(part * plot.top) + 4, "text-anchor": "end" }, format(part * plot.top)),
  ]);
  const days = data.bucket * data.buckets > 2 * 86_400;
  const count = Math.max(2, Math.min(6, Math.floor(plot.width / 110)));
  const ticks = Array.from({ length: count }, (_, n) => n / count).map((part) => {
    const when = new Date((data.start + part * data.bucket * data.buckets) * 1000);
    const text = days
      ? when.toLocaleDateString("en", { month: "short", day: "numeric" })
      : when.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
    return s("text", { class: "axis", x: plot.x(part), y: plot.height - 6 }, text);
  });
  const { width, height } = plot;
  return s("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label }, lines, ticks, marks);
}

const at = (data, index) => new Date((data.start + index * data.bucket) * 1000)
  .toLocaleString("en", { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

function callsCard(data, room) {
  const sums = Object.fromEntries(STATUSES.map(([status]) => [status, data.calls[status].reduce((a, b) => a + b, 0)]));
  const totals = data.calls.judged.map((_, n) => STATUSES.reduce((sum, [status]) => sum + data.calls[status][n], 0));
  const top = Math.max(roundTop(Math.max(...totals)), 2);
  const plot = new Plot(room, 220, top);
  const width = (plot.x(1) - plot.x(0)) / data.buckets;
  const bars = totals.map((total, n) => {
    if (!total) return null;
    let below = 0;
    const parts = STATUSES.map(([status, kind]) => {
      const count = data.calls[status][n];
      if (!count) return null;
      const part = s("rect", {
        class: `bar ${kind}`, x: plot.x(n / data.buckets) + 1, width: Math.max(width - 2, 1),
        y: plot.y(below + count), height: Math.max(plot.y(below) - plot.y(below + count), 1),
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
    frame(plot, data, label, (v) => Math.round(v).toLocaleString("en"), bars));
}

function timesCard(data, room, key, title, what) {
  const { p50, p95, all } = data.times[key];
  const top = roundTop(Math.max(0, ...p95.filter((v) => v !== null)));
  const plot = new Plot(room, 150, top);
  const step = 1 / data.buckets;
  const path = (values) => {
    let text = "", before = false;
    values.forEach((value, n) => {
      if (value === null) { before = false; return; }
      text += `${before ? "L" : "M"}${plot.x((n + 0.5) * step).toFixed(1)} ${plot.y(value).toFixed(1)}`;
      before = true;
    });
    return text;
  };
  const dots = (values, kind) => values.map((value, n) => value === null ? null
    : s("circle", { class: `dot ${kind}`, r: 2.5, cx: plot.x((n + 0.5) * step), cy: plot.y(value) },
      s("title", {}, `${at(data, n)}: ${kind} ${duration(value)}`)));
  const told = (n) => duration(all[n]);
  return h("section", { class: "card" },
    h("h3", {}, title), h("p", { class: "dim small" }, what),
    h("ul", { class: "legend" },
      h("li", {}, h("span", { class: "key p50" }), "p50 ", h("strong", {}, told(0))),
      h("li", {}, h("span", { class: "key p95" }), "p95 ", h("strong", {}, told(1)))),
    frame(plot, data, `${title}: p50 ${told(0)}, p95 ${told(1)}`, (v) => duration(v),
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
