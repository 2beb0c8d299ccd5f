"""The shapes that travel from stage to stage of the SDK: what was asked, what was heard, what is known in the end.

Not behaviour: no function here measures, decides or sends anything. Tensors are typed `Any` so that this module, like every noun,
needs neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scope:
    """What an enclosing `@trace`, `span` or pipeline says about the generations inside it."""

    tokenizer: Any = None
    capture: str | None = None
    conversation_id: str | None = None
    seed: int | None = None
    messages: Any = None
    """Chat messages, when a pipeline was given a conversation: a list of {"role", "content"}."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of `generate` as the host program wrote it, before transformers has prepared anything."""

    model: str
    streaming: bool
    seed: int | None
    tokenizer: Any
    messages: Any
    silence: str = ""
    """Why token signals cannot be exact in this call ("" when they can), known from the arguments alone."""


@dataclass(slots=True)
class Prepared:
    """The call as transformers prepared it: the effective configuration and the prompt."""

    mode: str
    choices: int
    beams: int
    max_length: int | None
    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    stop_strings: tuple[str, ...]
    end_ids: Any
    """Tensor or None: ids that end a sequence."""
    rows: int
    """Rows before the expansion by `choices` or `beams`."""
    prompt_length: int
    """Positions of the decoder's input before the first generated token, padding included."""
    input_length: int
    """Positions of the prompt, padding included (the encoder's, for an encoder-decoder model)."""
    input_mask: Any
    """Tensor [rows * expansion, positions], 1 for a real token, or None where nothing is padded."""
    input_ids: Any
    """Tensor [rows, positions] of prompt ids, or None when the prompt is not made of ids."""
    encoder_decoder: bool
    deferrable: bool
    """Whether the cache only ever appends: the condition for reading its keys later."""
    stop_check: Callable[[Any], Any] | None = None
    """Re-evaluates the stop strings on ids [sequence, position] -> bool [sequence], or None without stop strings."""
    time_limited: bool = False
    pad_id: Any = None
    """Tensor or None: the id sequences are filled with."""


class Listener(Protocol):
    """Who hears a generation. Called on the generating thread, in this order at every step: attention*, logits, chosen."""

    def prepared(self, prepared: Prepared) -> None:
        """The call is about to run."""

    def attention(self, layer: int, query: Any, key: Any, mask: Any, details: dict[str, Any]) -> None:
        """One attention layer ran: query [row, head, position, width], key [row, key-value head, position, width]."""

    def logits(self, ids: Any, scores: Any, shared: bool) -> None:
        """Ids so far [row, position] and their raw scores float32 [row, vocabulary] (log-probabilities under beam search).

        `shared`: somebody after us may change them in place.
        """

    def chosen(self, ids: Any, done: Any) -> None:
        """Ids [row, position] including the new token; done bool [row] says which rows a criterion ended."""


@dataclass(slots=True)
class Recording:
    """What is known when the call is over. Token arrays hold all sequences one after another, cut by `output_tokens`."""

    input_tokens: list[int] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)
    token_ids: NDArray[np.uint32] | None = None
    surprisal: NDArray[np.float32] | None = None
    entropy: NDArray[np.float32] | None = None
    margin: NDArray[np.float32] | None = None
    rank: NDArray[np.uint32] | None = None
    inter_token_s: NDArray[np.float32] | None = None
    attention: NDArray[np.float32] | None = None
    """Nats, [token, layer, head]."""
    first_token_s: float | None = None
    last_token_s: float | None = None
    steps: int = 0
    tokens_status: str = "off"
    attention_status: str = "off"
    reasons: list[str] = field(default_factory=list)

    @property
    def usage_input_tokens(self) -> int:
        """Prompt tokens of all rows, each row once."""
        return sum(self.input_tokens[:: self.copies])

    copies: int = 1
    """Sequences returned for one row of the prompt."""


class Clock(Protocol):
    """Marks moments without waiting for the device, and turns them into seconds afterwards."""

    def mark(self) -> Any:
        """A moment."""

    def seconds(self, marks: Sequence[Any]) -> list[float]:
        """Seconds from the clock's start to each mark."""


class Measures(Protocol):
    """The pure functions a recorder needs (see measure.py), passed in by the flow."""

    def token_signals(self, logits: Any, chosen: Any) -> Any:
        """Float32 [4, row]: surprisal, entropy, margin, rank."""

    def attention_entropy(self, query: Any, key: Any, scale: float, bias: Any, softcap: float | None) -> Any:
        """Float32 [row, head, position], nats."""
