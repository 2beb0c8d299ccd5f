"""Reads the trace a request belongs to from its headers, whatever shape a framework gives them.

Not a parser of its own: what the headers mean is decided by OpenTelemetry's propagator (W3C `traceparent`, `tracestate` and
`baggage`, or what OTEL_PROPAGATORS names).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter

from cutaway import guard

_HEADERS_MAX: Final = 1000
_CHARACTERS_MAX: Final = 8192
"""Longest value of one header; the longest any W3C header may have."""


class _Folded(Getter[dict[str, list[str]]]):
    """Header names are the same in small and large letters."""

    def get(self, carrier: dict[str, list[str]], key: str) -> list[str] | None:
        """All values of a header, or None."""
        return carrier.get(key.lower())

    def keys(self, carrier: dict[str, list[str]]) -> list[str]:
        """The names, in small letters."""
        return list(carrier)


_GETTER: Final = _Folded()


def context_of(headers: Any) -> Context | None:
    """The context a span answering these headers starts in, or None where they add nothing to the current one.

    headers: a mapping, an object with `items()`, pairs of name and value (`str` or `bytes`), or a request that has `headers`.
    Malformed headers count as absent. Where the current span is of the trace they name, it is nearer and stays the parent.
    """
    carrier = _folded(headers)
    if not carrier:
        return None
    try:
        from opentelemetry import propagate  # reads OTEL_PROPAGATORS when it is first imported, and refuses a misspelled one
    except ValueError as error:
        guard.once("propagators", "headers of requests are not read: %s", error)
        return None
    current = otel_context.get_current()
    found = propagate.extract(carrier, current, _GETTER)
    here = otel.get_current_span(current).get_span_context()
    if here.is_valid and otel.get_current_span(found).get_span_context().trace_id == here.trace_id:
        return otel.set_span_in_context(otel.get_current_span(current), found)
    return found


def _folded(headers: Any) -> dict[str, list[str]]:
    """Name in small letters -> values, bounded in number and size."""
    found: dict[str, list[str]] = {}
    for number, pair in enumerate(_pairs(headers)):
        if number >= _HEADERS_MAX:
            break
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            continue
        name, value = _text(pair[0]), _text(pair[1])
        if name and value and len(value) <= _CHARACTERS_MAX:
            found.setdefault(name.lower(), []).append(value)
    return found


def _pairs(headers: Any) -> Iterable[Any]:
    inner = getattr(headers, "headers", None)
    if inner is not None and not isinstance(headers, Mapping):
        headers = inner
    items = getattr(headers, "items", None)
    if callable(items):
        return items()  # type: ignore[no-any-return]  # whatever a framework's headers give: looked at one by one
    if isinstance(headers, Iterable) and not isinstance(headers, str | bytes):
        return headers
    kind = type(headers).__name__
    guard.once(f"headers of type {kind}", "headers are a mapping or pairs; they are of type %s and not read", kind)
    return ()


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""
