// The list of conversations: pages of it, filters, and what is new on top.

import { get } from "./api.js";
import { h, name, plain, plural, put, short, texts } from "./dom.js";

const VERDICTS = [
  ["", "All"], ["blocked", "Blocked"], ["found", "Found"], ["not scanned", "Not scanned"],
  ["error", "Error"], ["partial", "Partial"], ["judged", "Judged"],
];
const WORST = ["blocked", "error", "not scanned", "partial", "judged"];

export const worst = (statuses) => WORST.find((each) => statuses.includes(each)) ?? statuses[0];

const HEIGHT = 112; // of a row, as in page.css
const AROUND = 8; // rows that are drawn above and below what is seen

// Only the rows that are seen are drawn: ten thousand are as quick as ten.
export class List {
  constructor({ onFilter, onProblem }) {
    this.place = document.getElementById("list");
    this.rows = document.getElementById("rows");
    this.end = document.getElementById("end");
    this.form = document.getElementById("filters");
    this.order = [];
    this.drawn = new Map();
    this.filter = null;
    this.next = null;
    this.loading = false;
    this.chosen = null;
    this.onFilter = onFilter;
    this.onProblem = onProblem;
    this.#prepare();
  }

  #prepare() {
    const group = document.getElementById("verdicts");
    for (const [value, label] of VERDICTS) {
      group.append(h("button", {
        type: "button", class: "chip", data: { verdict: value },
        on: { click: () => this.#change({ status: value }) },
      }, label, h("span", { class: "count" })));
    }
    let typing;
    this.form.addEventListener("input", (event) => {
      const { name: field, value } = event.target;
      if (!field) return;
      clearTimeout(typing);
      typing = setTimeout(() => this.#change({ [field]: value }), field === "text" ? 200 : 0);
    });
    this.form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("clear").addEventListener("click", () =>
      this.onFilter({}));
    let waits = false;
    const later = () => {
      if (waits) return;
      waits = true;
      requestAnimationFrame(() => { waits = false; this.#draw(); });
    };
    this.place.addEventListener("scroll", later, { passive: true });
    new ResizeObserver(later).observe(this.place);
  }

  #change(some) {
    this.onFilter({ ...this.filter, ...some });
  }

  show(filter) {
    if (JSON.stringify(filter) === JSON.stringify(this.filter)) return;
    this.filter = filter;
    for (const field of ["text", "rule", "model", "day"]) {
      const input = this.form.elements[field];
      if (document.activeElement !== input || field !== "text") input.value = filter[field] ?? "";
      if (input.value !== (filter[field] ?? "") && input.tagName === "SELECT") {
        input.append(h("option", { value: filter[field] }, plain(filter[field])));
        input.value = filter[field];
      }
    }
    for (const chip of this.form.querySelectorAll("[data-verdict]")) {
      chip.setAttribute("aria-pressed", String(chip.dataset.verdict === (filter.status ?? "")));
    }
    document.getElementById("clear").hidden = !Object.values(filter).some(Boolean);
    return this.reload();
  }

  async reload() {
    this.loading = true;
    try {
      const page = await get("conversations", this.filter, "list");
      this.order = page.conversations;
      this.next = page.next;
      this.drawn.clear();
      this.rows.replaceChildren();
      this.place.scrollTop = 0;
    } catch (error) {
      this.#fail(error);
    } finally {
      this.loading = false;
    }
    this.#draw();
  }

  async #loadMore() {
    if (this.loading || this.next === null) return;
    this.loading = true;
    try {
      const { order } = this;
      const page = await get("conversations", { ...this.filter, before: this.next }, "list");
      const known = new Set(order.map((run) => run.id));
      order.push(...page.conversations.filter((run) => !known.has(run.id)));
      this.next = page.next;
    } catch (error) {
      this.next = null;
      return this.#fail(error);
    } finally {
      this.loading = false;
    }
    this.#draw();
  }

  // Something has changed: what is new goes on top, what has changed is drawn again.
  async refresh() {
    if (this.loading) return;
    let page;
    try {
      page = await get("conversations", this.filter ?? {}, "list");
    } catch (error) {
      return this.#fail(error);
    }
    const before = this.order, fresh = new Set(page.conversations.map((run) => run.id));
    const rest = before.filter((run) => !fresh.has(run.id));
    // More has come than fits a page: what is between is not known.
    if (rest.length === before.length && before.length && page.next !== null) {
      this.order = page.conversations;
      this.next = page.next;
    } else {
      this.order = [...page.conversations, ...rest];
    }
    if (!rest.length) this.next = page.next;
    // Whoever reads further down goes on reading.
    const anchor = Math.floor((this.place.scrollTop - this.rows.offsetTop) / HEIGHT);
    if (anchor > 0 && before[anchor]) {
      const moved = this.order.findIndex((run) => run.id === before[anchor].id) - anchor;
      this.rows.style.height = `${this.order.length * HEIGHT}px`;
      if (moved > 0) this.place.scrollTop += moved * HEIGHT;
    }
    this.#draw();
  }

  #draw() {
    const count = this.order.length;
    this.rows.style.height = `${count * HEIGHT}px`;
    this.rows.dataset.count = count;
    this.#tellEnd();
    const seen = this.place.clientHeight;
    if (!seen) return; // another view is shown
    const top = this.place.scrollTop - this.rows.offsetTop;
    const first = Math.max(0, Math.floor(top / HEIGHT) - AROUND);
    const last = Math.min(count, Math.ceil((top + seen) / HEIGHT) + AROUND);
    const wanted = new Set();
    for (let n = first; n < last; n++) {
      const run = this.order[n];
      wanted.add(run.id);
      let row = this.drawn.get(run.id);
      if (!row || row.run !== run) {
        const fresh = row && row.run.change === run.change ? row.element : this.#row(run);
        if (row && row.element !== fresh) {
          const focused = row.element.contains(document.activeElement);
          row.element.replaceWith(fresh);
          if (focused) fresh.firstElementChild.focus({ preventScroll: true });
        }
        row = { run, element: fresh };
        this.drawn.set(run.id, row);
      }
      const { element } = row;
      element.style.top = `${n * HEIGHT}px`;
      element.setAttribute("aria-posinset", n + 1);
      element.setAttribute("aria-setsize", this.next !== null ? -1 : count);
      this.#mark(element.firstElementChild, run.id);
    }
    for (const [id, { element }] of this.drawn) {
      if (!wanted.has(id) && !element.contains(document.activeElement)) {
        element.remove();
        this.drawn.delete(id);
      }
    }
    // Tab goes from row to row as they are seen.
    let next = this.rows.firstElementChild;
    for (let n = first; n < last; n++) {
      const { element } = this.drawn.get(this.order[n].id);
      if (element === next) next = next.nextElementSibling;
      else this.rows.insertBefore(element, next);
    }
    if (last >= count - AROUND) this.#loadMore();
  }

  #mark(link, id) {
    if (id === this.chosen) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }

  #tellEnd() {
    const filtered = Object.values(this.filter ?? {}).some(Boolean);
    if (this.next !== null) this.end.textContent = "…";
    else if (this.order.length) this.end.textContent = plural(this.order.length, "conversation");
    else if (filtered) this.end.textContent = "Nothing fits. Clear the filters to see all.";
    else this.end.textContent = "No traces yet. They appear here as soon as a call goes through the proxy.";
  }

  #fail(error) {
    if (error.name === "AbortError") return;
    this.onProblem(error);
  }

  #row(run) {
    const state = worst(run.statuses);
    const href = this.hrefOf(run);
    const said = run.title || run.said;
    return h("li", { class: "run", data: { id: run.id, status: state } },
      h("a", { href },
        h("span", { class: "line" },
          h("span", { class: "state", data: { status: state } }, plain(state)),
          h("time", {}, short(run.ended))),
        h("span", { class: "title", dir: "auto" }, said ? texts(said) : h("em", {}, "no text")),
        h("span", { class: "meta" },
          h("span", {}, plural(run.turns, "turn")),
          run.models.length ? h("span", {}, name(run.models.slice(0, 2).join(", "))) : null,
          run.rules.slice(0, 3).map((rule) => h("span", { class: "tag" }, name(rule))))));
  }

  hrefOf(run) {
    const query = new URLSearchParams(Object.entries(this.filter).filter(([, v]) => v)).toString();
    return `#/c/${encodeURIComponent(run.newest)}${query ? `?${query}` : ""}`;
  }

  // The conversation that is shown; id: that of its first turn.
  choose(id) {
    this.chosen = id;
    for (const [each, { element }] of this.drawn) this.#mark(element.firstElementChild, each);
  }

  // j and k: the focus moves; where there is none yet, from the chosen one.
  step(by) {
    if (!this.order.length) return;
    const focused = document.activeElement?.closest?.(".run")?.dataset.id;
    const from = this.order.findIndex((run) => run.id === (focused ?? this.chosen));
    this.focus(from < 0 ? 0 : Math.max(0, Math.min(this.order.length - 1, from + by)));
  }

  focus(at) {
    const top = this.rows.offsetTop + at * HEIGHT, hidden = this.#hidden();
    if (top < this.place.scrollTop + hidden) this.place.scrollTop = top - hidden;
    else if (top + HEIGHT > this.place.scrollTop + this.place.clientHeight) {
      this.place.scrollTop = top + HEIGHT - this.place.clientHeight;
    }
    this.#draw();
    this.drawn.get(this.order[at]?.id)?.element.firstElementChild.focus({ preventScroll: true });
  }

  focusChosen() {
    const at = this.order.findIndex((run) => run.id === this.chosen);
    if (at >= 0) this.focus(at);
  }

  // What the filters cover, where they stay on top.
  #hidden() {
    return getComputedStyle(this.form).position === "sticky" ? this.form.offsetHeight : 0;
  }

  async loadFacets() {
    let facets;
    try {
      facets = await get("facets");
    } catch (error) {
      return this.#fail(error);
    }
    for (const chip of this.form.querySelectorAll("[data-verdict]")) {
      const count = facets.statuses[chip.dataset.verdict];
      chip.querySelector(".count").textContent = count ? count.toLocaleString("en") : "";
    }
    for (const [field, all, entries] of [
      ["rule", "Any rule", facets.rules], ["model", "Any model", facets.models],
    ]) {
      const select = this.form.elements[field];
      if (document.activeElement === select) continue;
      const wanted = this.filter?.[field] ?? "";
      const options = entries.map(([value, count]) =>
        h("option", { value }, `${plain(value) || "(none)"} (${count.toLocaleString("en")})`));
      if (wanted && !entries.some(([value]) => value === wanted)) {
        options.push(h("option", { value: wanted }, plain(wanted)));
      }
      put(select, h("option", { value: "" }, all), ...options);
      select.value = wanted;
    }
  }
}
