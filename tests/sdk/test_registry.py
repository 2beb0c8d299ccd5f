"""The registry of attention functions while it is listened to: what a program asks of it, it answers as if nobody did."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from cutaway import conventions as c
from cutaway.testing import recorded, tiny_model
from sdk_helpers import batch
from sdk_oracles import both

NAME = "tests_of_the_registry"


def other(module: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    """Another attention, three times as sharp."""
    kwargs["scaling"] = 3 * (kwargs.get("scaling") or query.shape[-1] ** -0.5)
    return sdpa_attention_forward(module, query, key, value, *args, **kwargs)


class _AtToken:
    """A streamer that does something at the fifth token."""

    def __init__(self, action: Any) -> None:
        self._action, self._left = action, 6

    def put(self, value: Any) -> None:
        self._left -= 1
        if not self._left:
            self._action()

    def end(self) -> None:
        pass


@pytest.fixture
def named() -> Iterator[Any]:
    """A model that attends by the function of a name of its own."""
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    AttentionInterface.register(NAME, sdpa_attention_forward)
    model = tiny_model()
    model.set_attn_implementation(NAME)
    yield model
    AttentionInterface._global_mapping.pop(NAME, None)
    ALL_MASK_ATTENTION_FUNCTIONS._global_mapping.pop(NAME, None)


def test_another_function_under_the_same_name(named: Any) -> None:
    """Registered between two tokens of a call, it is the one that runs from there on."""
    ids, mask = batch(1)

    def call() -> Any:
        AttentionInterface.register(NAME, sdpa_attention_forward)
        streamer = _AtToken(lambda: AttentionInterface.register(NAME, other))
        return named.generate(ids, attention_mask=mask, max_new_tokens=20, streamer=streamer, return_dict_in_generate=True,
                              output_logits=True)

    assert both(named, call).bare is not None


def test_a_name_that_is_gone(named: Any) -> None:
    """Taken away between two tokens, it is missed as without cutaway."""
    ids, mask = batch(1)
    streamer = _AtToken(lambda: AttentionInterface._global_mapping.pop(NAME))
    with recorded(), pytest.raises(KeyError, match=NAME):
        named.generate(ids, attention_mask=mask, max_new_tokens=20, streamer=streamer)


@pytest.mark.parametrize("disguised", [False, True], ids=["plain", "under the name of the original"])
def test_an_answer_of_the_programs_own(disguised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that replaced the registry's method before may answer every layer differently: it is asked every time."""
    asked: list[str] = []

    def get_interface(self: Any, name: str, default: Any) -> Any:
        asked.append(name)
        return other if len(asked) % 2 else sdpa_attention_forward

    replacement = functools.wraps(AttentionInterface.get_interface)(get_interface) if disguised else get_interface
    monkeypatch.setattr(AttentionInterface, "get_interface", replacement)
    model, (ids, mask) = tiny_model(), batch(1)

    def call() -> Any:
        asked.clear()
        found = model.generate(ids, attention_mask=mask, max_new_tokens=10, min_new_tokens=10, return_dict_in_generate=True,
                               output_logits=True)
        counts.append(len(asked))
        return found

    counts: list[int] = []
    both(model, call)
    assert counts == [10 * model.config.num_hidden_layers] * 2


def test_an_export_inside_of_a_call() -> None:
    """A model exported in the middle of a generation has the same graph: nothing of ours is traced into it."""
    model, (ids, mask) = tiny_model(), batch(1)
    sizes: list[int] = []

    def loop(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **kwargs: Any) -> Any:
        exported = torch.export.export(model, (input_ids,), {"use_cache": False}, strict=False)
        sizes.append(len(list(exported.graph.nodes)))
        chosen = logits_processor(input_ids, model(input_ids, use_cache=False).logits[:, -1]).argmax(-1)
        input_ids = torch.cat([input_ids, chosen[:, None]], dim=-1)
        stopping_criteria(input_ids, None)
        return input_ids

    found = both(model, lambda: model.generate(ids, attention_mask=mask, custom_generate=loop, max_new_tokens=1, eos_token_id=None))
    assert sizes[0] == sizes[1]
    assert found.span.attributes[c.TOKENS_STATUS] == c.STATUS_RECORDED
