// The generation page's cursor: one token, shared by the text, the strips and the attention map. Moves it, and says where it is.

import { ramp } from "./colour.js";
import { TextLane } from "./generation_lane.js";
import { HeatGrid } from "./generation_map.js";
import { Hesitations } from "./generation_hesitations.js";
import { Numbers, digits, spell, statistics } from "./generation_numbers.js";
import { Panel, element, said, spaced } from "./generation_panel.js";
import { State } from "./generation_state.js";
import { plain } from "./keyboard.js";
import { leave, take } from "./remembered.js";

const WORD = "word";
const SENTENCE = "sentence";
const FOCUS = "cutaway.generation.focus";

class TokenView extends HTMLElement {
  connectedCallback() {
    this.config = JSON.parse(this.dataset.config);
    const config = this.config;
    Object.assign(this, { start: config.start, stop: config.stop, token: -1, layer: null, head: 0, anchor: -1, loaded: [config.start, config.stop] });
    this.numbers = new Numbers(config);
    this.state = new State(config.base);
    this.lane = new TextLane(this.querySelector("[data-lane], table.tokens tbody") ?? document.createElement("div"), config);
    this.text = this.querySelector("[data-lane]") !== null;
    this.grid = this.querySelector("heat-grid");
    this.tracks = [...this.querySelectorAll("[data-track]")];
    this.overview = this.querySelector("[data-overview]");
    this.readout = this.querySelector("[data-readout]");
    this.rangeLine = this.querySelector("[data-range]");
    this.panel = new Panel(this.querySelector("[data-panel]"), this.numbers, config);
    this.hesitations = new Hesitations(this, this.numbers, config);
    this.removeAttribute("data-ready");
    this.listen();
    if (take(FOCUS) === config.base) this.querySelector("[data-lane], .scroll[tabindex]")?.focus({ preventScroll: true });
    this.begin();
  }

  listen() {
    this.addEventListener("pointermove", (event) => {
      // Text that moves under a pointer at rest is no pointing.
      if (event.screenX === this.pointer?.x && event.screenY === this.pointer?.y) return;
      this.pointer = { x: event.screenX, y: event.screenY };
      const [span, track] = [event.target.closest(".t"), event.target.closest("[data-track]")];
      if (span?.unit !== undefined) this.point(this.lane.firsts[span.unit], null);
      else if (track) this.hover(track, event);
    });
    if (this.grid?.heads) this.grid.addEventListener("pointermove", (event) => {
      if (!this.grid.columns) return;
      const { layer, column } = this.grid.under(event);
      [this.layer, this.head] = [layer, column];
      this.go(Math.max(0, this.token), layer);
    });
    this.addEventListener("click", (event) => this.click(event));
    this.addEventListener("keydown", (event) => this.key(event));
    // Hesitations are what one comes for: with nothing in focus, their keys start the walk, and the text takes the focus.
    document.addEventListener("keydown", (event) => {
      if (event.target !== document.body || (event.key !== "g" && event.key !== "G")) return;
      this.querySelector("[data-lane]")?.focus({ preventScroll: true });
      this.key(event);
    });
    this.overview?.addEventListener("pointerdown", (event) => {
      const box = this.overview.getBoundingClientRect();
      this.go(Math.floor(((event.clientX - box.left) / box.width) * this.config.count));
    });
    this.hesitations.listen((value) => this.state.set({ threshold: value }), this.lane);
    for (const shown of this.querySelectorAll("[data-scripted]")) shown.hidden = false;
    this.panel.close();
    this.select(-1, -1);
    for (const unscripted of this.querySelectorAll("[data-plain]")) unscripted.hidden = true;
  }

  async begin() {
    const { config } = this;
    for (const canvas of this.querySelectorAll("[data-ramp]")) ramp(canvas);
    try {
      await this.load(false);
    } catch {
      this.readout.replaceChildren(element("span", "The numbers could not be loaded; reload the page to try again.", "muted"));
      return;
    }
    this.box();
    // What somebody did while the numbers were on their way goes before what the address says.
    if (this.token >= 0) await this.go(this.token, this.layer);
    else if (config.token >= 0) {
      await this.go(config.token, config.layer >= 0 ? config.layer : null);
      this.lane.show();
    } else if (this.grid?.heads) await this.go(this.start); // the matrix is of the token at the cursor: without one it has no cells
    if (config.token >= 0 && !this.panel.used) this.pin(config.token);
    if (config.first >= 0 && this.rangeOf[0] < 0) this.select(config.first, config.last);
    this.dataset.ready = "";
    if (await this.hesitations.known) this.dataset.hesitating = "";
  }

  /** The numbers of the window at this.start, and its text where another stands there. False where another window is wanted by now. */
  async load(lane) {
    const map = this.grid && !this.grid.heads ? this.grid.dataset.url : null;
    const wanted = this.start;
    const found = await this.numbers.window(this.start, this.stop, lane, map);
    if (wanted !== this.start) return false;
    this.loaded = [this.start, this.stop];
    this.signals = found.signals;
    this.cells = found.map;
    if (found.lane && this.text) this.lane.draw(found.lane);
    if (found.lane) this.strips(found.lane.strips);
    if (this.grid && found.map) this.grid.drawTokens(found.map);
    return true;
  }

  strips(paths) {
    const drawn = this.tracks.filter((track) => track.dataset.track === "strip").map((track) => track.querySelector("svg"));
    paths.forEach(({ path, steps }, at) => {
      drawn[at]?.setAttribute("viewBox", `0 0 ${steps} 100`);
      drawn[at]?.querySelector("path").setAttribute("d", path);
    });
  }

  /** Goes on in the window that holds a token. Tables are the server's alone: there it is another page. */
  async move(token) {
    const { size, count, unit } = this.config;
    const start = Math.floor(token / size) * size;
    if (!this.text) {
      this.state.set({ tok: token });
      this.state.write();
      location.reload();
      return;
    }
    [this.start, this.stop] = [start, Math.min(count, start + size)];
    this.dataset.loading = "";
    try {
      if (!(await this.load(true))) return;
    } catch (error) {
      if (this.start === start) {
        [this.start, this.stop] = this.loaded; // what still stands there
        delete this.dataset.loading;
      }
      throw error;
    }
    delete this.dataset.loading;
    this.box();
    this.hesitations.mark(this.lane);
    this.lane.range(...this.rangeOf);
    if (unit === "token") this.lane.pin(this.panel.token >= this.start && this.panel.token < this.stop ? this.panel.token : -1);
  }

  /** Where the window lies within all tokens. */
  box() {
    if (!this.overview) return;
    const window = this.overview.querySelector(".window-box");
    window.style.left = `${(this.start / this.config.count) * 100}%`;
    window.style.width = `${((this.stop - this.start) / this.config.count) * 100}%`;
    const [from, to] = this.querySelectorAll("[data-window] span");
    [from.textContent, to.textContent] = [this.start, this.stop - 1];
  }

  async go(token, layer = null) {
    const wanted = Math.max(0, Math.min(this.config.count - 1, token));
    this.token = wanted;
    this.layer = layer;
    if (wanted < this.start || wanted >= this.stop) {
      try {
        await this.move(wanted);
      } catch {
        if (this.token === wanted) this.readout.replaceChildren(element("span", "That part could not be loaded; move again to try once more.", "muted"));
        return;
      }
      if (this.token !== wanted) return;
    }
    this.lane.at(wanted);
    for (const track of this.tracks) this.line(track, (wanted - this.start + 0.5) / (this.stop - this.start));
    if (this.overview) {
      this.line(this.overview, (wanted + 0.5) / this.config.count);
      this.overview.setAttribute("aria-valuenow", wanted);
    }
    if (this.grid?.heads) this.matrix(wanted);
    else this.grid?.mark(wanted - this.start, layer);
    this.tell();
    this.state.set({ tok: wanted, layer: layer ?? "" });
  }

  line(track, share) {
    const line = track.querySelector(".cursor");
    line.hidden = false;
    line.style.left = `${share * 100}%`;
  }

  /** Every head of every layer for one token; the last one asked for wins. */
  async matrix(token) {
    if (this.matrixOf !== token) {
      this.matrixOf = token;
      this.matrixShown = false; // until then its cells are another token's
      const values = await this.numbers.cells(this.grid.dataset.url, token, 1).catch(() => null);
      if (this.matrixOf !== token) return;
      if (!values?.length) return void (this.matrixOf = -1); // asked again with the next move
      this.grid.drawHeads(values);
      this.matrixShown = true;
      this.tell();
    }
    this.grid.mark(this.head, this.layer);
  }

  hover(track, event) {
    const box = track.getBoundingClientRect();
    const token = this.start + Math.floor(((event.clientX - box.left) / box.width) * (this.stop - this.start));
    const onMap = this.grid && track.contains(this.grid) && this.grid.columns;
    if (token >= this.start && token < this.stop) this.point(token, onMap ? this.grid.under(event).layer : null);
  }

  /** The pointer is somewhere: where it already was, nothing happens. */
  point(token, layer) {
    if (token !== this.token || layer !== this.layer) this.go(token, layer);
  }

  click(event) {
    const link = event.target.closest("a[href]");
    if (link) this.state.follow(link);
    const jump = event.target.closest("[data-jump]");
    if (jump) this.jump(Number(jump.dataset.jump));
    const span = event.target.closest(".t");
    const onTrack = event.target.closest("[data-track], [data-overview]");
    if (link || (span?.unit === undefined && !onTrack) || this.token < 0) return;
    if (event.detail === 2 && span) this.choose(WORD);
    else if (event.detail === 3 && span) this.choose(SENTENCE);
    else if (event.shiftKey) this.extend(span ? this.lane.tokensOf(span.unit)[1] : this.token);
    else {
      this.anchor = this.token;
      this.pin(this.token);
    }
  }

  /** Chooses the word or sentence at the cursor, however the page reads. */
  async choose(unit) {
    const { token } = this;
    const asked = (this.asked = Symbol(unit));
    const numbers = await this.numbers.series(`unit:${unit}`).catch(() => null);
    if (this.asked !== asked || !numbers) return; // another stretch was chosen since
    this.choosing(numbers.indexOf(numbers[token]), numbers.lastIndexOf(numbers[token]));
  }

  pin(token) {
    const again = this.panel.token === token;
    this.lane.pin(again ? -1 : token);
    if (again) return this.panel.close();
    const { names, dataset } = this.grid ?? { names: [], dataset: { label: "", unit: "", kind: "" } };
    this.panel.open(token, {
      names, label: dataset.label, scale: dataset.unit, kind: dataset.kind, unit: this.config.unit, close: () => this.pin(token),
      text: (other) => (other >= this.start && other < this.stop ? this.lane.text(other) : ""), go: (other) => this.go(other).then(() => this.lane.show()),
    });
    return undefined;
  }

  letGo() {
    this.anchor = -1;
    this.choosing(-1, -1);
  }

  /** A range from where it was begun to this token. */
  extend(token) {
    if (this.anchor < 0) this.anchor = Math.max(0, this.token);
    this.choosing(Math.min(this.anchor, token), Math.max(this.anchor, token));
  }

  choosing(first, last) {
    this.asked = undefined;
    this.state.set({ range: first < 0 ? "" : `${first}-${last}` });
    return this.select(first, last);
  }

  async select(first, last) {
    this.rangeOf = [first, last];
    this.lane.range(first, last);
    if (first < 0) {
      this.rangeLine.replaceChildren(element("span", "Shift and arrows, shift and click, a double or a triple click choose a stretch of tokens.", "muted"));
      return;
    }
    const { signal, signals } = this.config;
    const [, label, unit] = signals.find(([key]) => key === signal) ?? [signal, signal, ""];
    const known = signals.some(([key]) => key === signal);
    const found = known ? statistics(await this.numbers.series(signal), first, last) : statistics([], 0, -1);
    const nats = signals.some(([key]) => key === "surprisal") ? statistics(await this.numbers.series("surprisal"), first, last) : null;
    if (this.rangeOf[0] !== first || this.rangeOf[1] !== last) return;
    const parts = [element("b", first === last ? `token ${first}` : `tokens ${first} to ${last}`), element("span", `${last > first ? `${last - first + 1} tokens, ` : ""}${label.toLowerCase()}`, "muted")];
    parts.push(said("mean", spell(found.mean, unit)), said("max", `${spell(found.max, unit)} at #${found.at}`), said("sum", spell(found.sum, unit)));
    if (nats) parts.push(said("perplexity", digits(Math.exp(nats.mean))));
    this.rangeLine.replaceChildren(...spaced(parts));
  }

  /** To the next hesitation in that direction. */
  async jump(step) {
    const from = this.token;
    await this.hesitations.known;
    if (this.token !== from) return; // moved on while they were counted
    const token = this.hesitations.next(this.token, step);
    if (token < 0) return;
    await this.go(token);
    this.lane.show();
  }

  /** The first token of the unit before or after the cursor's. */
  neighbour(step) {
    if (this.token < 0) return this.start;
    const unit = this.lane.unitOf(this.token) + step;
    if (unit < 0) return this.start - 1;
    return this.lane.firsts[unit] ?? Math.max(this.stop, this.token + 1);
  }

  key(event) {
    if (!plain(event) || event.target.closest("a, button, input, summary")) return;
    const onMap = this.grid && event.target === this.grid;
    const last = this.config.count - 1;
    const moves = {
      ArrowRight: () => this.neighbour(1), ArrowLeft: () => this.neighbour(-1), Home: () => 0, End: () => last,
      PageDown: () => this.screen(1), PageUp: () => this.screen(-1),
    };
    if (event.key === "g" || event.key === "G") this.jump(event.key === "g" ? 1 : -1);
    else if (event.key === "v") this.nextView();
    else if (event.key === "Enter" && this.token >= 0) this.pin(this.token);
    else if (event.key === "Escape") this.letGo();
    else if (onMap && event.key.startsWith("Arrow") && (this.grid.heads || event.key.endsWith("Up") || event.key.endsWith("Down"))) this.cell(event.key);
    else if (Object.hasOwn(moves, event.key)) this.step(event, moves[event.key](), onMap);
    else return;
    event.preventDefault();
  }

  async step(event, token, onMap) {
    if (!event.shiftKey) this.anchor = -1;
    else if (this.anchor < 0) this.anchor = Math.max(0, this.token);
    await this.go(token, onMap ? (this.layer ?? 0) : null);
    if (event.shiftKey) this.extend(this.lane.tokensOf(this.lane.unitOf(this.token))[event.key === "ArrowLeft" ? 0 : 1]);
    this.lane.show();
  }

  /** Another cell of the map: a layer up or down, in the matrix a head left or right. */
  cell(key) {
    const within = (value, count) => Math.max(0, Math.min(count - 1, value));
    const up = { ArrowUp: 1, ArrowDown: -1 }[key] ?? 0;
    this.head = within(this.head + ({ ArrowRight: 1, ArrowLeft: -1 }[key] ?? 0), this.grid.heads || 1);
    this.go(Math.max(this.token, this.start), within((this.layer ?? 0) + up, this.grid.layers));
  }

  screen(step) {
    const unit = this.lane.page(Math.max(this.token, this.start), step);
    const token = this.lane.firsts[unit] ?? this.start;
    const still = token === this.token;  // at the window's end a screen further is the next window
    return still ? (step > 0 ? this.stop : this.start - 1) : token;
  }

  nextView() {
    const links = [...this.querySelectorAll('nav[aria-label="Show tokens as"] a')];
    const next = links[(links.findIndex((link) => link.hasAttribute("aria-current")) + 1) % links.length];
    if (!next) return;
    leave(FOCUS, this.config.base); // the next page goes on where the keys were
    next.click();
  }

  /** The numbers at the cursor; the cell of the map first, where the cursor is on it. */
  tell() {
    if (!this.signals) return;
    const { token } = this;
    const text = this.text ? this.lane.text(token) : "";
    const parts = [];
    const cell = this.cellSaid(text);
    if (cell) parts.push(cell);
    if (text) parts.push(element("b", text));
    parts.push(said("token", String(token)));
    for (const [key, label, unit] of this.config.signals) {
      const value = this.signals[key]?.[token - this.start];
      if (Number.isFinite(value)) parts.push(said(label.toLowerCase(), spell(value, unit)));
    }
    if (this.cells && this.layer === null) {
      const { layers, dataset } = this.grid;
      const at = (token - this.start) * layers;
      const row = this.cells.subarray(at, at + layers);
      parts.push(said(`${dataset.label.toLowerCase()}, mean of layers`, spell(row.reduce((sum, value) => sum + value, 0) / layers, dataset.unit)));
    }
    this.readout.replaceChildren(...spaced(parts));
  }

  /** "layer 3, token 17 ' Paris', attention entropy 0.42 nats" */
  cellSaid(text) {
    const { grid, layer, head, token } = this;
    if (!grid?.columns || layer === null || (grid.heads && !this.matrixShown)) return null;
    const value = grid.value(grid.heads ? head : token - this.start, layer);
    const where = grid.heads ? `layer ${grid.names[layer]}, head ${head}` : `layer ${grid.names[layer]}`;
    return said(`${where}, token ${token}${text ? ` ‘${text}’` : ""}, ${grid.dataset.label.toLowerCase()}`, spell(value, grid.dataset.unit));
  }
}

customElements.define("heat-grid", HeatGrid);
customElements.define("token-view", TokenView);
