// Questions to the server. The key came in the address behind "#"; it is kept for this tab alone.

export const GONE = "scripts/traces serve does not answer. This page goes on when it does.";
const KEPT = "invariant-key";

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export function takeKey() {
  const found = /^#key=([A-Za-z0-9_-]+)$/.exec(location.hash);
  if (found) {
    sessionStorage.setItem(KEPT, found[1]);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(KEPT) !== null;
}

async function ask(path, options = {}) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEPT) ?? ""}`, ...options.headers };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, GONE);
  }
  if (!response.ok) {
    let text = response.statusText;
    try {
      text = (await response.json()).error ?? text;
    } catch { /* not ours */ }
    throw new Refused(response.status, text);
  }
  return response;
}

const running = new Map();

// Only the newest question of a kind is answered; the ones before reject as aborted.
export async function get(what, parameters = {}, kind = what) {
  running.get(kind)?.abort();
  const control = new AbortController();
  running.set(kind, control);
  const given = Object.entries(parameters).filter(([, v]) => v !== undefined && v !== null && v !== "");
  const query = new URLSearchParams(given.map(([k, v]) => [k, String(v)])).toString();
  try {
    return await (await ask(`/api/${what}${query ? `?${query}` : ""}`, { signal: control.signal })).json();
  } finally {
    if (running.get(kind) === control) running.delete(kind);
  }
}

export async function post(what, body) {
  const response = await ask(`/api/${what}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return response.json();
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Calls back for each change, for as long as the page is open. state: "live" or what is wrong.
export async function watch(onChange, onState) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 8000)) {
    try {
      const response = await ask("/api/live");
      onState("live");
      onChange();
      wait = 500;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const events = text.split("\n\n");
        text = events.pop();
        if (events.some((event) => event.startsWith("event: changed"))) onChange();
      }
    } catch (error) {
      if (error.status === 401) {
        onState("locked");
        return;
      }
    }
    onState("offline");
    await pause(wait);
  }
}
