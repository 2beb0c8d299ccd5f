"""Pure tensor functions: the readable reference for every signal. Natural logarithms, so every entropy is in nats.

Not a recorder: no state, no device transfer, no synchronisation. A caller may run these on any device; results stay there.
"""

from cutaway.measure.attention import attention_signals, attention_sources
from cutaway.measure.tokens import alternatives, sampled_surprisal, scratch_rows, signals_of, token_moments, token_signals

__all__ = [
    "alternatives", "attention_signals", "attention_sources", "sampled_surprisal", "scratch_rows", "signals_of", "token_moments",
    "token_signals",
]
