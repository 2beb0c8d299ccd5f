"""The help page: the query language, made from the registries that the language itself reads, each part with examples to click.

Not a manual: what a field means is written once, in the registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cutaway_collector.search import FIELDS, FLAGS, values
from cutaway_collector.search import language as rules
from cutaway_collector.search.aggregates import AGGREGATES, SERIES, Series
from cutaway_collector.search.fields import Field
from cutaway_collector.search.scores import Score
from cutaway_collector.search.spansets import LEVELS_MAX, MEANINGS, SLACK_S
from cutaway_collector.search.stats import FUNCTIONS, GROUPS_MAX, LINES_MAX, POINTS_MAX
from cutaway_collector.web import score_meanings, tokens, urls
from cutaway_collector.web.keys import Shortcut, sheet

EXAMPLES: Final[tuple[tuple[str, str], ...]] = (
    ("perplexity:>20", "answers the model was unsure of"),
    ("ttft:>500ms -service:batch", "slow first tokens, but not of the batch service"),
    ("model:SmolLM2* status:error", "failed calls of one family of models"),
    ("surprisal.max:>8bits tokens.out:>100", "long answers with at least one very unexpected token"),
    ("any{is:error} duration:>2s", "slow spans of traces in which something failed"),
    ("score.toxicity:>0.5", "spans with this score, whoever gave it; a word finds its label"),
    ("is:generation | stats count(), p95(duration) by model", "how many answers each model gave, and how slow the slowest were"),
)
FORMS: Final[tuple[tuple[str, str], ...]] = (
    ("timeout", "a word, anywhere in names, messages and attributes, whatever its case"),
    ('"out of memory"', "a phrase"),
    ("model:gpt2", "a field is exactly this; = does the same"),
    ("model:*instruct*", "* is any text, ? one character"),
    ("name:/^chat .*7B/", "a regular expression (RE2), found anywhere in the text"),
    ("name~completion", "the same; !~ finds the spans whose name does not match"),
    ("ttft:>500ms", "above; also >= < <="),
    ("perplexity:[10 TO 50]", "from 10 to 50, both included; * leaves an end open"),
    ('model:(gpt2, "tiny llama")', "one of several"),
    ("-env:dev", "not this; rows without the field stay"),
    ("env:!=dev", "has the field, and it is not this"),
    ("has:user.id", "has the field or attribute"),
    ("status:error OR (ttft:>1s AND -service:batch)", "OR, AND, NOT and parentheses; a blank is an AND"),
    ("span.http.route:/users/{id}", "an attribute of the span alone; resource. for those of its sender"),
    ('"key with blanks":value', "an attribute whose name needs quotes"),
)
STAGES: Final[tuple[tuple[str, str, str], ...]] = (
    ("stats", "| stats count(), p95(duration) by model", f"figures instead of rows, for up to {GROUPS_MAX} groups"),
    ("stats", "| stats count(), mean(surprisal) by service every 1h",
     f"the same over time, for up to {LINES_MAX} groups and {POINTS_MAX} intervals"),
    ("sort", "is:generation | sort -surprisal.max", "rows by a field, an aggregate or a score; a minus puts the largest first"),
    ("sort", "| stats count() by name | sort -count()", "behind stats, its rows by a figure or field of it"),
    ("limit", "is:error | sort -duration | limit 20", "so many rows, and no others"),
    ("compare", "is:error | compare", "what sets these spans apart from all others"),
    ("compare", "model:gpt2 | compare (model:SmolLM2*)", "what sets them apart from those"),
)
"""Stage, example, what it does."""
NOT_DONE: Final[tuple[str, ...]] = (
    "Accents count: cafe does not find café. Composed and decomposed letters (NFC, NFD) are the same.",
    "One letter is never two: STRASSE does not find Straße. Ligatures, full-width letters and ς are letters of their own.",
    "Values behind a colon are compared with their case. Free text, names of fields and values of closed lists are not.",
    f"Braces look at what is stored of a trace in the time range and {SLACK_S // 3600} h around it, ancestor and descendant up to "
    f"{LEVELS_MAX} levels away.",
    "An aggregate is over the finite values of all sequences of a call. Of a layer that was not recorded nothing is known, so it "
    "matches nothing.",
    f"A query has up to {rules.QUERY_CHARACTERS_MAX} characters, {rules.TERMS_MAX} terms, {rules.BRACES_MAX} pairs of braces, "
    f"{rules.BRACES_DEPTH_MAX} of them within each other.",
)


@dataclass(frozen=True, slots=True)
class Example:
    """A query, what it finds, and its address."""

    query: str
    meaning: str
    url: str


@dataclass(frozen=True, slots=True)
class FieldRow:
    """One searchable field. example: a query with it."""

    name: str
    aliases: str
    kind: str
    unit: str
    phrase: str
    description: str
    example: Example


@dataclass(frozen=True, slots=True)
class Unit:
    """Units that may stand behind a number: of what, and what a number without one is."""

    of: str
    names: str
    bare: str
    example: Example


@dataclass(frozen=True, slots=True)
class GuidePage:
    """Everything the help template may use. aggregates, functions: name, what it is."""

    examples: tuple[Example, ...]
    forms: tuple[Example, ...]
    units: tuple[Unit, ...]
    flags: tuple[Example, ...]
    braces: tuple[Example, ...]
    series: tuple[FieldRow, ...]
    aggregates: tuple[tuple[str, str], ...]
    measures: tuple[Example, ...]
    stages: tuple[Example, ...]
    functions: tuple[tuple[str, str], ...]
    limits: tuple[str, ...]
    fields: tuple[FieldRow, ...]
    scores: tuple[FieldRow, ...]
    signals: tuple[tokens.Signal, ...]
    maps: tuple[tokens.Map, ...]
    keys: tuple[tuple[str, tuple[Shortcut, ...]], ...]


def _example(query: str, meaning: str = "") -> Example:
    return Example(query, meaning, urls.search(q=query))


_OF: Final = {"s": "time", "": "plain numbers", "nats": "surprisal, entropy, margin", "bytes": "memory", "J": "energy"}
"""Unit -> what is measured in it, where its name does not say that."""


def _limit(name: str, unit: str) -> str:
    """A number worth asking for: most that has no unit is a share."""
    return "0.5" if not unit and not name.endswith(("perplexity", "rank")) else values.example(unit)


def _field(field: Field) -> FieldRow:
    if field.kind == "number":
        query = f"{field.name}:>{_limit(field.name, field.unit)}"
    else:
        query = f"{field.name}:{field.values[-1].lower()}" if field.values else f"has:{field.name}"
    return FieldRow(field.name, ", ".join(field.aliases), field.kind, field.unit, field.phrase, field.description, _example(query))


def _series(series: Series) -> FieldRow:
    axes = "" if not series.layers else "[head=0]" if series.name == "attn.cross" else "[layer=3]"
    aggregate = "max" if series.layers else "p95"
    query = f"{series.name}{axes}.{aggregate}:>{_limit(series.name, series.unit)}"
    return FieldRow(series.name, ", ".join(series.aliases), "series", series.unit, series.phrase,
                    series.description or series.phrase, _example(query))


def _score(one: score_meanings.Meaning) -> FieldRow:
    name = Score(one.name).name
    example = Example(f"{name}:*", "", urls.search(q=f"{name}:*", sort=f"-{name}"))
    return FieldRow(name, one.giver, "number", one.unit, one.text, one.text, example)


def _units() -> tuple[Unit, ...]:
    """One row for each unit in which a field is stored, times once."""
    found = []
    for unit in dict.fromkeys("s" if field.unit == "ns" else field.unit for field in FIELDS if field.kind == "number"):
        if values.units(unit):
            field = next(field for field in FIELDS if field.kind == "number" and field.unit == unit)
            found.append(Unit(_OF.get(unit, unit), " ".join(values.units(unit)), values.bare_unit(unit) or "the number itself",
                              _example(f"{field.name}:>{values.example(unit)}")))
    return tuple(found)


def page() -> GuidePage:
    """The page."""
    shown = ("surprisal.p95:>6bits", "surprisal.count(>8bits):>=3", "margin.min:<0.01", "attn.entropy[layer=3].mean:<0.1",
             "attn.entropy[layer=3,head=2].p50:<0.1", "gap.max:>1s")
    meanings = ("19 in 20 tokens stay below it", "at least three very unexpected tokens", "a choice on a knife's edge",
                "a layer that looks at one place, where that layer was recorded", "one head of it", "a token that took long")
    inside = {"any": "is:error", "all": "-is:error", "none": "is:generation", "parent": "name:retrieve", "child": "",
              "ancestor": "is:error", "descendant": "is:error"}
    return GuidePage(
        examples=tuple(_example(*example) for example in EXAMPLES),
        forms=tuple(_example(*form) for form in FORMS),
        units=_units(),
        flags=tuple(_example(f"is:{flag.name}", f"spans {flag.phrase}") for flag in FLAGS),
        braces=tuple(_example(f"{kind}{{{inside[kind]}}}", MEANINGS[kind]) for kind in rules.KINDS),
        series=tuple(_series(series) for series in SERIES),
        aggregates=tuple((name, words) for name, (_, words) in AGGREGATES.items()),
        measures=tuple(_example(*pair) for pair in zip(shown, meanings, strict=True)),
        stages=tuple(_example(query, meaning) for _, query, meaning in STAGES),
        functions=tuple((name, words) for name, (_, words) in FUNCTIONS.items()),
        limits=NOT_DONE,
        fields=tuple(_field(field) for field in FIELDS),
        scores=tuple(_score(one) for one in score_meanings.MEANINGS.values()),
        signals=tokens.SIGNALS, maps=tokens.MAPS, keys=sheet(),
    )
