"""Mode collapse: how many different things do the answers of a window say? Four measures, each on 0 to 1 or on 1 to n.

Not a judgement of quality: a classifier's answers are rightly all alike, and n answers to one prompt at temperature 0 are one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from cutaway_collector.windows.answers import Floats, Grams, Ids, grams, mixed, shingles

DIMENSIONS: Final = 4096
"""Of the vectors of hashed grams: two unrelated answers differ from orthogonal by about 1 / sqrt(DIMENSIONS), 0.016."""
_BLEU_ORDER: Final = 4


def distinct(found: Grams) -> float:
    """distinct-n: different n-grams over n-grams, all answers together (Li et al. 2016, arXiv 1510.03055); NaN without any.

    It falls with the number of words judged, so compare windows of like size.
    """
    return found.distinct / found.grams.size if found.grams.size else math.nan


def self_bleu(rows: Sequence[Ids]) -> float:
    """Mean BLEU-4 of each answer against all the others (Zhu et al. 2018, arXiv 1802.01886), 0 to 1; NaN below two answers.

    Each BLEU is sacrebleu's sentence BLEU of the units as tokens: clipped by the best reference, closest length, `exp` smoothing,
    effective order. It grows with the number of answers, so compare windows of like size.
    """
    lengths = np.array([row.size for row in rows], np.int64)
    if lengths.size < 2:
        return math.nan
    correct = np.stack([_clipped(found, lengths.size) for found in grams(rows, _BLEU_ORDER)], axis=1)
    totals = np.maximum(lengths[:, None] - np.arange(_BLEU_ORDER)[None, :], 0)
    closest = _closest(lengths)
    return float(np.mean([_bleu(c, t, int(n), int(r)) for c, t, n, r in zip(correct, totals, lengths, closest, strict=True)]))


def _clipped(found: Grams, count: int) -> Ids:
    """For each row how many of its grams are in another row, each counted no more often than in the row that has most of it."""
    matches = np.zeros(count, np.int64)
    if not found.grams.size:
        return matches
    keys, times = np.unique(found.grams * count + found.rows, return_counts=True)
    gram, row = keys // count, keys % count
    order = np.lexsort((-times, gram))
    gram, row, times = gram[order], row[order], times[order]
    first = np.flatnonzero(np.concatenate([[True], gram[1:] != gram[:-1]]))
    size = np.diff(np.concatenate([first, [gram.size]]))
    most = np.repeat(times[first], size)
    second = np.repeat(np.where(size > 1, times[np.minimum(first + 1, gram.size - 1)], 0), size)
    is_most = np.zeros(gram.size, bool)
    is_most[first] = True
    np.add.at(matches, row, np.minimum(times, np.where(is_most, second, most)))
    return matches


def _closest(lengths: Ids) -> Ids:
    """Of each length the closest of the others, the shorter of two as close."""
    order = np.argsort(lengths, kind="stable")
    ranked = lengths[order]
    below = np.concatenate([[-(2**40)], ranked[:-1]])
    above = np.concatenate([ranked[1:], [2**40]])
    out = np.empty_like(lengths)
    out[order] = np.where(ranked - below <= above - ranked, below, above)
    return out


def _bleu(correct: Ids, totals: Ids, length: int, reference: int) -> float:
    if not correct.any():
        return 0.0
    logs, smoothing = [], 1.0
    for hits, total in zip(correct.tolist(), totals.tolist(), strict=True):
        if not total:
            break
        if not hits:
            smoothing *= 2
        logs.append(math.log(hits / total if hits else 1 / (smoothing * total)))
    penalty = math.exp(1 - reference / length) if length < reference else 1.0
    return penalty * math.exp(sum(logs) / len(logs))


def vectors(rows: Sequence[Ids]) -> Floats:
    """Rows of units -> unit vectors [n, DIMENSIONS] of their pairs of units in a row, hashed with a sign (Weinberger et al. 2009,
    arXiv 0902.2206); an answer of one unit is its own pair. No model is needed. Dot products estimate the cosine of the counts."""
    out = np.zeros((len(rows), DIMENSIONS))
    for place, row in enumerate(rows):
        values = row.astype(np.uint64)
        pairs = shingles(values, 2) if values.size > 1 else mixed(values + np.uint64(1))
        sign = np.where(pairs >> np.uint64(63), 1.0, -1.0)
        np.add.at(out[place], (pairs % np.uint64(DIMENSIONS)).astype(np.int64), sign)
    return unit(out)


def unit(rows: Floats) -> Floats:
    """Vectors [n, d] by their length; those of zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    out: Floats = np.divide(rows, lengths, out=np.zeros(rows.shape), where=lengths > 0)
    return out


def mean_pairwise_cosine(vectors: Floats) -> float:
    """Unit vectors, or zeros, [n, d] -> mean cosine over all pairs of two different answers; NaN below two.

    Of no pair by itself: |sum of v|^2 is the sum over all pairs, those of a vector with itself among them.
    """
    count = vectors.shape[0]
    if count < 2:
        return math.nan
    total = vectors.sum(axis=0)
    return float((total @ total - np.einsum("ij,ij->", vectors, vectors)) / (count * (count - 1)))


def vendi(similarities: Floats) -> float:
    """Cosines [n, n] -> the effective number of different answers, 1 to n (Friedman and Dieng 2022, arXiv 2210.02410).

    exp of the entropy of the eigenvalues of K / n. NaN without answers.
    """
    count = similarities.shape[0]
    if not count:
        return math.nan
    values = np.linalg.eigvalsh(similarities / count)
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))
