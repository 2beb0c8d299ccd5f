"""Tracing that sees inside a generative model: every `model.generate` becomes a span that holds what the model felt.

Not a framework: eight names. Importing this module is light; torch and transformers are touched by `instrument()` alone.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutaway.configuration import configure, flush, shutdown
    from cutaway.decorator import span, trace
    from cutaway.instrumentation import instrument, uninstrument
    from cutaway.scoring import score

__all__ = ["configure", "flush", "instrument", "score", "shutdown", "span", "trace", "uninstrument"]

_HOME = {
    "configure": "configuration", "flush": "configuration", "shutdown": "configuration",
    "instrument": "instrumentation", "uninstrument": "instrumentation", "span": "decorator", "trace": "decorator",
    "score": "scoring",
}
_READ_ON_IMPORT = "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cutaway' has no attribute {name!r}: it has {', '.join(__all__)}")
    value = getattr(_imported(f"cutaway.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def _imported(module: str) -> Any:
    """A module of ours, also where importing opentelemetry raises: for a malformed limit, which costs a warning later."""
    try:
        return import_module(module)
    except ValueError:
        malformed = os.environ.pop(_READ_ON_IMPORT, None)
        if malformed is None:
            raise
        try:
            return import_module(module)
        finally:
            os.environ[_READ_ON_IMPORT] = malformed


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
