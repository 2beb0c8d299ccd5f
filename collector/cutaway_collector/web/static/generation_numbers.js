// The numbers of one sequence, fetched as float32 in windows and kept while they may be needed. Draws nothing.

const WINDOWS_KEPT = 4;

async function get(url, how) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer[how]();
}

/** A number as text: three significant digits; a dash where there is none. */
export function digits(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return Number.isInteger(value) ? String(value) : value.toPrecision(3);
}

/** A value with its unit; seconds as milliseconds where they are few. */
export function spell(value, unit) {
  if (unit === "s" && Math.abs(value) < 1) return `${digits(value * 1000)} ms`;
  return unit && Number.isFinite(value) ? `${digits(value)} ${unit}` : digits(value);
}

export class Numbers {
  constructor(config) {
    this.config = config;
    this.keys = config.signals.map(([key]) => key);
    this.whole = new Map();
    this.windows = new Map();
  }

  address(end, parameters) {
    const url = new URL(this.config.base + end, location.href);
    for (const [key, value] of Object.entries({ seq: this.config.seq || "", ...parameters })) if (value !== "" && value !== null) url.searchParams.set(key, value);
    return url;
  }

  /** One series over the whole sequence, Float32Array; asked for once. */
  series(key) {
    if (!this.whole.has(key)) {
      const wanted = get(this.address(".f32", { series: key }), "arrayBuffer").then((buffer) => new Float32Array(buffer));
      wanted.catch(() => this.whole.delete(key));
      this.whole.set(key, wanted);
    }
    return this.whole.get(key);
  }

  /** Everything a window shows: {lane, signals: {key: Float32Array}, map: Float32Array or null}. lane: false leaves it out. */
  window(start, stop, lane, map) {
    const name = `${start} ${lane}`;
    let found = this.windows.get(name);
    if (found === undefined) {
      found = this.fetch(start, stop, lane, map);
      found.catch(() => this.windows.delete(name));
    }
    this.windows.delete(name);
    this.windows.set(name, found);
    if (this.windows.size > WINDOWS_KEPT) this.windows.delete(this.windows.keys().next().value);
    return found;
  }

  async fetch(start, stop, lane, map) {
    const count = stop - start;
    const here = new URL(location.href);
    here.searchParams.delete("tok");
    here.searchParams.delete("range");
    here.searchParams.set("start", start);
    const drawn = lane ? get(new URL(`${this.config.base}/lane.json${here.search}`, location.href), "json") : null;
    const numbers = this.keys.length ? get(this.address(".f32", { series: this.keys.join(","), start, count }), "arrayBuffer") : new ArrayBuffer(0);
    const cells = map ? this.cells(map, start, count) : null;
    const all = new Float32Array(await numbers);
    const each = all.length / (this.keys.length || 1);
    const signals = Object.fromEntries(this.keys.map((key, at) => [key, all.subarray(at * each, (at + 1) * each)]));
    return { lane: await drawn, signals, map: await cells };
  }

  /** A map's values of some tokens: [token, layer], or [token, layer, head] where its address asks for every head. */
  async cells(address, start, count) {
    const url = new URL(address, location.href);
    url.searchParams.set("start", start);
    url.searchParams.set("count", count);
    return new Float32Array(await get(url, "arrayBuffer"));
  }

  /** All that is known of one token, as the JSON twin has it. */
  async token(index) {
    const found = await get(this.address(".json", { seq: this.config.seq, start: index, count: 1 }), "json");
    return found.sequences[0];
  }
}

/** What a stretch of values amounts to; what is not a number is left out. */
export function statistics(values, first, last) {
  let [sum, count, top, at] = [0, 0, -Infinity, first];
  for (let index = first; index <= last && index < values.length; index++) {
    const value = values[index];
    if (!Number.isFinite(value)) continue;
    sum += value;
    count += 1;
    if (value > top) [top, at] = [value, index];
  }
  return count ? { sum, mean: sum / count, max: top, at } : { sum: NaN, mean: NaN, max: NaN, at };
}

/** Values [token] to [unit] (sum, mean, max; min for signals whose small values are striking), given the first token of each unit. */
export function aggregate(values, firsts, how) {
  return Float32Array.from(firsts, (first, unit) => {
    const last = (unit + 1 < firsts.length ? firsts[unit + 1] : values.length) - 1;
    if (how === "min") return values.subarray(first, last + 1).reduce((least, value) => (value < least || Number.isNaN(least) ? value : least), NaN);
    return statistics(values, first, last)[how];
  });
}
