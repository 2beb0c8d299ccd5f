"""Scores as others send them: the JSON of /v1/scores, and evaluation events on spans."""

from __future__ import annotations

import datetime
import json
import math
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cutaway_collector import decode
from cutaway_collector.contracts import Decoded
from cutaway_collector.decode import scores as module
from cutaway_collector.errors import MalformedRequest
from decode_helpers import RECEIVED_NS, key_value, rows

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD: dict[str, Any] = {"trace_id": TRACE, "span_id": SPAN, "name": "helpful", "value": 0.5}


@pytest.fixture(autouse=True, scope="module")
def _compiled() -> None:
    decode.warm_up()


def sent(content: Any) -> Decoded:
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    return decode.decode(payload, "scores/json", received_ns=RECEIVED_NS, tenant="team")


def only(content: Any) -> dict[str, Any]:
    made = sent(content)
    assert made.scores is not None
    assert (made.rejected, made.message, made.spans.rows, made.tokens.rows) == (0, "", 0, 0)
    (row,) = rows(made.scores)
    return row


def test_every_field_has_its_column() -> None:
    """And the tenant is the credential's, the version the arrival."""
    assert only({**GOOD, "sequence": 3, "label": "yes", "explanation": "to the point", "source": "user", "scorer_version": "2",
                 "timestamp": "2026-01-31T09:00:00.5+01:00", "service": "shop", "model": "gpt2"}) == {
        "Timestamp": 1_769_846_400_500_000_000, "TenantId": b"team", "ServiceName": b"shop", "GenAiModel": b"gpt2",
        "TraceId": TRACE.encode(), "SpanId": SPAN.encode(), "SeqIndex": 3, "IngestedAt": RECEIVED_NS // 10**6,
        "ScoreName": b"helpful", "ScorerVersion": b"2", "Source": b"user", "Value": 0.5, "Label": b"yes",
        "Explanation": b"to the point", "Version": RECEIVED_NS // 10**6, "IsDeleted": 0,
    }


@pytest.mark.parametrize(("change", "column", "expected"), [
    ({}, "Timestamp", RECEIVED_NS), ({}, "Source", b"api"), ({}, "SeqIndex", 0), ({"span_id": None}, "SpanId", b""),
    ({"span_id": ""}, "SpanId", b""), ({"trace_id": TRACE.upper()}, "TraceId", TRACE.encode()), ({"value": 3}, "Value", 3.0),
    ({"timestamp": RECEIVED_NS + 1}, "Timestamp", RECEIVED_NS + 1), ({"source": "collector"}, "Source", b"collector (sent)"),
    ({"sequence": None}, "SeqIndex", 0),
])
def test_what_may_be_left_out_or_said_otherwise(change: dict[str, Any], column: str, expected: Any) -> None:
    """A whole trace, ids in capitals, whole numbers, nanoseconds; nobody passes for the collector itself."""
    assert only({**GOOD, **change})[column] == expected


def test_a_label_alone_is_a_score() -> None:
    """Its value is NaN, which no statistic counts."""
    row = only({"trace_id": TRACE, "name": "tone", "label": "rude"})
    assert (row["Label"], math.isnan(row["Value"])) == (b"rude", True)


@pytest.mark.parametrize(("change", "rule"), [
    ({"trace_id": "abc"}, "trace_id is 32 hex digits"), ({"trace_id": "0" * 32}, "not all zero"), ({"trace_id": None}, "trace_id"),
    ({"span_id": 5}, "span_id is 16 hex digits"), ({"name": ""}, "has a name"), ({"name": 5}, "name is a string"),
    ({"name": "n" * 201}, "at most 200 characters, this one has 201"), ({"value": True}, "write 1 or 0"),
    ({"value": "1"}, "a number"),
    ({"value": None}, "finite number as value, or a label"), ({"sequence": -1}, "from 0 to"), ({"sequence": 65_535}, "from 0 to"),
    ({"sequence": 0.0}, "whole number"), ({"timestamp": "yesterday"}, "ISO 8601"), ({"timestamp": "2026-01-31T09:00:00"}, "offset"),
    ({"timestamp": 5}, "1971 to 2105"), ({"timestamp": "1890-01-01T00:00:00Z"}, "1971 to 2105"), ({"vaule": 1}, "no field 'vaule'"),
    ({"explanation": "x" * 20_001}, "at most 20000"), ({"label": []}, "label is a string"),
])
def test_a_bad_score_is_turned_away_alone(change: dict[str, Any], rule: str) -> None:
    """With its place in the list and the rule; its neighbours are kept."""
    made = sent([GOOD, {**GOOD, **change}, GOOD])
    assert made.scores is not None
    assert (made.scores.rows, made.rejected) == (2, 1)
    assert made.message.startswith("score 1: ")
    assert rule in made.message


def test_an_entry_that_is_no_object_is_turned_away_alone() -> None:
    """Whatever JSON knows."""
    made = sent([GOOD, 5, None, "x", [], True])
    assert made.scores is not None
    assert (made.scores.rows, made.rejected) == (1, 5)


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[" * 100_000, b'{"value": NaN}', b'{"name": "\\ud800"}'])
def test_a_body_that_is_not_json_is_refused(payload: bytes) -> None:
    """As a whole, without repeating it."""
    with pytest.raises(MalformedRequest, match="the body is not JSON"):
        sent(payload)


def test_a_request_without_one_good_score_is_refused() -> None:
    """Nobody believes it was stored; many reasons are told in part."""
    with pytest.raises(MalformedRequest, match=r"score 0: a score is a JSON object.*and 30 more"):
        sent([1] * 50)


def test_too_many_scores_are_refused() -> None:
    """As a whole, with the limit."""
    with pytest.raises(MalformedRequest, match="at most 50000 scores, this one has 50001"):
        sent([0] * 50_001)


def test_nothing_is_nothing() -> None:
    """An empty list is fine."""
    made = sent([])
    assert (made.scores, made.rejected, made.message) == (None, 0, "")


# --- against another reading of the same rules ---------------------------------------------------------------------------------

_HEX = {"trace_id": re.compile(r"[0-9a-fA-F]{32}"), "span_id": re.compile(r"[0-9a-fA-F]{16}")}
_TEXTS = {"name": 200, "label": 200, "source": 200, "scorer_version": 200, "service": 200, "model": 200, "explanation": 20_000}


def is_good(entry: Any) -> bool:
    """The rules once more, field by field."""
    if not isinstance(entry, dict) or set(entry) - {*_TEXTS, *_HEX, "sequence", "value", "timestamp"}:
        return False
    given = {key: value for key, value in entry.items() if value is not None}
    if given.get("span_id") == "":
        del given["span_id"]
    if "trace_id" not in given or not given.get("name"):
        return False
    for key, pattern in _HEX.items():
        if key in given and (not isinstance(given[key], str) or not pattern.fullmatch(given[key]) or int(given[key], 16) == 0):
            return False
    if any(key in given and (not isinstance(given[key], str) or len(given[key]) > most) for key, most in _TEXTS.items()):
        return False
    sequence, value = given.get("sequence", 0), given.get("value")
    if type(sequence) is not int or not 0 <= sequence <= 65_534:
        return False
    if not (value is None or type(value) in (int, float)) or (value is None and not given.get("label")):
        return False
    moment = given.get("timestamp", 1_700_000_000_000_000_000)
    if isinstance(moment, str):
        try:
            parsed = datetime.datetime.fromisoformat(moment)
        except ValueError:
            return False
        if parsed.tzinfo is None:
            return False
        return 1971 <= parsed.astimezone(datetime.UTC).year <= 2105
    return type(moment) is int and 31_536_000 * 10**9 <= moment < 4_291_747_200 * 10**9


_text = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["", "x" * 201])
_scalar = st.none() | st.booleans() | st.integers(-3, 70_000) | st.floats(allow_nan=False, allow_infinity=False) | _text
_any = st.recursive(_scalar, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_text, inner, max_size=2), max_leaves=4)
_entry = st.fixed_dictionaries({}, optional={
    "trace_id": st.sampled_from([TRACE, TRACE.upper(), "0" * 32, TRACE[:-1], TRACE[:-1] + "g", "٣" * 32]) | _any,
    "span_id": st.sampled_from([SPAN, "", "0" * 16, SPAN + "0"]) | _any,
    "name": st.just("helpful") | _any, "value": st.just(0.5) | _any, "label": st.just("yes") | _any, "explanation": _any,
    "source": _any, "scorer_version": _any, "service": _any, "model": _any, "sequence": st.sampled_from([0, 65_534, 65_535]) | _any,
    "timestamp": st.sampled_from([RECEIVED_NS, "2026-01-31", "2026-01-31T09:00Z", "1970-12-31T23:59:59Z", 2**63]) | _any,
    "other": _any,
})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.just(GOOD) | _entry.map(lambda entry: {**GOOD, **entry}) | _entry | _any, max_size=5))
@example([{**GOOD, "trace_id": "0X" + "1" * 30}])
def test_hostile_json_is_judged_by_the_rules_and_nothing_else(entries: list[Any]) -> None:
    """Any JSON: what is kept, how many are turned away, and what is refused agree with the rules read once more."""
    good = [entry for entry in entries if is_good(entry)]
    if entries and not good:
        with pytest.raises(MalformedRequest):
            sent(entries)
        return
    made = sent(entries)
    kept = [] if made.scores is None else rows(made.scores)
    assert (len(kept), made.rejected) == (len(good), len(entries) - len(good))
    for row, entry in zip(kept, good, strict=True):
        assert (row["ScoreName"], row["TraceId"]) == (entry["name"].encode(), entry["trace_id"].lower().encode())
        assert row["Label"] == (entry.get("label") or "").encode()
        assert row["Value"] == entry["value"] if entry.get("value") is not None else math.isnan(row["Value"])


# --- evaluation events on spans ------------------------------------------------------------------------------------------------

VERDICT: dict[str, Any] = {"gen_ai.evaluation.name": "tone", "gen_ai.evaluation.score.value": 0.25}


def spans(*events: tuple[str, dict[str, Any]], ahead: int = 0) -> Decoded:
    """A request of `ahead` plain spans and one with these events."""
    message = ExportTraceServiceRequest()
    group = message.resource_spans.add()
    group.resource.attributes.append(key_value("service.name", "shop"))
    scoped = group.scope_spans.add()
    scoped.scope.version = "7"
    for number in range(ahead + 1):
        span = scoped.spans.add(trace_id=bytes.fromhex(TRACE), span_id=(number + 1).to_bytes(8, "big"), name="chat",
                                start_time_unix_nano=RECEIVED_NS + number)
        span.attributes.append(key_value("gen_ai.request.model", "gpt2"))
    for name, attributes in events:
        event = span.events.add(name=name, time_unix_nano=RECEIVED_NS + 99)
        event.attributes.extend(key_value(*pair) for pair in attributes.items())
    return decode.decode(message.SerializeToString(), "protobuf", received_ns=RECEIVED_NS, tenant="team")


def test_an_evaluation_event_is_a_score_of_its_span() -> None:
    """With the span's service, model, ids and start; the event stays on the span."""
    made = spans(("other", {}), ("gen_ai.evaluation.result", {
        **VERDICT, "gen_ai.evaluation.score.label": "mild", "gen_ai.evaluation.explanation": "polite", "cutaway.sequence.index": 2,
        "cutaway.evaluation.source": "user"}), ahead=3)
    assert made.scores is not None
    assert (made.message, made.rejected, made.spans.rows) == ("", 0, 4)
    assert rows(made.scores) == [{
        "Timestamp": RECEIVED_NS + 3, "TenantId": b"team", "ServiceName": b"shop", "GenAiModel": b"gpt2",
        "TraceId": TRACE.encode(), "SpanId": b"0000000000000004", "SeqIndex": 2, "IngestedAt": RECEIVED_NS // 10**6,
        "ScoreName": b"tone", "ScorerVersion": b"7", "Source": b"user", "Value": 0.25, "Label": b"mild", "Explanation": b"polite",
        "Version": RECEIVED_NS // 10**6, "IsDeleted": 0,
    }]
    assert len(rows(made.spans)[3]["Events.Name"]) == 2


@pytest.mark.parametrize("event", [
    ("gen_ai.evaluation.results", VERDICT), ("gen_ai.evaluation.resulT", VERDICT), ("", VERDICT),
    ("gen_ai.evaluation.result", {**VERDICT, "gen_ai.evaluation.name": "cutaway.perplexity"}),
])
def test_other_events_are_no_scores(event: tuple[str, dict[str, Any]]) -> None:
    """Nor are the SDK's own, which say what is on the span already."""
    made = spans(event)
    assert (made.scores, made.message, made.spans.rows) == (None, "", 1)


@pytest.mark.parametrize(("change", "rule"), [
    ({"gen_ai.evaluation.name": ""}, "has a name"), ({"gen_ai.evaluation.score.value": "high"}, "must be a number"),
    ({"gen_ai.evaluation.score.value": math.nan}, "finite number"), ({"gen_ai.evaluation.score.value": math.inf}, "finite number"),
    ({"cutaway.sequence.index": -1}, "whole number from 0"), ({"cutaway.sequence.index": 65_535}, "whole number from 0"),
])
def test_an_event_that_is_no_score_is_told_and_its_span_kept(change: dict[str, Any], rule: str) -> None:
    """Only the score is missing, and the sender knows why."""
    event = "gen_ai.evaluation.result"
    made = spans((event, VERDICT), (event, {**VERDICT, **change}))
    assert made.scores is not None
    assert (made.scores.rows, made.rejected, made.spans.rows) == (1, 0, 1)
    assert rule in made.message


def test_events_beyond_the_limit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request cannot make more Python objects than a request of scores can."""
    monkeypatch.setattr(module, "ENTRIES_MAX", 3)
    made = spans(*[("gen_ai.evaluation.result", {**VERDICT, "cutaway.sequence.index": index}) for index in range(5)])
    assert made.scores is not None
    assert made.scores.rows == 3
    assert made.message.startswith("2 evaluation event(s)")
