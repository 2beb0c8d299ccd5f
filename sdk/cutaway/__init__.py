"""Tracing that sees inside a generative model: every `model.generate` becomes a span that holds what the model felt.

Not a framework: eight names. Importing this module is light; torch and transformers are touched by `instrument()` alone.
"""

from __future__ import annotations

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cutaway' has no attribute {name!r}: it has {', '.join(__all__)}")
    from importlib import import_module

    value = getattr(import_module(f"cutaway.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
