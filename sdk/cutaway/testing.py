"""Helpers for tests of programs that use cutaway: spans in memory, a clock that ticks, a tiny model that needs no download.

Not used by the SDK itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator

from cutaway import configuration, conventions, instrumentation
from cutaway.encode import pack, unpack

__all__ = ["CountingIds", "TickClock", "pack", "recorded", "series", "tiny_model", "unpack"]

_DECODER: Final[dict[str, Any]] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "initializer_range": 0.3,
}
_EXPERTS: Final = {"num_local_experts": 4, "num_experts_per_tok": 2}
_SHAPES: Final[dict[str, dict[str, Any]]] = {
    "llama": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "mistral": {**_DECODER, "sliding_window": 8},
    "gemma2": {**_DECODER, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "gpt_oss": {**_DECODER, **_EXPERTS, "sliding_window": 8},
    "mixtral": {**_DECODER, **_EXPERTS},
    "llama4_text": {
        **_DECODER, "intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 8, "no_rope_layers": [1, 0, 1],
        "moe_layers": [1], "max_position_embeddings": 256,
    },
    "deepseek_v3": {
        "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 4, "n_shared_experts": 1, "n_routed_experts": 4, "kv_lora_rank": 16, "q_lora_rank": 16,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
        "first_k_dense_replace": 1, "initializer_range": 0.3,
    },
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "initializer_range": 0.3},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.3},
    "jamba": {
        **_DECODER, "num_hidden_layers": 4, "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2,
        "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
    },
    "lfm2": {
        **_DECODER, "num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "block_ff_dim": 48,
    },
    "t5": {
        "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0,
        "initializer_factor": 1.5,
    },
    "bart": {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2, "forced_eos_token_id": None,
        "max_position_embeddings": 256, "init_std": 0.3,
    },
}

FAMILIES: Final = tuple(_SHAPES)
"""Families `tiny_model` can build."""


class TickClock:
    """A clock for `configure(clock=lambda device: TickClock(0.5))`: every mark is `step` seconds after the one before."""

    def __init__(self, step: float = 1.0) -> None:
        self._step = step
        self._ticks = 0

    def mark(self) -> float:
        """The next tick."""
        self._ticks += 1
        return self._ticks * self._step

    def seconds(self, marks: Sequence[float]) -> list[float]:
        """Marks are seconds already."""
        return list(marks)


class CountingIds(IdGenerator):
    """Trace and span ids 1, 2, 3, ...: for tests that print spans."""

    def __init__(self) -> None:
        self._traces = self._spans = 0

    def generate_span_id(self) -> int:
        """The next span id."""
        self._spans += 1
        return self._spans

    def generate_trace_id(self) -> int:
        """The next trace id."""
        self._traces += 1
        return self._traces


class _Finished(InMemorySpanExporter):
    """Spans in memory; asked for them, it waits for those that are being finished."""

    def get_finished_spans(self) -> tuple[ReadableSpan, ...]:
        """All spans that ended so far, in the order of their ends: a generation may arrive after what encloses it."""
        configuration.finisher.drain(60)
        return tuple(sorted(super().get_finished_spans(), key=lambda span: span.end_time or 0))


@contextmanager
def recorded(**options: Any) -> Iterator[InMemorySpanExporter]:
    """Instruments, collects spans in memory, and puts everything back; `get_finished_spans()` of what it yields gives the spans.

    `options` go to `cutaway.configure`.
    """
    memory = _Finished()
    configuration.configure(span_processor=SimpleSpanProcessor(memory), **options)
    instrumentation.instrument()
    try:
        yield memory
    finally:
        instrumentation.uninstrument()
        configuration.shutdown()


def series(span: ReadableSpan, name: str, sequence: int | None = None) -> Any:
    """One packed series of a span as a NumPy array; of one sequence of the batch when `sequence` is given."""
    attributes = span.attributes or {}
    values = unpack(attributes[name])  # type: ignore[arg-type]  # a series is bytes by its convention
    if sequence is None:
        return values
    lengths: Any = attributes[conventions.SEQUENCE_OUTPUT_TOKENS]
    begin = sum(lengths[:sequence])
    return values[begin:begin + lengths[sequence]]


def tiny_model(family: str = "llama", seed: int = 0, vocabulary: int = 120, **overrides: Any) -> Any:
    """A random model of a few thousand parameters, float32, eval mode; the same for the same arguments.

    Weights are spread wide (standard deviation 0.3), so that attention and next-token distributions are far from uniform.
    Raises KeyError for a family not in FAMILIES.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    common: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **{**common, **_SHAPES[family], **overrides})
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = kind.from_config(config).eval()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    finally:
        torch.random.set_rng_state(state)
    model.config.name_or_path = f"tiny-{family}"
    return model
