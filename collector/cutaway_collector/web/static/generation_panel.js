// The pinned token: everything that was recorded of it. And the line of numbers under the cursor. Text of senders is always text.

import { digits, spell } from "./generation_numbers.js";

const SVG = "http://www.w3.org/2000/svg";
const SOURCES_SHOWN = 5;

export function element(name, text = "", className = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

function drawing(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A label and its value. */
export function said(label, value) {
  const part = document.createElement("span");
  part.append(`${label} `, element("em", value));
  return part;
}

/** Parts with blanks between them, so that what is read aloud has its words apart. */
export function spaced(parts) {
  return parts.flatMap((part) => [part, " "]);
}

function row(list, label, value) {
  const pair = document.createElement("div");
  pair.append(element("dt", label), element("dd", value));
  list.append(pair);
}

const bytes = (text) => [...new TextEncoder().encode(text)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");

/** Text with what cannot be seen spelled out. */
function escaped(text) {
  return JSON.stringify(text).replace(/[\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}\u00a0]/gu, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);
}

function title(text, close) {
  const head = element("header");
  const button = element("button", "×", "ghost");
  button.type = "button";
  button.setAttribute("aria-label", "Let go of the pinned token");
  button.addEventListener("click", close);
  head.append(element("h2", text), button);
  return head;
}

/** The most likely tokens, best first, as bars of their probability. */
function alternatives(choices, chosen) {
  const box = element("div", "", "choices");
  box.append(element("h3", `Most likely ${choices.length}`));
  const list = element("ul");
  for (const [place, choice] of choices.entries()) {
    const share = Number.isFinite(choice.surprisal) ? Math.exp(-choice.surprisal) : NaN;
    const line = element("li", "", choice.id !== undefined && choice.id === chosen ? "chosen" : "");
    const name = element("b", choice.text !== undefined ? escaped(choice.text) : choice.id !== undefined ? `id ${choice.id}` : `#${place}`);
    const bar = drawing("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", width: "100%", height: "8", "aria-hidden": "true" },
      drawing("rect", { width: "100", height: "8", class: "track" }), drawing("rect", { width: Math.max(0.5, 100 * (share || 0)), height: "8", class: "fill" }));
    line.append(name, bar, element("small", Number.isFinite(share) ? `${digits(share * 100)} % · ${digits(choice.surprisal)} nats` : "–"));
    if (line.className) line.append(element("span", "chosen", "tag"));
    list.append(line);
  }
  box.append(list);
  return box;
}

/** One value a layer, as a curve from the first layer to the last. */
function profile(values, names, label, unit) {
  const finite = values.filter(Number.isFinite);
  const box = element("div", "", "profile");
  box.append(element("h3", `${label} over layers`));
  const [low, high] = [Math.min(...finite, 0), Math.max(...finite)];
  const points = values.map((value, layer) => `${(layer / Math.max(1, values.length - 1)) * 200},${60 - ((value - low) / (high - low || 1)) * 56}`);
  const text = `from ${digits(values[0])} in layer ${names[0]} to ${digits(values.at(-1))} in layer ${names.at(-1)}, at most ${digits(high)} ${unit}`;
  const svg = drawing("svg", { viewBox: "0 0 200 64", preserveAspectRatio: "none", width: "100%", height: "64", role: "img", "aria-label": `${label}: ${text}` },
    drawing("polyline", { points: points.join(" "), class: "curve" }));
  box.append(svg, element("small", text, "muted"));
  return box;
}

/** Where each recorded layer looked most. A position of the answer leads there. */
function sources(found, input, names, text, go) {
  const box = element("div", "", "sources");
  box.append(element("h3", "Looked at most"));
  const list = element("dl");
  for (const [column, layer] of found.layers.entries()) {
    const places = found.positions[0]?.[column] ?? [];
    const pair = document.createElement("div");
    const value = element("dd");
    for (const [k, place] of places.slice(0, SOURCES_SHOWN).entries()) {
      const mass = found.masses[0]?.[column]?.[k];
      const weight = mass === undefined ? "" : ` ${digits(mass * 100)} %`;
      if (place < input) value.append(element("span", `prompt #${place}${weight}`, "place"));
      else {
        const button = element("button", `${text(place - input)} #${place - input}${weight}`, "place");
        button.type = "button";
        button.addEventListener("click", () => go(place - input));
        value.append(button);
      }
    }
    pair.append(element("dt", `layer ${layer}`), value);
    list.append(pair);
  }
  box.append(list);
  return box;
}

export class Panel {
  constructor(box, numbers, config) {
    Object.assign(this, { box, numbers, config, token: -1, used: false }); // used: somebody has pinned a token
  }

  close() {
    this.token = -1;
    this.box.hidden = false;
    this.box.replaceChildren(element("h2", "No token pinned"), element("p", "Enter, or a click, pins the token at the cursor: all that was recorded of it then stands here.", "muted"));
  }

  /** ways: {names, scale (unit of the values), label, kind of the map, unit that the text is read by, text(token), go(token), close()}. */
  async open(token, ways) {
    this.token = token;
    this.used = true;
    this.box.hidden = false;
    const head = title(`Token ${token}`, ways.close);
    this.box.replaceChildren(head, element("p", "Loading …", "muted"));
    const found = await this.numbers.token(token).catch(() => null);
    if (head.parentNode !== this.box) return; // another was pinned since, or none
    // The heading stays as it is: its button may have the focus.
    while (head.nextSibling) head.nextSibling.remove();
    this.box.append(...(found ? this.parts(found, ways, token)
      : [element("p", "Its numbers could not be loaded; pin it again to try once more.", "muted")]));
  }

  parts(found, ways, token) {
    const out = [];
    const text = found.tokens?.[0];
    const list = element("dl", "", "facts");
    if (text !== undefined) {
      const shown = ways.text(token);
      if (ways.unit === "token" && shown) out.push(element("p", shown, "chip"));
      row(list, "Text", escaped(text));
      if (ways.unit !== "token" && shown) row(list, `In the ${ways.unit}`, shown);
      row(list, "Bytes", text === "" ? "none of its own: it is part of a character, or a mark" : bytes(text));
    }
    if (found.token_ids.length) row(list, "Id", String(found.token_ids[0]));
    const surprisal = found.signals.surprisal?.[0];
    if (Number.isFinite(surprisal)) {
      row(list, "Probability", `${digits(Math.exp(-surprisal) * 100)} %`);
      row(list, "Surprisal", `${digits(surprisal)} nats, ${digits(surprisal / Math.LN2)} bits`);
    }
    for (const [key, label, unit] of this.config.signals) {
      const value = found.signals[key]?.[0];
      if (key !== "surprisal" && Number.isFinite(value)) row(list, label, spell(value, unit));
    }
    out.push(list);
    if (found.alternatives?.length) out.push(alternatives(found.alternatives[0], found.token_ids[0]));
    else out.push(element("p", "The other choices at this place were not recorded: cutaway.configure(alternatives=5) keeps the five most likely.", "muted"));
    const layers = (ways.kind === "entropy" ? found.attention_entropy : found.attention?.[ways.kind])?.[0];
    if (layers?.length) out.push(profile(layers, ways.names, ways.label, ways.scale));
    if (found.sources?.positions?.length) out.push(sources(found.sources, found.input_tokens, ways.names, ways.text, ways.go));
    return out;
  }
}
