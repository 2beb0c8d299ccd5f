// The rows of a trace as the script knows them: which are there, which are closed, which match the filter. Nothing is drawn here.
// The nested order, groups, depths and the critical path were worked out by the server; here rows are only walked.

const CLOSED = "cutaway.trace.closed";
const NAMES_KEPT_MAX = 200;
const DEEPEST = 24;

/** Names whose rows the visitor keeps closed. Storage may be forbidden; then nothing is kept. */
function closedNames() {
  try {
    const kept = JSON.parse(localStorage.getItem(CLOSED) ?? "[]");
    return new Set(Array.isArray(kept) ? kept.filter((name) => typeof name === "string") : []);
  } catch {
    return new Set();
  }
}

function keepClosed(name, closed) {
  const names = closedNames();
  names.delete(name);
  if (closed) names.add(name);
  try {
    localStorage.setItem(CLOSED, JSON.stringify([...names].slice(-NAMES_KEPT_MAX)));
  } catch {
    // Private windows have no storage: the row still closes.
  }
}

export class Tree {
  /** data: the answer of skeleton.json. opened: ids of the first members of groups that are open. */
  constructor(data, opened) {
    Object.assign(this, data);
    this.count = data.ids.length;
    this.failed = new Set(data.failed);
    this.rings = new Set(data.rings);
    this.early = new Set(data.early);
    this.rowOf = new Map();
    for (let row = this.count - 1; row >= 0; row--) if (!this.groups[row]) this.rowOf.set(data.ids[row], row);
    const names = closedNames();
    this.open = new Set();
    this.closed = new Set();
    for (let row = 0; row < this.count; row++) {
      if (this.groups[row] && opened.has(data.ids[row])) this.open.add(row);
      else if (!this.groups[row] && this.hasBelow(row) && names.has(this.nameOf(row))) this.closed.add(row);
    }
    this.pathOf = new Map();
    for (const [row, start, duration] of data.path) {
      for (const at of this.groups[this.parents[row]] ? [row, this.parents[row]] : [row]) {
        if (!this.pathOf.has(at)) this.pathOf.set(at, []);
        this.pathOf.get(at).push([start, duration]);
      }
    }
    for (const stretches of this.pathOf.values()) stretches.sort((a, b) => a[0] - b[0]);
    this.matched = null;
    this.show = "dim";
    this.arrange();
  }

  nameOf(row) {
    return this.names[this.name[row]];
  }

  hasBelow(row) {
    return this.ends[row] > row + 1;
  }

  /** null for a row with nothing below; a group of a trace that is too large has members even where they are not here. */
  isExpanded(row) {
    if (this.groups[row]) return this.open.has(row);
    return this.hasBelow(row) ? !this.closed.has(row) : null;
  }

  setExpanded(row, expanded) {
    if (this.groups[row]) this.open[expanded ? "add" : "delete"](row);
    else {
      this.closed[expanded ? "delete" : "add"](row);
      keepClosed(this.nameOf(row), !expanded);
    }
    this.arrange();
  }

  /** Opens what a row stands under; whether anything had to be opened. */
  reveal(row) {
    let changed = false;
    for (let at = this.parents[row]; at >= 0; at = this.parents[at]) {
      if (this.isExpanded(at) !== false) continue;
      changed = true;
      if (this.groups[at]) this.open.add(at);
      else this.closed.delete(at);
    }
    if (changed) this.arrange();
    return changed;
  }

  /** ids: spans that the filter matches, null without one. show: "dim", "with" or "alone", as the address has it. */
  filter(ids, show) {
    this.matched = ids && new Set([...this.holds, ...ids.map((id) => this.rowOf.get(id)).filter((row) => row !== undefined)]);
    this.show = show;
    this.hitGroups = new Set();
    for (const row of this.matched ?? []) if (this.groups[this.parents[row]]) this.hitGroups.add(this.parents[row]);
    this.arrange();
  }

  stateOf(row) {
    if (!this.matched) return "";
    return this.matched.has(row) || this.hitGroups.has(row) ? "matched" : "dimmed";
  }

  /** Works out which rows are there, in order, and for each the lines of its ancestors that pass by. */
  arrange() {
    this.flat = Boolean(this.matched) && this.show === "alone";
    this.shown = this.matched && this.show !== "dim" ? this.#reduced() : this.#walked();
    this.placeOf = new Int32Array(this.count).fill(-1);
    this.shown.forEach((row, place) => (this.placeOf[row] = place));
    this.rails = new Int32Array(this.shown.length);
    this.lasts = new Uint8Array(this.shown.length);
    let following = 0;
    for (let place = this.shown.length - 1; place >= 0; place--) {
      const own = 1 << Math.min(this.depthAt(place), DEEPEST + 1);
      this.rails[place] = following & (own - 1) & ~1;
      this.lasts[place] = following & own ? 0 : 1;
      following = (following & (own - 1)) | own;
    }
  }

  depthAt(place) {
    return this.flat ? 0 : this.depths[this.shown[place]];
  }

  #walked() {
    const shown = [];
    for (let row = 0; row < this.count; row = this.isExpanded(row) === false ? this.ends[row] : row + 1) shown.push(row);
    return shown;
  }

  #reduced() {
    const hits = [...this.matched].sort((a, b) => a - b);
    if (this.flat) return hits;
    const kept = new Set();
    for (const hit of hits) for (let row = hit; row >= 0 && !kept.has(row); row = this.parents[row]) kept.add(row);
    return [...kept].sort((a, b) => a - b);
  }

  /** The next row, `step` 1 or -1 from `from` and around the end, for which `wanted` holds; -1 when there is none. */
  next(from, step, wanted) {
    for (let moved = 1; moved <= this.count; moved++) {
      const row = (((from + step * moved) % this.count) + this.count) % this.count;
      if (wanted(row)) return row;
    }
    return -1;
  }
}

/** Nanoseconds in words, as the server prints them. */
export function duration(ns) {
  if (ns < 1000) return `${Math.round(ns)}\u202fns`;
  for (const [limit, unit, size] of [[1e6, "µs", 1e3], [1e9, "ms", 1e6], [6e10, "s", 1e9]]) {
    if (ns < limit) return `${significant(ns / size)}\u202f${unit}`;
  }
  const seconds = Math.round(ns / 1e9);
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}\u202fmin ${seconds % 60}\u202fs`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)}\u202fh ${minutes % 60}\u202fmin`;
  const hours = Math.round(minutes / 60);
  return `${Math.floor(hours / 24)}\u202fd ${hours % 24}\u202fh`;
}

/** Three significant digits. */
export function significant(value) {
  if (value === 0) return "0";
  return value >= 1000 ? grouped(Math.round(value)) : value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(Number(value.toPrecision(3))))));
}

/** 12400 -> "12 400". */
export function grouped(count) {
  return String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

const TENS = [...Array(19).keys()].flatMap((power) => [1, 2, 5].map((factor) => factor * 10 ** power));
/** What ticks may be apart, as the server's charts.py has it: round nanoseconds, what a clock shows, so many days. */
const STEPS = [
  ...TENS.filter((step) => step < 30e9),
  ...[30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200].map((seconds) => seconds * 1e9),
  ...TENS.map((days) => days * 86_400e9),
];

/** Round times between low and high percent of `total` nanoseconds: [percent of the stretch, words]. */
export function ticks(total, low, high) {
  const begin = (total * low) / 100;
  const size = (total * (high - low)) / 100;
  const step = STEPS.find((one) => size / one <= 5);
  const out = [];
  for (let mark = Math.ceil(begin / step); mark * step <= begin + size; mark++) {
    const at = (100 * (mark * step - begin)) / size;
    if (at <= 96) out.push([at, mark ? duration(mark * step).replace(/ 0\u202f\w+$/, "") : "0"]);
  }
  return out;
}
