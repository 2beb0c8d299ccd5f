"""Scores that others give, as rows of gen_ai_scores: the JSON of POST /v1/scores, and evaluation events on spans. Judges nothing.

    {"trace_id": "32 hex digits", "span_id": "16, left out where the whole trace is judged", "sequence": 0, "name": "helpful",
     "value": 1.0, "label": "yes", "explanation": "...", "source": "user", "scorer_version": "2",
     "timestamp": "2026-01-31T09:00:00Z", "service": "...", "model": "..."}

Policies, each with a test:
- One object or a list. An entry that breaks a rule is turned away alone, with its place in the list; when none is left the request
  is refused. A field nobody knows is a slip and breaks a rule.
- A score belongs to the span of its ids, by which it is looked up. What the sender does not say of that span (service, model) stays
  empty; its time is the one given or that of its arrival. Of scores of one span, sequence, name and source the newest counts.
- A span's `gen_ai.evaluation.result` events are scores of that span, with its service, model and start. Those whose names begin
  with `cutaway.` repeat the span's own attributes and stay events alone. A span is kept whatever its events say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import orjson

from cutaway import conventions as c
from cutaway_collector.amplification import check_json
from cutaway_collector.blocks import Array, Block, Column, Lists, MapLists, Strings
from cutaway_collector.columns import SCORES
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.limits import Limits
from cutaway_collector.decode.strings import pick
from cutaway_collector.decode.wire import entry, kernel, raw
from cutaway_collector.errors import MalformedRequest

COLLECTORS_OWN: Final = "collector"
"""Source of the scores the collector computes; a sender of that name does not replace them."""
EARLIEST_NS: Final = 31_536_000 * 10**9
LATEST_NS: Final = 4_291_747_200 * 10**9
ENTRIES_MAX: Final = 50_000
"""Scores of one request: each costs a Python object while it is read."""
TOLD_MAX: Final = 20
NAME_CHARS_MAX: Final = 200
EXPLANATION_CHARS_MAX: Final = 20_000
_FIELDS: Final = ("trace_id", "span_id", "sequence", "name", "value", "label", "explanation", "source", "scorer_version",
                  "timestamp", "service", "model")
_DIGITS: Final = frozenset("0123456789abcdef")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Rejected(Exception):
    """One score is turned away; its text is the rule, the value where it is short and harmless, and the remedy."""


@dataclass(frozen=True, slots=True)
class Row:
    """One score. time_ns: since 1970. value: NaN for a label alone. span: "" where the whole trace is judged."""

    time_ns: int
    service: str
    model: str
    trace: str
    span: str
    sequence: int
    name: str
    version: str
    source: str
    value: float
    label: str
    explanation: str

    def __post_init__(self) -> None:
        if not self.name:
            raise Rejected("a score has a name")
        if not EARLIEST_NS <= self.time_ns < LATEST_NS:
            raise Rejected("its time must lie from 1971 to 2105")
        for what, text in (("name", self.name), ("label", self.label), ("source", self.source), ("scorer_version", self.version),
                           ("service", self.service), ("model", self.model)):
            if len(text) > NAME_CHARS_MAX:
                raise Rejected(f"{what} has at most {NAME_CHARS_MAX} characters, this one has {len(text)}: shorten it")
        if len(self.explanation) > EXPLANATION_CHARS_MAX:
            raise Rejected(f"explanation has at most {EXPLANATION_CHARS_MAX} characters, this one has {len(self.explanation)}: "
                           "shorten it")
        if math.isinf(self.value) or (math.isnan(self.value) and not self.label):
            raise Rejected("a score has a finite number as value, or a label")


def named(source: str) -> str:
    """The source as it is stored: nobody passes for the collector's own scorers, whose rows it would replace."""
    return f"{source} (sent)" if source == COLLECTORS_OWN else source


def of_json(payload: bytes, *, received_ns: int, tenant: str, limits: Limits) -> tuple[Block | None, int, str]:
    """Body of POST /v1/scores -> (gen_ai_scores block, entries not kept, why in English). received_ns: nanoseconds since 1970.

    Raises MalformedRequest when it is not JSON of that shape, or when no entry can be kept.
    """
    check_json(payload)
    try:
        sent = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        # The library's message may quote the payload; its position does not.
        raise MalformedRequest(f"the body is not JSON: it cannot be read from character {error.pos} on") from None
    entries = sent if isinstance(sent, list) else [sent]
    if len(entries) > ENTRIES_MAX:
        raise MalformedRequest(f"a request has at most {ENTRIES_MAX} scores, this one has {len(entries)}: send them in parts")
    rows: list[Row] = []
    wrong: list[str] = []
    rejected = 0
    for place, one in enumerate(entries):
        try:
            rows.append(_row(one, received_ns, limits))
        except Rejected as rule:
            rejected += 1
            if len(wrong) < TOLD_MAX:
                wrong.append(f"score {place}: {rule}")
    if rejected > len(wrong):
        wrong.append(f"and {rejected - len(wrong)} more")
    if rejected and not rows:
        raise MalformedRequest(f"no score of this request can be kept: {'; '.join(wrong)}")
    return (block(rows, received_ns, tenant) if rows else None), rejected, "; ".join(wrong)


def _row(one: Any, received_ns: int, limits: Limits) -> Row:
    if not isinstance(one, dict):
        raise Rejected("a score is a JSON object")
    unknown = next((key for key in one if key not in _FIELDS), None)
    if unknown is not None:
        raise Rejected(f"a score has no field {unknown[:40]!r}: it has {', '.join(_FIELDS)}")
    sequence = 0 if one.get("sequence") is None else one["sequence"]
    if type(sequence) is not int or not 0 <= sequence < limits.sequences_max:
        raise Rejected(f"sequence is a whole number from 0 to {limits.sequences_max - 1}: leave it out for the first")
    value = one.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise Rejected("value is a number: write 1 or 0 for yes or no, and words as label")
    return Row(
        time_ns=_time(one.get("timestamp"), received_ns), service=_text(one, "service"), model=_text(one, "model"),
        trace=_id(one, "trace_id", 32), span=_id(one, "span_id", 16) if one.get("span_id") not in (None, "") else "",
        sequence=sequence, name=_text(one, "name"), version=_text(one, "scorer_version"),
        source=named(_text(one, "source") or "api"),
        value=math.nan if value is None else float(value), label=_text(one, "label"), explanation=_text(one, "explanation"),
    )


def _text(one: dict[str, Any], key: str) -> str:
    value = one.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Rejected(f"{key} is a string")
    return value


def _id(one: dict[str, Any], key: str, digits: int) -> str:
    value = one.get(key)
    if not isinstance(value, str) or len(value) != digits or not _DIGITS.issuperset(value.lower()) or not value.strip("0"):
        raise Rejected(f"{key} is {digits} hex digits, not all zero")
    return value.lower()


def _time(value: Any, received_ns: int) -> int:
    """Nanoseconds since 1970 of a timestamp: whole nanoseconds, or ISO 8601 with its offset; left out, the arrival."""
    if value is None:
        return received_ns
    if type(value) is int:
        return value
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Rejected("timestamp is nanoseconds since 1970 as a whole number, or ISO 8601 with its offset: "
                       "2026-01-31T09:00:00Z")
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def block(rows: Sequence[Row], received_ns: int, tenant: str) -> Block:
    """Scores as a gen_ai_scores block. Their Version is the millisecond of their arrival: what comes later replaces."""
    count, now_ms = len(rows), received_ns // 1_000_000
    made: dict[str, Column] = {
        "Timestamp": np.array([row.time_ns for row in rows], np.int64),
        "TenantId": Strings.repeat(tenant, count),
        "ServiceName": Strings.of([row.service for row in rows]),
        "GenAiModel": Strings.of([row.model for row in rows]),
        "TraceId": Strings.of([row.trace for row in rows]),
        "SpanId": Strings.of([row.span for row in rows]),
        "SeqIndex": np.array([row.sequence for row in rows], np.uint16),
        "IngestedAt": np.full(count, now_ms, np.int64),
        "ScoreName": Strings.of([row.name for row in rows]),
        "ScorerVersion": Strings.of([row.version for row in rows]),
        "Source": Strings.of([row.source for row in rows]),
        "Value": np.array([row.value for row in rows], np.float64),
        "Label": Strings.of([row.label for row in rows]),
        "Explanation": Strings.of([row.explanation for row in rows]),
        "Version": np.full(count, now_ms, np.uint64),
        "IsDeleted": np.zeros(count, np.uint8),
    }
    made_block = Block(SCORES.name, count, {column.name: made[column.name] for column in SCORES.columns})
    made_block.check()
    return made_block


# --- evaluation events on spans -----------------------------------------------------------------------------------------------

_EVENT: Final = np.frombuffer(c.EVALUATION_EVENT.encode(), np.uint8)
_NAME: Final = np.frombuffer(c.EVALUATION_NAME.encode(), np.uint8)
_OWN: Final = np.frombuffer(c.EVALUATION_OWN.encode(), np.uint8)


@kernel
def _is(data: Any, at: int, end: int, word: Any, whole: bool) -> Any:
    """Whether these bytes are the word, or begin with it."""
    if end - at < word.size or (whole and end - at > word.size):
        return False
    for index in range(word.size):  # noqa: SIM110  compiled code has no generators
        if data[at + index] != word[index]:
            return False
    return True


@entry
def _evaluations(names: Any, name_ends: Any, attributes: Any, keys: Any, key_ends: Any, values: Any, value_ends: Any,
                 found: Any) -> Any:
    """Numbers of the events that are scores, into `found`; returns how many."""
    name_text, key_text, value_text = raw(names), raw(keys), raw(values)
    count = 0
    for event in range(name_ends.size - 1):
        if not _is(name_text, name_ends[event], name_ends[event + 1], _EVENT, True):
            continue
        own = False
        for pair in range(attributes[event], attributes[event + 1]):
            if _is(key_text, key_ends[pair], key_ends[pair + 1], _NAME, True):
                own = _is(value_text, value_ends[pair], value_ends[pair + 1], _OWN, False)
                break
        if not own:
            found[count] = event
            count += 1
    return count


def of_events(spans: Block, *, received_ns: int, tenant: str, limits: Limits) -> tuple[Block | None, str]:
    """An otel_traces block -> (gen_ai_scores block of its evaluation events or None, why some are none, in English).

    One compiled pass over the names of the events; only those that are scores become Python objects.
    """
    names, maps = spans.columns["Events.Name"], spans.columns["Events.Attributes"]
    assert isinstance(names, Lists)
    assert isinstance(names.values, Strings)
    assert isinstance(maps, MapLists)
    total = len(names.values)
    if not total:
        return None, ""
    pairs = maps.values
    found = np.empty(total, np.int64)
    count = _evaluations(names.values.data, names.values.offsets, pairs.offsets, pairs.keys.data, pairs.keys.offsets,
                         pairs.values.data, pairs.values.offsets, found)
    if not count:
        return None, ""
    rows: list[Row] = []
    refused: Counter[str] = Counter()
    if count > ENTRIES_MAX:
        refused[f"a request has at most {ENTRIES_MAX} scores"] = count - ENTRIES_MAX
    events = found[:min(count, ENTRIES_MAX)]
    owners = np.searchsorted(names.offsets, events, side="right") - 1
    identity = _identity(spans, owners)
    for place, event in enumerate(events):
        said: dict[str, str] = {}
        for pair in range(int(pairs.offsets[event]), int(pairs.offsets[event + 1])):
            said.setdefault(pairs.keys[pair].decode("utf-8", "replace"), pairs.values[pair].decode("utf-8", "replace"))
        try:
            rows.append(_of_event(said, *(column[place] for column in identity), limits=limits))
        except Rejected as rule:
            refused[str(rule)] += 1
    why = [f"{many} evaluation event(s) are no scores, their spans are kept: {rule}" for rule, many in refused.items()]
    return (block(rows, received_ns, tenant) if rows else None), "; ".join(why)


_INHERITED: Final = ("ServiceName", "GenAiModel", "TraceId", "SpanId", "ScopeVersion", "ScopeName")


def _identity(spans: Block, owners: Array) -> list[list[Any]]:
    """Start and texts of the spans that these events belong to."""
    times = spans.columns["Timestamp"]
    assert isinstance(times, np.ndarray)
    found: list[list[Any]] = [times[owners].tolist()]
    for name in _INHERITED:
        texts = spans.columns[name]
        assert isinstance(texts, Strings)
        found.append([text.decode("utf-8", "replace") for text in pick(texts, owners)])
    return found


def _of_event(said: dict[str, str], time_ns: int, service: str, model: str, trace: str, span: str, version: str, scope: str, *,
              limits: Limits) -> Row:
    label = said.get(c.EVALUATION_SCORE_LABEL, "")
    sequence = said.get(c.EVALUATION_SEQUENCE, "0")
    if not sequence.isascii() or not sequence.isdigit() or len(sequence) > 9 or int(sequence) >= limits.sequences_max:
        raise Rejected(f"{c.EVALUATION_SEQUENCE} must be a whole number from 0 to {limits.sequences_max - 1}")
    try:
        value = float(said[c.EVALUATION_SCORE_VALUE]) if c.EVALUATION_SCORE_VALUE in said else math.nan
    except ValueError:
        raise Rejected(f"{c.EVALUATION_SCORE_VALUE} must be a number") from None
    source = said.get(c.EVALUATION_SOURCE) or service or scope or "unknown"
    return Row(
        time_ns=time_ns, service=service[:NAME_CHARS_MAX], model=model[:NAME_CHARS_MAX], trace=trace, span=span,
        sequence=int(sequence), name=said.get(c.EVALUATION_NAME, ""), version=version[:NAME_CHARS_MAX],
        source=named(source[:NAME_CHARS_MAX]), value=value,
        label=label, explanation=said.get(c.EVALUATION_EXPLANATION, ""),
    )


@entry
def _seen(data: Any, events: Any, attributes: Any, count: int) -> Any:
    text = raw(data)
    for event in range(count):
        at = events[event, t.E_NAME]
        if not _is(text, at, at + events[event, t.E_NAME_N], _EVENT, True):
            continue
        own = False
        for pair in range(events[event, t.E_ATTRIBUTE], events[event, t.E_ATTRIBUTE] + events[event, t.E_ATTRIBUTE_N]):
            key, value = attributes[pair, t.A_KEY], attributes[pair, t.A_VALUE]
            if _is(text, key, key + attributes[pair, t.A_KEY_N], _NAME, True):
                own = attributes[pair, t.A_KIND] == t.TEXT and _is(text, value, value + attributes[pair, t.A_VALUE_N], _OWN, False)
                break
        if not own:
            return True
    return False


def seen(data: Any, events: Any, attributes: Any, count: int) -> bool:
    """Whether any of the first `count` events is a score that `of_events` would look at. events, attributes: see tables.py."""
    return bool(_seen(data, events, attributes, count))
