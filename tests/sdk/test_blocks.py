"""Query rows that wait for each other: whatever the number of layers and of steps, each value stands at its own token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from cutaway import conventions as c
from cutaway.record.attention import BLOCK_STEPS
from cutaway.testing import recorded, series, tiny_model
from sdk_helpers import batch
from sdk_oracles import both, check

BORDERS = tuple(BLOCK_STEPS + more for more in (-1, 0, 1, 2, BLOCK_STEPS, BLOCK_STEPS + 1, 2 * BLOCK_STEPS + 4))


@pytest.mark.parametrize("layers", [3, 12])
@pytest.mark.parametrize("tokens", BORDERS)
def test_calls_that_end_around_a_full_block(layers: int, tokens: int) -> None:
    """Some layers still have a full block and newer rows, others only newer ones: all values are those of a replay."""
    model, (ids, mask) = tiny_model(num_hidden_layers=layers), batch(2)
    found = both(model, lambda: model.generate(ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens))
    check(model, found.span, found.out, ids, mask)


def test_more_layers_than_steps_can_serve_four_by_four() -> None:
    """A model of seventy layers: none is late for its next block."""
    model = tiny_model(num_hidden_layers=70, hidden_size=16, intermediate_size=16, initializer_range=0.1)
    ids, mask = batch(1)
    found = both(model, lambda: model.generate(ids, attention_mask=mask, max_new_tokens=40, min_new_tokens=40))
    check(model, found.span, found.out, ids, mask)


class _Raises(StoppingCriteria):  # type: ignore[misc]
    """Ends the call by an error at a length."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if input_ids.shape[1] >= self._length:
            raise ValueError("the program's own")
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


@pytest.mark.parametrize("tokens", BORDERS[1:4])
def test_a_call_that_fails_around_a_full_block(tokens: int) -> None:
    """The program's criterion raises in the midst of six layers' work: what had been generated has its own values."""
    model, (ids, mask) = tiny_model(num_hidden_layers=6), batch(1)
    with recorded(attention="full") as spans, pytest.raises(ValueError, match="own"):
        model.generate(ids, attention_mask=mask, max_new_tokens=60, min_new_tokens=60,
                       stopping_criteria=StoppingCriteriaList([_Raises(ids.shape[1] + tokens)]))
    (span,) = spans.get_finished_spans()
    answer = torch.tensor(series(span, c.TOKEN_ID, 0).astype("int64"))
    assert len(answer) >= tokens - 1
    check(model, span, torch.cat([ids, answer[None]], dim=1), ids, mask)


@pytest.mark.parametrize("tokens", [5, BLOCK_STEPS + 4, 2 * BLOCK_STEPS + 8])
def test_inference_mode_around_a_part_of_the_call(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory made inside of inference mode cannot be written into outside: what is left is computed in memory of its own."""
    model, (ids, mask) = tiny_model(), batch(2)
    monkeypatch.setattr(type(model), "_sample", torch.inference_mode()(type(model)._sample))
    found = both(model, lambda: model.generate(ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens).clone())
    check(model, found.span, found.out.clone(), ids, mask)


def test_inference_mode_at_every_other_token() -> None:
    """A loop of the program's own that changes between the modes."""
    def loop(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **kwargs: Any) -> Any:
        for step in range(24):
            with torch.inference_mode(step % 2 == 0), torch.no_grad():
                logits = model(input_ids, use_cache=False).logits[:, -1].clone()
                chosen = logits_processor(input_ids, logits).argmax(-1)
                input_ids = torch.cat([input_ids, chosen[:, None]], dim=-1)
                stopping_criteria(input_ids, None)
        return input_ids

    model, (ids, mask) = tiny_model(), batch(1)
    with recorded() as spans:
        model.generate(ids, attention_mask=mask, custom_generate=loop, max_new_tokens=24, eos_token_id=None)
    (span,) = spans.get_finished_spans()
    assert span.attributes[c.TOKENS_STATUS] == c.STATUS_RECORDED, span.attributes.get(c.STATUS_REASON)
