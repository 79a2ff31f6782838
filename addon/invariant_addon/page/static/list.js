// The list of conversations: pages of it, filters, and what is new on top.

import { get } from "./api.js";
import { h, name, plain, plural, put, short, texts } from "./dom.js";

const VERDICTS = [
  ["", "All"], ["blocked", "Blocked"], ["found", "Found"], ["not scanned", "Not scanned"],
  ["error", "Error"], ["partial", "Partial"], ["judged", "Judged"],
];
const WORST = ["blocked", "error", "not scanned", "partial", "judged"];

export const worst = (statuses) => WORST.find((each) => statuses.includes(each)) ?? statuses[0];

export class List {
  constructor({ onFilter, onOpen, onProblem }) {
    this.rows = document.getElementById("rows");
    this.end = document.getElementById("end");
    this.form = document.getElementById("filters");
    this.found = new Map();
    this.filter = {};
    this.more = false;
    this.loading = false;
    this.chosen = null;
    this.onFilter = onFilter;
    this.onOpen = onOpen;
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
    new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) this.loadMore();
    }, { rootMargin: "600px" }).observe(this.end);
  }

  #change(some) {
    this.onFilter({ ...this.filter, ...some });
  }

  show(filter) {
    if (JSON.stringify(filter) === JSON.stringify(this.filter) && this.found.size) return;
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
      this.found.clear();
      this.rows.replaceChildren();
      this.#add(page);
    } catch (error) {
      this.#fail(error);
    } finally {
      this.loading = false;
    }
  }

  async loadMore() {
    if (this.loading || !this.more) return;
    this.loading = true;
    try {
      const last = [...this.found.values()].reduce((low, run) => Math.min(low, run.cursor), Infinity);
      this.#add(await get("conversations", { ...this.filter, before: last }, "list"));
    } catch (error) {
      this.#fail(error);
    } finally {
      this.loading = false;
    }
  }

  // Something has changed: what is new goes on top, what has changed is drawn again.
  async refresh() {
    if (this.loading) return;
    let page;
    try {
      page = await get("conversations", this.filter, "list");
    } catch (error) {
      return this.#fail(error);
    }
    if (!this.found.size) this.more = page.more;
    let before = this.rows.firstElementChild;
    for (const run of page.conversations) {
      const known = this.found.get(run.id);
      if (known && known.change === run.change && known.row === before) {
        before = before.nextElementSibling;
        continue;
      }
      const row = known && known.change === run.change ? known.row : this.#row(run);
      if (known?.row === before) before = before.nextElementSibling;
      const focused = known?.row.contains(document.activeElement);
      if (known && known.row !== row) known.row.remove();
      this.rows.insertBefore(row, before);
      if (focused) row.querySelector("a").focus();
      this.found.set(run.id, { ...run, row });
    }
    this.#tellEnd();
  }

  #add(page) {
    const added = document.createDocumentFragment();
    for (const run of page.conversations) {
      if (this.found.has(run.id)) continue;
      const row = this.#row(run);
      this.found.set(run.id, { ...run, row });
      added.append(row);
    }
    this.rows.append(added);
    this.more = page.more;
    this.#tellEnd();
  }

  #tellEnd() {
    const filtered = Object.values(this.filter).some(Boolean);
    if (this.more) this.end.textContent = "…";
    else if (this.found.size) this.end.textContent = plural(this.found.size, "conversation");
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
      h("a", { href, "aria-current": run.id === this.chosen ? "true" : null },
        h("span", { class: "line" },
          h("span", { class: "state", data: { status: state } }, plain(state)),
          h("time", {}, short(run.ended))),
        h("span", { class: "title", dir: "auto" }, said ? texts(said) : h("em", {}, "no text")),
        h("span", { class: "meta" },
          run.models.length ? h("span", {}, name(run.models.slice(0, 2).join(", "))) : null,
          h("span", {}, plural(run.turns, "turn"))),
        run.rules.length
          ? h("span", { class: "tags" }, run.rules.slice(0, 4).map((rule) => h("span", { class: "tag" }, name(rule))))
          : null));
  }

  hrefOf(run) {
    const query = new URLSearchParams(Object.entries(this.filter).filter(([, v]) => v)).toString();
    return `#/c/${encodeURIComponent(run.newest)}${query ? `?${query}` : ""}`;
  }

  // Marks the conversation that is shown; id: that of any of its turns that is known here.
  choose(id) {
    this.chosen = id;
    for (const link of this.rows.querySelectorAll("a[aria-current]")) link.removeAttribute("aria-current");
    const link = id && this.found.get(id)?.row.querySelector("a");
    link?.setAttribute("aria-current", "true");
    return this.found.get(id);
  }

  // j and k: the focus moves; where there is none yet, from the chosen one.
  step(by) {
    const links = [...this.rows.querySelectorAll("a")];
    if (!links.length) return;
    let at = links.indexOf(document.activeElement);
    if (at < 0) at = links.findIndex((link) => link.hasAttribute("aria-current"));
    const next = links[Math.max(0, Math.min(links.length - 1, at < 0 ? 0 : at + by))];
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
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
      const wanted = this.filter[field] ?? "";
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
