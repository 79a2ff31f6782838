// The page: which view is shown goes by the address behind "#", so that "back" works.

import { GONE, takeKey, watch } from "./api.js";
import { Conversation } from "./conversation.js";
import { h, put } from "./dom.js";
import { leaveFigures, showFigures } from "./figures.js";
import { List } from "./list.js";
import { showMutes } from "./mutes.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["text", "status", "rule", "model", "day"];
const banner = $("banner");

function problem(error) {
  banner.textContent = error.message;
  banner.hidden = false;
}

function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parameters = new URLSearchParams(query);
  const filter = {};
  for (const field of FIELDS) {
    if (parameters.get(field)) filter[field] = parameters.get(field);
  }
  const [view, id] = path.split("/");
  let decoded = null;
  try {
    decoded = view === "c" && id ? decodeURIComponent(id) : null;
  } catch { /* not an address of ours */ }
  return { view: decoded ? "c" : ["figures", "mutes"].includes(view) ? view : "list", id: decoded, filter };
}

function address(view, id, filter) {
  const query = new URLSearchParams(Object.entries(filter).filter(([, value]) => value)).toString();
  const path = view === "c" && id ? `c/${encodeURIComponent(id)}` : "";
  return `#/${path}${query ? `?${query}` : ""}`;
}

const list = new List({
  onFilter: (filter) => {
    const { view, id } = route();
    history.replaceState(null, "", address(view, id, filter));
    show();
  },
  onProblem: problem,
});
const detail = $("detail");
const conversation = new Conversation(detail, { onProblem: problem });
let shown = null;

async function show() {
  const now = route();
  document.body.dataset.view = now.view;
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link === document.body) continue;
    const is = link.dataset.view === (now.view === "c" ? "list" : now.view);
    if (is) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (now.view !== "figures") leaveFigures();
  if (now.view === "figures" || now.view === "mutes") {
    conversation.id = null;
    shown = now.view;
    if (now.view === "figures") await showFigures(detail, problem);
    else await showMutes(detail, problem);
    return;
  }
  const loaded = list.show(now.filter);
  if (now.id === null) {
    if (shown !== "list") conversation.close();
    shown = "list";
    list.choose(null);
    await loaded;
  } else if (shown !== now.id || conversation.id !== now.id) {
    shown = now.id;
    const [run] = await Promise.all([conversation.open(now.id), loaded]);
    list.choose(run);
  } else {
    await loaded;
  }
}

let due = false, busy = false;

// Traffic comes in bursts: what has changed is asked for at most once a second.
async function changed() {
  due = true;
  if (busy) return;
  busy = true;
  while (due) {
    due = false;
    banner.hidden = true;
    const { view, id } = route();
    await Promise.all([
      list.refresh(),
      list.loadFacets(),
      view === "figures" ? showFigures(detail, problem) : null,
      id && conversation.id === id ? conversation.open(id).then((run) => list.choose(run)) : null,
    ]);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  busy = false;
}

let resizing;
window.addEventListener("resize", () => {
  clearTimeout(resizing);
  if (route().view === "figures") resizing = setTimeout(() => showFigures(detail, problem), 150);
});

// -- dark and light ------------------------------------------------------------------------------

function theme(value) {
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
}

function toggleTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  theme(next);
  try {
    localStorage.setItem("theme", next);
  } catch { /* nobody remembers, then */ }
}

// -- keyboard ------------------------------------------------------------------------------------

const help = $("help");

function back() {
  if (help.open) help.close();
  else if (document.activeElement?.closest(".filters")) document.activeElement.blur();
  else if (route().id !== null || route().view !== "list") {
    list.focusChosen();
    location.hash = address("list", null, route().filter);
  }
}

const KEYS = {
  j: () => list.step(1),
  k: () => list.step(-1),
  n: () => conversation.step(1),
  p: () => conversation.step(-1),
  t: toggleTheme,
  "?": () => help.showModal(),
  "/": () => {
    if (["figures", "mutes"].includes(route().view)) location.hash = "#/";
    $("text").focus();
    $("text").select();
  },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.key === "Escape") return back();
  if (event.target.closest("input, select, textarea, dialog")) {
    if (event.key === "Enter" && event.target.id === "text") list.step(0);
    return;
  }
  const act = KEYS[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

$("theme").addEventListener("click", toggleTheme);
$("keys").addEventListener("click", () => help.showModal());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  detail.focus();
});
window.addEventListener("hashchange", () => {
  if (takeKeyAgain()) return;
  show();
});

function takeKeyAgain() {
  if (!location.hash.startsWith("#key=")) return false;
  location.reload();
  return true;
}

// -- the beginning -------------------------------------------------------------------------------

const STATES = { live: "live", offline: "not connected", locked: "locked" };

function state(value) {
  const live = $("live");
  live.textContent = STATES[value];
  live.dataset.state = value;
  if (value === "locked") locked();
  if (value === "offline") problem(new Error(GONE));
}

function locked() {
  document.body.dataset.view = "locked";
  put(detail, h("div", { class: "nothing" },
    h("h2", {}, "This page is locked"),
    h("p", {}, "Open the address that ", h("code", {}, "scripts/traces serve"), " printed: its end is the key."),
    h("p", { class: "dim" }, "With each start there is a new one.")));
}

try {
  theme(localStorage.getItem("theme"));
} catch { /* as the system has it */ }

if (takeKey()) {
  if (!location.hash.startsWith("#/")) history.replaceState(null, "", "#/");
  conversation.close();
  show();
  watch(changed, state);
} else {
  state("locked");
}
