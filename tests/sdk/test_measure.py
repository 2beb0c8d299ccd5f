"""Signals against torch's own distributions and against arithmetic by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cutaway import measure
from cutaway.measure import attention as attention_module
from cutaway.record import sight


def test_uniform_logits_have_the_entropy_of_a_fair_die() -> None:
    """Equal logits: entropy and surprisal are log V, nothing ranks above, nothing varies, and all the mass reaches min-p."""
    surprisal, entropy, margin, rank, varentropy, mass = measure.token_signals(torch.zeros(2, 64), torch.tensor([3, 60]))

    assert surprisal.tolist() == pytest.approx([math.log(64)] * 2)
    assert entropy.tolist() == pytest.approx([math.log(64)] * 2)
    assert margin.tolist() == [0.0, 0.0]
    assert rank.tolist() == [0.0, 0.0]
    assert varentropy.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert mass.tolist() == pytest.approx([1.0, 1.0])


def test_a_certain_distribution_has_no_entropy() -> None:
    """One token with all the mass: entropy and its surprisal are 0; forbidden tokens (-inf) do not turn values into NaN."""
    logits = torch.full((1, 50), -math.inf)
    logits[0, 7] = 3.0
    surprisal, entropy, _, rank, varentropy, mass = measure.token_signals(logits, torch.tensor([7]))

    assert rank.item() == 0.0
    assert surprisal.item() == pytest.approx(0.0, abs=1e-7)
    assert entropy.item() == pytest.approx(0.0, abs=1e-7)
    assert varentropy.item() == pytest.approx(0.0, abs=1e-7)
    assert mass.item() == pytest.approx(1.0)


@pytest.mark.parametrize(("spread", "offset"), [(0.1, 0.0), (1.0, 0.0), (10.0, 0.0), (3.0, 1000.0), (3.0, -1000.0)])
def test_token_signals_agree_with_categorical(spread: float, offset: float) -> None:
    """Random logits, however far from 0: surprisal and entropy equal torch.distributions.Categorical in float64 within 1e-5 nats,
    the rest likewise."""
    logits = torch.randn(16, 5000, generator=torch.Generator().manual_seed(1)) * spread + offset
    chosen = torch.arange(16) * 7
    oracle = torch.distributions.Categorical(logits=logits.double())
    surprisal, entropy, _, rank, varentropy, mass = measure.token_signals(logits, chosen)

    assert torch.allclose(surprisal.double(), -oracle.log_prob(chosen), atol=1e-5, rtol=1e-6)
    assert torch.allclose(entropy.double(), oracle.entropy(), atol=1e-5, rtol=1e-6)
    order = logits.argsort(-1, descending=True)
    assert rank.tolist() == [float((order[i] == chosen[i]).nonzero().item()) for i in range(16)]
    p = oracle.probs
    spread_of = (p * (-p.log() - oracle.entropy()[:, None]).square()).sum(-1)
    assert torch.allclose(varentropy.double(), spread_of, atol=1e-4, rtol=1e-5)
    assert torch.allclose(mass.double(), p.masked_fill(p < 0.1 * p.amax(-1, keepdim=True), 0.0).sum(-1), atol=1e-5)


def test_measuring_leaves_the_logits_alone() -> None:
    """The row still decides the next token: its values are the same afterwards."""
    logits = torch.randn(2, 100)
    before = logits.clone()
    measure.token_signals(logits, torch.tensor([1, 2]))

    assert torch.equal(before, logits)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_attention_signals_agree_with_the_matrix(heads: int, groups: int, softcap: float | None) -> None:
    """Two layers, grouped heads, hidden keys, a soft cap: all five equal those of the softmax matrices in float64."""
    generator = torch.Generator().manual_seed(2)
    queries = [torch.randn(2, heads, 3, 16, generator=generator) * 3 for _ in range(2)]
    keys = [torch.randn(2, groups, 11, 16, generator=generator) for _ in range(2)]
    visible = torch.rand(2, 1, 3, 11, generator=generator) > 0.4
    visible[:, :, :, 3] = visible[:, :, :, 8] = True
    bias = torch.where(visible, 0.0, sight.HIDDEN)
    found = measure.attention_signals(queries, keys, 0.25, sight.masked(bias, 6), softcap).double()

    for layer in range(2):
        scores = (queries[layer].double() @ keys[layer].repeat_interleave(heads // groups, 1).double().transpose(-1, -2)) * 0.25
        scores = scores if softcap is None else torch.tanh(scores / softcap) * softcap
        weights = scores.masked_fill(~visible, -math.inf).softmax(-1)
        seen = visible.expand_as(weights)
        entropy = torch.special.entr(weights).sum(-1)
        old, new = (weights[..., part].sum(-1) / seen[..., part].sum(-1) for part in (slice(0, 6), slice(6, 11)))
        truth = torch.stack([
            entropy, entropy / seen.sum(-1).log(), weights.gather(-1, seen.int().argmax(-1, keepdim=True))[..., 0],
            weights.gather(-1, 10 - seen.flip(-1).int().argmax(-1, keepdim=True))[..., 0], old / (old + new),
        ])
        assert torch.allclose(found[:, layer], truth, atol=1e-5)


def test_equal_keys_have_the_entropy_of_their_number() -> None:
    """Attention that cannot tell n keys apart: entropy log n, normalised 1, every key 1/n, no preference for the prompt."""
    seen = sight.causal(1, 37, 20, torch.device("cpu"))
    found = measure.attention_signals([torch.randn(1, 2, 1, 8)], [torch.ones(1, 2, 37, 8)], 1.0, seen)

    for value, wanted in zip(found, (math.log(37), 1.0, 1 / 37, 1 / 37, 0.5), strict=True):
        assert value.flatten().tolist() == pytest.approx([wanted] * 2, abs=1e-5)


def test_a_learned_sink_takes_its_share_of_the_masses() -> None:
    """gpt-oss: the sink is a logit beside the keys; masses are those of a softmax with it, the entropy is of the keys alone."""
    generator = torch.Generator().manual_seed(4)
    query, key = torch.randn(1, 2, 1, 8, generator=generator), torch.randn(1, 2, 9, 8, generator=generator)
    sink = torch.tensor([0.7, -1.2])
    found = measure.attention_signals([query], [key], 0.5, sight.causal(1, 9, 5, torch.device("cpu")), None, [sink])[:, 0, 0, :, 0]
    scores = (query.double() @ key.double().transpose(-1, -2))[0, :, 0] * 0.5
    whole = torch.cat([scores, sink.double()[:, None]], dim=-1).softmax(-1)

    assert torch.allclose(found[0].double(), torch.special.entr(scores.softmax(-1)).sum(-1), atol=1e-5)
    assert torch.allclose(found[2].double(), whole[:, -1], atol=1e-6)
    assert torch.allclose(found[3].double(), whole[:, 8], atol=1e-6)


def test_long_blocks_are_cut_without_changing_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block over the memory limit is computed in parts, by rows and by layers, with the same result."""
    generator = torch.Generator().manual_seed(3)
    queries = [torch.randn(1, 2, 9, 8, generator=generator) for _ in range(3)]
    keys = [torch.randn(1, 2, 20, 8, generator=generator) for _ in range(3)]
    bias = torch.where(torch.rand(1, 1, 9, 20, generator=generator) > 0.5, 0.0, -5.0)
    seen = sight.masked(bias, 7)
    whole = measure.attention_signals(queries, keys, 0.3, seen)

    for rows_at_once in (2, 10, 20):
        monkeypatch.setitem(attention_module.SCORES_BYTES_MAX, "cpu", 4 * 2 * 20 * rows_at_once)
        assert torch.allclose(measure.attention_signals(queries, keys, 0.3, seen), whole, atol=1e-6)
