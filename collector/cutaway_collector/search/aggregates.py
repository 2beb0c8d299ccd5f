"""THE registry of token series a search may ask about, and their aggregates as SQL: `surprisal.p95`, `attn.entropy[layer=3].mean`.

Not the fields of spans, which are `fields`': where a column of otel_traces holds the figure already, the name is a field, and the
table of tokens is not read. An aggregate runs over the finite values of all sequences of a span; a span without any has none.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Final

from cutaway import conventions as c
from cutaway_collector.columns import TOKENS
from cutaway_collector.errors import QueryError
from cutaway_collector.search import fields, values
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.spansets import SELF
from cutaway_collector.search.tree import Literal

AGGREGATES: Final[dict[str, tuple[str, str]]] = {
    "max": ("maxArray", "largest"), "min": ("minArray", "smallest"), "mean": ("avgArray", "mean"),
    "p50": ("quantileExactInclusiveArray(0.5)", "median"), "p95": ("quantileExactInclusiveArray(0.95)", "95th percentile of"),
    "p99": ("quantileExactInclusiveArray(0.99)", "99th percentile of"), "std": ("stddevPopArray", "standard deviation of"),
    "count": ("", "number of tokens with"),
}
"""Name -> ClickHouse aggregate over arrays, how an explanation says it. Percentiles lie between the two nearest values."""
_OPERATORS: Final = (">=", "<=", "!=", "==", "=", ">", "<")
_ABOVE: Final = {">": "above", ">=": "at least", "<": "below", "<=": "at most", "=": "of", "!=": "other than"}
_PLACE_MAX: Final = 65_535
_LAYOUT: Final = re.compile(r"^(?:nats(?:\^2)?)?[,;]? ?(?:\[[^\]]*\](?: row-major)?)?,? ?")
_NAME: Final = re.compile(r"([^\[\]()]+)(?:\[([^\[\]]*)\](?:\.([^\[\]().]+))?)?(?:\((.*)\))?", re.DOTALL)
_NAMED_LAYERS: Final = (
    f"if(mapContains(SpanNumbers, '{c.ATTENTION_LAYERS}'), arrayMap(layer -> toInt64(layer), SpanNumbers['{c.ATTENTION_LAYERS}']), "
    f"JSONExtract(SpanAttributes['{c.ATTENTION_LAYERS}'], 'Array(Int64)'))"
)
"""SQL over otel_traces: the model layers of the recorded ones, where not every layer was recorded."""


@dataclass(frozen=True, slots=True)
class Series:
    """One token series. column: of gen_ai_tokens. every: with one value a head too, "" for none; layers, heads: columns that count
    them, "" for a series without. phrase: how an explanation calls it."""

    name: str
    aliases: tuple[str, ...]
    column: str
    unit: str
    phrase: str
    every: str = ""
    layers: str = ""
    heads: str = ""

    @property
    def description(self) -> str:
        """What the column table says of it, without its unit and layout; "" where it says no more."""
        return _LAYOUT.sub("", TOKENS.column(self.column).reason)


def _attention(name: str, stem: str, *aliases: str, unit: str = "", phrase: str, cross: str = "") -> Series:
    column = {"Entropy": "Entropies", "NormalizedEntropy": "NormalizedEntropies"}.get(stem, f"{stem}s")
    return Series(name, aliases, f"{cross}Attention{column}", unit, phrase, f"{cross}Attention{stem}Heads",
                  f"{cross}AttentionLayers", f"{cross}AttentionHeads")


SERIES: Final[tuple[Series, ...]] = (
    Series("surprisal", (c.TOKEN_SURPRISAL,), "Surprisals", "nats", "surprisal"),
    Series("entropy", (c.TOKEN_ENTROPY,), "Entropies", "nats", "entropy"),
    Series("margin", (c.TOKEN_MARGIN,), "Margins", "nats", "margin"),
    Series("rank", (c.TOKEN_RANK,), "Ranks", "", "rank"),
    Series("gap", ("inter_token", c.TOKEN_INTER_TOKEN_TIME), "InterTokenS", "s", "inter-token time"),
    Series("varentropy", (c.TOKEN_VARENTROPY,), "Varentropies", "", "varentropy"),
    Series("min_p", (c.TOKEN_MIN_P_MASS,), "MinPMasses", "", "min-p mass"),
    Series("sampled", (c.TOKEN_SAMPLED_SURPRISAL,), "SampledSurprisals", "nats", "sampled surprisal"),
    Series("prompt.surprisal", (c.PROMPT_SURPRISAL,), "PromptSurprisals", "nats", "prompt surprisal"),
    _attention("attn.entropy", "Entropy", "attn", "attention", "attention.entropy", unit="nats", phrase="attention entropy"),
    _attention("attn.norm", "NormalizedEntropy", "attn.normalized", "attention.normalized", phrase="normalized attention entropy"),
    _attention("attn.sink", "Sink", "attention.sink", "sink", phrase="sink mass"),
    _attention("attn.last", "LastKey", "attn.last_key", "attention.last_key", phrase="last-key mass"),
    _attention("attn.lookback", "Lookback", "attention.lookback", "lookback", phrase="lookback ratio"),
    _attention("attn.cross", "Entropy", "attention.cross", unit="nats", phrase="cross-attention entropy", cross="Cross"),
    Series("step.time", (c.DIFFUSION_STEP_TIME,), "StepTimes", "s", "time of a denoising step"),
    Series("latent.norm", (c.DIFFUSION_LATENT_NORM,), "LatentNorms", "", "latent norm"),
    Series("latent.change", (c.DIFFUSION_LATENT_CHANGE,), "LatentChanges", "", "latent change"),
)
"""In the order of the documentation."""

_BY_NAME: Final = {name.lower(): series for series in SERIES for name in (series.name, *series.aliases)}
_NAMES: Final = (*fields.NAMES, *(f"{series.name}.{aggregate}" for series in SERIES for aggregate in AGGREGATES))


@dataclass(frozen=True, slots=True)
class Bound:
    """What `count` counts: `> 8bits`."""

    operator: str
    value: Literal


@dataclass(frozen=True, slots=True)
class Measure:
    """One aggregate of one series. layer, head: of the model, None for all; with a head of no given layer, that head of each.

    bound: of `count`, None for all. name: as written.
    """

    name: str
    series: Series
    aggregate: str
    layer: int | None = None
    head: int | None = None
    bound: Bound | None = None

    kind = "number"

    @property
    def unit(self) -> str:
        """Of the figure."""
        return "tokens" if self.aggregate == "count" else self.series.unit

    @property
    def phrase(self) -> str:
        """How an explanation calls it. A layer that was not recorded is said to match nothing."""
        words = f"{AGGREGATES[self.aggregate][1]} {self.series.phrase}"
        if self.bound is not None:
            words += f" {_ABOVE[self.bound.operator]} {values.said(self.bound.value, self.series.unit)}"
        places = [f"{word} {place}" for word, place in (("layer", self.layer), ("head", self.head)) if place is not None]
        return f"{words} of {', '.join(places)} (where it was recorded)" if places else words

    def expression(self, parameters: Parameters) -> str:
        """A figure of the tokens is no column of a span. Raises QueryError."""
        raise QueryError(f"{self.name} is made from token series, which cannot be had here",
                         hint="search by it, or take a field as surprisal.max")

    def where(self, parameters: Parameters, condition: str) -> str:
        """SQL condition over otel_traces. condition: over the figure, called `value`."""
        return f"({SELF} IN (SELECT measured FROM ({self._figures(parameters)}) WHERE {condition}))"

    def present(self, parameters: Parameters) -> str:
        """SQL condition: the span has it."""
        return self.where(parameters, "1")

    def join(self, parameters: Parameters, alias: str) -> str:
        """JOIN clause behind otel_traces that gives each span its figure as the column `alias`, NULL where it has none."""
        text = f"SELECT measured AS {alias}_span, toNullable(value) AS {alias} FROM ({self._figures(parameters)})"
        return f" LEFT ANY JOIN ({text}) AS {alias}_join ON {SELF} = {alias}_span"

    def _figures(self, parameters: Parameters) -> str:
        """SELECT of `measured`, a span, and `value`, its figure. A sequence that was sent twice counts once."""
        values, read = self._values(parameters)
        once = f"SELECT measured, {values} AS series FROM ({read}) WHERE notEmpty(series) LIMIT 1 BY measured, SeqIndex"
        return f"SELECT measured, {self._aggregated(parameters)} AS value FROM ({once}) GROUP BY measured"

    def _aggregated(self, parameters: Parameters) -> str:
        if self.aggregate != "count":
            # In double precision: a standard deviation in float32 of values far from 0 would be their rounding.
            series = "arrayMap(x -> toFloat64(x), series)" if self.aggregate == "std" else "series"
            return f"toFloat64({AGGREGATES[self.aggregate][0]}({series}))"
        if self.bound is None:
            return "toFloat64(sum(length(series)))"
        number = values.number(self.bound.value, self.series.unit, self.series.name)
        return f"toFloat64(sum(arrayCount(x -> x {self.bound.operator} {parameters.bind(float(number), 'Float64')}, series)))"

    def _values(self, parameters: Parameters) -> tuple[str, str]:
        """(SQL array of the values that count, SELECT of the rows of gen_ai_tokens it is made from)."""
        one = self.series
        columns, source = [f"{SELF} AS measured", "SeqIndex"], ""
        if not one.layers:
            columns.append(f"{one.column} AS flat")
            values = "arrayFilter(x -> isFinite(x), flat)"
        else:
            layers, heads = f"greatest({one.layers}, 1) AS layers", f"greatest({one.heads}, 1) AS heads"
            tests, place = ["isFinite(x)"], "place"
            if self.head is None:
                averages = (f"arrayReduceInRanges('avg', arrayMap(row -> (toUInt64(row * heads + 1), toUInt64(heads)), "
                            f"range(intDiv(length({one.every}), heads))), {one.every})")
                flat = f"if(notEmpty({one.column}), {one.column}, {averages}) AS flat"
            else:
                head = parameters.bind(self.head, "Int64")
                flat, place = f"if({head} < heads, {one.every}, []) AS flat", "intDiv(place, heads)"
                tests.append(f"place % heads = {head}")
            columns += [layers, heads, flat]
            if self.layer is not None:
                # A column of its own, for what stands in a lambda is computed for each value.
                recorded, source = self._recorded(parameters)
                columns.append(f"{recorded} AS recorded")
                tests.append(f"{place} % layers = recorded")
            values = (f"arrayFilter((x, place) -> {' AND '.join(tests)}, flat, range(length(flat)))" if len(tests) > 1
                      else "arrayFilter(x -> isFinite(x), flat)")
        return values, f"SELECT {', '.join(columns)} FROM {parameters.table(TOKENS.name)}{source} WHERE {parameters.within()}"

    def _recorded(self, parameters: Parameters) -> tuple[str, str]:
        """(SQL: the place of the layer among the recorded ones, -1 where it is not among them; what must be joined)."""
        layer = parameters.bind(self.layer or 0, "Int64")
        at = f"if({layer} < {self.series.layers}, {layer}, -1)"
        named = f"if(length(named) = {self.series.layers}, toInt64(indexOf(named, {layer})) - 1, -1)"
        spans = (f"SELECT {SELF} AS named_span, {_NAMED_LAYERS} AS named FROM {parameters.table()} WHERE {parameters.within()} "
                 f"AND (mapContains(SpanAttributes, '{c.ATTENTION_LAYERS}') OR mapContains(SpanNumbers, '{c.ATTENTION_LAYERS}'))")
        return f"if(notEmpty(named), {named}, {at})", f" LEFT ANY JOIN ({spans}) AS names ON {SELF} = named_span"


def lookup(name: str) -> Series | None:
    """The series of that name or alias, without regard to case; None when there is none."""
    return _BY_NAME.get(name.lower())


def nearest(name: str) -> str:
    """The field, alias or aggregate most like `name`, for "did you mean"; "" when none is close."""
    close = difflib.get_close_matches(name.lower(), _NAMES, n=1, cutoff=0.7)
    return close[0] if close else ""


def measure(name: str, at: int = 0) -> Measure | None:
    """`surprisal.p95`, `attn.entropy[layer=3,head=2].mean`, `surprisal.count(>8bits)`; None for what is no series.

    With a layer or head and without an aggregate it is the mean. at: where the name stands. Raises QueryError for a series whose
    layer, head, aggregate or bound cannot be read.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    base, axes, aggregate, bound = found.groups()
    if axes is None:
        base, _, aggregate = base.rpartition(".")
    series = lookup(base)
    if series is None:
        return None
    aggregate = (aggregate or "mean").lower()
    if aggregate not in AGGREGATES:
        if axes is None and bound is None:
            return None  # an attribute that begins like a series
        near = fields.nearest(aggregate, tuple(AGGREGATES))
        raise QueryError(f"a series has no `{aggregate[:20]}`: it has {', '.join(AGGREGATES)}",
                         column=at + found.start(3) if axes is not None else at + len(base) + 1,
                         hint=f"did you mean .{near}?" if near else "try .mean")
    layer, head = _axes(series, axes, at + len(base) + 1) if axes is not None else (None, None)
    counted = _bound(series, aggregate, bound, at + name.index("(") + 1) if bound is not None else None
    return Measure(name, series, aggregate, layer, head, counted)


def _axes(series: Series, text: str, at: int) -> tuple[int | None, int | None]:
    """Layer and head of `layer=3,head=2`."""
    if not series.layers:
        raise QueryError(f"{series.name} has one value a token, no layers and heads", column=at, hint=f"try {series.name}.max")
    places: dict[str, int] = {}
    for part in re.finditer(r"[^,]+", text or " "):
        key, _, value = (word.strip() for word in part.group().partition("="))
        place = at + part.start()
        if key not in ("layer", "head") or key in places:
            near = fields.nearest(key, ("layer", "head"))
            hint = f"did you mean {near}=?" if near and near not in places else f"try {series.name}[layer=3]"
            raise QueryError(f"in brackets stands a layer, a head or both, once each: `{part.group().strip()[:20]}` does not fit",
                             column=place, hint=hint)
        if not (value.isascii() and value.isdigit() and len(value) < 6 and int(value) <= _PLACE_MAX):
            raise QueryError(f"a {key} is a whole number from 0 to {_PLACE_MAX}, not `{value[:20]}`", column=place,
                             hint=f"try {series.name}[{key}=3].mean")
        places[key] = int(value)
    if series.name == "attn.cross" and "layer" in places:
        raise QueryError("which layers cross-attention was recorded of is not stored, so none can be picked", column=at,
                         hint="try attn.cross.max, over all of them")
    return places.get("layer"), places.get("head")


def _bound(series: Series, aggregate: str, text: str, at: int) -> Bound:
    """What stands in the parentheses of `count`."""
    written = text.strip()
    at += len(text) - len(text.lstrip())
    operator = next((sign for sign in _OPERATORS if written.startswith(sign)), "")
    if aggregate != "count" or not operator:
        raise QueryError(f"parentheses belong to count and hold a comparison, not `{text[:20]}`", column=at,
                         hint=f"try {series.name}.count(>8)")
    value = written.removeprefix(operator)
    literal = Literal(value.strip(), False, at + len(operator) + len(value) - len(value.lstrip()))
    return Bound("=" if operator == "==" else operator, literal)
