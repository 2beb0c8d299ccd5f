"""The oracles notice: each small falsification of a formula, planted in its real source, makes the comparison fail.

Not tests of the formulas: those are elsewhere. Here the checks themselves are tested.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import sdk_oracles as oracles
from cutaway import conventions as c
from cutaway import measure
from cutaway.testing import recorded, series, tiny_model
from sdk_helpers import batch


@dataclass(frozen=True)
class Mutation:
    """In the source of `function` (module:function or module:Class.function) `old` becomes `new`; `family` shows it."""

    name: str
    function: str
    old: str
    new: str
    family: str = "llama"


TOKENS, ROWS, SIGHT = "measure.tokens", "measure.attention", "record.sight"

MUTATIONS = [
    Mutation("drop the mask", f"{ROWS}:_scores", "if sight.bias is not None", "if False"),
    Mutation("omit the scale", f"{ROWS}:_scores", "alpha=scale", "alpha=1.0"),
    Mutation("forget the soft cap", f"{ROWS}:_scores", "if softcap is not None", "if False", "gemma2"),
    Mutation("cap without its factor", f"{ROWS}:_scores", ".tanh_().mul_(softcap)", ".tanh_()", "gemma2"),
    Mutation("first key instead of the first visible one", f"{ROWS}:_signals", "sight.first.expand(shape)",
             "torch.zeros_like(sight.first).expand(shape)"),
    Mutation("last key off by one", f"{ROWS}:_signals", "sight.last.expand(shape)", "(sight.last - 1).expand(shape)"),
    Mutation("prompt off by one", f"{ROWS}:_signals", "min(sight.prompt,", "min(sight.prompt + 1,"),
    Mutation("lookback of the new instead of the old", f"{ROWS}:_signals", "lookback = old /", "lookback = 1.0 - old /"),
    Mutation("attention entropy in bits", f"{ROWS}:_signals", "entropy * sight.scaled", "entropy / 0.6931 * sight.scaled"),
    Mutation("entropy without the log of the total", f"{ROWS}:_signals", "(log_total - p.mul_", "(0.0 * log_total - p.mul_"),
    Mutation("count hidden keys", f"{SIGHT}:masked", "visible = seen.sum(-1).float()",
             "visible = torch.ones_like(seen).sum(-1).float()"),
    Mutation("count pads as prompt", f"{SIGHT}:masked", "seen[..., :prompt].sum(-1)",
             "torch.ones_like(seen[..., :prompt]).sum(-1)"),
    Mutation("forget the causal triangle of a block", f"{SIGHT}:block", "< limit)[None, None]", "< limit + positions)[None, None]"),
    Mutation("triangle off by one", f"{SIGHT}:causal", "place[None, :] <= place", "place[None, :] < place", "unpadded"),
    Mutation("forget the triangle where nothing is padded", f"{SIGHT}:causal", "if count > 1:", "if False:", "unpadded"),
    Mutation("log2 instead of ln", f"{TOKENS}:signals_of", "entropy * _LN_2,", "entropy,"),
    Mutation("rank counts equals", f"{TOKENS}:_moments", "torch.gt(logits, picked", "torch.ge(logits, picked"),
    Mutation("margin to the third", f"{TOKENS}:signals_of", "best[:, 0] - best[:, 1]", "(best[:, 0] - best[:, 1]) * 1.01"),
    Mutation("second moment for variance", f"{TOKENS}:signals_of", "square - mean.square()", "square"),
    Mutation("min-p against the chosen token", f"{TOKENS}:_moments", "threshold(weight, _MASS_MIN", "threshold(weight, 0.5"),
    Mutation("processed instead of raw scores", "record.tokens:TokenRecorder._measure", "token_moments(logits,",
             "token_moments(logits if drawn is None else drawn,", "sampled"),
    Mutation("raw instead of processed scores", "record.tokens:TokenRecorder._measure", "sampled_surprisal(drawn",
             "sampled_surprisal(logits", "sampled"),
    Mutation("raw scores not copied before processors change them", "record.recorder:Recorder.logits",
             "elif shared or scores.is_inference():", "elif False:", "penalised"),
    Mutation("a step late", "record.recorder:Recorder.chosen", "ids.shape[1] - grown + i", "ids.shape[1] - grown - 1 + i"),
    Mutation("beams not followed", "record.recorder:Recorder._collect", "if paths is None else (paths.candidates, paths.running)",
             "if True else (paths.candidates, paths.running)", "beams"),
    Mutation("wrong rows of a draft", "record.recorder:Recorder.logits", "self._drafts and ids.shape[1] == self._length", "False",
             "lookup"),
    Mutation("rows of refused drafts", "record.attention:AttentionRecorder._keep_accepted",
             "slice(query.shape[2] - drafted - 1, query.shape[2] - drafted - 1 + accepted)",
             "slice(query.shape[2] - accepted, query.shape[2])", "lookup"),
    Mutation("heads read the wrong keys", f"{ROWS}:_scores", "query.float()", "query.float().flip(1)"),
]


def scene(family: str) -> None:
    """A generation that shows every signal, and its comparison with the oracle: raises AssertionError where they differ."""
    model = tiny_model("gemma2" if family == "gemma2" else "llama", vocabulary=40 if family == "beams" else 120)
    ids, mask = batch(1 if family in ("lookup", "unpadded") else 3, vocabulary=40 if family == "beams" else 120)
    options: dict[str, Any] = {
        "sampled": {"do_sample": True, "temperature": 0.6, "top_k": 30, "output_scores": True, "return_dict_in_generate": True},
        "penalised": {"logits_processor": [lambda ids, scores: scores.mul_(0.5)], "do_sample": False},
        "beams": {"num_beams": 4}, "lookup": {"prompt_lookup_num_tokens": 3, "do_sample": False},
    }.get(family, {"do_sample": False})
    torch.manual_seed(5)
    with recorded(attention="full") as spans:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=36, **options)
        (span,) = spans.get_finished_spans()
    oracles.check(model, span, out, ids, mask)
    if family == "sampled":
        for i in range(len(ids)):
            chosen = torch.from_numpy(series(span, c.TOKEN_ID, i).astype(np.int64))
            logs = torch.stack([step[i] for step in out.scores]).double().log_softmax(-1)[:len(chosen)]
            truth = -logs.gather(-1, chosen[:, None])[:, 0].numpy()
            np.testing.assert_allclose(series(span, c.TOKEN_SAMPLED_SURPRISAL, i), truth, atol=2e-4)


@pytest.mark.parametrize("family", sorted({mutation.family for mutation in MUTATIONS}))
def test_without_a_mutation_the_oracle_agrees(family: str) -> None:
    """Each scene as it is: no difference."""
    scene(family)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_is_noticed(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scene with one falsified line: the comparison fails."""
    path, _, place = mutation.function.partition(":")
    module = importlib.import_module(f"cutaway.{path}")
    kind, _, name = place.rpartition(".")
    owner: Any = getattr(module, kind) if kind else module
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert source.count(mutation.old) == 1, "the source has changed: the mutation has to follow it"
    names = dict(vars(module))
    exec(compile("from __future__ import annotations\n" + source.replace(mutation.old, mutation.new), "mutated", "exec"), names)
    original = getattr(owner, name)
    for place in (owner, measure):  # a package has its functions under its own name too
        if getattr(place, name, None) is original:
            monkeypatch.setattr(place, name, names[name])

    with pytest.raises(AssertionError):
        scene(mutation.family)
