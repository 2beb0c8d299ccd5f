"""Redaction: what must not be kept leaves a request before anything else sees it, and nothing else in the request changes."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from cutaway_collector import redact
from cutaway_collector.commands.load import make_request
from cutaway_collector.contracts import Encoding, Receipt
from cutaway_collector.errors import MalformedRequest, Overloaded, SettingsError, TooLarge
from cutaway_collector.redact import PATTERNS_MAX, REDACTED, Redactor, redacting
from cutaway_collector.settings import Settings

SECRET = "hunter2"
NAMES = ["password", "*.prompt", "user.?"]
PATTERNS = [r"sk-[A-Za-z0-9]{8,}", r"\b\d{4}( ?\d{4}){3}\b"]


def _text(value: str) -> AnyValue:
    return AnyValue(string_value=value)


def _list(*values: AnyValue) -> AnyValue:
    return AnyValue(array_value=ArrayValue(values=values))


def _map(**values: AnyValue) -> AnyValue:
    return AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=key, value=value) for key, value in values.items()]))


PLACES: dict[str, Callable[[ExportTraceServiceRequest], Any]] = {
    "resource": lambda request: request.resource_spans[0].resource.attributes,
    "scope": lambda request: request.resource_spans[0].scope_spans[0].scope.attributes,
    "span": lambda request: request.resource_spans[0].scope_spans[0].spans[1].attributes,
    "event": lambda request: request.resource_spans[0].scope_spans[0].spans[1].events.add(name="e").attributes,
    "link": lambda request: request.resource_spans[0].scope_spans[0].spans[1].links.add(trace_id=b"1" * 16).attributes,
}


def _request() -> ExportTraceServiceRequest:
    return make_request(3, 4, random.Random(1), 10**18)


def _as_json(request: Any) -> bytes:
    """OTLP/JSON as senders write it: lowerCamelCase, ids in hex (here left as base64, which redaction never looks at)."""
    return json_format.MessageToJson(request).encode()


def _through(redactor: Redactor, request: ExportTraceServiceRequest, encoding: Encoding) -> tuple[bytes, ExportTraceServiceRequest]:
    if encoding == "json":
        out = redactor(_as_json(request), encoding)
        return out, json_format.Parse(out, ExportTraceServiceRequest())
    out = redactor(request.SerializeToString(), encoding)
    return out, ExportTraceServiceRequest.FromString(out)


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
@pytest.mark.parametrize("place", list(PLACES))
@pytest.mark.parametrize("key", ["password", "Password", "gen_ai.prompt", "user.x"])
def test_a_named_attribute_loses_its_text_wherever_it_is(encoding: Encoding, place: str, key: str) -> None:
    """Resource, scope, span, event and link; by name or glob, in any case; all neighbours stay as they were."""
    request = _request()
    PLACES[place](request).add(key=key).value.string_value = SECRET
    wanted = ExportTraceServiceRequest.FromString(request.SerializeToString().replace(SECRET.encode(), b"[SAME]!"))

    out, found = _through(Redactor(NAMES, []), request, encoding)
    assert SECRET.encode() not in out
    assert found.SerializeToString() != request.SerializeToString()
    assert _restored(found, "[SAME]!") == wanted


def _restored(request: ExportTraceServiceRequest, text: str) -> ExportTraceServiceRequest:
    """The request with the mark replaced, to compare all the rest."""
    return json_format.Parse(json_format.MessageToJson(request).replace(REDACTED, text), ExportTraceServiceRequest())


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
@pytest.mark.parametrize(
    "value",
    [_list(_text(SECRET)), _map(a=_text(SECRET)), AnyValue(bytes_value=SECRET.encode()), AnyValue(int_value=5),
     AnyValue(bool_value=True), AnyValue()],
    ids=lambda value: str(value.WhichOneof("value")),
)
def test_a_named_attribute_of_another_kind_goes(encoding: Encoding, value: AnyValue) -> None:
    """A number cannot say "[redacted]", and the decoder of packed series would not know what to make of it."""
    request = _request()
    before = request.SerializeToString()
    PLACES["span"](request).append(KeyValue(key="password", value=value))

    _, found = _through(Redactor(NAMES, []), request, encoding)
    assert before == found.SerializeToString()


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
@pytest.mark.parametrize(
    "value",
    [_text(f"key is sk-{SECRET}{SECRET}, card 4111 1111 1111 1111"), _list(_text("x"), _text(f"sk-{SECRET}{SECRET}")),
     _map(inner=_map(deeper=_list(_text(f"sk-{SECRET}{SECRET}")))), _map(password=_text(SECRET))],
    ids=["text", "list", "map", "named in a map"],
)
def test_a_pattern_is_found_at_any_depth(encoding: Encoding, value: AnyValue) -> None:
    """What matches in a text is replaced, the rest of the text stays; names count inside maps too."""
    request = _request()
    PLACES["span"](request).append(KeyValue(key="note", value=value))

    out, found = _through(Redactor(NAMES, PATTERNS), request, encoding)
    assert SECRET.encode() not in out
    assert b"4111" not in out
    kept = found.resource_spans[0].scope_spans[0].spans[1].attributes[-1].value
    if value.string_value:
        assert f"key is {REDACTED}, card {REDACTED}" == kept.string_value


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_a_status_message_is_a_text_too(encoding: Encoding) -> None:
    """Exceptions like to quote what they were given."""
    request = _request()
    request.resource_spans[0].scope_spans[0].spans[0].status.message = f"bad token sk-{SECRET}{SECRET}"

    _, found = _through(Redactor([], PATTERNS), request, encoding)
    assert f"bad token {REDACTED}" == found.resource_spans[0].scope_spans[0].spans[0].status.message


@pytest.mark.parametrize("encoding", ["logs/protobuf", "logs/json"])
def test_logs_are_redacted_as_spans_are(encoding: Encoding) -> None:
    """Attributes of resource and record, and the body."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.add(key="password").value.string_value = SECRET
    record = group.scope_logs.add().log_records.add()
    record.body.CopyFrom(_map(said=_text(f"sk-{SECRET}{SECRET}")))
    record.attributes.add(key="user.1").value.string_value = SECRET

    payload = _as_json(request) if encoding == "logs/json" else request.SerializeToString()
    assert SECRET.encode() not in Redactor(NAMES, PATTERNS)(payload, encoding)


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_a_request_with_nothing_to_hide_goes_on_byte_for_byte(encoding: Encoding) -> None:
    """Unusual spacing, unknown fields and the order of fields included."""
    request = _request()
    if encoding == "json":
        payload = json.dumps({**json.loads(_as_json(request)), "unknown": [1, 2.50]}, indent=3).encode()
    else:
        payload = request.SerializeToString() + b"\xfa\x3e\x03xyz" + request.SerializeToString()

    assert payload is Redactor(NAMES, PATTERNS)(payload, encoding)


def test_unknown_fields_survive_a_redaction() -> None:
    """A newer sender's fields are not lost on the way."""
    request = _request()
    PLACES["span"](request).add(key="password").value.string_value = SECRET
    out = Redactor(NAMES, [])(request.SerializeToString() + b"\xfa\x3e\x03xyz", "protobuf")

    assert out.endswith(b"\xfa\x3e\x03xyz")


@pytest.mark.parametrize(
    ("payload", "encoding"),
    [(b"\xff\xff\xff", "protobuf"), (b"\xff", "logs/protobuf"), (b"{", "json"), (b"", "json"), (b"[" * 5000 + b"]" * 5000, "json"),
     (b'{"a":' * 300 + b"1" + b"}" * 300, "logs/json")],
)
def test_what_cannot_be_looked_through_is_refused(payload: bytes, encoding: Encoding) -> None:
    """Whatever the decoder might still make of it: kept unseen it could hold what must not be kept."""
    with pytest.raises(MalformedRequest):
        Redactor(NAMES, PATTERNS)(payload, encoding)


@pytest.mark.timeout(60)
def test_no_pattern_and_text_take_long() -> None:
    """Patterns that keep a backtracking engine busy for ages are linear here."""
    request = _request()
    PLACES["span"](request).add(key="note").value.string_value = "a" * 200_000 + "!"
    redactor = Redactor(["*a*a*a*a*a*a*b"], [r"(a+)+$", r"(a|a)*b", r"(.*)(.*)(.*)(.*)x"])
    PLACES["span"](request).add(key="a" * 2000).value.string_value = "x"

    redactor(request.SerializeToString(), "protobuf")


def test_a_request_does_not_grow_beyond_twice_itself() -> None:
    """A pattern that matches every character would otherwise make ten bytes of each."""
    request = _request()
    for number in range(50):
        PLACES["span"](request).add(key=f"note.{number}").value.string_value = "7" * 20_000
    payload = request.SerializeToString()

    assert len(Redactor([], ["[0-9]"])(payload, "protobuf")) < 2.5 * len(payload)


def test_the_settings_say_what_to_replace(tmp_path: Path) -> None:
    """Names with commas, patterns a line each with comments; without either nothing is done."""
    patterns = tmp_path / "patterns"
    patterns.write_text("# keys\nsk-[a-z0-9]+\n\n")
    redactor = Redactor.of(Settings(redact_attributes="a, b.*", redact_patterns_file=str(patterns)))

    assert None is Redactor.of(Settings())
    assert redactor is not None
    body, wanted = ([{"key": "b.x", "value": {"stringValue": name}}, {"key": "c", "value": {"stringValue": f"# keys {text}"}}]
                    for name, text in (("1", "sk-1"), (REDACTED, REDACTED)))
    assert wanted == orjson.loads(redactor(orjson.dumps(body), "json"))


@pytest.mark.parametrize("pattern", ["(", "a*", "(?=x)", r"(a)\1", "x" * 3000])
def test_a_pattern_that_cannot_be_used_stops_the_start(tmp_path: Path, pattern: str) -> None:
    """Better no collector than one that keeps what it was told not to; the message names the setting."""
    (tmp_path / "patterns").write_text(pattern)

    with pytest.raises(SettingsError, match="redact_patterns_file"):
        Redactor.of(Settings(redact_patterns_file=str(tmp_path / "patterns")))


def test_patterns_are_counted_and_must_be_there(tmp_path: Path) -> None:
    """A file that is missing, or has thousands of lines, is a mistake to hear of at the start."""
    (tmp_path / "patterns").write_text("x\n" * (PATTERNS_MAX + 1))
    for path in ("patterns", "missing"):
        with pytest.raises(SettingsError, match="redact_patterns_file"):
            Redactor.of(Settings(redact_patterns_file=str(tmp_path / path)))


def test_submit_gets_the_redacted_request_and_the_tenant() -> None:
    """The wrapper changes the bytes and hands everything else through."""
    seen: list[Any] = []

    def submit(payload: bytes, encoding: Encoding, tenant: str = "") -> Receipt:
        seen.append((payload, encoding, tenant))
        return Receipt(1, 2, "three")

    request = _request()
    PLACES["span"](request).add(key="password").value.string_value = SECRET
    redacted = redacting(submit, Redactor(NAMES, []), lambda payload, encoding: None)
    assert Receipt(1, 2, "three") == redacted(request.SerializeToString(), "protobuf", "acme")
    assert SECRET.encode() not in seen[0][0]
    assert ("protobuf", "acme") == seen[0][1:]


@pytest.mark.parametrize("escaped", [True, False])
def test_a_pattern_is_found_behind_the_escapes_of_json(escaped: bool) -> None:
    """Messages are JSON in a text, which json.dumps writes in ASCII: what a reader sees is what is looked through."""
    request = _request()
    messages = json.dumps([{"role": "user", "content": "ask Müller about it"}], ensure_ascii=escaped)
    PLACES["resource"](request).add(key="messages").value.string_value = messages
    shown = ExportTraceServiceRequest.FromString(Redactor([], ["Müller"])(request.SerializeToString(), "protobuf"))
    text = PLACES["resource"](shown)[-1].value.string_value
    assert json.loads(text) == [{"role": "user", "content": f"ask {REDACTED} about it"}]


def test_a_request_is_inspected_before_it_is_parsed() -> None:
    """What a parser would choke on never reaches one, and large requests are looked through one at a time."""
    def inspect(payload: bytes, encoding: Encoding) -> None:
        raise TooLarge("too many parts")

    def never(payload: bytes, encoding: Encoding, tenant: str = "") -> Receipt:
        raise AssertionError("a refused request was handed on")

    with pytest.raises(TooLarge):
        redacting(never, Redactor(NAMES, []), inspect)(b"not protobuf at all", "protobuf")


def test_large_requests_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is looked through a second one waits, then is told to come back; a small one passes."""
    monkeypatch.setattr(redact, "TURN_SECONDS_MAX", 0.01)
    began, go_on = threading.Event(), threading.Event()

    class Slow(Redactor):
        def __call__(self, payload: bytes, encoding: Encoding) -> bytes:
            if payload.startswith(b"first"):
                began.set()
                go_on.wait(20)
            return payload

    submit = redacting(lambda payload, encoding, tenant="": Receipt(1, 0, ""), Slow(NAMES, []), lambda payload, encoding: None)
    first = threading.Thread(target=submit, args=(b"first" + bytes(redact.LARGE_BYTES), "json"))
    first.start()
    try:
        assert began.wait(20)
        with pytest.raises(Overloaded):
            submit(bytes(redact.LARGE_BYTES + 1), "json")
        assert submit(b"{}", "json").accepted == 1
    finally:
        go_on.set()
        first.join()
    assert submit(bytes(redact.LARGE_BYTES + 1), "json").accepted == 1
