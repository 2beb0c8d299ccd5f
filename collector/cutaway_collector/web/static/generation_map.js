// The attention map: layers x tokens, or layers x heads of one token, one pixel a cell. Knows its cells, not the cursor's reasons.

import { LUT } from "./colour.js";

const [HEIGHT_MIN, HEIGHT_MAX, LAYER_PIXELS] = [120, 420, 9];

export class HeatGrid extends HTMLElement {
  connectedCallback() {
    this.layers = Number(this.dataset.layers);
    this.names = this.dataset.names.split(",");
    this.heads = Number(this.dataset.heads || 0);
    this.columns = 0;
  }

  /** Values [column, layer]: a column is a token. Layer 0 is at the bottom. */
  drawTokens(values) {
    this.draw(values.length / this.layers, (column, layer) => values[column * this.layers + layer]);
  }

  /** Values [layer, head] of one token: a column is a head. */
  drawHeads(values) {
    this.draw(this.heads, (column, layer) => values[layer * this.heads + column]);
  }

  draw(columns, at) {
    this.columns = columns;
    this.value = at;
    const canvas = this.querySelector("canvas") ?? document.createElement("canvas");
    canvas.width = Math.max(1, columns);
    canvas.height = this.layers;
    canvas.style.height = `${Math.max(HEIGHT_MIN, Math.min(HEIGHT_MAX, this.layers * LAYER_PIXELS))}px`;
    canvas.style.imageRendering = columns <= this.clientWidth ? "pixelated" : "auto";
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, this.layers);
    const pixels = new Uint32Array(image.data.buffer);
    const [low, high] = [Number(this.dataset.low), Number(this.dataset.high)];
    const scale = high > low ? 255 / (high - low) : 0;
    for (let layer = 0; layer < this.layers; layer++) {
      const row = (this.layers - 1 - layer) * columns;
      for (let column = 0; column < columns; column++) {
        const value = at(column, layer);
        pixels[row + column] = Number.isFinite(value) ? LUT[Math.max(0, Math.min(255, Math.round((value - low) * scale)))] : 0;
      }
    }
    context.putImageData(image, 0, 0);
    if (!this.cell) {
      this.cell = document.createElement("i");
      this.cell.className = "cell";
      this.cell.hidden = true;
      this.replaceChildren(canvas, this.cell);
      this.tabIndex = 0;
      this.setAttribute("role", "application");
      this.setAttribute("aria-roledescription", "heat map");
      this.setAttribute("aria-label", `${this.dataset.label} by layer and ${this.heads ? "head" : "token"}; arrow keys move, the cell is spoken; the view Layers is a table of it`);
    }
  }

  /** {layer, column} under a pointer. */
  under(event) {
    const box = this.getBoundingClientRect();
    const place = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
    return {
      layer: this.layers - 1 - place((event.clientY - box.top) / box.height, this.layers),
      column: place((event.clientX - box.left) / box.width, this.columns),
    };
  }

  mark(column, layer) {
    if (!this.cell) return;
    this.cell.hidden = layer === null || column < 0 || column >= this.columns;
    if (this.cell.hidden) return;
    this.cell.style.left = `${(column / this.columns) * 100}%`;
    this.cell.style.top = `${((this.layers - 1 - layer) / this.layers) * 100}%`;
    this.cell.style.width = `${100 / this.columns}%`;
    this.cell.style.height = `${100 / this.layers}%`;
  }
}
