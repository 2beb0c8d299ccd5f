"""Which layers' attention is recorded: a few, from the first to the last, or all of them; each value the same either way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cutaway import conventions as c
from cutaway.record.attention import LayerEar
from cutaway.record.recorder import Recorder
from cutaway.testing import recorded, series, tiny_model
from sdk_helpers import batch

DEEP = 12
SIX = (0, 2, 4, 7, 9, 11)


def spans_of(model: Any, generate: dict[str, Any], **settings: Any) -> Any:
    ids, mask = batch(generate.pop("rows", 2))
    torch.manual_seed(3)
    with recorded(**settings) as spans:
        model.generate(ids, attention_mask=mask, max_new_tokens=40, **generate)
        (span,) = spans.get_finished_spans()
    return span


@pytest.mark.parametrize("options", [
    {"do_sample": False}, {"num_beams": 3}, {"do_sample": False, "prompt_lookup_num_tokens": 3, "rows": 1},
], ids=["greedy", "beams", "lookup"])
def test_six_layers_are_recorded_by_default_and_named(options: dict[str, Any]) -> None:
    """Of a deeper model: evenly from the first to the last, and equal to what recording all layers gives for them."""
    model = tiny_model(num_hidden_layers=DEEP)
    some = spans_of(model, dict(options))
    every = spans_of(model, dict(options), attention_layers_max=0)
    assert some.attributes[c.ATTENTION_LAYERS] == SIX
    assert c.ATTENTION_LAYERS not in every.attributes
    for name in (c.ATTENTION_ENTROPY, c.ATTENTION_LOOKBACK, c.ATTENTION_ENTROPY_HEADS):
        few, all_of_them = series(some, name), series(every, name)
        assert few.shape[1] == len(SIX)
        assert all_of_them.shape[1] == DEEP
        np.testing.assert_allclose(few, all_of_them[:, list(SIX)], atol=2e-3 if name == c.ATTENTION_ENTROPY_HEADS else 2e-5)


@pytest.mark.parametrize(("settings", "layers"), [({"attention_layers_max": 1}, (0,)), ({"attention_layers_max": 2}, (0, 11)),
                                                  ({"attention_layers_max": 11}, None), ({"attention_layers_max": 12}, None)])
def test_the_number_of_layers_is_the_programs(settings: dict[str, Any], layers: tuple[int, ...] | None) -> None:
    """One is the first; a model with no more layers than allowed has all of them and names none."""
    span = spans_of(tiny_model(num_hidden_layers=DEEP), {"do_sample": False}, **settings)
    count = min(DEEP, settings["attention_layers_max"])
    values = series(span, c.ATTENTION_ENTROPY)
    assert values.reshape(len(values), -1).shape[1] == count
    named = span.attributes.get(c.ATTENTION_LAYERS)
    assert (named is None) == (count == DEEP)
    assert layers is None or named == layers


def test_full_is_of_every_layer() -> None:
    """Whatever attention_layers_max says."""
    span = spans_of(tiny_model(num_hidden_layers=DEEP), {"do_sample": False}, attention="full", attention_layers_max=2)
    assert series(span, c.ATTENTION_SINK + c.ATTENTION_ENTROPY_HEADS.removeprefix(c.ATTENTION_ENTROPY)).shape[1] == DEEP
    assert c.SEQUENCE_RAUQ in span.attributes


def test_rauq_is_not_made_of_a_sample_of_layers() -> None:
    """Its formula takes the largest over all layers of the middle third: of fewer it would be another number."""
    model = tiny_model(num_hidden_layers=DEEP)
    assert c.SEQUENCE_RAUQ not in spans_of(model, {"do_sample": False}).attributes
    assert c.SEQUENCE_RAUQ in spans_of(model, {"do_sample": False}, attention_layers_max=0).attributes


def test_layers_that_are_left_out_hold_nothing() -> None:
    """Strongest sources come from layers that are recorded; cross-attention is thinned in the same way."""
    span = spans_of(tiny_model(num_hidden_layers=DEEP), {"do_sample": False}, attention_sources=3)
    assert span.attributes[c.SOURCE_LAYERS] == (0, 4, 7, 11)
    t5 = tiny_model("t5", num_layers=DEEP, num_decoder_layers=DEEP)
    span = spans_of(t5, {"do_sample": False})
    assert series(span, c.CROSS_ATTENTION_ENTROPY).shape[1] == len(SIX)
    assert span.attributes[c.ATTENTION_STATUS] == c.STATUS_RECORDED


def test_attention_that_is_given_up_is_not_heard_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found not to be exact in the middle of a call: the passes that follow reach no layer's recorder, and token signals go on."""
    hear, stepped, heard = LayerEar.hear, Recorder.chosen, [0]

    def counted(self: LayerEar, *args: Any) -> None:
        heard[0] += 1
        hear(self, *args)

    def gives_up(self: Recorder, ids: Any, done: Any) -> None:
        stepped(self, ids, done)
        if self.hears_attention and ids.shape[1] == 9 + 5:
            self.give_up_attention("a reason")
            heard.append(heard[0])

    monkeypatch.setattr(LayerEar, "hear", counted)
    monkeypatch.setattr(Recorder, "chosen", gives_up)
    span = spans_of(tiny_model(), {"do_sample": False, "min_new_tokens": 40})

    assert heard[0] == heard[1] == 5 * tiny_model().config.num_hidden_layers
    assert span.attributes[c.ATTENTION_STATUS] == c.STATUS_UNSUPPORTED
    assert span.attributes[c.STATUS_REASON] == "a reason"
    assert series(span, c.TOKEN_SURPRISAL, 0).shape == (40,)
