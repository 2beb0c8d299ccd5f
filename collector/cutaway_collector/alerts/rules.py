"""What a rule is: a saved search, a number made of what it finds, and a condition on that number. `SCHEMA` documents every key.

Not the judging (see `judge`) and not the SQL (see `observe`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cutaway_collector.alerts import windowed
from cutaway_collector.alerts.fields import NS, Reader, RuleError, where_of, words_of
from cutaway_collector.baselines.attributes import CATEGORIES, NUMBERS
from cutaway_collector.drift import chart, streams
from cutaway_collector.errors import QueryError
from cutaway_collector.search import language, sql
from cutaway_collector.search.fields import Field
from cutaway_collector.search.parameters import Parameters

SCHEMA: Final[dict[str, str]] = {
    "name": "letters, digits and _ . -; one rule of a name",
    "tenant": "whose spans are watched; left out, everybody's",
    "query": "the saved search, in the language of the search page; left out, every span (of window_score: service, model, route "
             "and template with exact values, such as -route:/classify)",
    "aggregate": "count, rate (spans a second), share (of the found spans, those that `of` finds too), mean, quantile (of "
                 "`field`), score_mean, score_share (of `score`: its mean, or the share of values above `over`), window_score "
                 "(of `score`: the worst of the windows that end in `window`, the largest for above, the smallest for below; "
                 "for e_process their mean)",
    "of": "for share: the search of what counts",
    "field": "for mean and quantile: a numeric field or attribute",
    "quantile": "for quantile: 0 to 1 (default 0.95)",
    "score": "for score_mean and score_share: the name of the score; for window_score: that of the window score, as vendi_share",
    "over": "for score_share: a value above it counts",
    "group_by": "up to 4 fields or attributes; each combination is judged by itself (of scores: service, model; of window_score: "
                "service, model, route, template, and all four when it is left out)",
    "groups_max": "groups that are judged, the largest first (default 50, at most 500)",
    "every": "how often it is judged, aligned to the clock (default 1m; of drift 1h and of window_score 15m, as their windows: "
             "give what drift_interval_minutes and windows_minutes say)",
    "window": "how much time a judgement looks at, a multiple of `every` (default `every`)",
    "lateness": "how long after its end a window is judged (default: the setting alerts_lateness_seconds, of scores and "
                "window_score at least 5m, of drift 10m: they are computed after the spans have come)",
    "least": "spans (or scores) below which a window has no value; of window_score the answers it was computed from (default 1)",
    "condition": "the condition, see CONDITIONS",
    "severity": "info, warning (default) or critical",
    "owner": "who looks after it",
    "labels": "texts by name, sent along",
    "runbook": "what to do, or where that is written",
    "channels": "who is told; none: it is shown only",
    "mute_until": "2026-12-24T18:00Z: nobody is told until then",
}
"""Key of a rule -> what it is."""

CONDITIONS: Final[dict[str, dict[str, str]]] = {
    "threshold": {
        "above": "fires while the value is larger (or give `below`)", "below": "fires while the value is smaller",
        "clear": "ends when the value is back on this side of it (default: the threshold itself)",
        "for": "how long without a break before it fires (default: one window)",
        "clear_for": "how long without a break before it ends (default: one window)",
    },
    "no_data": {"for": "fires when nothing was found for so long; with group_by, of a group that was seen before"},
    "e_process": {
        "above": "fires when the evidence is that the true rate or mean is larger (or give `below`)",
        "below": "fires when it is smaller",
        "alpha": "how likely a false alarm may be within one `reset`, however often it is looked at (default 0.01)",
        "reset": "how long evidence is gathered before it begins anew (default 1d)",
        "range": "for means: the smallest and the largest value; what lies beyond counts as these",
    },
    "drift": {
        "attribute": "an attribute that `cutaway baselines` watches, such as tokens.in, perplexity or score.toxicity",
        "q_below": "fires while the drift is judged shifted at a false discovery rate below this (default 0.05)",
        "for": "how long without a break before it fires (default: one window)",
    },
    "chart": {
        "attribute": "a number that `cutaway baselines` watches, such as perplexity, ttft or score.toxicity",
        "chart": "cusum (default; the quickest for a lasting shift of one standard error), ewma (for a smaller one) or adwin (for "
                 "a step between any two levels)",
        "run_length": "windows to a false alarm on average while nothing is wrong, 10 to 1000000 (default 1000; adwin: at least)",
        "clear_for": "how long it must be back within half of its limit, or without another cut of adwin, before it ends (default: "
                     "one window; of adwin 1d)",
    },
}
"""Kind of a condition -> its keys."""

AGGREGATES: Final = ("count", "rate", "share", "mean", "quantile", "score_mean", "score_share", "window_score")
OF_SCORES: Final = frozenset({"score_mean", "score_share"})
SHARES: Final = frozenset({"share", "score_share"})
SEVERITIES: Final = ("info", "warning", "critical")
WINDOWS_PER_WINDOW_MAX: Final = 240
_EDGE: Final = 1e-6
_RANGE_MAX: Final = 1e15
_COMPUTED_S: Final = {"spans": 0, "scores": 300, "windows": 300, "drift": 600}
"""Seconds after a span has arrived by which what is computed of it is stored."""
_SCORE_GROUPS: Final = {"service": "ServiceName", "model": "GenAiModel"}
DRIFT_GROUPS: Final = ("service", "model")
OF_DRIFT: Final = frozenset({"drift", "chart"})
"""Kinds of conditions that read what was compared with baselines."""


@dataclass(frozen=True, slots=True)
class Condition:
    """When a value is an alert. threshold: of either side. up: fires above it. Times in seconds."""

    kind: str
    threshold: float = 0.0
    up: bool = True
    clear: float = 0.0
    for_s: int = 0
    clear_for_s: int = 0
    alpha: float = 0.01
    reset_s: int = 86_400
    low: float = 0.0
    high: float = 1.0
    attribute: str = ""
    q_below: float = 0.05
    # Left out of the representation, or every rule that is not of this kind would begin anew.
    chart: chart.Kind = dataclasses.field(default="cusum", repr=False)
    run_length: float = dataclasses.field(default=streams.RUN_LENGTH, repr=False)

    def words(self) -> str:
        """As a person says it."""
        if self.kind == "no_data":
            return f"nothing for {words_of(self.for_s)}"
        if self.kind == "drift":
            return f"drift of {self.attribute} at a false discovery rate below {self.q_below:g}"
        if self.kind == "chart":
            return f"{self.attribute} by {chart.words(self.chart, self.run_length)}"
        side = "above" if self.up else "below"
        if self.kind == "e_process":
            return f"proven {side} {self.threshold:g} at {self.alpha:g}"
        lasting = f" for {words_of(self.for_s)}" if self.for_s else ""
        return f"{side} {self.threshold:g}{lasting}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Times in seconds; lateness_s is None for the setting's. mute_until_ns: 0 for never."""

    name: str
    tenant: str
    query: str
    aggregate: str
    condition: Condition
    of: str = ""
    field: str = ""
    quantile: float = 0.95
    score: str = ""
    over: float = 0.0
    group_by: tuple[str, ...] = ()
    groups_max: int = 50
    every_s: int = 60
    window_s: int = 60
    lateness_s: int | None = None
    least: int = 1
    severity: str = "warning"
    owner: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    runbook: str = ""
    channels: tuple[str, ...] = ()
    mute_until_ns: int = 0
    body: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """(tenant, name): what there is one of."""
        return self.tenant, self.name

    @property
    def fingerprint(self) -> str:
        """Of what it judges by: texts and channels may change without beginning anew."""
        said = [self.query, self.aggregate, repr(self.condition), self.of, self.field, self.quantile, self.score, self.over,
                self.group_by, self.every_s, self.window_s, self.least]
        if self.condition.kind == "chart":
            said += [self.condition.chart, self.condition.run_length]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]

    @property
    def source(self) -> str:
        """What it is judged by: "spans", "scores", "windows" (their scores) or "drift"."""
        if self.condition.kind in OF_DRIFT:
            return "drift"
        return "windows" if self.aggregate == "window_score" else "scores" if self.aggregate in OF_SCORES else "spans"

    @property
    def value_words(self) -> str:
        """What the value is; "" where the condition says it all."""
        if self.condition.kind in ("no_data", *OF_DRIFT):
            return ""
        return {
            "count": "spans", "rate": "spans a second", "share": f"share of {self.of}", "mean": f"mean {self.field}",
            "quantile": f"quantile {self.quantile:g} of {self.field}", "score_mean": f"mean score {self.score}",
            "score_share": f"share of {self.score} above {self.over:g}",
            "window_score": f"mean {self.score} of windows" if self.condition.kind == "e_process" else
                            f"{'largest' if self.condition.up else 'smallest'} {self.score} of a window",
        }[self.aggregate]

    def lateness(self, default_s: int) -> int:
        """Seconds after a window's end at which it is judged."""
        if self.lateness_s is not None:
            return self.lateness_s
        return max(default_s, _COMPUTED_S[self.source])


def parse_rule(value: Any, where: str = "rule") -> Rule:
    """A rule from what YAML or JSON gave. Raises RuleError, also where the search or a field cannot be understood."""
    where = where_of("rule", value, where)
    reader = Reader(where, value, SCHEMA)
    name = reader.name()
    condition = _condition(where, reader.part("condition"))
    aggregate = reader.choice("aggregate", AGGREGATES, "count")
    windows = aggregate == "window_score"
    every_s = reader.duration_s("every", "1h" if condition.kind in OF_DRIFT else "15m" if windows else "1m", least=10, most=86_400)
    rule = Rule(
        name=name, tenant=reader.tenant(), query=reader.text("query", ""), aggregate=aggregate, condition=condition,
        of=reader.text("of", ""), field=reader.text("field", "", most=200),
        quantile=reader.number("quantile", 0.95, least=0, most=1),
        score=reader.text("score", "", most=200), over=reader.number("over", 0.0),
        # A chart follows one stream: two models in one would be a zigzag between their levels.
        group_by=reader.texts("group_by", most=4) or (DRIFT_GROUPS if condition.kind == "chart" else
                                                      windowed.GROUPS if windows and not reader.has("group_by") else ()),
        groups_max=reader.whole("groups_max", 50, least=1, most=500), every_s=every_s,
        window_s=reader.duration_s("window", words_of(every_s), least=10, most=7 * 86_400),
        lateness_s=reader.duration_s("lateness", most=86_400) if reader.has("lateness") else None,
        least=reader.whole("least", 1, least=1, most=1_000_000_000), severity=reader.choice("severity", SEVERITIES, "warning"),
        owner=reader.text("owner", "", most=200), labels=reader.labels("labels"), runbook=reader.text("runbook", ""),
        channels=reader.texts("channels", most=10), mute_until_ns=_moment(reader, "mute_until"),
        body=json.dumps(value, sort_keys=True, default=str),
    )
    _check(rule, reader)
    return rule


def _condition(where: str, value: Any) -> Condition:
    if not isinstance(value, Mapping):
        raise RuleError(f"{where}: condition is a mapping with a kind: {', '.join(CONDITIONS)}")
    kind = Reader(f"{where}: condition", value, [*value]).choice("kind", CONDITIONS, "threshold")
    reader = Reader(f"{where}: a {kind} condition", value, ["kind", *CONDITIONS[kind]])
    if kind == "no_data":
        return Condition(kind, for_s=reader.duration_s("for", least=10))
    if kind == "drift":
        return Condition(kind, attribute=reader.text("attribute", most=200), for_s=reader.duration_s("for", "0s"),
                         q_below=reader.number("q_below", 0.05, least=0, most=1))
    if kind == "chart":
        return _chart(reader)
    if reader.has("above") == reader.has("below"):
        raise RuleError(f"{reader.where}: it needs either above or below")
    up = reader.has("above")
    threshold = reader.number("above" if up else "below")
    if kind == "threshold":
        clear = reader.number("clear", threshold)
        if (clear > threshold) if up else (clear < threshold):
            raise RuleError(f"{reader.where}: clear lies {'below' if up else 'above'} the threshold {threshold:g}, it is "
                            f"{clear:g}: the gap keeps an alert from flapping")
        return Condition(kind, threshold, up, clear, reader.duration_s("for", "0s"), reader.duration_s("clear_for", "0s"))
    low, high = 0.0, 1.0
    if reader.has("range"):
        ends = reader.part("range")
        if not isinstance(ends, list | tuple) or len(ends) != 2 or not all(type(end) in (int, float) for end in ends):
            raise reader.wrong("range", "two numbers, the smallest and the largest value")
        low, high = float(ends[0]), float(ends[1])
    width = high - low
    # Nearer to an end than this, or in a wider range, the stakes of the gamblers are no numbers any more.
    if not (low < high and width <= _RANGE_MAX and low + _EDGE * width < threshold < high - _EDGE * width):
        raise RuleError(f"{reader.where}: the threshold lies within the range from {low:g} to {high:g}, "
                        f"and not at its edge, it is {threshold:g}")
    return Condition(kind, threshold, up, threshold, alpha=reader.number("alpha", 0.01, least=1e-12, most=0.5),
                     reset_s=reader.duration_s("reset", "1d", least=60, most=30 * 86_400), low=low, high=high)


def _chart(reader: Reader) -> Condition:
    of = next(one for one in chart.KINDS if one == reader.choice("chart", chart.KINDS, "cusum"))
    if chart.missing(of):
        raise reader.wrong("chart", f"one of {', '.join(one for one in chart.KINDS if not chart.missing(one))}", chart.missing(of))
    attribute = reader.text("attribute", most=200)
    if attribute not in NUMBERS and not attribute.startswith("score."):
        raise reader.wrong("attribute", f"one of {', '.join(NUMBERS)}, or score.NAME: a chart follows a number")
    least, most = chart.RUN_LENGTHS
    return Condition("chart", attribute=attribute, clear_for_s=reader.duration_s("clear_for", "1d" if of == "adwin" else "0s"),
                     chart=of, run_length=reader.number("run_length", streams.RUN_LENGTH, least=least, most=most))


def _check(rule: Rule, reader: Reader) -> None:
    """What no key says alone. Raises RuleError."""
    kind = rule.condition.kind
    needs = {"share": ("of",), "mean": ("field",), "quantile": ("field",), "score_mean": ("score",),
             "score_share": ("score", "over"), "window_score": ("score",)}
    wanted = needs.get(rule.aggregate, ())
    for key in ("of", "field", "score", "over", "quantile"):
        if key in wanted and not reader.has(key):
            raise RuleError(f"{reader.where}: aggregate {rule.aggregate} needs {key}: {SCHEMA[key]}")
        if reader.has(key) and key not in wanted and (key, rule.aggregate) != ("quantile", "quantile"):
            raise RuleError(f"{reader.where}: {key} does nothing with aggregate {rule.aggregate}: leave it out")
    if kind in ("no_data", *OF_DRIFT) and reader.has("aggregate") and rule.aggregate != "count" and \
            (kind, rule.aggregate) != ("no_data", "window_score"):
        raise RuleError(f"{reader.where}: a {kind} condition has no aggregate: leave it out")
    if rule.window_s % rule.every_s or rule.window_s // rule.every_s > WINDOWS_PER_WINDOW_MAX:
        raise RuleError(f"{reader.where}: window is a multiple of every, at most {WINDOWS_PER_WINDOW_MAX} times, it is "
                        f"{words_of(rule.window_s)} with every {words_of(rule.every_s)}")
    if kind in ("e_process", "no_data", *OF_DRIFT) and rule.window_s != rule.every_s:
        raise RuleError(f"{reader.where}: a {kind} condition looks at each span once: leave window out, or make it "
                        f"{words_of(rule.every_s)}")
    if kind == "e_process" and rule.aggregate not in ("share", "mean", "score_mean", "score_share", "window_score"):
        raise RuleError(f"{reader.where}: an e_process watches a share or a mean, not {rule.aggregate}")
    if kind == "e_process" and rule.aggregate in SHARES and (rule.condition.low, rule.condition.high) != (0.0, 1.0):
        raise RuleError(f"{reader.where}: a share lies between 0 and 1: leave range out")
    if kind == "drift" and not _watched(rule.condition.attribute):
        raise RuleError(f"{reader.where}: attribute is one of {', '.join((*NUMBERS, *CATEGORIES))}, score.NAME or label.NAME, "
                        f"it is {rule.condition.attribute[:60]!r}")
    if kind == "chart" and set(rule.group_by) != set(DRIFT_GROUPS):
        raise RuleError(f"{reader.where}: a chart follows one model of one service: group_by is [{', '.join(DRIFT_GROUPS)}], "
                        "or left out")
    if kind in OF_DRIFT and (rule.query or set(rule.group_by) - set(DRIFT_GROUPS)):
        raise RuleError(f"{reader.where}: drift is kept by service and model: group by these, and leave query out")
    _check_search(rule, reader.where)


def _watched(attribute: str) -> bool:
    return attribute in NUMBERS or attribute in CATEGORIES or attribute.startswith(("score.", "label."))


def _check_search(rule: Rule, where: str) -> None:
    condition = windowed.condition if rule.source == "windows" else sql.condition
    try:
        if rule.source == "windows":
            windowed.check_name(rule.score)
        for text in (rule.query, rule.of):
            condition(language.parse(text), Parameters())
        if rule.field:
            number_of(rule.field, Parameters())
        for name in rule.group_by:
            group_expression(name, Parameters(), source=rule.source)
    except QueryError as error:
        raise RuleError(f"{where}: {error}{f': {error.hint}' if error.hint else ''}") from None


def number_of(name: str, parameters: Parameters) -> str:
    """SQL number expression over otel_traces, NULL where absent. Raises QueryError for a field that is no number."""
    target = sql.resolve(*reversed(language.split_scope(name)))
    if isinstance(target, Field):
        if target.kind != "number":
            raise QueryError(f"{target.name} is {target.kind}, it has no mean", hint="try ttft or perplexity")
        return target.expression
    return f"toFloat64OrNull({target.expression(parameters)})"


def group_expression(name: str, parameters: Parameters, *, source: str) -> str:
    """SQL String expression to group by. source: as `Rule.source`. Raises QueryError for what cannot be grouped by."""
    if source == "windows":
        return windowed.group(name)
    if source != "spans":
        if name not in _SCORE_GROUPS:
            raise QueryError(f"scores are grouped by {', '.join(_SCORE_GROUPS)}, not by {name[:40]!r}")
        return _SCORE_GROUPS[name]
    target = sql.resolve(*reversed(language.split_scope(name)))
    if isinstance(target, Field):
        if target.kind != "text":
            raise QueryError(f"{target.name} is a {target.kind}, groups are made by texts", hint="try service or model")
        return target.expression
    return target.expression(parameters)


def _moment(reader: Reader, key: str) -> int:
    value = reader.part(key) if reader.has(key) else ""
    if not value:
        return 0
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise reader.wrong(key, "a time such as 2026-12-24T18:00Z") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * NS
