"""The statistics of comparing two sides, each against an independent oracle: SciPy, a published example, or plain Python."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from cutaway_collector.align import ITEMS_MAX, aligned
from cutaway_collector.comparison import attributes
from cutaway_collector.drift import differences, enrichment
from cutaway_collector.rates import difference, wilson
from cutaway_collector.search.compare import Key, Numbers, Value, Values

SHUFFLES = 200


def test_the_interval_of_a_quantile_is_that_of_resampling() -> None:
    """Drawing ranks by their Beta law gives the percentiles that thousands of drawn resamples give."""
    rng = np.random.default_rng(1)
    a, b = rng.gamma(3, 2, 301), rng.gamma(3, 2.4, 257)
    drawn = [np.sort(rng.choice(side, (20_000, side.size)), axis=1)[:, math.ceil(0.5 * side.size) - 1] for side in (a, b)]
    wanted = np.percentile(drawn[1] - drawn[0], (2.5, 97.5))

    found = differences.quantile_difference(a, b, 0.5, resamples=20_000)

    assert [found.low, found.high] == pytest.approx(wanted, abs=0.06)
    assert found.value == np.sort(b)[math.ceil(0.5 * b.size) - 1] - np.sort(a)[math.ceil(0.5 * a.size) - 1]


def test_the_interval_of_a_median_covers_as_often_as_it_says() -> None:
    """Of 400 pairs of samples from the same law about 95 % of the intervals hold the true difference, none."""
    rng = np.random.default_rng(2)
    held = 0
    for seed in range(400):
        one = differences.quantile_difference(rng.lognormal(0, 1, 120), rng.lognormal(0, 1, 150), 0.5, resamples=500, seed=seed)
        held += one.low <= 0 <= one.high

    assert 0.92 <= held / 400 <= 0.985


def test_the_interval_of_two_shares_is_newcombes() -> None:
    """The first example of Newcombe 1998, table II, method 10: 56 of 70 against 48 of 80."""
    value, low, high = difference(wilson(48, 80), wilson(56, 70))

    assert (value, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_log_odds_are_those_of_the_paper() -> None:
    """Word by word, in plain Python, as Monroe, Colaresi and Quinn 2008 write it."""
    a, b, background = [30, 2, 0, 8], [10, 3, 5, 8], [400, 20, 9, 71]
    prior = [enrichment.PRIOR_WORDS * count / sum(background) for count in background]
    wanted, spread = [], []
    for word in range(4):
        odds = [(side[word] + prior[word]) / (sum(side) + sum(prior) - side[word] - prior[word]) for side in (a, b)]
        wanted.append(math.log(odds[0]) - math.log(odds[1]))
        spread.append(math.sqrt(1 / (a[word] + prior[word]) + 1 / (b[word] + prior[word])))

    ratio, z = enrichment.log_odds(*(np.array(counts, np.float64) for counts in (a, b, background)))

    assert ratio == pytest.approx(wanted)
    assert z == pytest.approx([one / two for one, two in zip(wanted, spread, strict=True)])


def test_a_word_seen_once_does_not_win_over_one_seen_often() -> None:
    """The prior takes back the large ratio of a rare word: that is what it is for."""
    _, z = enrichment.log_odds(np.array([1.0, 60, 900]), np.array([0.0, 20, 941]), np.array([1.0, 300, 9000]))

    assert z[1] > 3 > 2 > abs(z[0])


def _values(name: str, labels: np.ndarray, is_b: np.ndarray) -> Values:
    counts = {label: ((labels == label) & ~is_b, (labels == label) & is_b) for label in sorted(set(labels.tolist())) if label}
    top = tuple(Value(str(label), int(a.sum()), int(b.sum()), ("", ""), ("", "")) for label, (a, b) in counts.items())
    return Values(Key("span", name), sum(one.a for one in top), sum(one.b for one in top), len(top), 0, top)


def _side(count: int, numbers: dict[str, np.ndarray]) -> Numbers:
    return Numbers(tuple((f"{place:032x}", f"{place:016x}") for place in range(count)),
                   {Key("", name): values for name, values in numbers.items()})


def _world(rng: np.random.Generator, spans: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    words = {f"word{place}": rng.choice([*(f"v{value}" for value in range(2 + place)), ""], spans) for place in range(10)}
    numbers = {f"number{place}": rng.gamma(1 + place, 1, spans) for place in range(8)}
    return words, numbers


def _cards(words: dict[str, np.ndarray], numbers: dict[str, np.ndarray], is_b: np.ndarray) -> list[attributes.Card]:
    sides = [_side(int(chosen.sum()), {name: values[chosen] for name, values in numbers.items()}) for chosen in (~is_b, is_b)]
    return attributes.rank([_values(name, labels, is_b) for name, labels in words.items()], sides[0], sides[1])


def test_words_have_scipys_distance_and_p() -> None:
    """Jensen-Shannon of the smoothed counts, spans without the attribute being a value of their own, and chi-square."""
    rng = np.random.default_rng(3)
    labels, is_b = rng.choice(["x", "y", "z", ""], 900, p=[0.5, 0.2, 0.1, 0.2]), rng.random(900) < 0.4
    counts = np.array([[np.count_nonzero(labels[chosen] == label) for label in ("x", "y", "z", "")] for chosen in (~is_b, is_b)])

    card = _cards({"word": labels}, {}, is_b)[0]

    assert card.score == pytest.approx(jensenshannon(*(counts + 0.5), base=2))
    assert card.p == pytest.approx(stats.chi2_contingency(counts, correction=False).pvalue)
    assert card.missing == (counts[0][3], counts[1][3])


def test_numbers_have_scipys_distance_and_p() -> None:
    """The two-sample Kolmogorov-Smirnov test; spans without the number are left out."""
    rng = np.random.default_rng(4)
    values, is_b = rng.gamma(2, 1, 1200), rng.random(1200) < 0.5
    values[::7] = np.nan
    sides = [values[chosen][np.isfinite(values[chosen])] for chosen in (~is_b, is_b)]
    wanted = stats.ks_2samp(*sides, method="asymp")

    card = _cards({}, {"number": values}, is_b)[0]

    assert (card.score, card.p) == pytest.approx((wanted.statistic, wanted.pvalue), rel=1e-6)
    assert card.a_quantiles[1] == np.sort(sides[0])[math.ceil(sides[0].size / 2) - 1]


def test_q_is_benjamini_hochbergs_over_all_attributes() -> None:
    """Step up in plain Python, words and numbers together."""
    rng = np.random.default_rng(5)
    words, numbers = _world(rng, 700)
    is_b = rng.random(700) < 0.5
    cards = _cards(words, numbers, is_b)
    ordered = sorted(cards, key=lambda card: card.p)
    wanted, least = {}, 1.0
    for place in range(len(ordered), 0, -1):
        least = min(least, ordered[place - 1].p * len(ordered) / place)
        wanted[ordered[place - 1].key] = least

    assert {card.key: card.q for card in cards} == pytest.approx(wanted)


def test_a_planted_difference_comes_first_among_many() -> None:
    """One word and one number are shifted on one side; they lead, in the order of their distance, and the others are chance."""
    rng = np.random.default_rng(6)
    words, numbers = _world(rng, 2000)
    is_b = rng.random(2000) < 0.3
    words["word1"] = np.where(is_b & (rng.random(2000) < 0.7), "v1", words["word1"])
    numbers["number4"] = np.where(is_b, numbers["number4"] * 1.6, numbers["number4"])

    cards = _cards(words, numbers, is_b)

    assert [card.key.name for card in cards if card.differs] == ["word1", "number4"]
    assert [card.key.name for card in cards[:2]] == ["word1", "number4"]


def test_shuffled_sides_rarely_raise_a_false_alarm() -> None:
    """Without any difference at most about one comparison in twenty claims one, of 18 attributes together."""
    rng = np.random.default_rng(7)
    words, numbers = _world(rng, 600)
    is_b = rng.random(600) < 0.5
    alarms = sum(any(card.differs for card in _cards(words, numbers, rng.permutation(is_b))) for _ in range(SHUFFLES))

    assert alarms / SHUFFLES <= 0.09


def test_with_few_spans_nothing_is_claimed() -> None:
    """Fewer than thirty spans on a side have no q, whatever their distance."""
    is_b = np.arange(200) < 29
    cards = _cards({"word": np.where(is_b, "x", "y")}, {"number": np.where(is_b, 1.0, 2.0)}, is_b)

    assert [(card.q, card.differs, card.score > 0.8) for card in cards] == [(None, False, True)] * 2


def test_ids_and_unique_texts_are_dropped_and_numbers_are_kept() -> None:
    """By name where there are many, by uniqueness otherwise; a small set of ids tells something, and a number has an order."""
    def key(name: str, having: int, distinct: int, numeric: int = 0) -> Values:
        return Values(Key("span", name), having // 2, having - having // 2, distinct, numeric, ())

    found = [key("request.id", 400, 350), key("userId", 400, 60), key("prompt", 400, 399), key("template.id", 400, 4),
             key("latency", 400, 400, 400), key("flag", 400, 2), key("region", 400, 1), key("beta", 90, 1), key("asked", 400, 3)]

    words, as_numbers, left = attributes.sort(found, {"asked"}, 400)

    assert [one.key.name for one in words] == ["template.id", "flag", "beta"]
    assert [one.key.name for one in as_numbers] == ["latency"]
    assert [[one.name for one in part] for part in (left.identifiers, left.constant, left.named)] == [
        ["request.id", "userId", "prompt"], ["region"], ["asked"]]


@pytest.mark.parametrize(("texts", "kept"), [
    (["[0]", "[0, 0.25]"], False), (["[0.5, null]", "[-1e-3]"], False), (["[12]", "[7, 9]"], True), (['["stop"]', "[0.5]"], True),
    (["0.5", "[0.5]"], True), ([], True),
])
def test_lists_of_measured_numbers_are_no_words(texts: list[str], kept: bool) -> None:
    """One value a sequence, each another: their distance would be noise. Lists of counts or words and mixed values are compared."""
    top = tuple(Value(text, 1, 1, ("", ""), ("", "")) for text in texts)
    found = Values(Key("span", "series"), 10, 10, 8, 0, top)

    words, _, left = attributes.sort([found], set(), 20)

    assert (words == [found], [one.name for one in left.series]) == (kept, [] if kept else ["series"])


def _longest(a: list[str], b: list[str]) -> int:
    @cache
    def length(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        return 1 + length(i + 1, j + 1) if a[i] == b[j] else max(length(i + 1, j), length(i, j + 1))

    return length(0, 0)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=14), st.lists(st.sampled_from("abcd"), max_size=14))
def test_an_alignment_covers_both_and_shares_as_much_as_can_be(a: list[str], b: list[str]) -> None:
    """Runs follow each other without gaps, equal items are equal, and there are as many as in the longest common subsequence."""
    runs = aligned(a, b)

    at = (0, 0)
    for run in runs:
        assert (run.a_start, run.b_start) == at
        at = (run.a_end, run.b_end)
        if run.kind == "same":
            assert a[run.a_start : run.a_end] == b[run.b_start : run.b_end] != []
    same = sum(run.a_end - run.a_start for run in runs if run.kind == "same")
    assert (at, same) == ((len(a), len(b)), _longest(a, b))
    alone = [sum(run.a_end - run.a_start + run.b_end - run.b_start for run in runs if run.kind == kind) for kind in "ab"]
    assert alone == [len(a) - same, len(b) - same]


def test_too_many_items_are_refused_with_the_limit() -> None:
    """The table of lengths would not fit."""
    with pytest.raises(ValueError, match=str(ITEMS_MAX)):
        aligned(range(ITEMS_MAX + 1), range(3))
