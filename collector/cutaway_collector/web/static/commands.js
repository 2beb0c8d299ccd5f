// The command palette (Ctrl K), the keyboard sheet (?), and the switches for shortcuts and suggestions, remembered in this browser.

import { plain, typing } from "./keyboard.js";
import { store, stored } from "./remembered.js";

const KEYS = "cutaway.keys";
const SUGGESTIONS = "cutaway.suggestions";
const TRACES = "cutaway.traces";
const TRACES_MAX = 20;

const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

// Switched off, a single character reaches no script of any page: they listen behind this, which listens first (WCAG 2.1.4).
// Nor does it while a dialog is open: what it would do is behind it.
window.addEventListener("keydown", (event) => {
  const single = event.key.length === 1 && plain(event);
  const silent = stored(KEYS) === "off" || document.querySelector("dialog.palette[open], dialog.sheet[open]");
  if (single && !typing(event) && silent) event.stopImmediatePropagation();
}, { capture: true });

document.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey) {
    event.preventDefault();
    palette.show();
  } else if (event.key === "?" && plain(event) && !typing(event)) {
    event.preventDefault();
    sheet.show();
  }
});

/** The traces looked at last, the newest first: {url, label}. */
function traces() {
  try {
    const found = JSON.parse(stored(TRACES) ?? "[]");
    return Array.isArray(found) ? found.filter((one) => /^\/trace\/[0-9a-f]{32}$/.test(one?.url)).slice(0, TRACES_MAX) : [];
  } catch {
    return [];
  }
}

function rememberTrace() {
  if (!/^\/trace\/[0-9a-f]{32}$/.test(location.pathname)) return;
  const label = document.querySelector("main h1")?.textContent.trim().slice(0, 100) || location.pathname.slice(7, 19);
  const others = traces().filter((one) => one.url !== location.pathname);
  store(TRACES, JSON.stringify([{ url: location.pathname, label }, ...others].slice(0, TRACES_MAX)));
}

let known = null; // what /palette.json said last

/** A dialog that is open at once and filled when the collector has answered; the browser keeps the focus inside, and gives it back. */
class Sheet {
  async show() {
    if (document.querySelector("dialog[open]")) return;
    this.dialog?.remove();
    const dialog = (this.dialog = this.drawn());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
    document.body.append(dialog);
    dialog.showModal();
    if (known) this.fill(known, true);
    // Asked each time: a search may have been saved since.
    const found = await fetch("/palette.json").then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
    known = found ?? known;
    if (this.dialog === dialog && dialog.open) this.fill(known ?? { pages: [], saved: [], keys: [] }, false, !found);
  }
}

class Palette extends Sheet {
  drawn() {
    this.entries = [];
    this.asking = true;
    this.failed = this.entered = false;
    this.input = element("input", { type: "text", role: "combobox", "aria-expanded": "true", "aria-controls": "palette-list",
      "aria-autocomplete": "list", "aria-label": "Go to", placeholder: "Go to a page, a saved search, a trace", autocomplete: "off", spellcheck: "false" });
    this.list = element("ul", { id: "palette-list", role: "listbox", "aria-label": "Where to go" });
    this.none = element("p", { class: "palette-none", role: "status" });
    this.input.addEventListener("input", () => this.filter());
    this.input.addEventListener("keydown", (event) => this.key(event));
    const dialog = element("dialog", { class: "palette", "aria-label": "Command palette" }, this.input, this.list, this.none);
    this.filter();
    return dialog;
  }

  /** asking: the answer is still to come, these are of the last one. What was typed and chosen meanwhile stays. */
  fill(found, asking, failed = false) {
    const chosen = this.left[this.active];
    this.entries = [
      ...found.pages.map((one) => ({ ...one, group: "Page" })),
      ...found.saved.map((one) => ({ ...one, group: "Saved search" })),
      ...traces().map((one) => ({ ...one, group: "Trace seen lately", help: one.url.slice(7, 19) })),
      { label: "Keyboard shortcuts and switches", group: "Help", run: () => sheet.show() },
    ];
    this.asking = asking;
    this.failed = failed;
    this.filter(chosen);
    if (this.entered && this.left.length) this.go(this.active);
  }

  filter(chosen) {
    const words = this.input.value.toLowerCase().split(/\s+/u).filter(Boolean);
    this.left = this.entries.filter((one) => words.every((word) => `${one.label} ${one.group} ${one.help ?? ""}`.toLowerCase().includes(word)));
    this.active = Math.max(0, this.left.findIndex((one) => one.label === chosen?.label && one.url === chosen?.url));
    this.list.replaceChildren(...this.left.map((one, index) => {
      const option = element("li", { role: "option", id: `palette-${index}` }, element("bdi", {}, one.label),
        element("span", { class: "palette-help" }, one.help ?? ""), element("span", { class: "palette-group" }, one.group));
      option.addEventListener("click", () => this.go(index));
      return option;
    }));
    this.none.textContent = this.failed ? "The collector does not answer: its pages and saved searches are missing here."
      : this.left.length ? "" : this.asking ? "Asking the collector …" : "Nothing has these words.";
    this.mark();
  }

  mark() {
    [...this.list.children].forEach((option, index) => option.setAttribute("aria-selected", String(index === this.active)));
    const at = this.list.children[this.active];
    if (at) this.input.setAttribute("aria-activedescendant", at.id);
    else this.input.removeAttribute("aria-activedescendant");
    at?.scrollIntoView({ block: "nearest" });
  }

  key(event) {
    const count = this.left.length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      this.active = count ? (this.active + (event.key === "ArrowDown" ? 1 : -1) + count) % count : 0;
      this.mark();
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (count) this.go(this.active);
      else this.entered = this.asking; // goes when there is somewhere to go
    } else this.entered = false;
  }

  go(index) {
    const chosen = this.left[index];
    this.dialog.close();
    if (chosen.run) chosen.run();
    else location.assign(chosen.url);
  }
}

class KeyboardSheet extends Sheet {
  drawn() {
    this.keys = element("div", { class: "sheet-keys" });
    const close = element("button", { type: "button", class: "button" }, "Close");
    close.addEventListener("click", () => this.dialog.close());
    return element("dialog", { class: "sheet", "aria-labelledby": "sheet-title" },
      element("header", {}, element("h2", { id: "sheet-title" }, "Keyboard"), close),
      element("div", { class: "sheet-switches" },
        this.toggle(KEYS, "Shortcuts of a single key", "off where they get in the way of speech or of a screen reader; those with Ctrl stay"),
        this.toggle(SUGGESTIONS, "Suggestions in the search box", "what could stand at the caret, while you type")),
      this.keys);
  }

  fill(found, asking, failed = false) {
    const groups = Map.groupBy(found.keys, (line) => line.where);
    this.keys.replaceChildren(...[...groups].map(([where, lines]) => element("section", {}, element("h3", {}, where), element("dl", {},
      ...lines.map((line) => element("div", {}, element("dt", {}, element("kbd", {}, line.shown)), element("dd", {}, line.meaning)))))));
    if (failed) this.keys.append(element("p", { role: "status" }, "The collector does not answer: keys are listed when it does."));
  }

  toggle(key, label, help) {
    const box = element("input", { type: "checkbox" });
    box.checked = stored(key) !== "off";
    box.addEventListener("change", () => store(key, box.checked ? "on" : "off"));
    return element("label", {}, box, element("span", {}, element("b", {}, label), " ", element("span", { class: "muted" }, help)));
  }
}

const palette = new Palette();
const sheet = new KeyboardSheet();
rememberTrace();
for (const button of document.querySelectorAll("[data-keyboard-sheet]")) {
  button.hidden = false;
  button.addEventListener("click", () => sheet.show());
}
