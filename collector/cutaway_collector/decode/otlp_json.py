"""OTLP/JSON written as OTLP protobuf, so that both encodings take one road afterwards. Validates; does not decide what is kept.

The rules are those of the OTLP specification where it departs from ProtoJSON: trace and span ids are hex, enums are whole numbers,
names are lowerCamelCase only, unknown names are ignored; and ProtoJSON elsewhere: 64-bit integers as numbers or strings, bytes as
base64, NaN and infinities as strings, null for absent.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import orjson

from cutaway_collector.amplification import check_json
from cutaway_collector.errors import MalformedRequest

_Writer: TypeAlias = Callable[[Any, str], bytes]

_FLOAT: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?\Z")
_INTEGER: Final = re.compile(r"-?(0|[1-9]\d*)\Z")
_SPECIAL: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def _fail(path: str, rule: str) -> MalformedRequest:
    return MalformedRequest(f"the body is not the OTLP/JSON message of its path: {path or 'the top'} must be {rule}")


def _varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes_field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _whole(value: Any, path: str, low: int, high: int) -> int:
    """ProtoJSON takes integers as numbers or decimal strings, and 1e3 or 2.0 where they are whole."""
    if (isinstance(value, str) and _INTEGER.match(value) and len(value) <= 20) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _fail(path, f"a whole number from {low} to {high}, as a number or a string")
    return value


def _text(number: int) -> _Writer:
    def write(value: Any, path: str) -> bytes:
        if not isinstance(value, str):
            raise _fail(path, "a string")
        return _bytes_field(number, value.encode())
    return write


def _id(number: int) -> _Writer:
    def write(value: Any, path: str) -> bytes:
        try:
            # bytes.fromhex skips spaces: only what survives a round trip is hex.
            raw = bytes.fromhex(value)
            if raw.hex() != value.lower():
                raise ValueError
        except (TypeError, ValueError):
            raise _fail(path, "hexadecimal digits (OTLP/JSON does not use base64 for ids)") from None
        return _bytes_field(number, raw)
    return write


def _enum(number: int) -> _Writer:
    def write(value: Any, path: str) -> bytes:
        if isinstance(value, str):
            raise _fail(path, "a number (OTLP/JSON does not use the names of enums)")
        return _varint(number << 3) + _varint(_whole(value, path, -(2**31), 2**31 - 1))
    return write


def _fixed64(number: int) -> _Writer:
    def write(value: Any, path: str) -> bytes:
        return _varint(number << 3 | 1) + struct.pack("<Q", _whole(value, path, 0, 2**64 - 1))
    return write


def _int64(number: int) -> _Writer:
    def write(value: Any, path: str) -> bytes:
        return _varint(number << 3) + _varint(_whole(value, path, -(2**63), 2**63 - 1))
    return write


def _bool(number: int) -> _Writer:
    def write(value: Any, path: str) -> bytes:
        if not isinstance(value, bool):
            raise _fail(path, "true or false")
        return _varint(number << 3) + (b"\x01" if value else b"\x00")
    return write


def _double(number: int) -> _Writer:
    def write(value: Any, path: str) -> bytes:
        if isinstance(value, str):
            value = _SPECIAL[value] if value in _SPECIAL else float(value) if _FLOAT.match(value) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _fail(path, "a number, or one of the strings NaN, Infinity and -Infinity")
        return _varint(number << 3 | 1) + struct.pack("<d", value)
    return write


def _base64(number: int) -> _Writer:
    def write(value: Any, path: str) -> bytes:
        try:
            plain = value.replace("-", "+").replace("_", "/").rstrip("=")
            raw = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
        except (AttributeError, ValueError, binascii.Error):
            raise _fail(path, "base64") from None
        return _bytes_field(number, raw)
    return write


def _message(number: int, fields: dict[str, _Writer], one_of: bool = False) -> _Writer:
    def write(value: Any, path: str) -> bytes:
        return _bytes_field(number, _object(value, path, fields, one_of))
    return write


def _repeated(item: _Writer) -> _Writer:
    def write(value: Any, path: str) -> bytes:
        if not isinstance(value, list):
            raise _fail(path, "an array")
        return b"".join([item(one, f"{path}[{index}]") for index, one in enumerate(value)])
    return write


def _object(value: Any, path: str, fields: dict[str, _Writer], one_of: bool = False) -> bytes:
    """The known members of one JSON object, written in the order of `fields`, which is what the decoder takes as regular."""
    if not isinstance(value, dict):
        raise _fail(path, "an object")
    present = [name for name in fields if value.get(name) is not None]
    if one_of and len(present) > 1:
        raise _fail(path, f"one value, not several ({', '.join(present)})")
    dot = f"{path}." if path else ""
    return b"".join([fields[name](value[name], dot + name) for name in present])


_VALUE: Final[dict[str, _Writer]] = {
    "stringValue": _text(1), "boolValue": _bool(2), "intValue": _int64(3), "doubleValue": _double(4), "bytesValue": _base64(7),
}
_KEY_VALUE: Final[dict[str, _Writer]] = {"key": _text(1), "value": _message(2, _VALUE, one_of=True)}
_VALUE["arrayValue"] = _message(5, {"values": _repeated(_message(1, _VALUE, one_of=True))})
_VALUE["kvlistValue"] = _message(6, {"values": _repeated(_message(1, _KEY_VALUE))})

_STATUS: Final = {"message": _text(2), "code": _enum(3)}
_EVENT: Final = {"timeUnixNano": _fixed64(1), "name": _text(2), "attributes": _repeated(_message(3, _KEY_VALUE))}
_LINK: Final = {"traceId": _id(1), "spanId": _id(2), "traceState": _text(3), "attributes": _repeated(_message(4, _KEY_VALUE))}
_SPAN: Final = {
    "traceId": _id(1), "spanId": _id(2), "traceState": _text(3), "parentSpanId": _id(4), "name": _text(5), "kind": _enum(6),
    "startTimeUnixNano": _fixed64(7), "endTimeUnixNano": _fixed64(8), "attributes": _repeated(_message(9, _KEY_VALUE)),
    "events": _repeated(_message(11, _EVENT)), "links": _repeated(_message(13, _LINK)), "status": _message(15, _STATUS),
}
_SCOPE: Final = {"name": _text(1), "version": _text(2), "attributes": _repeated(_message(3, _KEY_VALUE))}
_SCOPE_SPANS: Final = {"scope": _message(1, _SCOPE), "spans": _repeated(_message(2, _SPAN))}
_RESOURCE: Final = {"attributes": _repeated(_message(1, _KEY_VALUE))}
_RESOURCE_SPANS: Final = {"resource": _message(1, _RESOURCE), "scopeSpans": _repeated(_message(2, _SCOPE_SPANS))}
_REQUEST: Final = {"resourceSpans": _repeated(_message(1, _RESOURCE_SPANS))}

_LOG_RECORD: Final = {
    "timeUnixNano": _fixed64(1), "severityNumber": _enum(2), "severityText": _text(3), "body": _message(5, _VALUE, one_of=True),
    "attributes": _repeated(_message(6, _KEY_VALUE)), "traceId": _id(9), "spanId": _id(10), "observedTimeUnixNano": _fixed64(11),
    "eventName": _text(12),
}
_SCOPE_LOGS: Final = {"scope": _message(1, _SCOPE), "logRecords": _repeated(_message(2, _LOG_RECORD))}
_RESOURCE_LOGS: Final = {"resource": _message(1, _RESOURCE), "scopeLogs": _repeated(_message(2, _SCOPE_LOGS))}
_LOGS_REQUEST: Final = {"resourceLogs": _repeated(_message(1, _RESOURCE_LOGS))}


def to_protobuf(payload: bytes) -> bytes:
    """A trace request in JSON -> the same in protobuf bytes. Raises MalformedRequest with JSON path, or offset, and the rule."""
    return _translated(payload, _REQUEST)


def logs_to_protobuf(payload: bytes) -> bytes:
    """The same for a logs request."""
    return _translated(payload, _LOGS_REQUEST)


def _translated(payload: bytes, fields: dict[str, _Writer]) -> bytes:
    check_json(payload)
    try:
        parsed = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        # The library's message may quote the payload; its position does not.
        raise MalformedRequest(f"the body is not JSON: it cannot be read from character {error.pos} on") from None
    try:
        return _object(parsed, "", fields)
    except RecursionError:
        raise MalformedRequest("the body is not OTLP/JSON that can be read: its values nest too deep") from None
