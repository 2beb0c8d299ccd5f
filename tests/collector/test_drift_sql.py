"""What ClickHouse computes of two windows, against SciPy and against the readable reference, in the embedded engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from cutaway_collector.drift import distances, rule, sketch, sql
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store

TIGHT = {"rel": 1e-9, "abs": 1e-12}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """An embedded engine."""
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("drift"))))
    yield opened
    opened.close()


def alike(distance: float, expected: float) -> bool:
    """Two Jensen-Shannon distances to 1e-9; where both are nothing their squares: a root makes 1e-8 of the last digit of 1e-16."""
    return distance == pytest.approx(expected, rel=1e-9, abs=0.0) or max(distance**2, expected**2) < 1e-14


def samples() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reference and present values of attributes of every shape: tails, ties, both signs, a constant, windows that do not meet."""
    rng = np.random.default_rng(7)
    return {
        "tails": (rng.lognormal(1, 1, 900), rng.lognormal(1.3, 0.8, 311)),
        "ties": (rng.poisson(4, 500).astype(float), rng.poisson(6, 77).astype(float)),
        "signs": (rng.normal(0, 1, 400), rng.normal(0.2, 1, 1200)),
        "constant": (np.full(40, 3.0), np.array([3.0, 3.5] * 30)),
        "apart": (rng.uniform(0, 1, 60), rng.uniform(5, 6, 50)),
    }


def relation(of: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[str, dict[str, Any]]:
    """The samples as one relation of numbers."""
    bound: dict[str, Any] = {}
    parts = []
    for index, (name, sides) in enumerate(of.items()):
        for side, values in enumerate(sides):
            bound[f"v{index}_{side}"] = [float(value) for value in values]
            values_sql = f"arrayJoin({{v{index}_{side}:Array(Float64)}})"
            parts.append(f"SELECT '{name}' AS attribute, toUInt8({side}) AS side, {values_sql} AS x, 1. AS w")
    return " UNION ALL ".join(parts), bound


def rows(store: ClickHouseStore, text: str, bound: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = store.query(text, bound)
    return {row[0]: dict(zip(found.columns, row, strict=True)) for row in found.rows}


@pytest.fixture(scope="module")
def numbers(store: ClickHouseStore) -> dict[str, dict[str, Any]]:
    """What the engine says of the samples."""
    return rows(store, *_built(sql.numbers))


def _built(builder: Any) -> tuple[str, dict[str, Any]]:
    text, bound = relation(samples())
    return builder(text), bound


@pytest.mark.parametrize("name", samples())
def test_wasserstein_is_scipys(numbers: dict[str, dict[str, Any]], name: str) -> None:
    """The area between the distribution functions, to 1e-9."""
    reference, now = samples()[name]
    assert numbers[name]["wasserstein"] == pytest.approx(stats.wasserstein_distance(reference, now), **TIGHT)


@pytest.mark.parametrize("name", samples())
def test_kolmogorov_smirnov_is_scipys(numbers: dict[str, dict[str, Any]], name: str) -> None:
    """The largest gap of the distribution functions, to 1e-9."""
    reference, now = samples()[name]
    assert numbers[name]["ks"] == pytest.approx(stats.ks_2samp(reference, now).statistic, **TIGHT)


@pytest.mark.parametrize("name", samples())
def test_moments_are_numpys(numbers: dict[str, dict[str, Any]], name: str) -> None:
    """Counts, means and the reference's standard deviation."""
    reference, now = samples()[name]
    row = numbers[name]
    assert (row["reference_n"], row["n"]) == (len(reference), len(now))
    expected = [reference.mean(), now.mean(), reference.std()]
    assert [row["reference_mean"], row["mean"], row["reference_sd"]] == pytest.approx(expected, **TIGHT)


@pytest.mark.parametrize("name", samples())
def test_binned_distances_are_scipys(numbers: dict[str, dict[str, Any]], name: str) -> None:
    """Jensen-Shannon by SciPy and PSI by its formula, over tenths of the reference cut by hand."""
    reference, now = samples()[name]
    values = np.unique(np.concatenate([reference, now]))
    below = np.searchsorted(np.sort(reference), values, side="left")
    part = np.minimum(9, 10 * below // len(reference))
    p, q = ([np.isin(side, values[part == each]).sum() / len(side) for each in range(10)] for side in (reference, now))
    assert alike(numbers[name]["jensen_shannon"], distance.jensenshannon(p, q, base=2))
    kept = [(a or 1e-4, b or 1e-4) for a, b in zip(p, q, strict=True) if a or b]
    assert numbers[name]["psi"] == pytest.approx(sum((b - a) * np.log(b / a) for a, b in kept), **TIGHT)


@pytest.mark.parametrize("name", ["ties", "signs", "tails"])
def test_the_exact_p_value_is_scipys(store: ClickHouseStore, name: str) -> None:
    """kolmogorovSmirnovTest('exact') over cells that are taken apart."""
    reference, now = (side[:200] for side in samples()[name])
    text, bound = relation({name: (reference, now)})
    row = rows(store, sql.exact_ks(f"SELECT attribute, side, x, count() AS w FROM ({text}) GROUP BY ALL"), bound)[name]
    expected = stats.ks_2samp(reference, now, method="exact")
    assert [row["ks"], row["p"]] == pytest.approx([expected.statistic, expected.pvalue], **TIGHT)


@pytest.mark.parametrize("name", samples())
def test_the_arrays_say_what_the_engine_says(numbers: dict[str, dict[str, Any]], name: str) -> None:
    """The readable reference, which the simulations run, computes the same as the SQL."""
    reference, now = samples()[name]
    values = np.unique(np.concatenate([reference, now]))
    counts = [np.array([(side == value).sum() for value in values], float) for side in (reference, now)]
    ours, row = rule.compare_numbers(name, values, *counts), numbers[name]
    assert [ours.ks, ours.psi, ours.level, ours.reference_sd] == pytest.approx(
        [row["ks"], row["psi"], row["mean"], row["reference_sd"]], **TIGHT)
    assert alike(ours.jensen_shannon, row["jensen_shannon"])
    assert ours.wasserstein == pytest.approx(rule.scaled(row["wasserstein"], row["reference_sd"]), **TIGHT)


LABELS = {
    "plain": ({"stop": 700, "length": 300}, {"stop": 80, "length": 60}),
    "rare": ({"en": 900, "de": 90, "fr": 4, "xx": 2}, {"en": 400, "de": 92, "yy": 3, "fr": 1}),
    "foreign": ({"a": 50}, {"b": 50}),
    "one": ({"Ok": 40}, {"Ok": 31}),
}


@pytest.fixture(scope="module")
def categories(store: ClickHouseStore) -> dict[str, dict[str, Any]]:
    """What the engine says of the labels."""
    parts = [f"SELECT '{name}' AS attribute, toUInt8({side}) AS side, '{label}' AS label, {count}. AS w"
             for name, sides in LABELS.items() for side, counts in enumerate(sides) for label, count in counts.items()]
    return rows(store, sql.categories(" UNION ALL ".join(parts)), {})


@pytest.mark.parametrize("name", LABELS)
def test_categories_are_scipys(categories: dict[str, dict[str, Any]], name: str) -> None:
    """Jensen-Shannon, PSI and chi-square with the rare labels taken together."""
    reference, now = LABELS[name]
    names = sorted({*reference, *now})
    r, c = (np.array([side.get(label, 0) for label in names], float) for side in (reference, now))
    row = categories[name]
    assert alike(row["jensen_shannon"], distance.jensenshannon(r, c, base=2))
    assert row["psi"] == pytest.approx(distances.psi(r, c), **TIGHT)
    rare = (r + c) * min(r.sum(), c.sum()) / (r.sum() + c.sum()) < 5
    table = np.array([[*side[~rare], *([side[rare].sum()] if rare.any() else [])] for side in (r, c)])
    expected = stats.chi2_contingency(table, correction=False)
    assert (row["chi_square"], row["freedom"]) == (pytest.approx(expected.statistic, **TIGHT), expected.dof)


def test_the_label_that_moved_most_is_named(categories: dict[str, dict[str, Any]]) -> None:
    """With its share before and now."""
    row = categories["rare"]
    assert row["moved"] == "en"
    assert [row["reference_share"], row["share"]] == pytest.approx([900 / 996, 400 / 496])


@pytest.mark.parametrize("name", LABELS)
def test_the_arrays_say_what_the_engine_says_of_labels(categories: dict[str, dict[str, Any]], name: str) -> None:
    """The readable reference of categories, too."""
    names = sorted({*LABELS[name][0], *LABELS[name][1]})
    r, c = (np.array([side.get(label, 0) for label in names], float) for side in LABELS[name])
    ours, row = rule.compare_categories(name, names, r, c), categories[name]
    assert [ours.chi_square, ours.level, ours.reference_level] == pytest.approx(
        [row["chi_square"], row["share"], row["reference_share"]], **TIGHT)
    assert ours.moved == row["moved"]


def test_sql_and_numpy_agree_on_bins(store: ClickHouseStore) -> None:
    """Away from the edges, where a logarithm's last digit decides, both put a value into the same bin and mean the same by it."""
    rng = np.random.default_rng(1)
    bins = rng.integers(1, 2400, 500) * rng.choice([-1, 1], 500)
    values = [0.0, 1e-12, *(sketch.representative(bins) * rng.uniform(0.995, 1.005, 500)).tolist()]
    text = f"SELECT {sketch.bins_sql('x')} AS bin, {sketch.representative_sql('bin')} FROM (SELECT arrayJoin({{v}}) AS x)"
    found = store.query(text.replace("{v}", "{v:Array(Float64)}"), {"v": values}).rows
    assert [row[0] for row in found] == [0, 0, *bins.tolist()]
    assert [row[1] for row in found] == pytest.approx(sketch.representative(sketch.bins(np.array(values))).tolist(), rel=1e-12)


def test_a_bin_is_one_per_cent_wide(store: ClickHouseStore) -> None:
    """A value's representative is within 1 % of it, from a nanosecond to a petabyte."""
    values = np.random.default_rng(2).lognormal(2, 12, 5000).clip(1e-8, 1e15)
    assert np.max(np.abs(sketch.representative(sketch.bins(values)) / values - 1)) <= 0.01 + 1e-9
