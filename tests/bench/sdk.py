"""What watching costs the model: time, memory, start-up and encoding, each against the bare call beside it, and how it grows.

Not a profile: every figure is what a program pays in all. CPU time includes the encoding and serialisation in the background, wall
time ends when `generate` returns.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from greenlet import getcurrent, greenlet
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

import cutaway
from cutaway import conventions as c
from cutaway import encode, export, settings, smollm2, steps, testing
from cutaway.record.attention import LayerEar
from cutaway.record.recorder import Recorder

Pairs = list[tuple[float, float]]
Figures = Iterator[tuple[str, str, str, Pairs]]
Seconds = tuple[float, float]
"""CPU and wall."""

NEW_TOKENS = 64
SHAPES = ((64, 1), (1024, 1), (64, 8), (1024, 8))
"""(prompt tokens, batch)."""
MEMORY_SHAPES = SHAPES
MEMORY_ROUNDS_MIN = 3
ATTENTIONS_BYTES_MAX = 2 * 1024**3
"""Larger attention matrices of a prompt are not asked for: of 1024 tokens in 8 rows they are 9 GB."""
GROWTH = {
    "context": (64, 512, 1024, 2048),
    "layers": (2, 4, 8, 16),
    "batch": (1, 2, 4, 8),
    "vocabulary": (1_000, 8_000, 32_000, 128_000),
}
GROWTH_BASE = {"context": 64, "layers": 4, "batch": 1, "vocabulary": 1_000}
GROWTH_TOKENS = 32
PASSES_A_TURN = 8
"""Of the model. Each call's own code and memory have gone cold when its turn begins, which a program that runs one call never pays:
the first token of a turn costs twice what the later ones do. More, and a neighbour's load no longer falls on both calls alike."""
TURNS_OF_PROMPT = 2
"""Before the model first runs, and the pass over the prompt with the first tokens."""
ENCODED_TOKENS = (8, 2048)
"""(sequences, tokens of each) of the span that is encoded."""


class _Serialise(SpanExporter):
    """Does all an OTLP exporter does but send."""

    def export(self, spans: Any) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


def figures(rounds: int) -> Figures:
    """Cost of one call by shape and variant, then memory, start-up, encoding and growth."""
    yield from _calls(rounds)
    yield from _in_step(max(2, rounds // 2))
    yield from _memory(max(MEMORY_ROUNDS_MIN, rounds // 3))
    yield from _imports(rounds)
    yield from _encoding(rounds)
    yield from _growth(rounds)


# --- One call -------------------------------------------------------------------------------------------------------------
Around = Callable[[Any], Any]
"""A context manager around a call on this model; gives the options of `generate` and what to wait for after it."""


@contextmanager
def _bare(model: Any) -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
    yield {}, lambda: None


@contextmanager
def _scores(model: Any) -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
    yield {"output_scores": True, "return_dict_in_generate": True}, lambda: None


@contextmanager
def _eager(model: Any) -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
    used = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield {"output_attentions": True, "return_dict_in_generate": True}, lambda: None
    finally:
        model.set_attn_implementation(used)


def _instrumented(sampler: Sampler, **options: Any) -> Around:
    chosen = settings.load({}, {})
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(export.BoundedProcessor(_Serialise(), chosen))

    @contextmanager
    def around(model: Any) -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
        cutaway.configure(tracer_provider=provider, **options)
        cutaway.instrument()
        try:
            yield {}, cutaway.flush
        finally:
            cutaway.uninstrument()

    return around


def _variants() -> dict[str, Around]:
    return {
        "default signals": _instrumented(ALWAYS_ON), "every layer": _instrumented(ALWAYS_ON, attention_layers_max=0),
        "unsampled": _instrumented(ALWAYS_OFF), "output_scores=True": _scores, "eager, output_attentions=True": _eager,
    }


def _calls(rounds: int) -> Figures:
    model, _ = smollm2.load()
    variants = _variants()
    for prompt, batch in SHAPES:
        few = rounds if prompt * batch < 1000 else max(min(3, rounds), rounds // 3)
        for name, variant in variants.items():
            if variant is _eager and not _attentions_fit(model, prompt, batch):
                continue
            pairs = _paired(partial(_call, model, prompt, batch, NEW_TOKENS), variant, few)
            for number, unit in enumerate(("CPU s", "wall s")):
                yield (f"generate, {name} ({prompt} x {batch})", unit, "bare generate",
                       [(measured[number], base[number]) for measured, base in pairs])


def _attentions_fit(model: Any, prompt: int, batch: int) -> bool:
    config = model.config
    return bool(4 * batch * config.num_hidden_layers * config.num_attention_heads * prompt**2 <= ATTENTIONS_BYTES_MAX)


def _call(model: Any, prompt: int, batch: int, new_tokens: int, around: Around) -> Seconds:
    ids = torch.randint(5, model.config.vocab_size - 1, (batch, prompt), generator=torch.Generator().manual_seed(0))
    with around(model) as (options, settle):
        began_cpu, began = time.process_time(), time.perf_counter()
        answer = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens,
                                min_new_tokens=new_tokens, do_sample=False, **options)
        wall = time.perf_counter() - began
        settle()
        cpu = time.process_time() - began_cpu
        del answer
    return cpu, wall


def _paired(call: Callable[[Around], Seconds], variant: Around, rounds: int) -> list[tuple[Seconds, Seconds]]:
    """(measured, bare) of each round; ABBA, so that drift of the machine falls on both alike."""
    call(_bare)
    call(variant)
    pairs = []
    for number in range(rounds):
        if number % 2:
            base = call(_bare)
            pairs.append((call(variant), base))
        else:
            measured = call(variant)
            pairs.append((measured, call(_bare)))
    return pairs


# --- Two calls in step ----------------------------------------------------------------------------------------------------
class _Turn(greenlet):  # type: ignore[misc]  # greenlet brings no types
    """A call that stops before every few passes of the model, and notes what it took from one stop to the next.

    There, because a step is then measured as a program runs it: the scores are still in the cache when their token is chosen and
    measured. On the thread of the other call, because a thread of its own would have its own heap and its own threads of PyTorch,
    and how those of the two get along differs more from run to run than what is measured.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(call)
        self.walls_s: list[float] = []
        self._passes = 0

    def about_to_run(self) -> None:
        """Called inside of the call, before each pass."""
        if self._passes % PASSES_A_TURN == 0:
            self.parent.switch()
        self._passes += 1

    def take(self) -> None:
        """Runs until the next stop, or the end."""
        began = time.perf_counter()
        self.switch()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.walls_s.append(time.perf_counter() - began)


def _in_step(rounds: int) -> Figures:
    """Wall time of an instrumented call and of a bare one that take turns every few tokens: a neighbour's load falls on both.

    Each pair sums two runs, in which either goes first once. The bare call runs the method that was replaced.
    """
    model, _ = smollm2.load()
    for name in ("default signals", "unsampled"):
        with _variants()[name](model):
            for prompt, batch in SHAPES[:3]:
                for part, pairs in in_turns(model, prompt, batch, rounds).items():
                    yield f"generate in step, {part}{name} ({prompt} x {batch})", "wall s", "bare generate", pairs


def in_turns(model: Any, prompt: int, batch: int, rounds: int) -> dict[str, list[Seconds]]:
    """(instrumented, bare) seconds of each round: of the whole calls, and of what follows the prompt, which takes as long as
    several tokens and differs more from run to run. The model is instrumented already."""
    runs = [_turns(model, prompt, batch, bool(number % 2)) for number in range(2 * rounds + 1)][1:]
    both = [one + other for one, other in zip(runs[::2], runs[1::2], strict=True)]
    parts = {"": slice(None), "behind the prompt, ": slice(TURNS_OF_PROMPT, None)}
    return {part: [(float(ours[turns].sum()), float(bare[turns].sum())) for ours, bare in both] for part, turns in parts.items()}


def _turns(model: Any, prompt: int, batch: int, first: bool) -> Any:
    """Seconds [call, turn] of an instrumented and a bare call; `first`: whether the instrumented one begins."""
    ids = torch.randint(5, model.config.vocab_size - 1, (batch, prompt), generator=torch.Generator().manual_seed(0))
    ids = ids.to(model.device)
    instrumented = type(model).generate
    ours, bare = (
        _Turn(partial(generate, model, input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS,
                      min_new_tokens=NEW_TOKENS, do_sample=False))
        for generate in (instrumented, instrumented.__wrapped__)
    )
    hook = model.register_forward_pre_hook(lambda *_: getcurrent().about_to_run())
    try:
        with torch.no_grad():  # or the call that ends first would turn gradients on for the other
            while not (ours.dead and bare.dead):
                for turn in (ours, bare) if first else (bare, ours):
                    if not turn.dead:
                        turn.take()
    finally:
        hook.remove()
    cutaway.flush()
    return np.array([ours.walls_s, bare.walls_s])


# --- Memory: a process a call ---------------------------------------------------------------------------------------------
def _memory(rounds: int) -> Figures:
    """Largest resident memory of a process that loads the model and generates once."""
    for prompt, batch in MEMORY_SHAPES:
        names = ["default signals"]
        if (prompt, batch) == (1024, 1):
            names += ["output_scores=True", "eager, output_attentions=True"]
        peaks: dict[str, list[float]] = {name: [] for name in ("bare", *names)}
        for number in range(rounds):
            for name in sorted(peaks, reverse=bool(number % 2)):
                peaks[name].append(float(_fresh("-m", "tests.bench.sdk", name, str(prompt), str(batch), str(NEW_TOKENS))))
        for name in names:
            yield (f"peak memory, {name} ({prompt} x {batch})", "MiB", "bare generate",
                   [(a / 1024, b / 1024) for a, b in zip(peaks[name], peaks["bare"], strict=True)])


def _fresh(*arguments: str) -> str:
    """What a new interpreter prints."""
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=root)
    return done.stdout.strip().splitlines()[-1]


def _peak_of_one_call(name: str, prompt: int, batch: int, new_tokens: int) -> int:
    """KiB: VmHWM of /proc/self/status after one call. Linux only."""
    model, _ = smollm2.load()
    _call(model, prompt, batch, new_tokens, {**_variants(), "bare": _bare}[name])
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


# --- Start-up -------------------------------------------------------------------------------------------------------------
def _imports(rounds: int) -> Figures:
    """In fresh interpreters; the API of OpenTelemetry is the baseline, because an instrumented program has it anyway."""
    program = "import time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"
    for module in ("cutaway", "cutaway.instrumentation"):
        pairs = [tuple(float(_fresh("-c", program.format(name))) for name in (module, "opentelemetry.trace"))
                 for _ in range(max(3, rounds))]
        yield f"import {module}", "s", "import opentelemetry.trace", [(measured, base) for measured, base in pairs]


# --- Encoding -------------------------------------------------------------------------------------------------------------
def _recording() -> steps.Recording:
    """A finished call with every series of `attention="heads"`, all of 30 layers with 9 heads."""
    sequences, each = ENCODED_TOKENS
    tokens = sequences * each
    random = np.random.default_rng(0)
    whole = {c.TOKEN_ID, c.TOKEN_RANK}
    series: dict[str, Any] = {
        name: random.integers(0, 49_152, tokens, dtype=np.uint32) if name in whole else random.random(tokens, dtype=np.float32)
        for name in c.TOKEN_SERIES
    }
    series |= {name: random.random((tokens, 30), dtype=np.float32) for name in c.LAYER_SERIES if name != c.CROSS_ATTENTION_ENTROPY}
    series[c.ATTENTION_ENTROPY_HEADS] = random.random((tokens, 30, 9), dtype=np.float32).astype(np.float16)
    return steps.Recording(
        input_tokens=[64] * sequences, output_tokens=[each] * sequences, finish_reasons=["length"] * sequences,
        token_ids=series.pop(c.TOKEN_ID), series=series, steps=each, tokens_status=c.STATUS_RECORDED,
        attention_status=c.STATUS_RECORDED,
    )


def _encoding(rounds: int) -> Figures:
    """Packing the series of one span, against the lists of floats that double arrays would begin with."""
    sequences, each = ENCODED_TOKENS
    for words, bytes_max in (("", settings.load({}, {}).series_bytes_max), (", all series", 1 << 30)):
        pairs = [_packed_and_listed(bytes_max) for _ in range(max(3, rounds) + 1)]
        yield f"encode a span of {sequences} x {each} tokens{words}", "s", "the same values as lists", pairs[1:]  # one warms up


def _packed_and_listed(bytes_max: int) -> tuple[float, float]:
    recording = _recording()
    began = time.perf_counter()
    series = encode.series_attributes(recording, True, c.HEAD_SERIES, bytes_max)
    packed = time.perf_counter() - began
    arrays = [encode.unpack(values) for values in series.values()]
    began = time.perf_counter()
    for array in arrays:
        array.ravel().tolist()
    return packed, time.perf_counter() - began


# --- Growth ---------------------------------------------------------------------------------------------------------------
HOOKS = ((Recorder, ("prepared", "logits", "processed", "chosen", "stop")), (LayerEar, ("hear",)))
"""All of ours that the model waits for between the call of `generate` and its return, but for the patches themselves."""


def _growth(rounds: int) -> Figures:
    """CPU time inside our hooks for one step (a token for every row) of a small random model, along one axis at a time.

    The baseline is the first point of the axis in the same round: a ratio of 2 says that the time doubled on the way.
    """
    variant = _instrumented(ALWAYS_ON)
    for axis, points in GROWTH.items():
        models = {point: _small({**GROWTH_BASE, axis: point}) for point in points}
        inside: dict[int, list[float]] = {point: [] for point in points}
        for number in range(rounds + 1):
            for point, (model, at) in models.items():
                with _clocked() as spent:
                    _call(model, at["context"], at["batch"], GROWTH_TOKENS, variant)
                if number:  # the first round warms up
                    inside[point].append(spent[0] / GROWTH_TOKENS * 1e6)
        for point in points[1:]:
            pairs = [*zip(inside[point], inside[points[0]], strict=True)]
            yield f"inside our hooks a step, {axis} {point}", "CPU us", f"{axis} {points[0]}", pairs


def _small(at: dict[str, int]) -> tuple[Any, dict[str, int]]:
    return testing.tiny_model(vocabulary=at["vocabulary"], num_hidden_layers=at["layers"], max_position_embeddings=4096), at


@contextmanager
def _clocked() -> Iterator[list[float]]:
    """[CPU seconds of the process inside HOOKS]; a hook that calls another counts once."""
    spent, deep = [0.0], [0]

    def clocked(hook: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(hook)
        def timed(*arguments: Any, **named: Any) -> Any:
            deep[0] += 1
            began = time.process_time()
            try:
                return hook(*arguments, **named)
            finally:
                deep[0] -= 1
                if not deep[0]:
                    spent[0] += time.process_time() - began
        return timed

    with ExitStack() as stack:
        for owner, names in HOOKS:
            for name in names:
                stack.enter_context(patch.object(owner, name, clocked(getattr(owner, name))))
        yield spent
    if not spent[0]:
        raise RuntimeError("none of HOOKS was called: the recorder has other names now")


if __name__ == "__main__":
    print(_peak_of_one_call(sys.argv[1], *map(int, sys.argv[2:])))
