"""What is watched of a generation, as relations over the stored spans and scores. Names are those of the search language.

Not the statistics: a relation gives one row a value, with the moment of its span.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cutaway import conventions as c
from cutaway_collector.columns import SCORES, TRACES

HOURS: Final = 168
LABEL_CHARACTERS_MAX: Final = 64
VERSION: Final = "ResourceAttributes['service.version']"
NUMBERS: Final[dict[str, str]] = {
    "tokens.in": "InputTokens",
    "tokens.out": "OutputTokens",
    "perplexity": "Perplexity",
    "entropy": "EntropyMean",
    "attn": "AttentionEntropyMean",
    "prompt.perplexity": "PromptPerplexity",
    "ttft": "TimeToFirstTokenS",
    "tps": "1 / nullIf(TimePerOutputTokenS, 0)",
}
"""Name -> SQL of a number or NULL. Scores come beside them as `score.NAME`."""
_FINISH: Final = f"SpanAttributes['{c.RESPONSE_FINISH_REASONS}']"
CATEGORIES: Final[dict[str, str]] = {
    "finish": f"if(startsWith({_FINISH}, '['), JSONExtract({_FINISH}, 'Array(String)'), if({_FINISH} = '', [], [{_FINISH}]))",
    "status": "[toString(StatusCode)]",
}
"""Name -> SQL of an array of words. Labels of scores (a language, say) come beside them as `label.NAME`."""
TITLES: Final[dict[str, tuple[str, str]]] = {
    "tokens.in": ("Prompt length", "tokens"), "tokens.out": ("Answer length", "tokens"), "perplexity": ("Perplexity", ""),
    "entropy": ("Entropy", "nats"), "attn": ("Attention entropy", "nats"), "prompt.perplexity": ("Prompt perplexity", ""),
    "ttft": ("Time to first token", "s"), "tps": ("Decoding speed", "tokens/s"), "finish": ("Finish reason", ""),
    "status": ("Status", ""),
}
"""Name -> what a page calls it, and its unit."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose spans: a tenant's, of one service and one model, from start_ns to before end_ns; of one service.version unless ""."""

    tenant: str
    service: str
    model: str
    start_ns: int
    end_ns: int
    version: str = ""

    def bound(self) -> dict[str, Any]:
        """Parameters of the relations."""
        return {"tenant": self.tenant, "service": self.service, "model": self.model, "start": self.start_ns, "end": self.end_ns,
                "version": self.version}


_WHERE: Final = (
    "TenantId = {tenant:String} AND ServiceName = {service:String} AND GenAiModel = {model:String} "
    "AND Timestamp >= fromUnixTimestamp64Nano({start:Int64}) AND Timestamp < fromUnixTimestamp64Nano({end:Int64})"
)


def quoted(database: str) -> str:
    """A database's name in backquotes."""
    return "`" + database.replace("\\", "\\\\").replace("`", "\\`") + "`"


def spans(database: str) -> str:
    """FROM and WHERE of the scope's spans."""
    return f"FROM {quoted(database)}.{TRACES.name} WHERE {_WHERE} AND ({{version:String}} = '' OR {VERSION} = {{version:String}})"


def _scores(database: str, value: str, condition: str) -> str:
    """Scores of the scope; what scorers of several versions said of a sequence counts once, the newest."""
    of_version = f"({{version:String}} = '' OR SpanId IN (SELECT SpanId {spans(database)}))"
    return (f"SELECT ScoreName, argMax({value}, Version) AS said, min(Timestamp) AS at FROM {quoted(database)}.{SCORES.name} FINAL "
            f"WHERE {_WHERE} AND {condition} AND {of_version} GROUP BY ScoreName, TraceId, SpanId, SeqIndex")


def numbers(database: str) -> str:
    """SELECT attribute, x Float64, at: every finite number of the scope."""
    pairs = ", ".join(f"('{name}', toFloat64({expression}))" for name, expression in NUMBERS.items())
    return (f"SELECT pair.1 AS attribute, assumeNotNull(pair.2) AS x, Timestamp AS at "
            f"FROM (SELECT Timestamp, arrayJoin([{pairs}]) AS pair {spans(database)}) WHERE isFinite(pair.2) "
            f"UNION ALL SELECT concat('score.', ScoreName) AS attribute, said AS x, at "
            f"FROM ({_scores(database, 'Value', 'isFinite(Value)')})")


def categories(database: str) -> str:
    """SELECT attribute, label, at: every word of the scope, cut to LABEL_CHARACTERS_MAX."""
    pairs = ", ".join(f"('{name}', {expression})" for name, expression in CATEGORIES.items())
    labels = _scores(database, "toString(Label)", "Label != ''")
    return (f"SELECT attribute, substringUTF8(word, 1, {LABEL_CHARACTERS_MAX}) AS label, at FROM ("
            f"SELECT pair.1 AS attribute, arrayJoin(pair.2) AS word, Timestamp AS at "
            f"FROM (SELECT Timestamp, arrayJoin([{pairs}]) AS pair {spans(database)}) "
            f"UNION ALL SELECT concat('label.', ScoreName) AS attribute, said AS word, at FROM ({labels}))")


def hour_of_week(at: str) -> str:
    """SQL of a moment -> SQL of its hour of the week in UTC, from 0 on Monday."""
    return f"toUInt8((toDayOfWeek({at}, 0, 'UTC') - 1) * 24 + toHour({at}, 'UTC'))"


def hours_of(start_ns: int, end_ns: int) -> list[int]:
    """The hours of the week that a window touches."""
    first, last = start_ns // 3_600_000_000_000, -(-end_ns // 3_600_000_000_000)
    # 1970 began on a Thursday.
    return sorted({(hour + 72) % HOURS for hour in range(first, min(last, first + HOURS))})


def reference_hours(reference: str, start_ns: int, end_ns: int) -> list[int]:
    """The hours of the week whose generations a window is compared with: its own ("hour"), the same of any day ("day"), "all"."""
    if reference == "all":
        return list(range(HOURS))
    hours = hours_of(start_ns, end_ns)
    return hours if reference == "hour" else sorted({day * 24 + hour % 24 for day in range(7) for hour in hours})


def title(name: str) -> tuple[str, str]:
    """What a page calls an attribute, and its unit."""
    kind, _, rest = name.partition(".")
    return TITLES.get(name) or ({"score": f"Score {rest}", "label": f"Label of {rest}"}.get(kind, name), "")
