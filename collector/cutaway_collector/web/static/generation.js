// One token cursor over three pictures: the text, the strip chart, the attention map. Reads the page's JSON twin; draws only the map.

import { LUT, robustRange } from "./colour.js";

const SIGNALS = [
  ["surprisal", "surprisal", " nats"], ["entropy", "entropy", " nats"], ["margin", "margin", " nats"], ["rank", "rank", ""], ["inter_token_s", "time", " s"],
  ["varentropy", "varentropy", " nats²"], ["min_p_mass", "min-p mass", ""], ["sampled_surprisal", "sampled surprisal", " nats"],
];
const ALTERNATIVES_TOLD = 5;
const SOURCES_TOLD = 3;

const digits = (value) => (value === null || value === undefined || !Number.isFinite(value) ? "–" : Number.isInteger(value) ? String(value) : value.toPrecision(3));

/** Layers x tokens, drawn by putImageData, one pixel a cell; the browser scales it. Layer 0 is at the bottom. */
class HeatGrid extends HTMLElement {
  draw(matrix) {
    const tokens = matrix.length;
    const layers = Number(this.dataset.layers);
    this.matrix = matrix;
    const canvas = document.createElement("canvas");
    canvas.width = tokens;
    canvas.height = layers;
    canvas.style.height = `${Math.max(120, Math.min(420, layers * 9))}px`;
    canvas.style.imageRendering = tokens <= this.clientWidth ? "pixelated" : "auto";
    const context = canvas.getContext("2d");
    const image = context.createImageData(tokens, layers);
    const pixels = new Uint32Array(image.data.buffer);
    const [low, high] = robustRange(matrix.flat());
    const scale = high > low ? 255 / (high - low) : 0;
    for (let token = 0; token < tokens; token++) {
      for (let layer = 0; layer < layers; layer++) {
        const value = matrix[token][layer];
        const at = (layers - 1 - layer) * tokens + token;
        pixels[at] = Number.isFinite(value) ? LUT[Math.max(0, Math.min(255, Math.round((value - low) * scale)))] : 0;
      }
    }
    context.putImageData(image, 0, 0);
    this.cell = document.createElement("i");
    this.cell.className = "cell";
    this.cell.hidden = true;
    this.replaceChildren(canvas, this.cell);
    this.tabIndex = 0;
    this.setAttribute("role", "img");
    this.setAttribute("aria-label", `${this.dataset.label} by layer and token; arrow keys move, the value is spoken`);
    return [low, high];
  }

  /** The layer under a pointer's y, in CSS pixels from the top. */
  layerAt(y) {
    const layers = Number(this.dataset.layers);
    return Math.max(0, Math.min(layers - 1, layers - 1 - Math.floor((y / this.clientHeight) * layers)));
  }

  mark(token, layer) {
    if (!this.cell) return;
    const layers = Number(this.dataset.layers);
    const tokens = this.matrix.length;
    this.cell.hidden = layer === null;
    if (layer === null) return;
    const width = this.clientWidth / tokens;
    this.cell.style.left = `${token * width - 2}px`;
    this.cell.style.top = `${((layers - 1 - layer) / layers) * this.clientHeight - 2}px`;
    this.cell.style.width = `${Math.max(4, width + 4)}px`;
    this.cell.style.height = `${this.clientHeight / layers + 4}px`;
  }
}

class TokenView extends HTMLElement {
  connectedCallback() {
    this.spans = [...this.querySelectorAll("[data-lane] > .t, table.tokens tbody .t")];
    this.start = Number(this.dataset.start);
    this.count = Number(this.dataset.count);
    this.heat = this.querySelector("heat-grid");
    this.tracks = [...this.querySelectorAll("[data-track]")];
    this.readout = this.querySelector("[data-readout]");
    this.index = -1;
    this.layer = null;
    this.spans.forEach((span, index) => (span.tokenIndex = index));
    this.addEventListener("pointerover", (event) => {
      const span = event.target.closest(".t");
      if (span && span.tokenIndex !== undefined) this.go(span.tokenIndex, null);
    });
    for (const track of this.tracks) track.addEventListener("pointermove", (event) => this.hover(track, event));
    this.addEventListener("keydown", (event) => this.key(event));
    this.load();
  }

  async load() {
    const twin = new URL(this.dataset.twin || `${location.pathname}.json${location.search}`, location.href);
    if (!twin.searchParams.has("seq")) twin.searchParams.set("seq", new URL(location.href).searchParams.get("seq") ?? "0");
    twin.searchParams.set("start", this.start);
    twin.searchParams.set("count", this.count || 1);
    try {
      const answer = await fetch(twin);
      if (!answer.ok) throw new Error(String(answer.status));
      this.sequence = (await answer.json()).sequences[0];
    } catch {
      if (this.heat) this.heat.textContent = "The numbers could not be loaded; reload the page to try again.";
      return;
    }
    const kind = this.heat?.dataset.kind;
    this.matrix = kind === "entropy" ? this.sequence?.attention_entropy : this.sequence?.attention?.[kind];
    if (this.heat && this.matrix?.length) this.legend(this.heat.draw(this.matrix));
    this.dataset.ready = "";
    if (this.index >= 0) this.go(this.index, this.layer);
  }

  legend([low, high]) {
    const box = this.querySelector("[data-heatscale]");
    box.querySelector("[data-low]").textContent = digits(low);
    box.querySelector("[data-high]").textContent = `${digits(high)} ${this.heat.dataset.unit}`;
    const ramp = box.querySelector("[data-ramp]").getContext("2d");
    const image = ramp.createImageData(256, 1);
    new Uint32Array(image.data.buffer).set(LUT);
    ramp.putImageData(image, 0, 0);
    box.hidden = false;
  }

  hover(track, event) {
    const box = track.getBoundingClientRect();
    const index = Math.floor(((event.clientX - box.left) / box.width) * this.count);
    const over = this.heat && track.contains(this.heat) ? this.heat.layerAt(event.clientY - box.top) : null;
    if (index >= 0 && index < this.count) this.go(index, over);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("a, button, input")) return;
    const onMap = this.heat && event.target === this.heat;
    const at = Math.max(0, this.index);
    const moves = {
      ArrowRight: () => this.index + 1, ArrowLeft: () => at - 1, Home: () => 0, End: () => this.count - 1,
      n: () => this.striking(1), p: () => this.striking(-1), PageDown: () => this.page(1), PageUp: () => this.page(-1),
    };
    let layer = onMap ? (this.layer ?? 0) : null;
    if (onMap && event.key === "ArrowUp") layer = Math.min(Number(this.heat.dataset.layers) - 1, layer + 1);
    else if (onMap && event.key === "ArrowDown") layer = Math.max(0, layer - 1);
    else if (!Object.hasOwn(moves, event.key)) return;
    event.preventDefault();
    const index = Object.hasOwn(moves, event.key) ? moves[event.key]() : at;
    this.go(Math.max(0, Math.min(this.count - 1, index)), layer);
    this.spans[this.index]?.scrollIntoView({ block: "nearest" });
  }

  /** The token one screen of the lane further, which scrolls along. Tokens stand in reading order, so halving finds it. */
  page(step) {
    const box = this.spans[0]?.closest("[data-lane], .tall");
    if (!box) return 0;
    const top = (index) => this.spans[index].getBoundingClientRect().top + box.scrollTop;
    const screen = Math.max(box.clientHeight - 48, 24);
    const wanted = top(Math.max(0, this.index)) + step * screen;
    let [low, high] = [0, this.spans.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (top(middle) < wanted) low = middle + 1;
      else high = middle;
    }
    box.scrollTop += step * screen;
    return low;
  }

  /** The next token, in that direction, in the upper quarter of the colours. */
  striking(step) {
    for (let at = this.index + step; at >= 0 && at < this.spans.length; at += step) {
      if (/\bq1[2-5]\b/.test(this.spans[at].className)) return at;
    }
    return Math.max(0, this.index);
  }

  go(index, layer) {
    this.spans[this.index]?.classList.remove("at");
    this.index = index;
    this.layer = layer;
    this.spans[index]?.classList.add("at");
    for (const track of this.tracks) {
      const line = track.querySelector(".cursor");
      line.hidden = false;
      line.style.left = `${((index + 0.5) / this.count) * 100}%`;
    }
    this.heat?.mark(index, layer);
    this.tell();
  }

  /** Where that layer looked most for this token: positions from the first prompt token, with their weights. */
  sources(layer, index, add) {
    const found = this.sequence.sources;
    const column = found?.layers?.indexOf(layer) ?? -1;
    const places = column < 0 ? undefined : found.positions?.[index]?.[column];
    if (!places) return;
    const masses = found.masses?.[index]?.[column] ?? [];
    add("looked at", places.slice(0, SOURCES_TOLD).map((place, k) => `#${place}${masses[k] === undefined ? "" : ` (${digits(masses[k])})`}`).join(", "));
  }

  tell() {
    if (!this.sequence) return;
    const index = this.index;
    const span = this.spans[index];
    const text = span ? [...span.childNodes].filter((node) => node.nodeName !== "SMALL").map((node) => node.textContent).join("") : "";
    const parts = [];
    const add = (label, value) => {
      const part = document.createElement("span");
      const strong = document.createElement("em");
      strong.textContent = value;
      part.append(`${label} `, strong);
      parts.push(part);
    };
    const chip = document.createElement("b");
    chip.textContent = text;
    parts.push(chip);
    add("token", String(this.start + index));
    for (const [key, label, unit] of SIGNALS) {
      const value = this.sequence.signals[key]?.[index];
      if (value !== undefined && value !== null) add(label, digits(value) + unit);
    }
    const row = this.matrix?.[index];
    if (row) {
      const { label, unit, names, kind } = this.heat.dataset;
      const what = kind === "entropy" ? "attention" : label.toLowerCase();
      const mean = row.reduce((sum, value) => sum + (value ?? 0), 0) / row.length;
      const layer = names.split(",")[this.layer ?? 0];
      if (this.layer === null) add(`${what}, mean of layers`, `${digits(mean)} ${unit}`);
      else add(`${what}, layer ${layer}`, `${digits(row[this.layer])} ${unit}`);
      if (this.layer !== null && kind !== "cross_entropy") this.sources(Number(layer), index, add);
    }
    const choices = this.sequence.alternatives?.[index] ?? [];
    choices.slice(0, ALTERNATIVES_TOLD).forEach((choice, place) =>
      add(place ? "or" : "likely", `${choice.text !== undefined ? JSON.stringify(choice.text) : (choice.id ?? `#${place}`)} ${digits(choice.surprisal)}`));
    this.readout.replaceChildren(...parts);
  }
}

customElements.define("heat-grid", HeatGrid);
customElements.define("token-view", TokenView);
