// The map of heads tells about one cell at a time, by pointer or by arrow keys. Without script its titles and its table do.

import { plain } from "./keyboard.js";

class HeatDifference extends HTMLElement {
  connectedCallback() {
    const { layers, heads, values, q, byHead } = this.dataset;
    this.size = [Number(layers), Number(heads)];
    this.byHead = byHead === "1";
    this.values = values.split(",");
    this.q = q.split(",");
    this.at = [0, 0];
    this.map = this.querySelector("svg");
    this.told = document.createElement("p");
    this.told.className = "told muted";
    this.told.setAttribute("role", "status");
    this.told.textContent = "Point at a cell, or move with the arrow keys.";
    this.append(this.told);
    this.tabIndex = 0;
    this.setAttribute("role", "group");
    this.setAttribute("aria-label", "Map of heads; arrow keys move from cell to cell");
    this.addEventListener("pointermove", (event) => {
      const box = this.map.getBoundingClientRect();
      const place = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      if (place.every((share) => share >= 0 && share < 1)) this.tell(place.map((share, axis) => Math.floor(share * this.size[axis])));
    });
    this.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step || !plain(event)) return;
      event.preventDefault();
      this.tell(this.at.map((place, axis) => Math.min(this.size[axis] - 1, Math.max(0, place + step[axis]))));
    });
  }

  tell([layer, head]) {
    this.at = [layer, head];
    const index = layer * this.size[1] + head;
    const value = this.values[index];
    const where = this.byHead ? `Layer ${layer}, head ${head}` : `Layer ${layer}`;
    const chance = this.q[index] === "" ? "too few generations" : `q ${this.q[index]}`;
    this.told.textContent = value === "" ? `${where}: not on both sides.` : `${where}: ${value > 0 ? "B" : "A"} is wider by ${Math.abs(value)} nats, ${chance}.`;
  }
}

customElements.define("heat-difference", HeatDifference);
