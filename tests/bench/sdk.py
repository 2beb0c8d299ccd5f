"""What watching costs the model: `generate` instrumented, unsampled, with `output_scores`, each against the bare call beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

import cutaway
from cutaway import smollm2

Pairs = list[tuple[float, float]]
NEW_TOKENS = 64


class _Discard(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def figures(rounds: int) -> Iterator[tuple[str, str, str, Pairs]]:
    """CPU seconds of one call; prompts of 64 and 1024 tokens, batches of 1 and 8."""
    model, _ = smollm2.load()
    for prompt, batch in ((64, 1), (1024, 1), (64, 8)):
        where = f"prompt {prompt}, batch {batch}"
        few = rounds if prompt * batch < 1000 else max(3, rounds // 3)
        variants = {"default signals": _instrumented(ALWAYS_ON)}
        if (prompt, batch) == (64, 1):
            variants |= {"unsampled": _instrumented(ALWAYS_OFF), "output_scores": _with_scores}
        for name, variant in variants.items():
            yield f"generate, {name} ({where})", "CPU s", "bare generate", _paired(model, prompt, batch, few, variant)


def _with_scores(run: Callable[..., float]) -> float:
    return run(output_scores=True, return_dict_in_generate=True)


def _instrumented(sampler: Sampler) -> Callable[[Callable[..., float]], float]:
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(BatchSpanProcessor(_Discard()))

    def measured(run: Callable[..., float]) -> float:
        cutaway.configure(tracer_provider=provider)
        cutaway.instrument()
        try:
            return run()
        finally:
            cutaway.uninstrument()

    return measured


def _paired(model: Any, prompt: int, batch: int, rounds: int, variant: Callable[[Callable[..., float]], float]) -> Pairs:
    torch.manual_seed(0)
    ids = torch.randint(5, 40_000, (batch, prompt))

    def run(**options: Any) -> float:
        began = time.process_time()
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
                       do_sample=False, **options)
        return time.process_time() - began

    run()
    variant(run)
    pairs = []
    for number in range(rounds):  # ABBA: drift of the machine falls on both alike
        if number % 2:
            base = run()
            pairs.append((variant(run), base))
        else:
            measured = variant(run)
            pairs.append((measured, run()))
    return pairs
