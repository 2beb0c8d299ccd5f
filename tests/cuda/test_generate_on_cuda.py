"""A model that generates on a real GPU: the same outputs, the right numbers, no wait within a step, and what the machine says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from cutaway import conventions as c
from cutaway.record.attention import LayerEar
from cutaway.record.recorder import Recorder
from cutaway.testing import FAMILIES, recorded, series, tiny_model
from generate_modes import HEARD, MODES, generate
from sdk_helpers import batch
from sdk_oracles import both, check, statuses, token_truth

NO_ATTENTION_INTERFACE = {"bloom", "falcon", "mamba"}
HYBRID = {"jamba": [1, 3], "lfm2": [1, 3]}
"""Which layers attend, in families where not all do."""


def on_gpu(family: str = "llama", **options: Any) -> Any:
    return tiny_model(family, **options).cuda()


def checked(model: Any, span: Any, out: Any, ids: Any, mask: Any, **options: Any) -> dict[str, float]:
    """Against a teacher-forced pass on the CPU."""
    return check(model.cpu(), span, out.cpu(), ids, mask, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampling", [False, True])
def test_every_family_gives_the_same_ids_and_the_right_values(family: str, sampling: bool) -> None:
    """Ids, random state and model as without us; every value equals that of a replay on the CPU in its own arithmetic."""
    model = on_gpu(family)
    ids, mask = batch()
    found = both(model, lambda: model.generate(ids.cuda(), attention_mask=mask.cuda(), max_new_tokens=40, do_sample=sampling,
                                               top_k=0))
    if family in HYBRID:
        checked(model, found.span, found.out, ids, mask, layers=HYBRID[family])
    else:
        checked(model, found.span, found.out, ids, mask, attention=family not in NO_ATTENTION_INTERFACE)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("mode", MODES)
def test_every_way_to_decode_gives_the_same_ids(family: str, mode: str) -> None:
    """Everything that can be recorded switched on, more than one block of steps; the random state ends the same."""
    model = on_gpu(family)
    found = both(model, lambda: generate(model, mode), alternatives=3, attention_sources=3)

    assert found.span.attributes[c.TOKENS_STATUS] == "recorded"


@contextmanager
def nothing_waits() -> Iterator[list[int]]:
    """While ours runs on the generating thread, the driver refuses every operation that would wait for the device."""
    count = [0]

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                return function(*args, **kwargs)
            finally:
                torch.cuda.set_sync_debug_mode(mode)

        return refusing

    with pytest.MonkeyPatch.context() as patch:
        for name in HEARD:
            patch.setattr(Recorder, name, watched(getattr(Recorder, name)))
        patch.setattr(LayerEar, "hear", watched(LayerEar.hear))
        yield count


@pytest.mark.parametrize("mode", MODES)
def test_no_step_waits_for_the_gpu(mode: str) -> None:
    """The own detector of torch for of synchronising operations, set to raise, finds none in our hooks."""
    model = on_gpu()
    bare = generate(model, mode)
    with nothing_waits() as count, recorded(attention="full", alternatives=3, attention_sources=3) as spans:
        out = generate(model, mode)
        (span,) = spans.get_finished_spans()

    assert torch.equal(out, bare)
    assert count[0] > 40
    assert span.attributes[c.TOKENS_STATUS] == "recorded"


def test_the_detector_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value read on the host where a step is heard is refused."""
    heard = Recorder.chosen

    def planted(self: Any, ids: Any, done: Any) -> None:
        ids.sum().item()
        heard(self, ids, done)

    monkeypatch.setattr(Recorder, "chosen", planted)
    model = on_gpu()
    with nothing_waits(), recorded(), pytest.raises(RuntimeError, match="synchronizing"):
        generate(model, "greedy", 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_same_ids_and_the_values_of_its_own_logits(dtype: torch.dtype) -> None:
    """The logits that generate returns, taken to float64, give every token value that was recorded."""
    model = on_gpu().to(dtype)
    ids, mask = batch()
    found = both(model, lambda: model.generate(ids.cuda(), attention_mask=mask.cuda(), max_new_tokens=40, do_sample=False,
                                               output_logits=True, return_dict_in_generate=True))
    assert statuses(found.span) == ("recorded", "recorded")
    for i in range(len(ids)):
        length = found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS][i]
        logits = torch.stack([step[i] for step in found.out.logits[:length]]).cpu()
        for name, wanted in token_truth(logits, found.sequences[i, ids.shape[1]:ids.shape[1] + length].cpu()).items():
            np.testing.assert_allclose(series(found.span, name, i), wanted, atol=2e-4, rtol=1e-4, err_msg=name)


def test_a_compiled_static_cache_keeps_its_speed_and_says_what_is_missing() -> None:
    """With a static cache on a GPU transformers compiles decoding: token values are recorded, ids are the same."""
    model = on_gpu()
    ids, mask = (each.cuda() for each in batch())
    found = both(model, lambda: model.generate(ids, attention_mask=mask, max_new_tokens=24, do_sample=False,
                                               cache_implementation="static"))
    tokens, attention = statuses(found.span)

    assert tokens == "recorded"
    assert attention in ("recorded", "unsupported")
    assert attention == "recorded" or found.span.attributes[c.STATUS_REASON]


def test_a_model_on_the_gpu_and_the_cpu() -> None:
    """A model that accelerate spreads over both: the same ids, the right values, though keys of some layers lie elsewhere."""
    accelerate = pytest.importorskip("accelerate")
    model = tiny_model()
    places = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.layers.0": 0, "model.layers.1": "cpu", "model.layers.2": 0,
              "model.norm": 0, "lm_head": 0}
    spread = accelerate.dispatch_model(model, places)
    ids, mask = batch()
    found = both(spread, lambda: spread.generate(ids.cuda(), attention_mask=mask.cuda(), max_new_tokens=40, do_sample=False))

    checked(tiny_model(), found.span, found.out, ids, mask)


def test_an_offloaded_cache() -> None:
    """Keys that travel between GPU and host from step to step: the same ids, and statuses that say what could be recorded."""
    model = on_gpu()
    ids, mask = (each.cuda() for each in batch())
    found = both(model, lambda: model.generate(ids, attention_mask=mask, max_new_tokens=40, do_sample=False,
                                               cache_implementation="offloaded"))
    tokens, attention = statuses(found.span)

    assert tokens == "recorded"
    if attention == "recorded":
        checked(model, found.span, found.out.cpu(), ids.cpu(), mask.cpu())
    else:
        assert found.span.attributes[c.STATUS_REASON]


def test_times_are_those_of_the_device() -> None:
    """The times between tokens add up to no more than the call took, and to most of it."""
    model = on_gpu(hidden_size=512, intermediate_size=2048, num_hidden_layers=8)
    ids, mask = (each.cuda() for each in batch())
    generate(model, "greedy", 4)
    with recorded() as spans:
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(ids, attention_mask=mask, max_new_tokens=60, min_new_tokens=60, do_sample=False)
        torch.cuda.synchronize()
        took = time.perf_counter() - began
    (span,) = spans.get_finished_spans()
    between = np.asarray(series(span, c.TOKEN_INTER_TOKEN_TIME, 0), np.float64)

    assert (between > 0).all()
    assert 0.5 * took < between.sum() < took


def test_the_machine_speaks_of_the_gpu() -> None:
    """Name and peak memory are torch's; energy and utilization come from NVML where it is installed."""
    model = on_gpu(hidden_size=1024, intermediate_size=4096, num_hidden_layers=16)
    with recorded() as spans:
        generate(model, "greedy", 100)
    (span,) = spans.get_finished_spans()
    peak = span.attributes[c.MACHINE_GPU_MEMORY_PEAK][0]

    assert list(span.attributes[c.MACHINE_GPU_NAME]) == [torch.cuda.get_device_name(0)]
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    assert weights <= peak <= torch.cuda.get_device_properties(0).total_memory
    pytest.importorskip("pynvml")
    assert span.attributes[c.MACHINE_GPU_ENERGY][0] > 1
    assert 0 <= span.attributes[c.MACHINE_GPU_UTILIZATION][0] <= 1


def test_threads_with_streams_of_their_own_never_mix() -> None:
    """Four threads on one model, each on its CUDA stream: every span has the values of its own call."""
    model = on_gpu()
    prompts = [batch(rows=2, seed=seed) for seed in range(4)]
    answers: dict[int, Any] = {}

    def run(number: int) -> None:
        ids, mask = (each.cuda() for each in prompts[number])
        with torch.cuda.stream(torch.cuda.Stream()):
            answers[number] = model.generate(ids, attention_mask=mask, max_new_tokens=40, do_sample=False).cpu()

    with recorded(attention="full") as spans:
        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    model.cpu()
    found = {tuple(series(span, c.TOKEN_ID, 0).tolist()): span for span in spans.get_finished_spans()}
    for number, (ids, mask) in enumerate(prompts):
        answer = answers[number][0, ids.shape[1]:]
        span = next(span for key, span in found.items() if tuple(answer[:len(key)].tolist()) == key)
        check(model, span, answers[number], ids, mask)


def test_a_full_gpu_is_not_our_hosts_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out in our hook: the generation goes on with the same ids, the span says that tokens were not recorded."""
    from cutaway import guard

    def full(*_: Any) -> Any:
        return torch.empty(2**50, device="cuda")

    model = on_gpu()
    bare = generate(model, "greedy")
    guard.reraise(False)
    monkeypatch.setattr(LayerEar, "hear", full)
    with recorded() as spans:
        out = generate(model, "greedy")
    (span,) = spans.get_finished_spans()

    assert torch.equal(out, bare)
    assert span.attributes[c.TOKENS_STATUS] == "recorded"
    assert span.attributes[c.ATTENTION_STATUS] != "recorded"
