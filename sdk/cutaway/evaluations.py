"""The scores of a finished call as evaluation events of the GenAI conventions, one a sequence and score.

Not a judge: every number was computed before and is on the span already; and no label is given, because what is a good perplexity
depends on the model and the task. Emitting is the flow's work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cutaway import conventions as c

EVENTS_MAX: Final = 96
"""Events of one call. OpenTelemetry lets a span hold 128 and drops the oldest beyond, so a quarter is left to the host's own."""

_WINDOW_TOKENS: Final = 16
_QUARTERS: Final = 4


def events(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Span attributes of a call -> attributes of its `gen_ai.evaluation.result` events, first sequence first.

    https://github.com/open-telemetry/semantic-conventions/blob/v1.41.0/docs/gen-ai/gen-ai-events.md. Each has a name
    (`cutaway.perplexity`, ...), a finite value in the unit of the span attribute and the sequence's index; an explanation where the
    value alone could mislead. NaN and infinity make no event. At most EVENTS_MAX: sequences that do not fit are left out whole,
    from the last, and the last event says how many events they would have been (`cutaway.evaluation.left_out`).
    """
    sequences = [_of_sequence(index, attributes) for index in range(_count(attributes))]
    found: list[dict[str, Any]] = []
    for position, scores in enumerate(sequences):
        if len(found) + len(scores) > EVENTS_MAX:
            found[-1][c.EVALUATION_LEFT_OUT] = sum(map(len, sequences[position:]))
            break
        found += scores
    return found


def _of_sequence(index: int, attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    tokens = _entry(attributes, c.SEQUENCE_OUTPUT_TOKENS, index)
    found = []
    for name, attribute, explain in _SCORES:
        value = _entry(attributes, attribute, index)
        if value is not None:
            found.append(_event(name, value, index, explain(value, tokens)))
    quarters = [_entry(attributes, c.SEQUENCE_SURPRISAL_QUARTERS, _QUARTERS * index + quarter) for quarter in range(_QUARTERS)]
    first, last = quarters[0], quarters[-1]
    if first is not None and last is not None:
        explanation = f"mean surprisal of {last:.3g} nats in the last quarter, {first:.3g} in the first"
        found.append(_event("cutaway.surprisal_slope", last - first, index, explanation))
    return found


def _event(name: str, value: float, index: int, explanation: str | None) -> dict[str, Any]:
    event: dict[str, Any] = {c.EVALUATION_NAME: name, c.EVALUATION_SCORE_VALUE: value, c.EVALUATION_SEQUENCE: index}
    if explanation:
        event[c.EVALUATION_EXPLANATION] = explanation
    return event


def _count(attributes: Mapping[str, Any]) -> int:
    """Sequences that some score speaks of."""
    sizes = [len(attributes.get(attribute, ())) for _, attribute, _ in _SCORES]
    return max(*sizes, len(attributes.get(c.SEQUENCE_SURPRISAL_QUARTERS, ())) // _QUARTERS)


def _entry(attributes: Mapping[str, Any], name: str, index: int) -> float | None:
    """The value as a float, None where it is missing or not finite."""
    values: Sequence[float] = attributes.get(name, ())
    if index >= len(values) or not math.isfinite(values[index]):
        return None
    return float(values[index])


def _over_tokens(_: float, tokens: float | None) -> str | None:
    return None if tokens is None else f"over {tokens:.0f} tokens"


def _short_window(_: float, tokens: float | None) -> str | None:
    if tokens is None or tokens >= _WINDOW_TOKENS:
        return None
    return f"mean of all {tokens:.0f} tokens: fewer than the {_WINDOW_TOKENS} of a window"


def _loop(period: float, _: float | None) -> str | None:
    return f"the sequence ends in the same {period:.0f} tokens at least three times over" if period else "no loop at the end"


def _nothing(_: float, __: float | None) -> str | None:
    return None


# Likelihoods are told with their length: a perplexity over three tokens and one over a thousand are not comparable.
_SCORES: Final[tuple[tuple[str, str, Callable[[float, float | None], str | None]], ...]] = (
    ("cutaway.perplexity", c.SEQUENCE_PERPLEXITY, _over_tokens),
    ("cutaway.nll", c.SEQUENCE_NLL, _over_tokens),
    ("cutaway.bits_per_byte", c.SEQUENCE_BITS_PER_BYTE, _nothing),
    ("cutaway.worst_window", c.SEQUENCE_WORST_WINDOW, _short_window),
    ("cutaway.rauq", c.SEQUENCE_RAUQ, _nothing),
    ("cutaway.repetition", c.SEQUENCE_REPETITION, _nothing),
    ("cutaway.loop_period", c.SEQUENCE_LOOP_PERIOD, _loop),
    ("cutaway.compression_ratio", c.SEQUENCE_COMPRESSION_RATIO, _nothing),
)
