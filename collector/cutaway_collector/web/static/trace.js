// The trace page: all rows as one list that is drawn where it is looked at, with the keys of a tree grid, and a span opened beside it.
// Without this script the page shows rows in pages, and links do the rest.

import { plain, typing } from "./keyboard.js";
import { Tree, duration, grouped, significant, ticks } from "./trace_tree.js";

const ROW = 30;
const RULER = 34;
const SPARE = 12;
const STEP = 14;
const DEEPEST = 24;
const HUES = 8;
const SVG = "http://www.w3.org/2000/svg";

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name in element && !name.startsWith("aria")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function shape(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Changes parameters of the address without leaving the page; "" takes one away. */
function address(changes) {
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value) url.searchParams.set(name, value);
    else url.searchParams.delete(name);
  }
  url.searchParams.delete("rows");
  url.searchParams.sort();
  return url;
}

const remember = (changes) => history.replaceState(null, "", address(changes));

class TraceRows extends HTMLElement {
  async connectedCallback() {
    this.grid = this.querySelector("[role=treegrid]");
    this.total = Number(this.dataset.total);
    const data = await this.#data();
    if (!data || !this.isConnected) return; // the rows that the server drew stay
    const asked = new URL(location.href).searchParams;
    this.tree = new Tree(data, new Set((asked.get("open") ?? "").split(",")));
    const map = document.querySelector("mini-map");
    [this.low, this.high] = [Number(map.dataset.low), Number(map.dataset.high)];
    this.selected = this.tree.rowOf.get(this.grid.querySelector(".selected .cover")?.href.match(/span=([0-9a-f]{16})/)?.[1]) ?? -1;
    const wanted = this.tree.rowOf.get(asked.get("span"));
    if (wanted !== undefined) this.tree.reveal((this.selected = wanted));
    this.active = this.tree.placeOf[this.selected] >= 0 ? this.selected : 0;
    this.lines = this.grid.querySelector(".lines");
    this.drawn = new Map();
    this.#take();
    if (asked.get("f")) await this.filter(asked.get("f"), asked.get("show") || "dim");
    if (wanted !== undefined) this.#look();
    this.dataset.ready = "";
  }

  /** The skeleton: the page holds it, unless it is one of several pages of rows. */
  async #data() {
    const held = this.querySelector("[data-skeleton]");
    if (!held) {
      const answer = await fetch(this.dataset.url).catch(() => null);
      return answer?.ok ? answer.json() : null;
    }
    const data = JSON.parse(held.textContent);
    held.remove();
    return data;
  }

  #take() {
    const focused = this.contains(document.activeElement);
    for (const row of this.grid.querySelectorAll(".row")) row.remove();
    for (const more of document.querySelectorAll(".waterfall > .more")) more.remove();
    this.classList.add("taken");
    this.addEventListener("scroll", () => this.#draw(), { passive: true });
    new ResizeObserver(() => this.#draw()).observe(this);
    this.addEventListener("keydown", (event) => this.#key(event));
    this.addEventListener("click", (event) => this.#click(event));
    this.addEventListener("focusin", (event) => this.#entered(event.target.closest(".row")?.row));
    document.addEventListener("keydown", (event) => this.#anywhere(event));
    this.#arranged();
    if (focused) this.#focus(this.active);
  }

  /** After rows came or went. */
  #arranged() {
    const before = this.drawn.get(this.active);
    if (this.tree.placeOf[this.active] < 0) this.active = this.tree.shown[0] ?? -1;
    this.grid.style.height = `${this.tree.shown.length * ROW}px`;
    this.grid.setAttribute("aria-rowcount", this.tree.shown.length);
    this.#redraw(before);
  }

  /** Makes the rows that can be seen, and the one that has the keys, and drops the others. */
  #draw() {
    const { shown, placeOf } = this.tree;
    const first = Math.max(0, Math.floor(this.scrollTop / ROW) - SPARE);
    const behind = Math.min(shown.length, Math.ceil((this.scrollTop + (this.clientHeight || innerHeight)) / ROW) + SPARE);
    const wanted = new Set(shown.slice(first, behind));
    if (this.active >= 0) wanted.add(this.active);
    for (const [row, element] of this.drawn) {
      if (wanted.has(row)) continue;
      element.remove();
      this.drawn.delete(row);
    }
    for (const row of [...wanted].sort((a, b) => a - b)) {
      if (this.drawn.has(row)) continue;
      const element = this.#row(row, placeOf[row]);
      this.drawn.set(row, element);
      this.grid.append(element);
    }
  }

  /** Makes all rows anew; who was in the row `before` is in the row that has the keys afterwards. */
  #redraw(before = this.drawn.get(this.active)) {
    const focused = before?.contains(document.activeElement);
    for (const element of this.drawn.values()) element.remove();
    this.drawn.clear();
    this.#draw();
    if (focused) this.drawn.get(this.active)?.focus({ preventScroll: true });
  }

  #row(row, place) {
    const tree = this.tree;
    const group = tree.groups[row];
    const failures = group ? group[3] : Number(tree.failed.has(row));
    const depth = tree.depthAt(place);
    const expanded = tree.flat ? null : tree.isExpanded(row);
    const state = tree.stateOf(row);
    const classes = ["row", row === this.selected && "selected", failures && "failed", state].filter(Boolean).join(" ");
    const element = make("div", {
      className: classes, role: "row", tabIndex: row === this.active ? 0 : -1, "aria-level": depth + 1, "aria-rowindex": place + 1,
      "aria-expanded": expanded === null ? null : String(expanded), "aria-selected": String(row === this.selected),
    }, this.#label(row, place, depth, group, failures, expanded, state),
    make("div", { className: "bars", role: "gridcell" }, this.#lane(row, group, failures)),
    make("div", { className: "took", role: "gridcell" }, duration(tree.duration[row])));
    element.style.top = `${place * ROW}px`;
    element.row = row;
    return element;
  }

  #label(row, place, depth, group, failures, expanded, state) {
    const tree = this.tree;
    const level = Math.min(depth, DEEPEST);
    const guides = shape("svg", { class: "tree", width: STEP * level + 4, height: ROW, "aria-hidden": "true" });
    for (let at = 1; at <= DEEPEST; at++) {
      if ((tree.rails[place] >> at) & 1) guides.append(shape("path", { d: `M${STEP * at - 7} 0V${ROW}` }));
    }
    const x = STEP * level - 7;
    if (level) guides.append(shape("path", { d: `M${x} 0V${tree.lasts[place] ? ROW / 2 : ROW}M${x} ${ROW / 2}h7` }));
    const link = make("a", { className: "cover", tabIndex: -1, href: address({ span: tree.ids[row] }).href });
    if (state === "matched") link.append(make("span", { className: "hit", title: "matches the filter" }, "●"));
    link.append(make("bdi", {}, tree.nameOf(row) || "(no name)"));
    const label = make("div", { className: "label", role: "gridcell" }, guides, link);
    if (group) {
      label.append(make("span", { className: "times" }, `× ${grouped(group[0])}`),
        make("span", { className: "stats", title: `median ${duration(group[1])}, 99th percentile ${duration(group[2])}` }, `p50 ${duration(group[1])} p99 ${duration(group[2])}`));
    }
    const tag = (text, title, bad) => label.append(make("b", { className: bad ? "tag bad" : "tag", title }, text));
    if (failures) tag(group ? `${grouped(failures)} error${failures > 1 ? "s" : ""}` : "error", "", true);
    if (tree.orphans[row]) tag("no parent", `its parent ${tree.orphans[row]} is not stored`);
    if (tree.rings.has(row)) tag("ring", "it is said to stand under itself");
    if (tree.early.has(row)) tag("early", "it begins before its parent: clocks differ");
    const path = tree.pathOf.get(row);
    if (path) label.append(make("span", { className: "sr" }, ` on the critical path for ${duration(path.reduce((sum, part) => sum + part[1], 0))}`));
    if (expanded !== null) {
      link.before(make("button", { type: "button", className: "fold", tabIndex: -1, "aria-hidden": "true",
        title: expanded ? "Close (key ←)" : "Open (key →)" }, expanded ? "▾" : "▸"));
    }
    return label;
  }

  /** A rectangle over [start, start + size) of the trace in nanoseconds, cut a little beyond the edges; null outside of them. */
  #rect(css, start, size, y, height, thinnest = 0) {
    const scale = 10000 / (this.total * (this.high - this.low));
    const from = start * scale - (100 * this.low) / (this.high - this.low);
    const to = from + size * scale;
    if (to < 0 || from > 100) return null;
    const x = Math.max(from, -2);
    const width = Math.max(Math.min(to, 102) - x, thinnest);
    return shape("rect", { class: css, x: `${x.toFixed(3)}%`, y, width: `${width.toFixed(3)}%`, height });
  }

  #lane(row, group, failures) {
    const tree = this.tree;
    const [start, size] = [tree.start[row], tree.duration[row]];
    const parts = [this.#rect("span", start, size, 8, 14, 0.25)];
    parts[0]?.setAttribute("rx", 3);
    const numbers = tree.numbers[row];
    if (!group && numbers) {
      const wait = Math.min((numbers[2] ?? 0) * 1e9, size);
      if (wait) parts.push(this.#rect("prefill", start, wait, 8, 14));
      parts[0]?.append(shape("title", {}, this.#numbers(numbers)));
    }
    if (!group && tree.stripes[row]) {
      const [first, last, heat] = tree.stripes[row];
      const bin = ((last - first) * 1e9) / heat.length;
      [...heat].forEach((digit, at) => {
        if (digit !== "." && first * 1e9 + at * bin < size) parts.push(this.#rect(`f${parseInt(digit, 16) || 1}`, start + first * 1e9 + at * bin, bin, 23.5, 4));
      });
    }
    if (!group && tree.events[row]) {
      const [offsets, bad] = tree.events[row];
      offsets.forEach((offset, at) => {
        const tick = this.#rect(bad[at] ? "tick bad" : "tick", start + offset, 0, bad[at] ? 5 : 9, bad[at] ? 20 : 12);
        tick?.setAttribute("width", 2);
        parts.push(tick);
      });
    }
    for (const [from, length] of this.#joined(tree.pathOf.get(row) ?? [])) parts.push(this.#rect("path", from, length, 3.5, 2.5, 0.25));
    const css = `s${tree.service[row] % HUES}${failures && !group ? " bad" : ""}${group ? " many" : ""}`;
    return shape("svg", { class: "lane", width: "100%", height: ROW, "aria-hidden": "true" },
      shape("g", { class: css }, ...parts.filter(Boolean)));
  }

  /** Stretches of time in order, those too close to be told apart as one. */
  #joined(stretches) {
    const least = (this.total * (this.high - this.low) * 0.25) / 10000;
    const out = [];
    for (const [start, size] of stretches) {
      const before = out.at(-1);
      if (before && start - before[0] - before[1] < least) before[1] = Math.max(before[1], start + size - before[0]);
      else out.push([start, size]);
    }
    return out;
  }

  #numbers([input, output, first, perplexity, mean, worst]) {
    const said = [];
    if (output !== null) said.push(`${input ?? "–"} → ${output} tokens`);
    if (first !== null) said.push(`first token after ${duration(first * 1e9)}`);
    if (perplexity !== null) said.push(`perplexity ${significant(perplexity)}`);
    if (mean !== null) said.push(`surprisal ${significant(mean)} nats in the mean`);
    if (worst !== null) said.push(`${significant(worst)} nats at worst`);
    return said.join(", ");
  }

  // --- Moving ---------------------------------------------------------------------------------------------------------

  #focus(row) {
    if (row < 0 || row === undefined) return;
    const moved = this.tree.reveal(row);
    if (this.tree.placeOf[row] < 0) return;
    this.#entered(row);
    if (moved) this.#arranged();
    this.#look();
    const element = this.drawn.get(row);
    element.focus({ preventScroll: true });
    element.scrollIntoView({ block: "nearest" }); // the page, where the list is not all in view
  }

  /** From now on the keys start from this row: it is the one that Tab comes to. */
  #entered(row) {
    if (row === undefined) return;
    const before = this.drawn.get(this.active);
    if (before) before.tabIndex = -1;
    this.active = row;
    const now = this.drawn.get(row);
    if (now) now.tabIndex = 0;
  }

  /** Brings the row with the keys into view. */
  #look() {
    const top = this.tree.placeOf[this.active] * ROW;
    if (top < this.scrollTop) this.scrollTop = top;
    else if (top + ROW > this.scrollTop + this.clientHeight - RULER) this.scrollTop = top + ROW - this.clientHeight + RULER;
    this.#draw();
  }

  #step(by) {
    const { shown, placeOf } = this.tree;
    this.#focus(shown[Math.min(shown.length - 1, Math.max(0, placeOf[this.active] + by))]);
  }

  #toggle(row, expanded) {
    if (this.tree.grouped && this.tree.groups[row]) { // its members are not here
      const open = new Set((new URL(location.href).searchParams.get("open") ?? "").split(",").filter(Boolean));
      open[expanded ? "add" : "delete"](this.tree.ids[row]);
      location.assign(address({ open: [...open].join(",") }));
      return;
    }
    this.tree.setExpanded(row, expanded);
    this.active = row;
    this.#arranged();
    this.#focus(row);
    if (this.tree.groups[row]) remember({ open: [...this.tree.open].map((one) => this.tree.ids[one]).slice(0, 50).join(",") });
  }

  #key(event) {
    if (!plain(event) || typing(event)) return;
    const expanded = this.tree.flat ? null : this.tree.isExpanded(this.active);
    const screen = Math.max(1, Math.floor((this.clientHeight - RULER) / ROW) - 1);
    const doing = {
      ArrowDown: () => this.#step(1),
      ArrowUp: () => this.#step(-1),
      PageDown: () => this.#step(screen),
      PageUp: () => this.#step(-screen),
      Home: () => this.#step(-Infinity),
      End: () => this.#step(Infinity),
      ArrowRight: () => (expanded === false ? this.#toggle(this.active, true) : expanded && this.#step(1)),
      ArrowLeft: () => (expanded ? this.#toggle(this.active, false) : this.#focus(this.tree.parents[this.active])),
      Enter: () => this.#act(this.active),
    }[event.key];
    if (!doing || this.active < 0) return;
    event.preventDefault();
    doing();
  }

  #anywhere(event) {
    if (!plain(event) || event.defaultPrevented || typing(event)) return;
    const tree = this.tree;
    const found = (step, wanted) => this.#focus(tree.next(this.active, step, wanted));
    const match = (row) => (tree.matched ? tree.matched.has(row) : tree.failed.has(row));
    const peer = (row) => tree.name[row] === tree.name[this.active] && !tree.groups[row];
    const sibling = (row) => tree.parents[row] === tree.parents[this.active];
    const click = (selector) => document.querySelector(selector)?.click();
    const doing = {
      j: () => this.#step(1), k: () => this.#step(-1),
      n: () => found(1, match), N: () => found(-1, match),
      p: () => found(1, peer), P: () => found(-1, peer),
      s: () => found(1, sibling), S: () => found(-1, sibling),
      f: () => document.querySelector(".find input[name=f]").select(),
      "[": () => click("[data-around=previous]"), "]": () => click("[data-around=next]"),
      "+": () => this.zoomBy("in"), "=": () => this.zoomBy("in"), "-": () => this.zoomBy("out"), 0: () => this.zoomBy("all"),
      ",": () => this.zoomBy("back"), ".": () => this.zoomBy("on"),
    }[event.key];
    if (!doing) return;
    event.preventDefault();
    doing();
  }

  #click(event) {
    const element = event.target.closest(".row");
    if (!element || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    this.#focus(element.row);
    if (event.target.closest(".fold")) this.#toggle(element.row, !this.tree.isExpanded(element.row));
    else this.#act(element.row);
  }

  /** Opens or closes a group, shows a span beside the rows; once more goes to it. */
  #act(row) {
    if (this.tree.groups[row]) this.#toggle(row, !this.tree.isExpanded(row));
    else if (row === this.selected) document.querySelector("#detail .detail")?.focus();
    else this.show(row);
  }

  /** Fetches a span's fragment as a document, which neither runs nor loads anything, and puts it beside the rows. */
  show(row) {
    const id = this.tree.ids[row];
    const request = new XMLHttpRequest();
    request.open("GET", `/trace/${this.dataset.trace}/span/${id}?start=${this.dataset.start}`);
    request.responseType = "document";
    const instead = () => this.selected === row && location.assign(address({ span: id }));
    request.onload = () => {
      if (this.selected !== row) return; // another span was opened since
      const detail = request.response?.querySelector(".detail");
      if (request.status !== 200 || !detail) return void instead();
      const box = document.querySelector("#detail");
      const inside = box.contains(document.activeElement);
      box.replaceChildren(document.adoptNode(detail));
      if (inside) detail.focus(); // who waited in there stays there
    };
    request.onerror = instead;
    this.selected = row;
    remember({ span: id });
    this.#redraw();
    request.send();
  }

  // --- Filter and zoom ------------------------------------------------------------------------------------------------

  async filter(text, show) {
    const asked = (this.asked = Symbol(text)); // an answer to an earlier question that comes late is dropped
    const said = document.querySelector("#found");
    if (this.tree.grouped && this.dataset.ready === "") { // which groups hold matches, the server knows
      location.assign(address({ f: text, show: show === "dim" ? "" : show }));
      return;
    }
    remember({ f: text, show: show === "dim" ? "" : show });
    if (!text) {
      said.textContent = "";
      this.tree.filter(null, "dim");
      this.#arranged();
      return;
    }
    const answer = await fetch(`/trace/${this.dataset.trace}/matches.json?f=${encodeURIComponent(text)}`).catch(() => null);
    const body = await answer?.json().catch(() => null);
    if (this.asked !== asked) return;
    said.classList.toggle("bad", !answer?.ok);
    if (!answer?.ok) {
      said.textContent = body?.error ? [body.error.message, body.error.hint].filter(Boolean).join("; ") : "The filter could not be asked.";
      return;
    }
    const count = body.span_ids.length;
    said.textContent = `${grouped(count)} ${count === 1 ? "span matches" : "spans match"}`;
    said.title = body.explanation;
    this.tree.filter(body.span_ids, show);
    this.#arranged();
    this.#look();
  }

  zoomBy(how) {
    const size = this.high - this.low;
    const span = 100 * (this.tree.start[this.active] + this.tree.duration[this.active] / 2) / this.total;
    const middle = span > this.low && span < this.high ? span : (this.low + this.high) / 2;
    const [low, high] = {
      in: [middle - size / 4, middle + size / 4], out: [middle - size, middle + size],
      back: [this.low - size / 2, this.high - size / 2], on: [this.low + size / 2, this.high + size / 2], all: [0, 100],
    }[how];
    this.zoom(low, high);
  }

  /** Shows the time between two percentages of the trace, moved to lie inside of it. */
  zoom(low, high) {
    const size = Math.min(100, Math.max(high - low, 1e-5));
    this.low = Math.min(Math.max(low, 0), 100 - size);
    this.high = this.low + size;
    const text = (value) => String(Number(value.toFixed(6)));
    remember({ zoom: size === 100 ? "" : `${text(this.low)}-${text(this.high)}` });
    const marks = ticks(this.total, this.low, this.high);
    document.querySelector("[data-ticks]").replaceChildren(
      ...marks.map(([at, words]) => shape("text", { x: `${at.toFixed(3)}%`, dx: 3, y: 15 }, words)));
    document.querySelector("[data-lines]").replaceChildren(
      ...marks.map(([at]) => shape("line", { x1: `${at.toFixed(3)}%`, x2: `${at.toFixed(3)}%`, y1: 0, y2: "100%" })));
    document.querySelector("mini-map").mark(this.low, this.high);
    this.#redraw();
  }
}

/** The trace in a strip: drag over a part of its time to see that part; a click moves the part there. Buttons and keys do the same. */
class MiniMap extends HTMLElement {
  connectedCallback() {
    this.addEventListener("pointerdown", (event) => {
      if (event.button || !this.rows?.tree) return;
      this.setPointerCapture(event.pointerId);
      this.from = this.#at(event);
    });
    this.addEventListener("pointermove", (event) => this.from !== undefined && this.mark(...this.#part(event)));
    this.addEventListener("pointercancel", () => this.#ended());
    this.addEventListener("pointerup", (event) => {
      if (this.from === undefined) return;
      const [low, high] = this.#part(event);
      this.#ended();
      const half = (this.rows.high - this.rows.low) / 2;
      if (high - low > 0.5) this.rows.zoom(low, high);
      else this.rows.zoom(low - half, low + half);
    });
  }

  get rows() {
    return document.querySelector("trace-rows");
  }

  #at(event) {
    const box = this.getBoundingClientRect();
    return Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width));
  }

  #part(event) {
    return [this.from, this.#at(event)].sort((a, b) => a - b);
  }

  #ended() {
    this.from = undefined;
    this.mark(this.rows.low, this.rows.high);
  }

  mark(low, high) {
    const [before, after] = this.querySelectorAll("[data-veil]");
    before.setAttribute("width", `${low}%`);
    after.setAttribute("x", `${high}%`);
    after.setAttribute("width", `${100 - high}%`);
  }
}

/** A button that copies what `text` gives, and says so. */
class CopyButton extends HTMLElement {
  connectedCallback() {
    if (!navigator.clipboard || this.firstChild) return;
    const button = make("button", { type: "button", className: "button small" }, this.words);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(await this.text());
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not allowed";
      }
      setTimeout(() => (button.textContent = this.words), 1500);
    });
    this.append(button);
  }
}

/** The address of this view, its relative times as dates, so that it means the same tomorrow. */
class CopyLink extends CopyButton {
  words = "Copy link";
  text() {
    const frozen = document.querySelector("trace-rows")?.dataset ?? {};
    return address({ from: frozen.from, to: frozen.to }).href;
  }
}

class CopyJson extends CopyButton {
  words = "Copy JSON";
  async text() {
    const answer = await fetch(this.dataset.url);
    if (!answer.ok) throw new Error(answer.statusText);
    return answer.text();
  }
}

customElements.define("mini-map", MiniMap);
customElements.define("trace-rows", TraceRows);
customElements.define("copy-link", CopyLink);
customElements.define("copy-json", CopyJson);

const rows = document.querySelector("trace-rows");
const form = document.querySelector("form.find");
const apply = (event) => {
  if (!rows?.tree) return;
  event.preventDefault();
  rows.filter(form.elements.f.value.trim(), form.elements.show.value || "dim");
};
form?.addEventListener("submit", apply);
form?.elements.show.addEventListener("change", (event) => form.elements.f.value && apply(event));
form?.elements.f.addEventListener("search", (event) => !form.elements.f.value && apply(event));
form?.querySelector("[data-clear]")?.addEventListener("click", (event) => {
  form.elements.f.value = "";
  apply(event);
});
for (const link of document.querySelectorAll("[data-zoom]")) {
  link.addEventListener("click", (event) => {
    if (!rows?.tree || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    rows.zoomBy(link.dataset.zoom);
  });
}
