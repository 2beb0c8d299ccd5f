"""Redaction: what must not be kept is replaced in a request before it reaches the disk, so no spool, store or dead letter holds it.

Not a detector: it knows the names and patterns the operator gave and nothing else, and it touches attributes, status messages and
the bodies of log records, not the names of spans. A request in which nothing matches goes on byte for byte. It costs a parse of
each request with python-protobuf and a walk over its attributes, several times what the rest of taking a request costs, which is
why nothing of it runs unless it is configured.
"""

from __future__ import annotations

import fnmatch
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson
import re2
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cutaway_collector.contracts import Encoding, Receipt, Submit
from cutaway_collector.errors import MalformedRequest, Overloaded, SettingsError
from cutaway_collector.settings import Settings

REDACTED: Final = "[redacted]"
PATTERNS_MAX: Final = 200
PATTERN_CHARS_MAX: Final = 2000
_DEPTH_MAX: Final = 100
"""Nesting of a JSON request; python-protobuf has the same limit. Deeper requests are refused: they could not be looked through."""

LARGE_BYTES: Final = 1024 * 1024
TURN_SECONDS_MAX: Final = 5.0

Inspect: TypeAlias = Callable[[bytes, Encoding], None]
Message: TypeAlias = Any
"""A protobuf message or a JSON object; the generated classes share no useful type."""


class Redactor:
    """What to replace, and the walks that do it.

    names: of attributes, in any case, with `*` and `?` for any characters, also of the keys of nested maps; their texts become
    "[redacted]", their values of other kinds go, attribute and all. patterns: RE2 regular expressions, which run in time linear to
    the text; what matches in a text becomes "[redacted]". Raises SettingsError.
    """

    def __init__(self, names: Iterable[str], patterns: Iterable[str]) -> None:
        globs = [fnmatch.translate(name) for name in names]
        self._named: Callable[[str], object] = re.compile("|".join(globs) if globs else r"(?!)", re.IGNORECASE).match
        self._patterns = [_compiled(pattern) for pattern in patterns]
        if len(self._patterns) > PATTERNS_MAX:
            raise SettingsError(f"redact_patterns_file has {len(self._patterns)} patterns, at most {PATTERNS_MAX}: join some by |")

    @classmethod
    def of(cls, settings: Settings) -> Redactor | None:
        """As the settings say; None when they ask for nothing. Raises SettingsError."""
        names = [name.strip() for name in settings.redact_attributes.split(",") if name.strip()]
        patterns: list[str] = []
        if settings.redact_patterns_file:
            try:
                lines = Path(settings.redact_patterns_file).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"redact_patterns_file cannot be read: {settings.redact_patterns_file}: {error}") from None
            patterns = [line for line in lines if line.strip() and not line.startswith("#")]
        return cls(names, patterns) if names or patterns else None

    def __call__(self, payload: bytes, encoding: Encoding) -> bytes:
        """The request without what must not be kept. Raises MalformedRequest when it cannot be looked through."""
        walk = _Walk(self._named, self._patterns, room_bytes=len(payload))
        logs = encoding.startswith("logs/")
        if encoding.endswith("json"):
            try:
                document = orjson.loads(payload)
                if encoding == "scores/json":
                    walk.scores(document)
                else:
                    walk.json(document, 0)
            except (ValueError, RecursionError):
                raise MalformedRequest("the body is not JSON that can be looked through for what must be redacted") from None
            return orjson.dumps(document) if walk.changed else payload
        request: Message = ExportLogsServiceRequest() if logs else ExportTraceServiceRequest()
        try:
            request.ParseFromString(payload)
        except (DecodeError, RecursionError):
            raise MalformedRequest("the body is not an OTLP message that can be looked through for what must be redacted") from None
        for group in request.resource_logs if logs else request.resource_spans:
            walk.attributes(group.resource.attributes)
            for part in group.scope_logs if logs else group.scope_spans:
                walk.attributes(part.scope.attributes)
                for item in part.log_records if logs else part.spans:
                    walk.record(item) if logs else walk.span(item)
        return bytes(request.SerializeToString()) if walk.changed else payload


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        if len(pattern) > PATTERN_CHARS_MAX:
            raise ValueError(f"it has more than {PATTERN_CHARS_MAX} characters")
        compiled = re2.compile(pattern, options)
        if compiled.search(""):
            raise ValueError("it matches the empty text, and so everywhere")
    except (re2.error, ValueError) as error:
        said = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else error
        raise SettingsError(f"redact_patterns_file: {pattern[:80]!r} is not a pattern of RE2 that can be used: {said}") from None
    return compiled


class _Walk:
    """One request: its texts, replaced in place. room_bytes: how much they may grow before matches take the whole text along."""

    def __init__(self, named: Callable[[str], object], patterns: list[Any], *, room_bytes: int) -> None:
        self._named = named
        self._patterns = patterns
        self._room = room_bytes
        self.changed = False

    def span(self, span: Message) -> None:
        """Attributes of span, events and links, and the status message."""
        self.attributes(span.attributes)
        for event in span.events:
            self.attributes(event.attributes)
        for link in span.links:
            self.attributes(link.attributes)
        if span.status.message:
            span.status.message = self.text(span.status.message)

    def record(self, record: Message) -> None:
        """Attributes and body of a log record."""
        self.attributes(record.attributes)
        self._value(record.body)

    def attributes(self, attributes: Message) -> None:
        """A repeated KeyValue."""
        for index in range(len(attributes) - 1, -1, -1):
            item = attributes[index]
            if not self._named(item.key):
                self._value(item.value)
                continue
            self.changed = True
            if item.value.WhichOneof("value") == "string_value":
                item.value.string_value = REDACTED
            else:
                del attributes[index]

    def _value(self, value: Message) -> None:
        kind = value.WhichOneof("value")
        if kind == "string_value":
            text = value.string_value
            shown = self.text(text)
            if shown is not text:  # an assignment costs as much as the search
                value.string_value = shown
        elif kind == "kvlist_value":
            self.attributes(value.kvlist_value.values)
        elif kind == "array_value":
            for item in value.array_value.values:
                self._value(item)

    def text(self, text: str) -> str:
        """The text without what matches. One that is JSON, as messages are, is looked through as it reads, not as it is escaped."""
        if "\\" in text and self._patterns:
            text = self._unescaped(text)
        for pattern in self._patterns:
            if not pattern.search(text):
                continue
            before = len(text)
            text = pattern.sub(REDACTED, text) if self._room > 0 else REDACTED
            self._room -= max(0, len(text) - before)
            self.changed = True
        return text

    def _unescaped(self, text: str) -> str:
        """JSON written with as few escapes as can be, where a pattern matches only then; else the text as it is."""
        try:
            plain = orjson.dumps(orjson.loads(text)).decode()
        except ValueError:
            return text
        return plain if any(pattern.search(plain) and not pattern.search(text) for pattern in self._patterns) else text

    def json(self, node: Any, depth: int) -> None:
        """The same walk over OTLP/JSON: objects with a `key` and a `value` are attributes, wherever they are."""
        if depth > _DEPTH_MAX:
            raise RecursionError
        if isinstance(node, list):
            node[:] = [item for item in node if not self._goes(item)]
            for item in node:
                self.json(item, depth + 1)
        elif isinstance(node, dict):
            for key, item in node.items():
                if isinstance(item, str) and key in ("stringValue", "message"):
                    node[key] = self.text(item)
                else:
                    self.json(item, depth + 1)

    def scores(self, document: Any) -> None:
        """The body of /v1/scores: every text of a score but its ids and time, its field's name being the attribute's."""
        for item in document if isinstance(document, list) else [document]:
            for key, value in item.items() if isinstance(item, dict) else ():
                if not isinstance(value, str) or key in ("trace_id", "span_id", "timestamp"):
                    continue
                if self._named(key):
                    self.changed, item[key] = True, REDACTED
                else:
                    item[key] = self.text(value)

    def _goes(self, item: Any) -> bool:
        """Whether a JSON attribute must go; one whose text can be replaced stays."""
        key = item.get("key") if isinstance(item, dict) and "value" in item else None
        if not isinstance(key, str) or not self._named(key):
            return False
        self.changed = True
        if isinstance(item["value"], dict) and isinstance(item["value"].get("stringValue"), str):
            item["value"] = {"stringValue": REDACTED}
            return False
        return True


def redacting(submit: Submit, redactor: Redactor, inspect: Inspect) -> Submit:
    """contracts.Submit that hands on redacted requests; raises what `submit` and `inspect` raise, MalformedRequest and Overloaded.

    inspect: refuses, without parsing, what would take a parser too much; it has the first look. What is larger than LARGE_BYTES is
    looked through alone, for a parser may take many times its bytes.
    """
    turn = threading.Lock()

    def redacted(payload: bytes, encoding: Encoding, tenant: str = "") -> Receipt:
        inspect(payload, encoding)
        large = len(payload) > LARGE_BYTES
        if large and not turn.acquire(timeout=TURN_SECONDS_MAX):
            raise Overloaded("another large request is being looked through for what must be redacted: send this one again later")
        try:
            found = redactor(payload, encoding)
        finally:
            if large:
                turn.release()
        return submit(found, encoding, tenant)

    return redacted
