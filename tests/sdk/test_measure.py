"""Signals against torch's own distributions and against arithmetic by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cutaway import measure


def test_uniform_logits_have_the_entropy_of_a_fair_die() -> None:
    """Equal logits: entropy and surprisal are log V, the margin is 0 and nothing ranks above."""
    surprisal, entropy, margin, rank = measure.token_signals(torch.zeros(2, 64), torch.tensor([3, 60]))

    assert surprisal.tolist() == pytest.approx([math.log(64)] * 2)
    assert entropy.tolist() == pytest.approx([math.log(64)] * 2)
    assert margin.tolist() == [0.0, 0.0]
    assert rank.tolist() == [0.0, 0.0]


def test_a_certain_distribution_has_no_entropy() -> None:
    """One token with all the mass: entropy and its surprisal are 0; forbidden tokens (-inf) do not turn values into NaN."""
    logits = torch.full((1, 50), -math.inf)
    logits[0, 7] = 3.0
    surprisal, entropy, _, rank = measure.token_signals(logits, torch.tensor([7]))

    assert (surprisal.item(), rank.item()) == (0.0, 0.0)
    assert entropy.item() == pytest.approx(0.0, abs=1e-30)


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_token_signals_agree_with_categorical(spread: float) -> None:
    """Random logits: surprisal and entropy equal torch.distributions.Categorical in float64 within 1e-5 nats."""
    logits = torch.randn(16, 5000, generator=torch.Generator().manual_seed(1)) * spread
    chosen = torch.arange(16) * 7
    oracle = torch.distributions.Categorical(logits=logits.double())
    surprisal, entropy, _, rank = measure.token_signals(logits, chosen)

    assert torch.allclose(surprisal.double(), -oracle.log_prob(chosen), atol=1e-5, rtol=1e-6)
    assert torch.allclose(entropy.double(), oracle.entropy(), atol=1e-5, rtol=1e-6)
    order = logits.argsort(-1, descending=True)
    assert rank.tolist() == [float((order[i] == chosen[i]).nonzero().item()) for i in range(16)]


def test_measuring_leaves_the_logits_alone() -> None:
    """The row still decides the next token: its values are the same afterwards."""
    logits = torch.randn(2, 100)
    before = logits.clone()
    measure.token_signals(logits, torch.tensor([1, 2]))

    assert torch.equal(before, logits)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
def test_attention_entropy_agrees_with_the_matrix(heads: int, groups: int) -> None:
    """Grouped heads, hidden keys and a soft cap: equals the entropy of the softmax matrix in float64 within 1e-5 nats."""
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(2, heads, 3, 16, generator=generator) * 3
    key = torch.randn(2, groups, 11, 16, generator=generator)
    visible = torch.rand(2, 1, 3, 11, generator=generator) > 0.3
    visible[..., 0] = True
    bias = torch.where(visible, 0.0, -1e30)
    scores = (query.double() @ key.repeat_interleave(heads // groups, 1).double().transpose(-1, -2)) * 0.25
    scores = torch.tanh(scores / 5.0) * 5.0
    oracle = torch.special.entr(scores.masked_fill(~visible, -math.inf).softmax(-1)).sum(-1)

    assert torch.allclose(measure.attention_entropy(query, key, 0.25, bias, 5.0).double(), oracle, atol=1e-5)


def test_equal_keys_have_the_entropy_of_their_number() -> None:
    """Attention that cannot tell n keys apart has entropy log n."""
    value = measure.attention_entropy(torch.randn(1, 2, 1, 8), torch.ones(1, 2, 37, 8), 1.0, None)

    assert value.flatten().tolist() == pytest.approx([math.log(37)] * 2, abs=1e-5)


def test_long_blocks_are_cut_without_changing_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block over the memory limit is computed in parts, with the same result."""
    generator = torch.Generator().manual_seed(3)
    query, key = torch.randn(1, 2, 9, 8, generator=generator), torch.randn(1, 2, 20, 8, generator=generator)
    bias = torch.where(torch.rand(1, 1, 9, 20, generator=generator) > 0.5, 0.0, -5.0)
    whole = measure.attention_entropy(query, key, 0.3, bias)
    monkeypatch.setitem(measure.SCORES_BYTES_MAX, "cpu", 4 * 2 * 20 * 2)

    assert torch.allclose(measure.attention_entropy(query, key, 0.3, bias), whole, atol=1e-6)
