"""The shapes that travel from stage to stage of the SDK: what was asked, what was heard, what is known in the end.

Not behaviour: no function here measures, decides or sends anything. Tensors are typed `Any` so that this module, like every noun,
needs neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cutaway import conventions as c


@dataclass(frozen=True, slots=True)
class Scope:
    """What an enclosing `@trace`, `span` or pipeline says about the generations inside it."""

    tokenizer: Any = None
    capture: str | None = None
    conversation_id: str | None = None
    seed: int | None = None
    generation_attributes: Mapping[str, Any] = field(default_factory=dict)
    """The program's own attributes for the spans of the generations inside; ours win over them."""
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
    cache: Any = None
    """transformers' cache of a deferrable call, whose `layers[i].keys` are the keys of layer i; let go of when the call is over."""
    stop_check: Callable[[Any], Any] | None = None
    """Re-evaluates the stop strings on ids [sequence, position] -> bool [sequence], or None without stop strings."""
    time_check: Callable[[], bool] | None = None
    """Whether the time limit has passed, or None without one."""
    pad_id: Any = None
    """Tensor or None: the id sequences are filled with."""
    layers: int = 0
    """Layers of the model, 0 when unknown."""
    own_loop: bool = False
    """Whether a loop of the host (`custom_generate`) drives the model: what it shows must be checked before it is believed."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What n query rows may see of the keys. Tensors broadcast to [row, head, n] (`bias`: [row, head, n, m])."""

    bias: Any
    """Float32, added to the scores of the last m keys: very negative where one is hidden. None: all are visible."""
    each_old: Any
    """Float32: 1 / number of visible keys that belong to the prompt, 1 where none does."""
    each_new: Any
    """Float32: 1 / number of visible keys that do not, 0 where all do."""
    scaled: Any
    """Float32: 1 / log(number of visible keys), 0 where one key is visible."""
    first: Any
    """Int64: place of the first visible key."""
    last: Any
    """Int64: place of the last visible key."""
    prompt: int
    """Keys before this place belong to the prompt."""
    offset: int = 0
    """Keys that a sliding window has let go of: place + offset is the position in the sequence."""

    def part(self, begin: int, end: int) -> Sight:
        """The sight of rows begin to end."""
        if begin == 0 and end >= self.last.shape[-1]:
            return self
        bias = None if self.bias is None else self.bias[..., begin:end, :]
        rows = slice(begin, end)
        return replace(
            self, bias=bias, each_old=self.each_old[..., rows], each_new=self.each_new[..., rows], scaled=self.scaled[..., rows],
            first=self.first[..., rows], last=self.last[..., rows],
        )


SELF: Final = "self"
CROSS: Final = "cross"
"""Kinds of attention: to the sequence itself, to an encoder's output."""


class Ear(Protocol):
    """Who hears one attention layer."""

    unwanted: bool
    """True once nothing more of this layer is wanted."""

    def hear(self, query: Any, key: Any, mask: Any, position_bias: Any) -> None:
        """The layer ran: query [row, head, n, width], key [row, key-value head, position, width], the mask as the kernel got it
        (bool or additive, [row, 1 or head, n, position]) or None, and a bias of the same shape to add to the scores, or None."""


class Listener(Protocol):
    """Who hears a generation. Called on the generating thread, at every step in order: attention, logits, processed, chosen."""

    def prepared(self, prepared: Prepared) -> None:
        """The call is about to run."""

    def ear(self, kind: str, layer: int, scale: float, softcap: float | None, learned_sink: Any) -> Ear:
        """Who hears this attention layer from now on."""

    def logits(self, ids: Any, scores: Any, shared: bool) -> None:
        """Ids so far [row, position] and their raw scores float32 [row, vocabulary] (log-probabilities under beam search).

        `shared`: somebody after us may change them in place.
        """

    def processed(self, scores: Any) -> None:
        """The same scores after every processor and warper: what the next token is drawn from."""

    def chosen(self, ids: Any, done: Any) -> None:
        """Ids [row, position] including the new tokens; done bool [row] says which rows a criterion ended."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request of continuous batching, as its output tells it."""

    input_tokens: int
    ids: list[int]
    finish_reason: str
    logprobs: list[float] = field(default_factory=list)
    """Of each token under the distribution it was drawn from; empty when the program did not ask for them."""
    moments_s: list[float] = field(default_factory=list)
    """Since the call, of the last tokens; empty when the program did not ask for them."""


@dataclass(slots=True)
class Recording:
    """What is known when the call is over. Series hold all sequences one after another, cut by `output_tokens`."""

    input_tokens: list[int] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)
    token_ids: NDArray[np.uint32] | None = None
    series: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Series by the name of their attribute (conventions): [token], [token, layer], [token, layer, head], ..."""
    layers: list[int] = field(default_factory=list)
    """Model layer of each column of the attention series; empty when they are simply all of them."""
    layers_left_out: bool = False
    """Whether there are attention layers that were not wanted."""
    source_layers: list[int] = field(default_factory=list)
    prompt_ids: NDArray[np.uint32] | None = None
    """Prompt ids of every row, padding left out, when the prompt was measured too."""
    prompt_tokens: list[int] = field(default_factory=list)
    first_token_s: float | None = None
    last_token_s: float | None = None
    steps: int = 0
    drafted: int | None = None
    """Draft tokens the model checked (assisted decoding), and how many of them it accepted."""
    accepted: int = 0
    tokens_status: str = "off"
    attention_status: str = "off"
    reasons: list[str] = field(default_factory=list)
    copies: int = 1
    """Sequences returned for one row of the prompt."""
    failed: int = 0
    """Requests that failed in a call that did not (continuous batching)."""

    @property
    def usage_input_tokens(self) -> int:
        """Prompt tokens of all rows, each row once."""
        return sum(self.input_tokens[:: self.copies])


class Clock(Protocol):
    """Marks moments without waiting for the device, and turns them into seconds afterwards."""

    def mark(self) -> Any:
        """A moment."""

    def seconds(self, marks: Sequence[Any]) -> list[float]:
        """Seconds from the clock's start to each mark."""


class Measures(Protocol):
    """The pure functions a recorder needs (see measure/), passed in by the flow."""

    def token_moments(self, logits: Any, chosen: Any, scratch: Any) -> Any:
        """Tensors [row, ...]: what must be read from every logit."""

    def signals_of(self, moments: Any) -> Any:
        """Moments of any number of rows -> float32 [6, row]: one each of TOKEN_SIGNALS."""

    def scratch_rows(self, device: str, vocabulary: int, rows: int) -> int:
        """Rows of scratch that `token_moments` can use."""

    def sampled_surprisal(self, scores: Any, chosen: Any) -> Any:
        """Float32 [row], nats."""

    def alternatives(self, logits: Any, count: int) -> tuple[Any, Any]:
        """Ids and surprisal, both [row, count]."""

    def attention_signals(
        self, queries: Sequence[Any], keys: Sequence[Any], scale: float, sight: Sight, softcap: float | None, learned_sinks: Any
    ) -> Any:
        """Of several layers: float32 [5, layer, row, head, n], one each of ATTENTION_SIGNALS."""

    def attention_sources(
        self, query: Any, key: Any, scale: float, sight: Sight, softcap: float | None, count: int, learned_sink: Any = None
    ) -> tuple[Any, Any]:
        """Positions and weights, both [row, n, count]."""


TOKEN_SIGNALS: Final = (
    c.TOKEN_SURPRISAL, c.TOKEN_ENTROPY, c.TOKEN_MARGIN, c.TOKEN_RANK, c.TOKEN_VARENTROPY, c.TOKEN_MIN_P_MASS,
)
"""Order in which `signals_of` returns its values."""

ATTENTION_SIGNALS: Final = (
    c.ATTENTION_ENTROPY, c.ATTENTION_NORMALIZED_ENTROPY, c.ATTENTION_SINK, c.ATTENTION_LAST_KEY, c.ATTENTION_LOOKBACK,
)
"""Order in which `attention_signals` returns its values."""

HEADS: Final = ".heads"
"""What follows the name of a [token, layer] series in the name of the same series for every head."""
