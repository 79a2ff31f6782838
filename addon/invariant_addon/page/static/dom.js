// Elements out of data. Text is only ever set as text: a trace is what strangers wrote.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "data") {
      for (const [key, each] of Object.entries(value)) {
        if (each !== null && each !== undefined) element.dataset[key] = each;
      }
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

export const h = (tag, properties, ...children) =>
  fill(document.createElement(tag), properties, children);

// All that is in an element, in place of what was.
export function put(element, ...children) {
  element.replaceChildren();
  return fill(element, {}, children);
}

export const s = (tag, properties, ...children) =>
  fill(document.createElementNS(SVG, tag), properties, children);

// What has no shape of its own and yet changes how a text reads: controls, characters that turn
// the direction of writing, tags, what has no width. (Joiners are part of many scripts and emoji.)
const HIDDEN =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e0fff}]+/gu;
const MOST_CHIPS = 1000;

const NAMES = {
  0x202a: "left-to-right embedding", 0x202b: "right-to-left embedding",
  0x202c: "end of direction", 0x202d: "left-to-right override",
  0x202e: "right-to-left override", 0x2066: "left-to-right isolate",
  0x2067: "right-to-left isolate", 0x2068: "first strong isolate", 0x2069: "end of isolate",
  0x200b: "zero width space", 0x200e: "left-to-right mark", 0x200f: "right-to-left mark",
  0xfeff: "zero width no-break space", 0x1b: "escape", 0x00ad: "soft hyphen",
};

function chip(hidden) {
  const points = [...hidden].map((c) => c.codePointAt(0));
  const first = points[0];
  const hex = `U+${first.toString(16).toUpperCase().padStart(4, "0")}`;
  if (points.every((p) => p >= 0xe0020 && p <= 0xe007e)) {
    // Letters that nobody sees and a model reads: show what they say.
    const said = String.fromCharCode(...points.slice(0, 400).map((p) => p - 0xe0000));
    return h("span", { class: "hidden", title: "invisible letters" }, `invisible: ${said}`);
  }
  const label = points.length > 1 ? `${points.length} hidden characters` : hex;
  return h("span", { class: "hidden", title: `${NAMES[first] ?? "control character"} ${hex}` }, label);
}

export function texts(text) {
  const nodes = [];
  let at = 0, chips = 0;
  for (const found of text.matchAll(HIDDEN)) {
    if (++chips > MOST_CHIPS) break;
    if (found.index > at) nodes.push(document.createTextNode(text.slice(at, found.index)));
    nodes.push(chip(found[0]));
    at = found.index + found[0].length;
  }
  if (at < text.length) nodes.push(document.createTextNode(plain(text.slice(at))));
  return nodes;
}

// As `texts`, where there is room for a text alone: an option, a title.
export const plain = (text) => String(text).replace(HIDDEN, (hidden) =>
  [...hidden].slice(0, 8).map((c) => `[U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`).join(""));

export function name(text) {
  return h("bdi", {}, ...texts(text));
}

export const plural = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms === 0) return "0 ms";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

const pad = (n) => String(n).padStart(2, "0");
const clock = (d, seconds) =>
  `${pad(d.getHours())}:${pad(d.getMinutes())}${seconds ? `:${pad(d.getSeconds())}` : ""}`;
const date = (d) => `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}`;

export function moment(seconds) {
  const d = new Date(seconds * 1000);
  return Number.isNaN(d.getTime()) ? "?" : `${date(d)} ${clock(d, true)}`;
}

export function short(seconds, now = Date.now()) {
  const d = new Date(seconds * 1000);
  if (Number.isNaN(d.getTime())) return "?";
  const today = date(new Date(now));
  if (date(d) === today) return clock(d, false);
  return date(d).slice(0, 4) === today.slice(0, 4) ? `${date(d).slice(5)} ${clock(d, false)}` : date(d);
}
