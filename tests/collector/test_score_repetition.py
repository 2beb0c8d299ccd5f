"""Repetition: the CPU kernel and the readable reference against sets of tuples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway_collector.score import repetition
from score_helpers import NAN, id_rows, ragged, seq_rep_4_oracle


@pytest.mark.parametrize("kernel", [repetition.reference, repetition.on_cpu])
@pytest.mark.parametrize("seed", [1, 2])
def test_counts_are_exact(kernel, seed):
    """Every awkward row, loops of each period included, gets the share that sets of tuples give."""
    rows = id_rows(seed)
    got = kernel(*ragged(rows, np.uint32))
    np.testing.assert_allclose(got, [seq_rep_4_oracle(row) for row in rows], rtol=0, atol=2**-53)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=60), max_size=6))
def test_few_distinct_ids_are_counted_exactly(rows):
    """Rows made of four ids, where almost every gram comes back, agree with sets of tuples."""
    got = repetition.on_cpu(*ragged(rows, np.uint32))
    np.testing.assert_allclose(got, [seq_rep_4_oracle(row) for row in rows], rtol=0, atol=2**-53)


def test_a_loop_is_near_one_and_a_fresh_text_is_zero():
    """The score tells a loop (period 5, 1000 tokens: 5 unique of 997) from a text without repetition."""
    loop, fresh, short = [7, 8, 9, 10, 11] * 200, list(range(1000)), [1, 1, 1]
    np.testing.assert_array_equal(repetition.on_cpu(*ragged([loop, fresh, short], np.uint32)), [1 - 5 / 997, 0.0, NAN])


def test_a_row_of_a_million_tokens():
    """A million random ids of a small vocabulary: the count agrees with a sort of packed grams."""
    ids = np.random.default_rng(5).integers(0, 30, 1_000_000).astype(np.uint32)
    packed = ids[:-3].astype(np.uint64)
    for shift in (1, 2, 3):
        packed = packed * np.uint64(30) + ids[shift : ids.size - 3 + shift].astype(np.uint64)
    expected = 1 - np.unique(packed).size / packed.size
    assert repetition.on_cpu(ids, np.array([0, ids.size], np.int64))[0] == pytest.approx(expected, abs=2**-53)
