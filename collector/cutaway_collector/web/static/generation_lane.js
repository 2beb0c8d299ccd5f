// The text of one window: its tokens, or words, sentences and lines of them, as elements. Knows which token an element is.

const KINDS = { space: true, mark: true, break: true };

function piece([kind, text]) {
  if (!KINDS[kind]) return [document.createTextNode(text)];
  const mark = document.createElement("i");
  mark.className = "w";
  mark.textContent = text;
  return kind === "space" ? [document.createElement("wbr"), mark] : [mark];
}

export class TextLane {
  /** box: the element that holds the tokens, already drawn by the server for the window from `start`. */
  constructor(box, config) {
    this.box = box;
    this.numbers = config.view === "numbers";
    this.ids = !config.texts;
    this.drawn(config.start, config.stop, config.firsts ? config.firsts.split(",").map(Number) : null);
  }

  drawn(start, stop, firsts) {
    this.spans = [...this.box.querySelectorAll(".t")];
    this.firsts = firsts ?? this.spans.map((_, index) => start + index);
    this.stop = stop;
    this.spans.forEach((span, unit) => (span.unit = unit));
  }

  /** Draws another window from the server's description of it. */
  draw(window) {
    const nodes = [];
    for (const [, , css, value, title, parts] of window.tokens) {
      const span = document.createElement("span");
      span.className = `t ${css}`;
      span.title = title;
      const words = parts.flatMap(piece);
      if (this.numbers) {
        const [text, number] = [document.createElement("span"), document.createElement("small")];
        text.append(...words);
        number.textContent = value;
        span.append(text, number);
      } else span.append(...words);
      nodes.push(span);
      if (parts.at(-1)[0] === "break") nodes.push(document.createElement("br"));
      else if (this.ids) nodes.push(document.createTextNode(" "));
    }
    this.box.replaceChildren(...nodes);
    this.box.scrollTop = 0;
    this.drawn(window.start, window.stop, window.tokens.map(([first]) => first));
  }

  /** The number, within the window, of the unit that a token belongs to; by halving, for units stand in order. */
  unitOf(token) {
    let [low, high] = [0, this.firsts.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.firsts[middle] <= token) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** First and last token of a unit of the window. */
  tokensOf(unit) {
    return [this.firsts[unit], (this.firsts[unit + 1] ?? Math.max(this.stop, this.firsts[unit] + 1)) - 1];
  }

  text(token) {
    const span = this.spans[this.unitOf(token)];
    return span ? [...span.childNodes].filter((node) => node.nodeName !== "SMALL").map((node) => node.textContent).join("") : "";
  }

  at(token) {
    this.marked?.classList.remove("at");
    this.marked = this.spans[this.unitOf(token)];
    this.marked?.classList.add("at");
  }

  show() {
    this.marked?.scrollIntoView({ block: "nearest" });
  }

  range(first, last) {
    this.spans.forEach((span, unit) => {
      const [from, to] = this.tokensOf(unit);
      span.classList.toggle("in", first >= 0 && to >= first && from <= last);
    });
  }

  /** values: of the window's units. */
  mark(values, reaches) {
    this.spans.forEach((span, unit) => span.classList.toggle("h", reaches(values[unit])));
  }

  pin(token) {
    this.pinned?.classList.remove("pin");
    this.pinned = token < 0 ? null : this.spans[this.unitOf(token)];
    this.pinned?.classList.add("pin");
  }

  /** The unit one screen of text further, which scrolls along. */
  page(token, step) {
    const box = this.spans[0]?.closest("[data-lane], .tall");
    if (!box) return 0;
    const top = (unit) => this.spans[unit].getBoundingClientRect().top + box.scrollTop;
    const screen = Math.max(box.clientHeight - 48, 24);
    const wanted = top(this.unitOf(token)) + step * screen;
    let [low, high] = [0, this.spans.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (top(middle) < wanted) low = middle + 1;
      else high = middle;
    }
    box.scrollTop += step * screen;
    return low;
  }
}
