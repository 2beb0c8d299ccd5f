// Hesitations: the tokens (or words, sentences, lines) that reach the threshold. Counts them, marks them, finds the next; moves nothing.

import { aggregate, spell } from "./generation_numbers.js";

export class Hesitations {
  /** view: the element of the page; numbers: of its sequence. `known` tells, once it is settled, whether there are values. */
  constructor(view, numbers, config) {
    Object.assign(this, { view, numbers, config, values: null, firsts: null, bound: config.bound, known: Promise.resolve(false) });
    this.slider = view.querySelector("[data-threshold] input[type=range]");
  }

  /** told: called with the threshold as it is written in the address. */
  listen(told, lane) {
    this.slider?.form.addEventListener("submit", (event) => event.preventDefault());
    this.slider?.addEventListener("input", () => {
      this.bound = Number(this.slider.value);
      told(String(Number(this.bound.toPrecision(4))));
      this.mark(lane);
    });
    this.known = this.load().then((found) => {
      if (found) this.mark(lane);
      return found;
    });
  }

  /** The values that the colours are about: of all tokens, or of all words, sentences or lines. */
  async load() {
    const { signal, signals, unit, agg, reverse, texts } = this.config;
    if (!signals.some(([key]) => key === signal)) return false;
    try {
      const values = await this.numbers.series(signal);
      if (unit !== "token" && texts) {
        const numbers = await this.numbers.series(`unit:${unit}`);
        this.firsts = Uint32Array.from(numbers.keys()).filter((token) => token === 0 || numbers[token] !== numbers[token - 1]);
        this.values = aggregate(values, this.firsts, reverse && agg === "max" ? "min" : agg);
      } else this.values = values;
    } catch {
      return false;
    }
    return true;
  }

  reaches(value) {
    return this.config.reverse ? value <= this.bound : value >= this.bound;
  }

  /** The unit, counted from the sequence's first, that a token belongs to; by halving, for units stand in order. */
  unitOf(token) {
    if (!this.firsts) return token;
    let [low, high] = [0, this.firsts.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.firsts[middle] <= token) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Says how many there are, marks those of the window, and draws the threshold across the strip. */
  mark(lane) {
    const { values, bound, config } = this;
    if (!values || bound === null) return;
    let [count, total] = [0, 0];
    for (const value of values) {
      if (!Number.isFinite(value)) continue;
      total += 1;
      count += this.reaches(value);
    }
    const [, , unit] = config.signals.find(([key]) => key === config.signal);
    const what = config.unit === "token" ? "" : ` ${config.unit}s`;
    const said = `${count} of ${total}${what} at or ${config.reverse ? "below" : "above"} ${spell(bound, unit)}`;
    this.view.querySelector("[data-hesitations]").textContent = said;
    const part = values.subarray(this.unitOf(lane.firsts[0] ?? 0));
    lane.mark(part, (value) => this.reaches(value));
    const track = this.view.querySelector("[data-chosen]");
    const ceiling = Number(track.dataset.ceiling);
    let line = track.querySelector(".bound");
    if (!line) {
      line = document.createElement("i");
      line.className = "bound";
      track.append(line);
    }
    line.hidden = !(bound >= 0 && bound <= ceiling);
    line.style.bottom = `${(bound / ceiling) * 98}%`;
  }

  /** The first token of the next one after (1) or before (-1) a token; -1 where there is none. */
  next(token, step) {
    if (!this.values) return -1;
    const from = token < 0 ? (step > 0 ? -1 : this.values.length) : this.unitOf(token);
    for (let unit = from + step; unit >= 0 && unit < this.values.length; unit += step) {
      if (this.reaches(this.values[unit])) return this.firsts ? this.firsts[unit] : unit;
    }
    return -1;
  }
}
