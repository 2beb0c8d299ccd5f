"""The formulas of window scores, each against somebody else's code, a closed form or brute force."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
import sacrebleu
import scipy.sparse.csgraph
import scipy.stats

import window_helpers as made
from cutaway_collector.rates import wilson
from cutaway_collector.windows import KINDS, Answer, window_scores
from cutaway_collector.windows.answers import UNITS_MAX, grams, units, words
from cutaway_collector.windows.diversity import DIMENSIONS, distinct, mean_pairwise_cosine, self_bleu, vectors, vendi
from cutaway_collector.windows.duplicates import clusters
from cutaway_collector.windows.slope import ANSWERS_MIN, TOKENS_MIN, slope


def _rows(seed: int, count: int, *, vocabulary: int = 12, longest: int = 30) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, rng.integers(1, longest)) for _ in range(count)]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_distinct_n_is_the_share_of_different_grams(n: int) -> None:
    """As sets of tuples count them, over all answers together; no gram crosses from one answer to the next."""
    rows = _rows(n, 25)
    every = [tuple(row[place : place + n]) for row in rows for place in range(len(row) - n + 1)]
    assert distinct(grams(rows, 4)[n - 1]) == pytest.approx(len(set(every)) / len(every), abs=1e-12)


def test_distinct_n_of_nothing_does_not_apply() -> None:
    """No gram, no share: NaN."""
    assert math.isnan(distinct(grams([np.zeros(0, np.int64)], 1)[0]))
    assert math.isnan(distinct(grams([], 1)[0]))


@pytest.mark.parametrize("seed", range(6))
def test_self_bleu_is_sacrebleus_sentence_bleu_against_the_others(seed: int) -> None:
    """Each answer as the hypothesis, all the others as its references, the mean of all."""
    rows = _rows(seed, 9)
    texts = [" ".join(f"w{unit}" for unit in row) for row in rows]
    metric = sacrebleu.BLEU(effective_order=True, tokenize="none")
    expected = np.mean([metric.sentence_score(text, texts[:place] + texts[place + 1 :]).score / 100
                        for place, text in enumerate(texts)])
    assert self_bleu(rows) == pytest.approx(expected, abs=1e-9)


def test_self_bleu_by_hand() -> None:
    """Two equal answers say each other's every word; two that share none share nothing; one alone has no others."""
    same, other = np.arange(6), np.arange(10, 16)
    assert self_bleu([same, same]) == pytest.approx(1.0)
    assert self_bleu([same, other]) == 0.0
    assert math.isnan(self_bleu([same]))


@pytest.mark.parametrize("count", [2, 7, 40])
def test_vendi_counts_different_answers(count: int) -> None:
    """Equal items are one, n orthogonal items are n, and k groups of equal ones are k (Friedman and Dieng 2022)."""
    assert vendi(np.ones((count, count))) == pytest.approx(1.0)
    assert vendi(np.eye(count)) == pytest.approx(count)
    assert vendi(np.kron(np.eye(3), np.ones((count, count)))) == pytest.approx(3.0)


def test_vendi_is_the_exponential_of_the_entropy_of_the_spectrum() -> None:
    """Against SciPy's entropy of the singular values of the vectors themselves, without the kernel."""
    rng = np.random.default_rng(3)
    items = rng.normal(size=(20, 8))
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    spectrum = np.linalg.svd(items, compute_uv=False) ** 2 / 20
    assert vendi(items @ items.T) == pytest.approx(math.exp(scipy.stats.entropy(spectrum)), rel=1e-9)


def test_mean_pairwise_cosine_is_the_mean_over_pairs() -> None:
    """As a loop over all pairs of two different answers says it."""
    found = vectors(_rows(4, 12))
    pairs = [float(a @ b) for a, b in itertools.combinations(found, 2)]
    assert mean_pairwise_cosine(found) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert math.isnan(mean_pairwise_cosine(np.ones((1, 1))))


def test_hashed_vectors_estimate_the_cosine_of_the_pairs_that_answers_hold() -> None:
    """Against exact counts: the error is that of hashing, 1 / sqrt(DIMENSIONS), a few times of it at most."""
    rows = [row[: 100 + place] for place, row in enumerate(np.random.default_rng(5).integers(0, 40, (30, 200)))]
    counts = [Counter(itertools.pairwise(row.tolist())) for row in rows]
    exact = np.array([[sum(a[k] * b[k] for k in a) / math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
                       for b in counts] for a in counts])
    found = vectors(rows)
    assert np.abs(found @ found.T - exact).max() < 5 / math.sqrt(DIMENSIONS)
    assert np.sqrt(np.mean((found @ found.T - exact) ** 2)) < 1 / math.sqrt(DIMENSIONS)


def test_answers_without_a_unit_in_common_are_all_different() -> None:
    """The whole road from units to Vendi: disjoint answers count n, but for the noise of hashing."""
    rows = [np.arange(40) + 1000 * place for place in range(50)]
    found = vectors(rows)
    assert vendi(found @ found.T) == pytest.approx(50, rel=0.02)
    assert mean_pairwise_cosine(found) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_the_connected_components_of_near_pairs(seed: int) -> None:
    """As SciPy finds them, without those of one; the largest first."""
    rng = np.random.default_rng(seed)
    near = rng.random((30, 30)) ** 8
    near = np.maximum(near, near.T)
    np.fill_diagonal(near, 1.0)
    _, labels = scipy.sparse.csgraph.connected_components(near >= 0.9)
    expected = {tuple(np.flatnonzero(labels == label)) for label in set(labels) if (labels == label).sum() > 1}
    found = clusters(near, near=0.9)
    assert {tuple(members) for members in found} == expected
    assert [len(members) for members in found] == sorted(map(len, found), reverse=True)


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (1, 3), (5, 5), (17, 200), (1, 1000)])
def test_wilson_is_scipys(hits: int, count: int) -> None:
    """scipy.stats.binomtest(...).proportion_ci(method="wilson"), to nine digits."""
    expected = scipy.stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits, count)[-2:] == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert wilson(0, 0)[-2:] == (0.0, 1.0)


def test_a_known_rise_is_found() -> None:
    """Lines of known slope and own intercepts: the rise is slope x tokens, and exact, so there is no error."""
    found = slope([level + 0.01 * np.arange(200) for level in range(10)])
    assert found.value == pytest.approx(2.0)
    assert found.error == pytest.approx(0, abs=1e-12)
    assert found.rising


def test_the_rise_is_the_mean_of_scipys_slopes() -> None:
    """Answers of several lengths, some too short and some with NaN: linregress on each, a t statistic over them."""
    rng = np.random.default_rng(8)
    series = [made.surprisals(rng, int(length), rise=0.3) for length in rng.integers(TOKENS_MIN, 300, 20)]
    series[3][::3] = np.nan
    expected = []
    for row in series:
        kept = np.isfinite(row)
        if kept.sum() >= TOKENS_MIN:
            expected.append(scipy.stats.linregress(np.flatnonzero(kept), row[kept]).slope * row.size)
    found = slope([*series, np.ones(TOKENS_MIN - 1)])
    assert found.answers == len(expected)
    assert found.value == pytest.approx(np.mean(expected))
    assert found.error == pytest.approx(scipy.stats.sem(expected))


@pytest.mark.parametrize("count", [ANSWERS_MIN, pytest.param(40, marks=pytest.mark.slow)])
def test_a_rise_is_rarely_found_where_there_is_none(count: int) -> None:
    """2,000 windows of skewed, correlated surprisals that do not rise: at most one in a hundred says so."""
    rng = np.random.default_rng(count)
    lengths = np.clip(rng.lognormal(4.2, 0.8, (2000, count)), TOKENS_MIN, 500).astype(int)
    false = sum(slope(made.surprisals(rng, int(length)) for length in window).rising for window in lengths)
    print(f"false alarms of the rise of surprisal at {count} answers: {false} of 2000")
    assert false <= 20


def test_too_few_answers_say_nothing_of_a_rise() -> None:
    """However steep: seven answers are no trend."""
    assert not slope([np.arange(100.0)] * (ANSWERS_MIN - 1)).rising
    assert math.isnan(slope([np.ones(3)]).value)


def test_units_are_token_ids_where_all_answers_have_some_else_words() -> None:
    """A model's own units where they were captured; a group is never judged by a mixture."""
    with_ids = Answer("1", ids=np.array([7, 8]), text="Ab cd")
    assert [row.tolist() for row in units([with_ids])] == [[7, 8]]
    assert [row.tolist() for row in units([with_ids, Answer("2", text="CD, ab!")])] == [[0, 1], [1, 0]]
    assert units([Answer("3", text="a " * (UNITS_MAX + 5)), Answer("4")])[0].size == UNITS_MAX


def test_words_of_scripts_without_blanks_are_signs() -> None:
    """Letters and digits in a row, case folded; a sign of Chinese, Japanese or Korean is a word of its own."""
    assert words("Straße 12, NAÏVE 東京へ") == ["strasse", "12", "naïve", "東", "京", "へ"]


def _values(answers: list[Answer], **options: object) -> dict[str, float]:
    return {score.name: score.value for score in window_scores(answers, **options)}  # type: ignore[arg-type]


def _labels(answers: list[Answer]) -> set[str]:
    return {score.label for score in window_scores(answers)} - {""}


def test_a_collapsed_generator_raises_every_measure_of_collapse() -> None:
    """Near-equal answers against healthy ones of as many words: each measure moves the way its definition calls worse."""
    count = 60
    sick, well = _values(made.answers(made.collapsed(count))), _values(made.answers(made.healthy(count, sentences=12)))
    for kind in KINDS:
        if kind.name in ("distinct_1", "distinct_2", "self_bleu", "pairwise_cosine", "vendi", "vendi_share", "duplicate_share"):
            assert (sick[kind.name] > well[kind.name]) is (kind.worse == "high"), kind.name
    assert _labels(made.answers(made.collapsed(count))) == {"collapsed", "duplicates"}


@pytest.mark.parametrize("seed", range(10))
def test_healthy_answers_raise_nothing(seed: int) -> None:
    """The control: other subjects, other sentences, no label; nor does their order make one."""
    texts = made.healthy(40, seed)
    random.Random(seed).shuffle(texts)
    assert _labels(made.answers(texts, seed=seed)) == set()


def test_growing_surprisal_raises_the_rise_alone() -> None:
    """A nat more at the end of each answer is found; the same values in any other order are not."""
    rising = made.answers(made.healthy(40), rise=1.0)
    assert _labels(rising) == {"rising"}
    (said,) = [score for score in window_scores(rising) if score.name == "surprisal_rise"]
    steepest = max(rising, key=lambda one: scipy.stats.linregress(np.arange(one.surprisals.size), one.surprisals).slope)
    assert said.examples[0] == steepest.trace_id
    rng = np.random.default_rng(1)
    shuffled = [Answer(one.trace_id, text=one.text, surprisals=rng.permutation(one.surprisals)) for one in rising]
    assert _labels(shuffled) == set()


def test_clusters_name_their_traces() -> None:
    """Two sets of repeated answers among healthy ones: two clusters by size, each with traces of its own as examples."""
    texts = made.healthy(20)
    texts[3:10], texts[12:15] = [texts[3]] * 7, [texts[12] + " indeed"] * 3
    scores = {score.name: score for score in window_scores(made.answers(texts))}
    assert (scores["duplicate_cluster_1"].value, scores["duplicate_cluster_2"].value) == (7, 3)
    assert scores["duplicate_share"].value == pytest.approx(10 / 20)
    assert set(scores["duplicate_cluster_1"].examples) <= {f"{number:032x}" for number in range(3, 10)}
    assert set(scores["duplicate_cluster_2"].examples) == {f"{number:032x}" for number in range(12, 15)}


def test_short_answers_are_no_duplicates() -> None:
    """A classifier says the same word all day: nothing of it is judged for diversity."""
    assert _values([Answer(str(number), text="positive") for number in range(50)]) == {}


def test_an_embedder_adds_the_semantic_scores() -> None:
    """Its vectors are what counts: all the same are one answer, orthogonal ones are all different."""
    answers = made.answers(made.healthy(20))
    same = _values(answers, embed=lambda texts: np.ones((len(texts), 5)))
    apart = _values(answers, embed=lambda texts: 3 * np.eye(len(texts)))
    assert not [name for name in _values(answers, embed=lambda texts: None) if name.startswith("semantic")]
    assert (same["semantic_cosine"], same["semantic_vendi_share"]) == (pytest.approx(1.0), pytest.approx(1 / 20))
    assert (apart["semantic_cosine"], apart["semantic_vendi_share"]) == (pytest.approx(0.0), pytest.approx(1.0))


def test_scores_are_those_that_are_defined_and_in_their_order() -> None:
    """Every score has a definition, and nothing is said for no answers."""
    names = [score.name for score in window_scores(made.answers(made.collapsed(30)))]
    defined = [kind.name for kind in KINDS]
    assert names == [name for name in defined if name in names]
    assert window_scores([]) == []
