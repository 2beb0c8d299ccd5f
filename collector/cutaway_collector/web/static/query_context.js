// What stands at the caret of a half-typed query. The same reading as search/caret.py, which explains it; a test holds them together.
// Offsets here count UTF-16 units, as the caret of a text box does.

const NAME = String.raw`[\p{L}_][\p{L}\p{N}_.@$\/-]*`;
const OPERATOR = "(?:>=|<=|!=|==|!~|[<>=~])";
const QUOTED = String.raw`"(?:\\[^]|[^"\\])*`;
const SERIES = String.raw`(?:\[[^\[\]"{}|]*\](?:\.[\p{L}\p{N}_]+)?)?(?:\(\s*[<>=!][^\(\)"{}|]*\))?`;

const TERM = new RegExp(`((?:(?:span|resource|score)\\.)?(?:"(?:\\\\[^\\n]|[^"\\\\])+"|${NAME}${SERIES}))(:${OPERATOR}?|\\s*${OPERATOR})\\s*`, "uy");
const STRING = new RegExp(`${QUOTED}("?)`, "uy");
const REGEX = /\/(?:\\[^\n]|[^\/\\])*(\/?)/uy;
const BLANKS = /\s+/uy;
const MINUS = /-(?=\S)|NOT(?=[\s(])\s*/uy;
const VALUE = /(?:[^\s()"{}]|\{[^\s(){}"]*\})*/uy;
const ITEM = /[^\s(),"]*/uy;
const WORD = /(?:[^\s()"{}]|\{[^\s(){}"]*\})+/uy;
const REST_OF_NAME = /[\p{L}\p{N}_.@$\/-]*/uy;
const REST_OF_VALUE = /[^\s(),"\[\]{}|]*/uy;
const REST_OF_PHRASE = /[^\s"]*/uy;
const STAGE_WORD = /(?:[\p{L}\p{N}_.@$\/][\p{L}\p{N}_.@$\/-]*)?$/u;
const COMPARED = /\s*compare\s*\(/uy;
const EVERY = /\severy\s/u;
/** A figure has ended, or a name to group by. */
const FIGURED = /\)\s+$|\sby\s+[^\s,](?:[^]*[^\s,])?\s+$/u;
const TYPED_NAME = new RegExp(`^(?:(?:span|resource|score)\\.)?(?:${QUOTED}"?|${NAME})?$`, "u");

/** The match of a sticky pattern at a place, or null. */
function match(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

const end = (pattern, text, at) => at + (match(pattern, text, at)?.[0].length ?? 0);
const unescaped = (text) => text.replace(/\\([^\n])/gu, "$1");


/** {kind, start, end, prefix, field, operator, listed} of the caret behind `caret` units. */
export function contextOf(text, caret) {
  const left = text.slice(0, caret);
  let open = 0; // groups
  let at = 0;
  while (at < caret) {
    const blanks = match(BLANKS, left, at);
    if (blanks) {
      at += blanks[0].length;
      continue;
    }
    const start = at;
    if (left[at] === "|" && !open && (at === 0 || " \t\n)}".includes(left[at - 1]))) return stage(text, at + 1, caret);
    const minus = match(MINUS, left, at);
    if (minus) {
      at += minus[0].length;
      continue;
    }
    const term = match(TERM, left, at);
    const string = match(STRING, left, at);
    if (term) {
      const [next, place] = value(text, left, term, at);
      if (place) return place;
      at = next;
    } else if (string) {
      at += string[0].length;
      if (!string[1]) return at === caret ? name(text, start, caret) : nothing(caret);
    } else if ("({".includes(left[at])) {
      open += 1;
      at += 1;
    } else if (")}".includes(left[at])) {
      at += 1;
      open = Math.max(0, open - 1);
    } else {
      at = Math.max(end(WORD, left, at), at + 1);
      if (at === caret) return name(text, start, caret);
    }
  }
  return name(text, caret, caret);
}

const nothing = (caret) => ({ kind: "none", start: caret, end: caret, prefix: "", field: "", operator: "", listed: false });

function name(text, start, caret) {
  const typed = text.slice(start, caret);
  if (!TYPED_NAME.test(typed)) return nothing(caret);
  const prefix = typed.includes('"') ? unescaped(typed.replace('"', "").replace(/"$/u, "")) : typed;
  return { ...nothing(caret), kind: "field", start, end: end(REST_OF_NAME, text, caret), prefix };
}

/** Reads behind `field:`: [where the reading goes on, null], or the place of a caret within. */
function value(text, left, found, from) {
  const [whole, field, said] = found;
  const operator = said.trim();
  const at = from + whole.length;
  const caret = left.length;
  if (left[at] === "(") return list(text, left, field, operator, at + 1);
  if (left[at] === "[") {
    const closing = left.indexOf("]", at);
    return closing >= 0 ? [closing + 1, null] : [caret, nothing(caret)];
  }
  if (left[at] === "/") {
    const pattern = match(REGEX, left, at);
    const behind = at + pattern[0].length;
    return pattern[1] && behind < caret ? [behind, null] : [caret, nothing(caret)];
  }
  const quoted = match(STRING, left, at);
  const behind = quoted ? at + quoted[0].length : end(VALUE, left, at);
  if (behind < caret || quoted?.[1]) return [behind, null];
  return [behind, typedValue(text, at, caret, field, operator, false)];
}

function list(text, left, field, operator, from) {
  const caret = left.length;
  let at = from;
  for (;;) {
    while (at < caret && /[\s,]/u.test(left[at])) at += 1;
    if (left[at] === ")") return [at + 1, null];
    const quoted = match(STRING, left, at);
    const behind = quoted ? at + quoted[0].length : end(ITEM, left, at);
    if (behind === caret && !quoted?.[1]) return [behind, typedValue(text, at, caret, field, operator, true)];
    at = Math.max(behind, at + 1);
    if (at >= caret) return [caret, nothing(caret)];
  }
}

function typedValue(text, start, caret, field, operator, listed) {
  const typed = text.slice(start, caret);
  let prefix = typed;
  let behind = end(REST_OF_VALUE, text, caret);
  if (typed.startsWith('"')) {
    prefix = unescaped(typed.slice(1));
    const quotes = [...text.slice(caret).matchAll(/\\[^]|"/gu)].filter((one) => one[0] === '"');
    behind = quotes.length % 2 ? caret + quotes[0].index + 1 : end(REST_OF_PHRASE, text, caret);
  }
  const plain = (field === "has" || field === "is") && (operator === ":" || operator === "=") && !listed;
  const kind = !plain ? "value" : field === "has" ? "has" : "flag";
  return { kind, start, end: behind, prefix, field, operator, listed };
}

function stage(text, from, caret) {
  const compared = match(COMPARED, text.slice(0, caret), from);
  if (compared) {
    const by = from + compared[0].length;
    const place = contextOf(text.slice(by), caret - by);
    return { ...place, start: place.start + by, end: place.end + by };
  }
  const at = Math.max(text.lastIndexOf("|", caret - 1) + 1, from);
  const start = Math.max(caret - STAGE_WORD.exec(text.slice(0, caret))[0].length, at);
  return { ...nothing(caret), kind: placeBehind(text.slice(at, start)), start, end: end(REST_OF_NAME, text, caret), prefix: text.slice(start, caret) };
}

/** What a word can be in front of which a stage says so much. */
function placeBehind(said) {
  const name = said.trim().split(/\s/u)[0];
  if (!name) return "stage";
  if (name === "limit" || (name === "stats" && EVERY.test(said))) return "none";
  return name === "stats" && FIGURED.test(said) ? "joint" : "argument";
}
