// The results page: dragging and arrow keys over the picture, keys for rows, a closer look in line, counts that come later.
// Not needed for anything: bars, cells, rows and facets are links and forms without it.

import { plain, typing } from "./keyboard.js";
import { fragment } from "./later.js";

const NS_PER_MS = 1_000_000n;
const SVG = "http://www.w3.org/2000/svg";

/** Nanoseconds as the address has them: ISO to the millisecond where that says all, else a number. */
function moment(ns) {
  if (ns % NS_PER_MS) return String(ns);
  return new Date(Number(ns / NS_PER_MS)).toISOString().replace(".000Z", "Z");
}

/** The histogram or the heat map: drag, or arrow keys with shift, to choose a part of it. */
class PlotBrush extends HTMLElement {
  connectedCallback() {
    this.svg = this.querySelector("svg");
    if (!this.svg) return;
    const { width, height } = this.svg.viewBox.baseVal;
    this.edges = (this.dataset.edges ?? "").split(" ").filter(Boolean);
    this.columns = width / 10;
    this.rows = this.dataset.edges === undefined ? 1 : height / 10;
    this.links = [...this.svg.querySelectorAll("a")];
    this.places = this.links.map((link) => {
      const box = link.querySelector("rect");
      return [box.x.baseVal.value / 10, this.rows === 1 ? 0 : box.y.baseVal.value / 10];
    });
    this.links.forEach((link, index) => link.setAttribute("tabindex", index ? "-1" : "0"));
    this.mark = document.createElementNS(SVG, "rect");
    this.mark.setAttribute("class", "brush");
    this.mark.setAttribute("hidden", "");
    this.svg.append(this.mark);
    this.svg.addEventListener("dragstart", (event) => event.preventDefault());
    this.svg.addEventListener("pointerdown", (event) => this.press(event));
    this.svg.addEventListener("pointermove", (event) => this.move(event));
    this.svg.addEventListener("pointerup", (event) => this.release(event));
    this.svg.addEventListener("pointercancel", () => this.clear());
    this.svg.addEventListener("click", (event) => this.dragged && event.preventDefault(), { capture: true });
    this.addEventListener("keydown", (event) => this.key(event));
  }

  at(event) {
    const box = this.svg.getBoundingClientRect();
    const within = (part, count) => Math.min(count - 1, Math.max(0, Math.floor(part * count)));
    return [within((event.clientX - box.left) / box.width, this.columns), within((event.clientY - box.top) / box.height, this.rows)];
  }

  press(event) {
    if (event.button || event.ctrlKey || event.metaKey) return;
    this.start = this.at(event);
    this.dragged = false;
    this.cells = event.shiftKey && this.rows > 1;
  }

  move(event) {
    if (!this.start) return;
    const here = this.at(event);
    if (!this.dragged && here[0] === this.start[0] && (!this.cells || here[1] === this.start[1])) return;
    if (!this.dragged) this.svg.setPointerCapture(event.pointerId);
    this.dragged = true;
    this.draw(this.start, here, this.cells);
  }

  release(event) {
    const [start, dragged] = [this.start, this.dragged];
    this.start = undefined;
    if (start && dragged) this.choose(start, this.at(event), this.cells);
    setTimeout(() => (this.dragged = false));
  }

  clear() {
    this.start = this.anchor = undefined;
    this.dragged = false;
    this.mark.setAttribute("hidden", "");
  }

  draw([column, row], [otherColumn, otherRow], cells) {
    const [left, right] = [Math.min(column, otherColumn), Math.max(column, otherColumn) + 1];
    const [top, bottom] = cells ? [Math.min(row, otherRow), Math.max(row, otherRow) + 1] : [0, this.rows];
    const unit = this.rows === 1 ? 100 : 10;
    const place = { x: left * 10, width: (right - left) * 10, y: top * unit, height: (bottom - top) * unit };
    for (const [name, value] of Object.entries(place)) this.mark.setAttribute(name, value);
    this.mark.removeAttribute("hidden");
  }

  /** The time of columns left to right, as text: the ends of the picture are those of the search. */
  time(left, right) {
    const [start, step] = [BigInt(this.dataset.start), BigInt(this.dataset.step)];
    return [
      left === 0 ? this.dataset.from : moment(start + BigInt(left) * step),
      right === this.columns - 1 ? this.dataset.to : moment(start + BigInt(right + 1) * step),
    ];
  }

  choose([column, row], [otherColumn, otherRow], cells) {
    const [from, to] = this.time(Math.min(column, otherColumn), Math.max(column, otherColumn));
    if (!cells) {
      const url = new URL(location.href);
      for (const name of ["after", "before", "count"]) url.searchParams.delete(name);
      url.searchParams.set("from", from);
      url.searchParams.set("to", to);
      location.assign(url);
      return;
    }
    const form = this.closest("figure").querySelector(".selection form");
    const [top, bottom] = [Math.min(row, otherRow), Math.max(row, otherRow)];
    const values = { from, to, low: this.edges[this.rows - 2 - bottom] ?? "", high: this.edges[this.rows - 1 - top] ?? "" };
    for (const [name, value] of Object.entries(values)) form.elements.namedItem(name).value = value;
    form.closest("details").open = true;
    form.querySelector("button").focus();
  }

  key(event) {
    const now = this.links.indexOf(document.activeElement);
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") this.clear();
    if (event.key === "Enter" && this.anchor !== undefined && now >= 0) {
      event.preventDefault();
      this.choose(this.places[this.anchor], this.places[now], this.rows > 1);
    }
    if (!step || now < 0 || !plain(event)) return;
    event.preventDefault();
    const next = this.nearest(now, step);
    if (event.shiftKey) this.anchor ??= now;
    else this.clear();
    this.links[now].setAttribute("tabindex", "-1");
    this.links[next].setAttribute("tabindex", "0");
    this.links[next].focus();
    if (this.anchor !== undefined) this.draw(this.places[this.anchor], this.places[next], this.rows > 1);
  }

  /** The closest link in a direction: straight ahead first, for cells may be empty. */
  nearest(from, [right, down]) {
    const [column, row] = this.places[from];
    let [best, least] = [from, Infinity];
    this.places.forEach(([x, y], index) => {
      const ahead = (x - column) * right + (y - row) * down;
      const aside = Math.abs(right ? y - row : x - column);
      if (ahead > 0 && ahead + 3 * aside < least) [best, least] = [index, ahead + 3 * aside];
    });
    return best;
  }
}

/** Keys of the row whose link has the focus: x selects it, e looks closer, c compares the two selected. */
class ResultRows extends HTMLElement {
  connectedCallback() {
    for (const button of this.querySelectorAll("[data-more]")) button.hidden = false;
    this.addEventListener("click", (event) => {
      const button = event.target.closest("[data-more]");
      if (button) this.look(button);
    });
    this.keys = (event) => this.key(event);
    document.addEventListener("keydown", this.keys);
  }

  disconnectedCallback() {
    document.removeEventListener("keydown", this.keys);
  }

  key(event) {
    if (!plain(event) || typing(event)) return;
    const row = document.activeElement?.closest("tr");
    const mine = row && this.contains(row);
    const form = this.closest("form");
    if (event.key === "c" && form.querySelectorAll("[name=pick]:checked").length) form.requestSubmit();
    else if (event.key === "x" && mine) row.querySelector("[name=pick]")?.click();
    else if (event.key === "e" && mine) row.querySelector("[data-more]")?.click();
  }

  async look(button) {
    const row = button.closest("tr");
    if (button.getAttribute("aria-expanded") === "true") {
      row.nextElementSibling.remove();
      button.setAttribute("aria-expanded", "false");
      return;
    }
    if (button.dataset.busy) return;
    button.dataset.busy = "1";
    const cell = document.createElement("td");
    cell.colSpan = row.cells.length;
    try {
      cell.append(await fragment(button.dataset.more));
    } catch (error) {
      cell.append(`This could not be fetched: ${error.message}.`);
    }
    delete button.dataset.busy;
    const more = document.createElement("tr");
    more.className = "looked";
    more.append(cell);
    row.after(more);
    button.setAttribute("aria-expanded", "true");
  }
}

// The picture that came later knows how many matched.
document.addEventListener("came-later", (event) => {
  const { shown } = event.target.dataset;
  if (shown) document.querySelector(".bar .count")?.replaceChildren(shown);
});

customElements.define("plot-brush", PlotBrush);
customElements.define("result-rows", ResultRows);
