"""Programs around the model: threads, tasks, streamers, limits, compiled code, wrapped, adapted and dispatched models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    CompileConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from cutaway import conventions as c
from cutaway.testing import recorded, series, tiny_model
from sdk_helpers import batch
from sdk_oracles import both, check, compare, forced, statuses

Record = Callable[[str, object], None]
"""pytest's record_property: the largest errors go into the report."""


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny_model()


@pytest.fixture(scope="module")
def letters() -> Any:
    """A tokenizer of 120 ids: three of its own, every printable letter, and pairs of letters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = ["<pad>", "<s>", "</s>", "Ġ", *(chr(code) for code in range(33, 127))]
    pieces += [chr(code) * 2 for code in range(97, 97 + 120 - len(pieces))]
    inner = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


# --- Several at once -----------------------------------------------------------------------------------------------------

CALLS: list[dict[str, Any]] = [
    {"max_new_tokens": 30, "min_new_tokens": 30}, {"max_new_tokens": 21, "num_beams": 3, "min_new_tokens": 21},
    {"max_new_tokens": 26, "prompt_lookup_num_tokens": 3, "min_new_tokens": 26},
    {"max_new_tokens": 23, "cache_implementation": "static", "min_new_tokens": 23},
]
"""Each is known by the number of its tokens."""


def prompts() -> list[Any]:
    return [batch(1, 8 + i, seed=i)[0] for i in range(len(CALLS))]


def held_apart(model: Any, spans: Any, outs: list[Any]) -> dict[str, float]:
    """Each span against the call with as many tokens."""
    errors: dict[str, float] = {}
    found = {span.attributes[c.USAGE_OUTPUT_TOKENS]: span for span in spans}
    assert len(found) == len(spans) == len(CALLS)
    for ids, options, out in zip(prompts(), CALLS, outs, strict=True):
        for name, error in check(model, found[options["max_new_tokens"]], out, ids, torch.ones_like(ids)).items():
            errors[name] = max(error, errors.get(name, 0.0))
    return errors


def test_threads_on_one_model(llama: Any, record_property: Record) -> None:
    """Beams, drafts and greedy at the same time: every span has the values of its own call."""
    outs: list[Any] = [None] * len(CALLS)
    together = threading.Barrier(len(CALLS))

    def run(i: int) -> None:
        together.wait(30)
        outs[i] = llama.generate(prompts()[i], do_sample=False, **CALLS[i])

    with recorded(attention="full") as spans:
        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(CALLS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    record_property("max_error", held_apart(llama, spans.get_finished_spans(), outs))


def test_tasks_on_one_model(llama: Any, record_property: Record) -> None:
    """asyncio: tasks that hand their calls to threads, started together; each span is a child of its task's own."""
    import cutaway

    async def ask(i: int) -> Any:
        with cutaway.span(f"task {i}"):
            return await asyncio.to_thread(llama.generate, prompts()[i], do_sample=False, **CALLS[i])

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(ask(i) for i in range(len(CALLS))))

    with recorded(attention="full") as spans:
        outs = asyncio.run(all_of_them())
    done = spans.get_finished_spans()
    heard = [span for span in done if c.USAGE_OUTPUT_TOKENS in span.attributes]
    tasks = {span.context.span_id: span.name for span in done if span.name.startswith("task ")}

    record_property("max_error", held_apart(llama, heard, outs))
    for span in heard:
        i = [options["max_new_tokens"] for options in CALLS].index(span.attributes[c.USAGE_OUTPUT_TOKENS])
        assert tasks[span.parent.span_id] == f"task {i}"


# --- Streams and ends ----------------------------------------------------------------------------------------------------

def test_a_streamer_read_from_another_thread(llama: Any, letters: Any, record_property: Record) -> None:
    """`generate` in a thread, its text read here: the same text as without us, and the values of its tokens."""
    ids, mask = batch(1)
    texts, outs = [], []
    for heard in (False, True):
        streamer = TextIteratorStreamer(letters, skip_prompt=True, timeout=30)

        def run(streamer: Any = streamer) -> None:
            outs.append(llama.generate(ids, max_new_tokens=24, do_sample=False, streamer=streamer))

        thread = threading.Thread(target=run)
        if heard:
            with recorded(attention="full") as spans:
                thread.start()
                texts.append("".join(streamer))
                thread.join()
        else:
            thread.start()
            texts.append("".join(streamer))
            thread.join()
    (span,) = spans.get_finished_spans()

    assert texts[0] == texts[1] != ""
    assert torch.equal(outs[0], outs[1])
    assert span.attributes[c.REQUEST_STREAM] is True
    record_property("max_error", check(llama, span, outs[1], ids, mask))


def test_stop_strings(llama: Any, letters: Any, record_property: Record) -> None:
    """A stop string ends a row with the reason `stop`; rows that go on end by `length`."""
    ids, mask = batch()
    plain = llama.generate(ids, attention_mask=mask, max_new_tokens=24, min_new_tokens=24, do_sample=False)
    answers = [letters.decode(row[9:]) for row in plain]
    stop = answers[0][5:8]
    wanted = ["stop" if stop in answer else "length" for answer in answers]
    found = both(llama, lambda: llama.generate(
        ids, attention_mask=mask, max_new_tokens=24, min_new_tokens=24, do_sample=False, stop_strings=[stop], tokenizer=letters,
    ))

    assert set(wanted) == {"stop", "length"}
    assert list(found.span.attributes[c.RESPONSE_FINISH_REASONS]) == wanted
    for i, answer in enumerate(answers):
        mine = letters.decode(series(found.span, c.TOKEN_ID, i).astype(np.int64))
        assert stop in mine if wanted[i] == "stop" else mine == answer
        length = found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS][i]
        assert stop not in letters.decode(found.sequences[i, 9:9 + length - 1])
    record_property("max_error", check(llama, found.span, found.out, ids, mask))


class _Ending(StoppingCriteria):  # type: ignore[misc]
    """Ends every row when it has so many tokens."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, ids: Any, scores: Any, **rest: Any) -> Any:
        return torch.full((len(ids),), ids.shape[1] >= self.length, dtype=torch.bool)


@pytest.mark.parametrize(
    ("limit", "own", "wanted"), [(0.0, None, ("length", 1)), (3600.0, 14, ("stop", 5)), (3600.0, None, ("length", 8))]
)
def test_a_time_limit(llama: Any, limit: float, own: int | None, wanted: tuple[str, int]) -> None:
    """The reason is `length` when the time passed; a criterion of the program's own that ends the call earlier is `stop`."""
    ids, mask = batch(1)
    criteria = [] if own is None else [_Ending(own)]
    found = both(llama, lambda: llama.generate(
        ids, attention_mask=mask, max_new_tokens=8, min_new_tokens=8, do_sample=False, max_time=limit, stopping_criteria=criteria,
    ))

    assert found.span.attributes[c.RESPONSE_FINISH_REASONS] == (wanted[0],)
    assert found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS] == (wanted[1],)
    check(llama, found.span, found.out, ids, mask)


# --- Compiled code -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", [pytest.param("forward", marks=pytest.mark.slow), "decoding"])
def test_compiled_code(how: str, record_property: Record) -> None:
    """`torch.compile` of forward, and transformers' own compiled decoding: tokens are exact, attention says why it is not there."""
    torch.compiler.reset()
    model = tiny_model(num_hidden_layers=1)
    ids, mask = batch(2)
    options: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    if how == "forward":
        model.forward = torch.compile(model.forward, backend="eager", dynamic=True)
    else:
        settings = CompileConfig(backend="eager", mode=None, fullgraph=False)
        settings._compile_all_devices = True
        options |= {"cache_implementation": "static", "compile_config": settings}
    found = both(model, lambda: model.generate(ids, attention_mask=mask, **options))

    assert statuses(found.span) == ("recorded", "unsupported")
    assert "compiled" in found.span.attributes[c.STATUS_REASON]
    assert not set(c.ATTENTION_SERIES) & set(found.span.attributes)
    record_property("max_error", check(tiny_model(num_hidden_layers=1), found.span, found.out, ids, mask, attention=False))


# --- Models around models ------------------------------------------------------------------------------------------------

class Wrapper(torch.nn.Module):
    """A model whose `generate` prepares something and calls an inner model's."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def generate(self, ids: Any, **options: Any) -> Any:
        return self.inner.generate(ids, **options)


class Calling(LlamaForCausalLM):  # type: ignore[misc]
    """A model of transformers' own kind whose `generate` is its own, around the inherited one."""

    def generate(self, *arguments: Any, **options: Any) -> Any:
        return super().generate(*arguments, **options)


@pytest.mark.parametrize("kind", ["wrapper", "subclass"])
def test_a_model_around_a_model(llama: Any, kind: str, record_property: Record) -> None:
    """A `generate` that calls another: one span, with the values of the model that generates."""
    ids, mask = batch()
    if kind == "wrapper":
        outer, inner = Wrapper(llama), llama
    else:
        outer = inner = Calling(llama.config).eval()
        outer.load_state_dict(llama.state_dict())
        outer.generation_config = llama.generation_config
    found = both(outer, lambda: outer.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=True, top_k=0))

    record_property("max_error", check(inner, found.span, found.out, ids, mask))


def test_a_generation_recipe_in_a_folder(llama: Any, tmp_path: Path) -> None:
    """`custom_generate` with a path: the recipe calls `generate` itself; what it returns is counted, no signal is claimed."""
    folder = tmp_path / "custom_generate"
    folder.mkdir()
    (folder / "generate.py").write_text(
        "def generate(model, input_ids, **rest):\n"
        "    kept = {name: rest[name] for name in ('attention_mask', 'max_new_tokens') if name in rest}\n"
        "    return model.generate(input_ids, do_sample=False, **kept)\n"
    )
    ids, mask = batch()
    found = both(llama, lambda: llama.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=6, custom_generate=str(tmp_path), trust_remote_code=True,
    ))

    assert statuses(found.span) == ("unsupported", "unsupported")
    assert "loop of its own" in found.span.attributes[c.STATUS_REASON]
    assert found.span.attributes[c.USAGE_INPUT_TOKENS] == int(mask.sum())
    assert sum(found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS]) == found.span.attributes[c.USAGE_OUTPUT_TOKENS] > 0


@pytest.mark.parametrize("options", [{"do_sample": True, "top_k": 0}, {"num_beams": 3}], ids=["sampling", "beams"])
def test_an_adapted_model(options: dict[str, Any], record_property: Record) -> None:
    """PEFT's LoRA around every projection: one span, values of the adapted model."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(
        r=2, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False, task_type="CAUSAL_LM",
    )).eval()
    ids, mask = batch()
    found = both(model, lambda: model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=36, **options))
    errors = check(model.base_model.model, found.span, found.out, ids, mask)

    record_property("max_error", errors)
    answer = found.sequences[0, 9:9 + found.span.attributes[c.SEQUENCE_OUTPUT_TOKENS][0]]
    with pytest.raises(AssertionError):
        compare(found.span, 0, forced(tiny_model(), ids[0], mask[0], answer), {})  # the adapter matters


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_a_dispatched_model(place: str, tmp_path: Path, record_property: Record) -> None:
    """Accelerate puts layers elsewhere and moves them in when they run: values are the same."""
    accelerate = pytest.importorskip("accelerate")
    parts = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": place, "model.layers.2": place,
             "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    model = accelerate.dispatch_model(tiny_model(), parts, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    ids, mask = batch()
    found = both(model, lambda: model.generate(ids, attention_mask=mask, max_new_tokens=36, do_sample=True, top_k=0))

    record_property("max_error", check(tiny_model(), found.span, found.out, ids, mask))


# --- What the program has set in torch -----------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_default_type_of_the_program(llama: Any, dtype: torch.dtype, record_property: Record) -> None:
    """torch.set_default_dtype is the program's matter: signals are worked out in float32 all the same, hidden keys stay hidden."""
    ids, mask = batch()
    torch.set_default_dtype(dtype)
    try:
        found = both(llama, lambda: llama.generate(ids, attention_mask=mask, max_new_tokens=40, do_sample=False))
    finally:
        torch.set_default_dtype(torch.float32)
    record_property("max_error", check(llama, found.span, found.out, ids, mask))


def test_gradients_on(record_property: Record) -> None:
    """A model that turns gradients on inside `generate` is measured as any other: nothing of ours asks for a gradient."""
    class WithGradients(LlamaForCausalLM):
        @torch.enable_grad()
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    model, ids = tiny_model(), batch()[0][:1]
    model.__class__ = WithGradients
    found = both(model, lambda: model.generate(ids, max_new_tokens=40, do_sample=False))
    record_property("max_error", check(tiny_model(), found.span, found.out, ids, torch.ones_like(ids)))


def test_a_criterion_that_writes_into_the_scores(llama: Any, record_property: Record) -> None:
    """A stopping criterion of the program's own may spoil the scores it is shown: what was recorded is what the model said."""
    class Spoils(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            scores[-1].fill_(0.0)
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    ids, mask = batch()
    found = both(llama, lambda: llama.generate(
        ids, attention_mask=mask, max_new_tokens=20, do_sample=False, output_scores=True, return_dict_in_generate=True,
        stopping_criteria=StoppingCriteriaList([Spoils()]),
    ))
    record_property("max_error", check(llama, found.span, found.out.sequences, ids, mask))
