"""Planted failures: series of a model that loops, collapses or tires beside healthy ones: the right score moves, no other.

The series are synthetic and seeded: what is tested is that the scores tell failures apart, not that real models fail like this.
"""

from __future__ import annotations

import numpy as np
import pytest

from cutaway_collector.blocks import Lists
from cutaway_collector.score import catalogue, device, registry
from score_helpers import token_block

TOKENS, LAYERS, HEADS = 240, 6, 4
HEALTHY = 40


class Generation:
    """A healthy generation: ids as frequent as words (1 / (rank + 20)), surprisals about 1.6 nats, attention spread and steady."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        shape = (TOKENS, LAYERS, HEADS)
        self.ids = (20 * (49_151 / 20 + 1) ** random.uniform(0, 1, TOKENS)).astype(np.int64) - 20
        self.entropies = random.gamma(4.0, 0.5, TOKENS)
        self.surprisals = random.exponential(0.8, TOKENS) + 0.4 * self.entropies
        self.spread = random.uniform(0.4, 0.9, shape)
        self.sinks = random.uniform(0.0, 0.2, shape)
        self.last_keys = random.uniform(0.3, 0.6, shape)
        self.lookbacks = random.uniform(0.5, 0.7, (TOKENS, LAYERS))


def looping(seed: int) -> Generation:
    """It says the same eleven tokens again and again for its second half."""
    made = Generation(seed)
    made.ids[TOKENS // 2 :] = np.resize(made.ids[:11], TOKENS - TOKENS // 2)
    return made


def one_token(seed: int) -> Generation:
    """It says one token for ever."""
    made = Generation(seed)
    made.ids[:] = made.ids[0]
    return made


def collapsed_temperature(seed: int) -> Generation:
    """It is certain of everything: surprisals and entropies of next to nothing."""
    made = Generation(seed)
    made.surprisals *= 1e-4
    made.entropies *= 1e-4
    return made


def fading(seed: int) -> Generation:
    """Its entropy falls to nothing on the way: the collapse under way."""
    made = Generation(seed)
    made.entropies *= np.linspace(1, 0, TOKENS)
    return made


def tiring(seed: int) -> Generation:
    """Its errors feed on themselves: surprisal rises by 4 nats on the way."""
    made = Generation(seed)
    made.surprisals += np.linspace(0, 4, TOKENS)
    return made


def bad_clause(seed: int) -> Generation:
    """Sixteen tokens in the middle of a good answer that it did not believe in."""
    made = Generation(seed)
    made.surprisals[100:116] = 9.0
    return made


def dead_heads(seed: int) -> Generation:
    """Half of its heads look at one key, the first."""
    made = Generation(seed)
    made.spread[:, :, :2] = 0.01
    made.sinks[:, :, :2] = 0.95
    return made


def forgetful(seed: int) -> Generation:
    """It turns away from the prompt, steadily."""
    made = Generation(seed)
    made.lookbacks *= np.linspace(1, 0.1, TOKENS)[:, None]
    return made


def unanchored(seed: int) -> Generation:
    """Its attention leaves the token it has just read, so that doubt is not dispelled."""
    made = Generation(seed)
    made.last_keys *= 0.02
    return made


def scored(made: list[Generation]) -> dict[str, np.ndarray]:
    """Score name -> value of each generation."""
    def lists(of):
        values = [getattr(one, of).ravel() for one in made]
        return Lists(np.concatenate([[0], np.cumsum([value.size for value in values])]), np.concatenate(values).astype(np.float32))

    rows = len(made)
    block = token_block([one.surprisals for one in made], [one.ids.tolist() for one in made], Entropies=lists("entropies"),
                        AttentionLayers=np.full(rows, LAYERS, np.uint16), AttentionHeads=np.full(rows, HEADS, np.uint16),
                        AttentionModelLayers=np.full(rows, LAYERS, np.uint16), AttentionNormalizedEntropyHeads=lists("spread"),
                        AttentionSinkHeads=lists("sinks"), AttentionLastKeyHeads=lists("last_keys"),
                        AttentionLookbacks=lists("lookbacks"))
    return {name: values for scorer in registry._ours(device.Device("cpu")) for name, values in scorer.score(block).items()}


@pytest.fixture(scope="module")
def healthy():
    """Score name -> (lowest, highest) of forty healthy generations."""
    found = scored([Generation(seed) for seed in range(HEALTHY)])
    return {name: (values.min(), values.max()) for name, values in found.items()}


SURPRISAL = {entry.name for entry in catalogue.SCORES if entry.scorer == "surprisal"}
REPETITION = {"distinct_1", "distinct_2", "seq_rep_4", "loop_period"}
SHARES = {"attention_collapsed_share", "attention_sink_share"}
# failure: (scores that must rise above every healthy one, that must fall below, that may move with them)
PLANTED = {
    looping: ({"seq_rep_4", "loop_period"}, {"distinct_2"}, REPETITION),
    one_token: ({"seq_rep_4", "loop_period"}, {"distinct_1", "distinct_2"}, REPETITION),
    collapsed_temperature: (set(), {"perplexity", "surprisal_p50", "surprisal_p99", "worst_window_surprisal"},
                            SURPRISAL | {"surprisal_trend", "entropy_trend", "rauq"}),
    fading: (set(), {"entropy_trend"}, {"entropy_trend"}),
    tiring: ({"surprisal_slope", "surprisal_trend", "surprisal_q4"}, set(), SURPRISAL | {"surprisal_trend", "rauq"}),
    bad_clause: ({"worst_window_surprisal"}, set(), SURPRISAL | {"surprisal_trend", "rauq"}),
    dead_heads: (SHARES, set(), SHARES),
    forgetful: (set(), {"lookback_trend"}, {"lookback_trend"}),
    unanchored: ({"rauq"}, set(), {"rauq"}),
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_failure_moves_its_score_and_no_other(plant, healthy):
    """The failure's scores leave the range of all healthy generations; every score it has nothing to do with stays as it was."""
    up, down, related = PLANTED[plant]
    for seed in (1000, 1001, 1002):
        sick, control = scored([plant(seed)]), scored([Generation(seed)])
        for name in up:
            assert sick[name][0] > healthy[name][1], name
        for name in down:
            assert sick[name][0] < healthy[name][0], name
        for name in set(sick) - related:
            np.testing.assert_array_equal(sick[name], control[name], err_msg=name)


def test_healthy_generations_are_not_accused(healthy):
    """Forty healthy generations: no loop, no collapsed head, no sink, almost no burst, and no trend worth the name."""
    assert healthy["loop_period"] == (0, 0)
    assert healthy["attention_collapsed_share"] == (0, 0)
    assert healthy["attention_sink_share"] == (0, 0)
    assert healthy["surprisal_bursts"][1] <= 1
    for name in ("surprisal_trend", "entropy_trend"):
        assert max(map(abs, healthy[name])) * TOKENS < 1.0


def test_the_order_of_a_trend_matters_and_a_shuffle_takes_it_away(healthy):
    """A tiring generation whose tokens are shuffled has the same perplexity, and its slope is gone."""
    made, shuffled = tiring(7), tiring(7)
    shuffled.surprisals = np.random.default_rng(7).permutation(shuffled.surprisals)
    found = scored([made, shuffled])
    assert found["perplexity"][1] == pytest.approx(found["perplexity"][0], rel=1e-6)
    assert found["surprisal_slope"][1] < 1.0 < 2.0 < found["surprisal_slope"][0]
    assert abs(found["surprisal_trend"][1]) < 0.25 * found["surprisal_trend"][0]
