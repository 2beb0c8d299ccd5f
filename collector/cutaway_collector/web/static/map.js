// The latent map: says what a point is, walks from point to point by arrow keys, and turns a drawn shape into an address.

import { plain } from "./keyboard.js";

const SVG = "http://www.w3.org/2000/svg";
const NEAR = 14;
const CORNERS_MAX = 60;
const AGAIN_MS = 2000;

class PointMap extends HTMLElement {
  async connectedCallback() {
    this.box = this.querySelector("[data-box]");
    this.svg = this.box.querySelector("svg");
    this.said = this.querySelector("[data-said]");
    this.size = [Number(this.dataset.width), Number(this.dataset.height)];
    this.tool = "rectangle";
    this.querySelector("[data-tools]").hidden = false;
    for (const button of this.querySelectorAll("[data-tool]")) {
      button.addEventListener("click", () => {
        this.tool = button.dataset.tool;
        for (const one of this.querySelectorAll("[data-tool]")) one.setAttribute("aria-pressed", String(one === button));
      });
    }
    this.points = await fetch(this.dataset.points).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
    if (!this.points) {
      this.said.textContent = "The points could not be loaded: clusters and the table lead to them, and so does another try.";
      return;
    }
    this.box.tabIndex = 0;
    this.box.setAttribute("role", "application");
    this.box.setAttribute("aria-label", "Map: arrow keys go from point to point, Enter opens one");
    this.ring = this.add("circle", "at-point");
    this.ring.setAttribute("r", "9");
    this.ring.setAttribute("visibility", "hidden");
    this.shape = this.add("polygon", "lasso");
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("pointerdown", (event) => this.begin(event));
    this.box.addEventListener("pointermove", (event) => this.move(event));
    this.box.addEventListener("pointerup", (event) => this.end(event));
    this.box.addEventListener("pointercancel", () => this.drop());
    this.setAttribute("data-ready", "");
  }

  add(name, css) {
    const element = document.createElementNS(SVG, name);
    element.setAttribute("class", css);
    this.svg.append(element);
    return element;
  }

  place(event) {
    const box = this.svg.getBoundingClientRect();
    const share = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return share.map((part, axis) => Math.round(Math.min(1, Math.max(0, part)) * this.size[axis]));
  }

  nearest([x, y], reach = Infinity, fits = () => true) {
    let best = -1;
    let least = reach * reach;
    this.points.x.forEach((px, index) => {
      const distance = (px - x) ** 2 + (this.points.y[index] - y) ** 2;
      if (distance < least && fits(px - x, this.points.y[index] - y)) [best, least] = [index, distance];
    });
    return best;
  }

  show(index) {
    this.at = index;
    this.ring.setAttribute("visibility", index < 0 ? "hidden" : "visible");
    if (index < 0) return;
    this.ring.setAttribute("cx", this.points.x[index]);
    this.ring.setAttribute("cy", this.points.y[index]);
    this.said.textContent = this.points.label[index];
  }

  open() {
    if (this.at >= 0) location.href = `/gen/${this.points.span[this.at]}`;
  }

  key(event) {
    if (!plain(event)) return;
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Enter") return this.open();
    if (event.key === "Escape") return this.drop();
    if (!step) return;
    event.preventDefault();
    if (!(this.at >= 0)) return this.show(this.nearest(this.size.map((part) => part / 2)));
    const [sx, sy] = step;
    const from = [this.points.x[this.at], this.points.y[this.at]];
    // Ahead within a right angle: then every point can be reached by some way.
    const next = this.nearest(from, Infinity, (dx, dy) => {
      const ahead = dx * sx + dy * sy;
      return ahead > 0 && ahead >= Math.abs(dx * sy + dy * sx);
    });
    if (next >= 0) this.show(next);
  }

  begin(event) {
    if (event.button !== 0 || event.pointerType === "touch") return;
    this.drawn = [this.place(event)];
    this.box.setPointerCapture(event.pointerId);
  }

  move(event) {
    const at = this.place(event);
    if (!this.drawn) return this.show(this.nearest(at, NEAR));
    const [start] = this.drawn;
    const last = this.drawn.at(-1);
    if (this.tool === "rectangle") this.drawn = [start, [at[0], start[1]], at, [start[0], at[1]]];
    else if ((at[0] - last[0]) ** 2 + (at[1] - last[1]) ** 2 > 16) this.drawn.push(at);
    this.shape.setAttribute("points", this.drawn.join(" "));
  }

  end() {
    const drawn = this.drawn;
    this.drop();
    if (!drawn) return;
    const [xs, ys] = [0, 1].map((axis) => drawn.map((corner) => corner[axis]));
    const size = Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys));
    if (drawn.length < 3 || size < 6) return this.open();
    const every = Math.ceil(drawn.length / CORNERS_MAX);
    const corners = drawn.filter((_, index) => index % every === 0);
    const address = new URL(location.href);
    address.searchParams.set("lasso", corners.map((corner) => corner.join(",")).join(" "));
    location.href = address;
  }

  drop() {
    this.drawn = undefined;
    this.shape.setAttribute("points", "");
  }
}

/** While places are still made: counts them, and draws again by itself only where nothing was drawn that somebody may be looking at,
 * and nobody is in a field or on a link. */
function follow(note) {
  const bar = note.querySelector("progress");
  const map = document.querySelector("point-map");
  const ask = async () => {
    const found = document.hidden ? null
      : await fetch(note.dataset.pending).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
    if (found) {
      const { x, pending } = found;
      [bar.max, bar.value] = [x.length + pending, x.length];
      if (!pending && !map && document.activeElement === document.body) return location.reload();
      if (!pending) return (note.querySelector("a").textContent = "All are placed: draw again");
    }
    setTimeout(ask, AGAIN_MS); // the collector may be away for a moment
  };
  setTimeout(ask, AGAIN_MS);
}

customElements.define("point-map", PointMap);
const note = document.querySelector("[data-pending]");
if (note) follow(note);
