// Suggestions under the search box: a combobox with a listbox (ARIA 1.2). Without this script the box is a plain text field.
//
// Enter searches for what stands there unless a suggestion was moved to; what stands left of the word at the caret is never touched.

import { contextOf } from "./query_context.js";
import { store, stored } from "./remembered.js";

const PAUSE_MS = 150;
const ITEMS_MAX = 12;
const RECENT_MAX = 10;
const ANSWERS_MAX = 50;
const RECENT = "cutaway.queries";
const SWITCH = "cutaway.suggestions";
/** A condition has ended here, so that what joins it with another may follow. */
const JOINED = /(?<!^|[\s({|]|(?:^|[\s({])(?:OR|AND|NOT|-))\s+$/u;
/** Behind `stats` or a comma a figure may begin; behind `by` names alone stand. */
const FIGURE = /\|\s*stats\s(?:(?!\sby\s)[^|(]|\([^()|]*\))*$/u;
const GROUPED = /\|\s*stats\s[^|]*\sby\s[^|]*$/u;
const KIND = {
  text: "text", number: "number", list: "list", series: "of every token", attribute: "attribute", score: "score", value: "value",
  label: "label", flag: "flag", recent: "recent", word: "word", braces: "spans of the trace", stage: "stage", operator: "comparison", figure: "figure of stats",
};

/** The queries sent last, the newest first. */
function recent() {
  try {
    const found = JSON.parse(stored(RECENT) ?? "[]");
    return Array.isArray(found) ? found.filter((one) => typeof one === "string").slice(0, RECENT_MAX) : [];
  } catch {
    return [];
  }
}

/** How well a name fits what is typed: 0 begins with it, 1 a part begins with it, 2 holds it, -1 not at all. */
function fit(name, prefix) {
  const at = name.toLowerCase().indexOf(prefix.toLowerCase());
  return at < 0 ? -1 : at === 0 ? 0 : ".-_ ".includes(name[at - 1]) ? 1 : 2;
}

/** Items with a `text` that fits, the best first, in their own order among equals. */
function fitting(items, prefix) {
  const rank = (item) => Math.min(...[item.text, ...(item.aliases ?? [])].map((name) => fit(name, prefix)).filter((one) => one >= 0));
  return items
    .map((item, place) => ({ item, rank: rank(item), place }))
    .filter((one) => Number.isFinite(one.rank))
    .sort((one, other) => one.rank - other.rank || one.place - other.place)
    .map((one) => one.item);
}

class Words {
  constructor(vocabulary) {
    this.fields = vocabulary.fields.map((one) => ({ ...one, text: one.name, insert: one.name }));
    this.names = [...this.fields, ...vocabulary.series.flatMap((series) => vocabulary.aggregates.map((aggregate) => {
      const name = `${series.name}.${aggregate.name}`;
      return { text: name, insert: name, kind: "series", unit: series.unit, help: `${aggregate.help} ${series.help}` };
    }))].filter((one, place, all) => all.findIndex((other) => other.text === one.text) === place);
    this.flags = vocabulary.flags.map((one) => ({ text: one.name, insert: one.name, kind: "flag", help: one.help }));
    this.starts = [
      { text: "is:", insert: "is:", kind: "flag", help: vocabulary.flags.map((one) => one.name).join(", ") },
      { text: "has:", insert: "has:", kind: "flag", help: "spans that carry a field or attribute" },
      ...vocabulary.kinds.map(({ name, help }) => ({ text: `${name}{`, insert: `${name}{`, kind: "braces", help })),
    ];
    this.joints = [
      { text: "OR", insert: "OR ", kind: "word", help: "one or the other; a blank alone means AND" },
      { text: "NOT", insert: "NOT ", kind: "word", help: "what the next term does not match; a minus says the same" },
    ];
    this.goesOn = [
      { text: "by", insert: "by ", kind: "word", help: "a figure for each value of a field" },
      { text: "every", insert: "every ", kind: "word", help: "over time: a figure for each 1h, 5m, 1d" },
    ];
    this.functions = vocabulary.functions.map(({ name, help }) => ({ text: `${name}(`, insert: `${name}(`, kind: "figure", help }));
    this.stages = vocabulary.stages.map((one) => ({ text: one, insert: `${one} `, kind: "stage", help: "what becomes of the spans found" }));
  }

  field(name) {
    const wanted = name.toLowerCase();
    return this.fields.find((one) => [one.name, ...one.aliases].some((known) => known.toLowerCase() === wanted));
  }

  /** What can be said of a place without the store. */
  at(place, text) {
    const { kind, prefix } = place;
    if (kind === "flag") return fitting(this.flags, prefix);
    if (kind === "has") return fitting(this.fields, prefix);
    if (kind === "stage") return fitting(this.stages, prefix);
    if (kind === "argument") return fitting(FIGURE.test(text.slice(0, place.start)) ? [...this.functions, ...this.names] : this.names, prefix);
    if (kind === "joint") return fitting(this.goesOn.filter(({ text: one }) => one === "every" || !GROUPED.test(text.slice(0, place.start))), prefix);
    if (kind === "value") return this.values(place);
    if (kind !== "field") return [];
    if (!prefix) return [...(JOINED.test(text.slice(0, place.start)) ? this.joints : []), ...this.starts.slice(0, 2), ...this.fields];
    const exact = this.field(prefix);
    return [...(exact ? this.operators(exact) : []),
      ...fitting([...this.names.map((one) => ({ ...one, named: true })), ...this.starts, ...this.joints], prefix)];
  }

  operators(field) {
    if (field.kind !== "number") return [];
    return [[">", "above"], ["<", "below"], ["[", "from … to …, both included"]].map(([sign, help]) => (
      { text: `${field.name}:${sign}`, insert: `${field.name}:${sign}`, kind: "operator", unit: field.unit, help }));
  }

  values(place) {
    const field = this.field(place.field);
    if (field?.values.length) return fitting(field.values.map((one) => ({ text: one, insert: one, kind: "value", help: field.help })), place.prefix);
    const compared = field ? field.kind === "number" : place.field.startsWith("score.");
    if (!compared || place.prefix || place.operator !== ":") return [];
    return [[">", "above"], ["<", "below"], ["[", "from … to …, both included"]].map(([sign, help]) => (
      { text: sign, insert: sign, kind: "operator", unit: field?.unit ?? "", help }));
  }
}

export class QueryBox {
  constructor(input) {
    this.input = input;
    this.items = [];
    this.active = -1;
    this.answers = new Map();
    this.draw();
    input.addEventListener("input", () => this.update());
    input.addEventListener("click", () => this.update());
    input.addEventListener("focus", () => !input.value && this.update());
    input.addEventListener("keydown", (event) => this.key(event));
    input.addEventListener("blur", () => this.close());
    // The caret has left its word: what is shown was about another one.
    document.addEventListener("selectionchange", () => this.open && input.selectionStart !== this.caret && this.close());
    input.form.addEventListener("submit", () => this.remember());
  }

  draw() {
    this.list = document.createElement("ul");
    this.list.id = "query-suggestions";
    this.list.setAttribute("role", "listbox");
    this.list.setAttribute("aria-label", "Suggestions");
    this.foot = document.createElement("p");
    this.foot.className = "query-foot";
    const off = document.createElement("button");
    off.type = "button";
    off.tabIndex = -1; // the keyboard sheet has the same switch
    off.textContent = "Turn suggestions off";
    off.addEventListener("click", () => {
      store(SWITCH, "off");
      this.close();
    });
    const keys = document.createElement("span");
    keys.textContent = "↓ choose · Tab take · Enter search";
    this.foot.append(keys, off);
    this.box = document.createElement("div");
    this.box.className = "query-box";
    this.box.hidden = true;
    this.box.addEventListener("mousedown", (event) => event.preventDefault()); // the caret stays in the box
    this.box.append(this.list, this.foot);
    this.said = document.createElement("span");
    this.said.className = "sr";
    this.said.setAttribute("role", "status");
    this.input.form.append(this.box, this.said);
    for (const [name, value] of Object.entries({ role: "combobox", "aria-expanded": "false", "aria-autocomplete": "list",
      "aria-haspopup": "listbox", "aria-controls": this.list.id })) this.input.setAttribute(name, value);
  }

  get open() {
    return !this.box.hidden;
  }

  async words() {
    this.asked ??= fetch("/vocabulary.json").then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error()))).then(
      (found) => new Words(found));
    try {
      return await this.asked;
    } catch {
      this.asked = undefined; // asked again with the next key
      return null;
    }
  }

  /** Looks at the caret and shows what fits there: at once what the language names, a moment later what is stored. */
  async update() {
    this.asking?.abort();
    clearTimeout(this.pause);
    const { value, selectionStart, selectionEnd } = this.input;
    if (stored(SWITCH) === "off" || selectionStart !== selectionEnd) return this.close();
    const place = contextOf(value, selectionStart);
    if (place.kind === "none") return this.close();
    const words = await this.words();
    if (!words || this.input.value !== value || this.input.selectionStart !== selectionStart || document.activeElement !== this.input) return;
    const queries = value.trim() ? [] : recent().map((query) => ({ text: query, insert: query, kind: "recent", whole: true }));
    const known = [...queries, ...words.at(place, value)];
    this.show(place, known);
    const asks = place.kind === "value" || (place.prefix && ["field", "has", "argument"].includes(place.kind));
    if (asks) this.pause = setTimeout(() => this.ask(place, known, value, selectionStart), PAUSE_MS);
  }

  async ask(place, known, value, caret) {
    const form = new FormData(this.input.form);
    const address = new URLSearchParams({ q: value, caret: String([...value.slice(0, caret)].length) });
    for (const name of ["from", "to"]) if (form.get(name)) address.set(name, form.get(name));
    const url = `/complete.json?${address}`;
    if (!this.answers.has(url)) {
      const asking = (this.asking = new AbortController());
      try {
        const answer = await fetch(url, { signal: asking.signal });
        if (!answer.ok) return;
        this.answers.set(url, (await answer.json()).items);
      } catch {
        return; // given up for the next key, or the collector is away: there are no suggestions then
      }
      if (this.answers.size > ANSWERS_MAX) this.answers.delete(this.answers.keys().next().value);
    }
    if (this.input.value !== value || this.input.selectionStart !== caret || document.activeElement !== this.input) return;
    const found = this.answers.get(url).map((item) => ({ ...item, named: item.kind === "attribute" || item.kind === "score" }));
    const inserts = new Set(found.map((item) => item.insert)); // a score may be called as a field is
    // Names come first from the language, values first from the store, which knows how often they occur.
    const rest = known.filter((item) => !inserts.has(item.insert));
    const signs = rest.filter((item) => item.kind === "operator");
    this.show(place, place.kind === "value" ? [...signs, ...found, ...rest.filter((item) => !signs.includes(item))]
      : [...rest.slice(0, ITEMS_MAX - Math.min(4, found.length)), ...found]);
  }

  show(place, items) {
    const before = this.items[this.active]?.text;
    this.place = place;
    this.caret = this.input.selectionStart;
    this.items = items.slice(0, ITEMS_MAX);
    this.active = before === undefined ? -1 : this.items.findIndex((item) => item.text === before);
    this.list.replaceChildren(...this.items.map((item, index) => this.option(item, index)));
    this.box.hidden = !this.items.length;
    this.input.setAttribute("aria-expanded", String(this.open));
    this.said.textContent = this.items.length ? `${this.items.length} suggestion${this.items.length > 1 ? "s" : ""}` : "";
    this.mark();
  }

  option(item, index) {
    const option = document.createElement("li");
    option.id = `query-suggestion-${index}`;
    option.setAttribute("role", "option");
    const part = (className, text) => {
      if (!text) return;
      const element = document.createElement(className === "query-text" ? "bdi" : "span");
      element.className = className;
      element.textContent = text;
      option.append(element, " ");
    };
    part("query-text", item.text);
    part("query-kind", [KIND[item.kind] ?? item.kind, item.unit].filter(Boolean).join(", "));
    part("query-help", item.help);
    part("query-count", item.count ? `${item.count.toLocaleString("en")} ${item.count === 1 ? "span" : "spans"}` : "");
    option.addEventListener("click", () => this.accept(index));
    return option;
  }

  mark() {
    [...this.list.children].forEach((option, index) => option.setAttribute("aria-selected", String(index === this.active)));
    if (this.active < 0) this.input.removeAttribute("aria-activedescendant");
    else {
      this.input.setAttribute("aria-activedescendant", this.list.children[this.active].id);
      this.list.children[this.active].scrollIntoView({ block: "nearest" });
    }
  }

  close() {
    clearTimeout(this.pause);
    this.asking?.abort();
    this.items = [];
    this.active = -1;
    this.list.replaceChildren();
    this.box.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.said.textContent = "";
    this.mark();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.isComposing) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!this.open) return void this.update();
      const count = this.items.length + 1; // one place more: what is typed
      this.active = ((this.active + 1 + (event.key === "ArrowDown" ? 1 : -1) + count) % count) - 1;
      this.mark();
    } else if (event.key === "Enter" && this.open && this.active >= 0) {
      event.preventDefault();
      this.accept(this.active);
    } else if (event.key === "Tab" && !event.shiftKey && this.open && (this.active >= 0 || this.place.prefix)) {
      event.preventDefault();
      this.accept(Math.max(this.active, 0));
    } else if (event.key === "Escape" && this.open) {
      event.preventDefault(); // which would empty the box
      event.stopPropagation(); // the next one leaves it
      this.close();
    }
  }

  accept(index) {
    const item = this.items[index];
    const { value } = this.input;
    const behind = value.slice(this.place.end);
    let insert = item.insert;
    if (this.place.kind === "field" && (item.named || this.isField(item))) insert += /^\s*[:=<>!]/u.test(behind) ? "" : ":";
    const said = this.place.kind === "value" && ["value", "label", "number"].includes(item.kind); // a field of numbers is no number
    const ends = said || this.place.kind === "flag" || this.place.kind === "has";
    if (ends && !this.place.listed && !behind) insert += " ";
    this.input.setRangeText(insert, item.whole ? 0 : this.place.start, item.whole ? value.length : this.place.end, "end");
    this.input.focus();
    this.active = -1;
    this.items = [];
    this.update();
  }

  isField(item) {
    return ["text", "number", "list", "series"].includes(item.kind);
  }

  remember() {
    const query = this.input.value.trim();
    if (query) store(RECENT, JSON.stringify([query, ...recent().filter((one) => one !== query)].slice(0, RECENT_MAX)));
  }
}

const input = document.querySelector("[data-omnibox]");
if (input) new QueryBox(input);
