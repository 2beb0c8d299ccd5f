"""Baselines at their edges: windows of nothing, of one row, of no number, data that retention has taken, names with teeth."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

import drift_helpers as made
from cutaway_collector.baselines import Baseline, Watch, drift_of, listed, pin, remove, stored
from cutaway_collector.baselines.attributes import Scope
from cutaway_collector.baselines.compare import compare, histograms
from cutaway_collector.baselines.together import together
from cutaway_collector.score.device import Device
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app
from drift_helpers import HOUR_NS, MODEL, START_NS

DAY = (START_NS, START_NS + 24 * HOUR_NS)
LATER = DAY[1]
ODD = ["1.0'; DROP TABLE otel.gen_ai_baselines; --", "a\\'b\\", "новая 🚀 версия", "line\nbreak\ttab",
       '"><script>alert(1)</script>', "{version:String}", "%00", "x" * 2000, " ", "-1", "NULL", "\u202e1.0"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """A day of a healthy service, and what the tests add."""
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("edges")), retention_days=0, scores_retention_days=0))
    rng = np.random.default_rng(51)
    opened.insert(made.block(made.healthy(rng, 2400), made.moments(rng, 2400, *DAY)), "day")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def baseline(store: ClickHouseStore) -> Baseline:
    return pin(store, Scope("", made.SERVICE, MODEL, *DAY))


def test_an_empty_window_says_nothing(store: ClickHouseStore, baseline: Baseline) -> None:
    """No row, no histogram of the present, and no error; a window that ends before it begins is refused elsewhere."""
    start = LATER + 100 * HOUR_NS
    assert compare(store, baseline, start, start + HOUR_NS) == []
    assert not any(now for cells in histograms(store, baseline, start, start + HOUR_NS).values() for _, now in cells.values())
    assert drift_of(store, "", (start, start + 1)) == []


def test_one_generation_is_few_everywhere(store: ClickHouseStore, baseline: Baseline) -> None:
    """Its levels are shown, nothing is claimed: no p, no q, no deviation, no beginning."""
    start = LATER + 10 * HOUR_NS
    store.insert(made.block(made.healthy(np.random.default_rng(1), 1), [start + 5], first=1_000_000), "one")
    rows = compare(store, baseline, start, start + HOUR_NS)
    assert len(rows) >= 10
    assert {(row.label, row.p, row.q, row.deviation, row.changed_ns, row.n) for row in rows} == {("few", None, None, None, None, 1)}
    stored.write(store, rows)
    assert stored.read(store, baseline, windows=1) == rows


def test_numbers_that_are_none_are_left_out(store: ClickHouseStore, baseline: Baseline) -> None:
    """All NaN, all infinite: the attribute has no row, and the others are compared as ever."""
    start, rng = LATER + 20 * HOUR_NS, np.random.default_rng(2)
    numbers = {**made.healthy(rng, 200), "Perplexity": np.full(200, math.nan), "EntropyMean": np.full(200, math.inf)}
    store.insert(made.block(numbers, made.moments(rng, 200, start, start + HOUR_NS), first=2_000_000), "holes")
    rows = {row.attribute: row for row in compare(store, baseline, start, start + HOUR_NS)}
    assert "perplexity" not in rows
    assert "entropy" not in rows
    assert rows["attn"].label == "steady"
    assert all(math.isfinite(row.value) for row in rows.values())


def test_a_reference_without_a_number_compares_the_others(store: ClickHouseStore) -> None:
    """A day whose perplexities are all NaN can be pinned; a window that has them is compared by the rest."""
    rng, service = np.random.default_rng(3), "mute"
    numbers = {**made.healthy(rng, 1200), "Perplexity": np.full(1200, math.nan)}
    store.insert(made.block(numbers, made.moments(rng, 1200, *DAY), first=3_000_000, service=service), "mute day")
    at = made.moments(rng, 200, LATER, LATER + HOUR_NS)
    store.insert(made.block(made.healthy(rng, 200), at, first=3_100_000, service=service), "mute window")
    one = pin(store, Scope("", service, MODEL, *DAY))
    names = {row.attribute for row in compare(store, one, LATER, LATER + HOUR_NS)}
    assert "perplexity" not in names
    assert "tokens.in" in names


def test_a_reference_that_never_varied_counts_any_difference(store: ClickHouseStore) -> None:
    """One value all day: the same value is steady, another is shifted, and no chart follows either."""
    rng, service = np.random.default_rng(4), "constant"
    for name, first, (start, end), count, value in (
            ("day", 4_000_000, DAY, 1200, 0.2), ("same", 4_100_000, (LATER, LATER + HOUR_NS), 200, 0.2),
            ("other", 4_200_000, (LATER + HOUR_NS, LATER + 2 * HOUR_NS), 200, 0.3)):
        numbers = {**made.healthy(rng, count), "TimeToFirstTokenS": np.full(count, value)}
        store.insert(made.block(numbers, made.moments(rng, count, start, end), first=first, service=service), f"constant {name}")
    one = pin(store, Scope("", service, MODEL, *DAY))
    same, other = ({row.attribute: row for row in compare(store, one, LATER + hour * HOUR_NS, LATER + (hour + 1) * HOUR_NS)}["ttft"]
                   for hour in (0, 1))
    assert (same.label, other.label) == ("steady", "shifted")
    assert (same.deviation, other.deviation) == (None, None)


def test_a_pin_outlives_its_data(store: ClickHouseStore) -> None:
    """Once retention has taken the pinned generations windows are compared as before; only what reads them says that it cannot."""
    rng, service = np.random.default_rng(5), "expired"
    for name, first, span, numbers in (("day", 5_000_000, DAY, made.healthy(rng, 1200)),
                                       ("now", 5_100_000, (LATER, LATER + HOUR_NS), made.cold(made.healthy(rng, 200)))):
        at = made.moments(rng, len(numbers["finish"]), *span)
        store.insert(made.block(numbers, at, first=first, service=service), f"expired {name}")
    one = pin(store, Scope("", service, MODEL, *DAY))
    before = compare(store, one, LATER, LATER + HOUR_NS)
    store.command(f"DELETE FROM otel.otel_traces WHERE ServiceName = '{service}' AND Timestamp < fromUnixTimestamp64Nano({LATER})")
    after = compare(store, one, LATER, LATER + HOUR_NS)
    assert [(row.attribute, row.label, row.value, row.q) for row in after] == [(row.attribute, row.label, row.value, row.q)
                                                                              for row in before]
    assert "entropy" in {row.attribute for row in after if row.label == "shifted"}
    assert "still stored" in together(store, one, LATER, LATER + HOUR_NS, Device("cpu"), reference="all").message
    client = create_app(store, Settings(data="unused", score_device="cpu"), now_ns=lambda: LATER + 2 * HOUR_NS).test_client()
    assert client.get(f"/drift?baseline={one.id}&from={LATER}&to={LATER + HOUR_NS}&explain=1").status_code == 200


@pytest.mark.parametrize("version", ODD, ids=range(len(ODD)))
def test_a_version_is_a_name_and_nothing_else(store: ClickHouseStore, version: str) -> None:
    """Whatever a sender calls its version: it is pinned, listed, compared, shown and in /metrics as it is spelled, and removed."""
    number = ODD.index(version)
    service, rng, first = f"odd {number}", np.random.default_rng(6), 6_000_000 + number * 10_000
    for count, span in ((300, DAY), (50, (LATER, LATER + HOUR_NS))):
        at = made.moments(rng, count, *span)
        store.insert(made.block(made.healthy(rng, count), at, first=first + 1000 * (count == 50), service=service, version=version),
                     f"odd {number} {count}")
    one = pin(store, Scope("", service, MODEL, *DAY, version))
    try:
        assert [each.version for each in listed(store) if each.service == service] == [version]
        rows = compare(store, one, LATER, LATER + HOUR_NS)
        assert {row.service_version for row in rows} == {version}
        stored.write(store, rows)
        assert stored.read(store, one, windows=1) == rows
        client = create_app(store, Settings(data="unused"), now_ns=lambda: LATER + 2 * HOUR_NS).test_client()
        page = client.get(f"/drift?baseline={one.id}")
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        registry = CollectorRegistry()
        watch = Watch(store, interval_minutes=0, registry=registry)
        watch._length_ns = HOUR_NS
        watch._shown[one.id] = rows
        watch._show([one])
        assert f'service="{service}"'.encode() in generate_latest(registry)
    finally:
        remove(store, one.id)
