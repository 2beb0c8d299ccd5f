"""Baselines in the embedded engine: pinned, compared, found drifting when they should be and left alone when not, once a window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

import drift_helpers as made
from cutaway_collector.baselines import Baseline, drift_of, listed, pin, remove
from cutaway_collector.baselines import pins as pins_module
from cutaway_collector.baselines.attributes import Scope, hour_of_week, hours_of
from cutaway_collector.baselines.changes import Deployment, began, deployments
from cutaway_collector.baselines.compare import compare, histograms
from cutaway_collector.baselines.together import together
from cutaway_collector.drift.rule import ALPHA
from cutaway_collector.errors import SettingsError
from cutaway_collector.score.device import Device
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from drift_helpers import HOUR_NS, MODEL, SERVICE, START_NS

DAYS = (START_NS, START_NS + 2 * 24 * HOUR_NS)
"""What is pinned."""
LATER = DAYS[1]
GENERATIONS = 10_000
NOTHING = Settings(data="unused", retention_days=0, scores_retention_days=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """Two days of a healthy service and some scores; tests add windows, or services of their own."""
    opened = open_store(replace(NOTHING, data=str(tmp_path_factory.mktemp("baselines"))))
    rng = np.random.default_rng(1)
    at = made.moments(rng, GENERATIONS, *DAYS)
    opened.insert(made.block(made.healthy(rng, GENERATIONS), at), "days")
    words = rng.choice(["en", "de"], 2500, p=[0.9, 0.1])
    opened.insert(made.scores_block("language", rng.uniform(0.8, 1, 2500), words, at[::4]), "scores")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def baseline(store: ClickHouseStore) -> Baseline:
    """The days, pinned."""
    return pin(store, Scope("", SERVICE, MODEL, *DAYS))


@pytest.fixture(scope="module")
def pinnable(store: ClickHouseStore) -> Scope:
    """A service for the tests that pin and remove."""
    rng, service = np.random.default_rng(14), "pinnable"
    store.insert(made.block(made.healthy(rng, 500), made.moments(rng, 500, *DAYS), first=60_000_000, service=service), service)
    return Scope("", service, MODEL, *DAYS)


def of(store: ClickHouseStore, service: str) -> list[Baseline]:
    """Baselines of one service."""
    return [one for one in listed(store) if one.service == service]


class Windows:
    """Adds windows of an hour behind the week, each where no other test looks."""

    taken = 0

    def __init__(self, store: ClickHouseStore) -> None:
        self.store = store

    def add(self, numbers: dict[str, np.ndarray], seed: int, **more: str) -> tuple[int, int]:
        """The window in which these generations lie."""
        Windows.taken += 1
        start = LATER + 3 * Windows.taken * 24 * HOUR_NS
        count = len(numbers["EntropyMean"])
        at = made.moments(np.random.default_rng(seed), count, start, start + HOUR_NS)
        self.store.insert(made.block(numbers, at, first=1_000_000 * Windows.taken, **more), f"window {Windows.taken}")
        return start, start + HOUR_NS


@pytest.fixture
def windows(store: ClickHouseStore) -> Windows:
    return Windows(store)


def shifted(store: ClickHouseStore, window: tuple[int, int]) -> set[str]:
    """Names of what shifted, each with q below 0.05."""
    rows = drift_of(store, "", window)
    assert all(row.q is not None and row.q < 0.05 for row in rows if row.label == "shifted")
    return {row.attribute for row in rows if row.label == "shifted"}


def surest(store: ClickHouseStore, window: tuple[int, int], count: int) -> set[str]:
    """The attributes with the smallest p-values."""
    return {row.attribute for row in sorted(drift_of(store, "", window), key=lambda row: row.p or 0.0)[:count]}


@pytest.mark.parametrize("count", [200, 3000], ids=["by tests", "by distances"])
def test_a_collapsed_temperature_is_found(store: ClickHouseStore, baseline: Baseline, windows: Windows, count: int) -> None:
    """Entropy and perplexity move, whichever statistic decides, and nothing moves as surely as they do."""
    window = windows.add(made.cold(made.healthy(np.random.default_rng(2), count)), 2)
    assert shifted(store, window) >= {"entropy", "perplexity"}
    assert surest(store, window, 2) == {"entropy", "perplexity"}


@pytest.mark.parametrize("count", [200, 3000], ids=["by tests", "by distances"])
def test_a_drifted_prompt_mix_is_found(store: ClickHouseStore, baseline: Baseline, windows: Windows, count: int) -> None:
    """A quarter of the prompts are whole documents now: their length moves, and nothing moves as surely."""
    window = windows.add(made.longer(made.healthy(np.random.default_rng(3), count)), 3)
    assert "tokens.in" in shifted(store, window)
    assert surest(store, window, 1) == {"tokens.in"}


def test_another_reason_to_finish_is_found(store: ClickHouseStore, baseline: Baseline, windows: Windows) -> None:
    """Answers that run into the token limit: the category that moved most is named, with both shares."""
    numbers = made.healthy(np.random.default_rng(4), 400)
    numbers["finish"][:200] = "length"
    start, end = windows.add(numbers, 4)
    (row,) = drift_of(store, "", (start, end), attribute="finish")
    assert (row.label, row.statistic, row.moved) in {("shifted", "chi2", "length"), ("shifted", "chi2", "stop")}
    assert row.level == pytest.approx(np.mean(numbers["finish"] == row.moved))


def test_another_language_is_found(store: ClickHouseStore, baseline: Baseline, windows: Windows) -> None:
    """Labels of scores are watched like any category; a label the reference never had counts as another."""
    start, end = windows.add(made.healthy(np.random.default_rng(5), 300), 5)
    at = made.moments(np.random.default_rng(5), 300, start, end)
    words = ["fr"] * 150 + ["en"] * 150
    store.insert(made.scores_block("language", np.full(300, 0.9), words, at, first=1_000_000 * Windows.taken), "french")
    (row,) = drift_of(store, "", (start, end), attribute="label.language")
    assert (row.label, row.moved, row.level) == ("shifted", pins_module.OTHER, 0.5)


@pytest.mark.parametrize("count", [3, pytest.param(120, marks=pytest.mark.slow)])
def test_healthy_windows_are_left_alone(store: ClickHouseStore, baseline: Baseline, windows: Windows, count: int) -> None:
    """Of windows of the same distribution no more alarm than 5 % allow (binomial, one in a thousand)."""
    taken = [windows.add(made.healthy(np.random.default_rng(count + seed), 250), seed) for seed in range(count)]
    alarms = sum(bool(shifted(store, window)) for window in taken)
    assert alarms <= stats.binom.ppf(0.999, count, 0.05)


def test_too_few_values_claim_nothing(store: ClickHouseStore, baseline: Baseline, windows: Windows) -> None:
    """Under 30 values there is no p-value and no verdict."""
    window = windows.add(made.cold(made.healthy(np.random.default_rng(6), 20)), 6)
    rows = drift_of(store, "", window)
    assert {(row.label, row.p, row.q) for row in rows} == {("few", None, None)}


def test_distances_are_those_of_the_raw_values(store: ClickHouseStore, baseline: Baseline, windows: Windows) -> None:
    """What sketches of one per cent say of KS and Wasserstein differs from SciPy on the values by less than their bins."""
    numbers = made.cold(made.healthy(np.random.default_rng(7), 500))
    window = windows.add(numbers, 7)
    (row,) = drift_of(store, "", window, attribute="entropy")
    reference = np.array([found[0] for found in store.query(
        "SELECT EntropyMean FROM otel.otel_traces WHERE ServiceName = {service:String} AND toHour(Timestamp, 'UTC') = {hour:UInt8} "
        "AND Timestamp < fromUnixTimestamp64Nano({end:Int64})",
        {"service": SERVICE, "end": DAYS[1], "hour": window[0] // HOUR_NS % 24}).rows])
    assert ("day", len(reference)) == (row.reference, row.reference_n)
    assert row.ks == pytest.approx(stats.ks_2samp(reference, numbers["EntropyMean"]).statistic, abs=0.02)
    distance = stats.wasserstein_distance(reference, numbers["EntropyMean"]) / reference.std()
    assert row.wasserstein == pytest.approx(distance, rel=0.02)


def test_an_hour_is_compared_with_its_hour(store: ClickHouseStore, windows: Windows) -> None:
    """Where nights differ from days, a night like other nights is steady, and the same night by day is not."""
    rng = np.random.default_rng(8)
    service = "hourly"
    midnight, week = START_NS // (24 * HOUR_NS) * 24 * HOUR_NS, 7 * 24 * HOUR_NS
    night, usual = made.longer(made.healthy(rng, 400)), made.healthy(rng, 400)
    for index, (start, numbers) in enumerate([(midnight + 2 * HOUR_NS, night), (midnight + 14 * HOUR_NS, usual),
                                              (midnight + week + 2 * HOUR_NS, made.longer(made.healthy(rng, 400))),
                                              (midnight + week + 14 * HOUR_NS, made.longer(made.healthy(rng, 400)))]):
        at = made.moments(rng, 400, start, start + HOUR_NS)
        store.insert(made.block(numbers, at, first=9_000_000 + 1000 * index, service=service), f"hourly {index}")
    one = pin(store, Scope("", service, MODEL, midnight, midnight + 24 * HOUR_NS))
    labels = {}
    for hour in (2, 14):
        start = midnight + week + hour * HOUR_NS
        (row,) = [row for row in compare(store, one, start, start + HOUR_NS) if row.attribute == "tokens.in"]
        labels[hour] = (row.reference, row.label)
    remove(store, one.id)
    assert labels == {2: ("hour", "steady"), 14: ("hour", "shifted")}


def test_a_quiet_service_is_compared_with_its_hour_of_any_day(store: ClickHouseStore) -> None:
    """Sixty generations an hour are too few to know each hour of a week, and enough to know nights from days: the rhythm alone is
    steady, a night by day is not.
    """
    rng, service = np.random.default_rng(18), "quiet"
    midnight, day = START_NS // (24 * HOUR_NS) * 24 * HOUR_NS, 24 * HOUR_NS
    hours = [(number, hour) for number in range(7) for hour in (2, 14)] + [(8, 2), (9, 14)]
    for index, (number, hour) in enumerate(hours):
        night = hour == 2 or number > 7
        numbers = made.healthy(rng, 60)
        start = midnight + number * day + hour * HOUR_NS
        store.insert(made.block(made.longer(numbers) if night else numbers, made.moments(rng, 60, start, start + HOUR_NS),
                                first=70_000_000 + 100 * index, service=service), f"quiet {index}")
    one = pin(store, Scope("", service, MODEL, midnight, midnight + 7 * day))
    labels = {}
    for number, hour in hours[-2:]:
        start = midnight + number * day + hour * HOUR_NS
        (row,) = [row for row in compare(store, one, start, start + HOUR_NS) if row.attribute == "tokens.in"]
        labels[hour] = (row.reference, row.label, row.reference_n)
    remove(store, one.id)
    assert labels == {2: ("day", "steady", 420), 14: ("day", "shifted", 420)}


def test_sketches_of_parts_add_up_to_the_whole(store: ClickHouseStore, baseline: Baseline) -> None:
    """What the hours of a pinned week merge to is the histogram of its values."""
    day = 24 * HOUR_NS
    shown = [histograms(store, baseline, start, start + day)["entropy"] for start in (DAYS[0], DAYS[0] + day)]
    whole = histograms(store, baseline, *DAYS)["entropy"]
    parts = {key: sum(part.get(key, (0, 0))[1] for part in shown) for key in whole}
    assert parts == {key: now for key, (_, now) in whole.items()} == {key: before for key, (before, _) in whole.items()}
    assert sum(parts.values()) == GENERATIONS


def test_the_change_is_placed_and_its_deployment_named(store: ClickHouseStore) -> None:
    """A version that makes the model cold in the middle of the third hour: found there, within two buckets of five minutes."""
    rng, service = np.random.default_rng(9), "deployed"
    store.insert(made.block(made.healthy(rng, 4000), made.moments(rng, 4000, *DAYS), first=20_000_000, service=service), "deployed")
    one = pin(store, Scope("", service, MODEL, *DAYS))
    change = LATER + 2 * HOUR_NS + HOUR_NS // 2
    at = made.moments(rng, 2400, LATER, LATER + 4 * HOUR_NS)
    after = at >= change
    warm, cold = (side for side in (made.healthy(rng, 2400), made.cold(made.healthy(rng, 2400))))
    store.insert(made.block({name: np.where(after, cold[name], warm[name]) for name in warm}, at, first=21_000_000, service=service,
                            version=np.where(after, "2.0", "1.0").tolist()), "deployment")
    (row,) = [row for row in compare(store, one, LATER + 3 * HOUR_NS, LATER + 4 * HOUR_NS) if row.attribute == "entropy"]
    remove(store, one.id)
    assert (row.label, row.change_version, row.service_version) == ("shifted", "2.0", "2.0")
    assert row.changed_ns is not None
    assert abs(row.changed_ns - change) <= HOUR_NS // 6


def test_a_roll_back_is_a_deployment(store: ClickHouseStore, windows: Windows) -> None:
    """1.0, 2.0, then 1.0 again: two changes, at the first generation of each."""
    rng = np.random.default_rng(10)
    at = LATER + 5 * HOUR_NS + np.arange(300) * 1_000_000_000
    store.insert(made.block(made.healthy(rng, 300), at, first=30_000_000, service="rolled",
                            version=["1.0"] * 100 + ["2.0"] * 100 + ["1.0"] * 100), "rolled")
    found = deployments(store, Scope("", "rolled", MODEL, LATER, LATER + 6 * HOUR_NS), 20_000_000_000)
    assert found == [Deployment(int(at[100]), "2.0", "1.0"), Deployment(int(at[200]), "1.0", "2.0")]


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_where_nothing_changed_no_beginning_is_named(spread: float) -> None:
    """A steady series, or a reference that never varied, has no place of change."""
    assert began([(index, 50, 1.0) for index in range(20)], 1.0, spread) == -1


def test_a_correlation_that_broke_is_seen(store: ClickHouseStore, baseline: Baseline, windows: Windows) -> None:
    """Perplexity no longer goes with entropy while each keeps its distribution: no attribute alone can tell, MMD^2 does."""
    numbers = made.healthy(np.random.default_rng(15), 400)
    numbers["Perplexity"] = np.random.default_rng(16).permutation(numbers["Perplexity"])
    start, end = windows.add(numbers, 15)
    assert not shifted(store, (start, end)) & {"entropy", "perplexity"}
    found = together(store, baseline, start, end, Device("cpu"), reference="all")
    # Not always the least p there can be: which generations are drawn follows the ids, and those the order of the tests.
    assert found.p < ALPHA
    assert not found.message


def test_the_foreign_generations_are_the_changed_ones(store: ClickHouseStore, baseline: Baseline, windows: Windows) -> None:
    """Where a quarter is cold, the ten generations most unlike the reference are of that quarter, but for one or two."""
    rng = np.random.default_rng(17)
    warm, cold = made.healthy(rng, 300), made.cold(made.healthy(rng, 300))
    chosen = np.arange(300) % 4 == 0
    start, end = windows.add({name: np.where(chosen, cold[name], warm[name]) for name in warm}, 17)
    found = together(store, baseline, start, end, Device("cpu"), reference="all")
    numbers = [int(span, 16) - 1 - 1_000_000 * Windows.taken for span, _, _ in found.foreign]
    assert sum(chosen[number] for number in numbers) >= 8


def test_where_the_reference_is_gone_it_says_so(store: ClickHouseStore, baseline: Baseline, windows: Windows) -> None:
    """Sketches outlive the generations: without them there is no second opinion, and a reason."""
    start, end = windows.add(made.healthy(np.random.default_rng(18), 60), 18)
    gone = replace(baseline, start_ns=0, end_ns=HOUR_NS)
    assert "still stored" in together(store, gone, start, end, Device("cpu"), reference="all").message


# --- Pins -----------------------------------------------------------------------------------------------------------------


def test_a_pin_replaces_the_older_one(store: ClickHouseStore, pinnable: Scope) -> None:
    """One baseline a tenant, service, model and version; the sketches of the older one are gone."""
    older = pin(store, pinnable)
    again = pin(store, replace(pinnable, end_ns=pinnable.end_ns - HOUR_NS))
    assert of(store, pinnable.service) == [again]
    ids = {row[0] for row in store.query("SELECT DISTINCT BaselineId FROM otel.gen_ai_baseline_sketches").rows}
    assert again.id in ids
    assert older.id not in ids


def test_a_removed_baseline_is_forgotten(store: ClickHouseStore, pinnable: Scope) -> None:
    """By the first digits of its id; the same id again is not known, nor is another tenant's."""
    pinned = pin(store, pinnable)
    with pytest.raises(SettingsError, match="no baseline"):
        remove(store, pinned.id, "another tenant")
    remove(store, pinned.id[:8])
    assert of(store, pinnable.service) == []
    with pytest.raises(SettingsError, match="no baseline"):
        remove(store, pinned.id)


@pytest.mark.parametrize(("change", "words"), [
    ({"model": "gpt-unknown"}, "needs 100 generations"), ({"model": ""}, "name both"), ({"tenant": "other"}, "holds 0"),
    ({"version": "9.9"}, "holds 0"), ({"start_ns": DAYS[1], "end_ns": DAYS[0]}, "ends after it begins"),
    ({"start_ns": DAYS[0] - 100 * 24 * HOUR_NS}, "at most 92 days")])
def test_what_cannot_be_pinned_is_refused(store: ClickHouseStore, pinnable: Scope, change: dict[str, Any], words: str) -> None:
    """With the rule and the remedy, and nothing kept: other tenants' and other versions' generations are not taken."""
    before = listed(store)
    with pytest.raises(SettingsError, match=words):
        pin(store, replace(pinnable, **change))
    assert listed(store) == before


def test_a_version_pins_its_own_generations(store: ClickHouseStore, pinnable: Scope) -> None:
    """A baseline of a service.version stands beside that of any version."""
    pinned = [pin(store, replace(pinnable, version=version)) for version in ("1.0", "")]
    found = of(store, pinnable.service)
    for one in found:
        remove(store, one.id)
    assert {(one.version, one.spans) for one in found} == {("1.0", 500), ("", 500)} == {(one.version, one.spans) for one in pinned}


def test_names_that_senders_make_up_are_bounded(store: ClickHouseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of scores the most frequent names are watched, of labels the most frequent words; the rest is one word."""
    rng = np.random.default_rng(12)
    monkeypatch.setattr(pins_module, "SCORES_MAX", 1)
    monkeypatch.setattr(pins_module, "LABELS_MAX", 1)
    store.insert(made.scores_block("rare", rng.random(50), ["x"] * 50, made.moments(rng, 50, *DAYS), first=40_000_000), "rare")
    pinned = pin(store, Scope("", SERVICE, MODEL, *DAYS, version="1.0"))
    names = {row[0]: set(row[1]) for row in store.query(
        "SELECT Attribute, groupUniqArrayArray(Labels) FROM otel.gen_ai_baseline_sketches WHERE BaselineId = {id:String} "
        "GROUP BY Attribute", {"id": pinned.id}).rows}
    remove(store, pinned.id)
    assert {name for name in names if name.startswith(("score.", "label."))} == {"score.language", "label.language"}
    assert names["label.language"] == {"en", pins_module.OTHER}


def test_tenants_have_baselines_of_their_own(store: ClickHouseStore, baseline: Baseline) -> None:
    """Another tenant is not told of a baseline."""
    assert drift_of(store, "other", DAYS) == []
    assert listed(store, "other") == []


@pytest.mark.parametrize(("start", "hours"), [(START_NS, 1), (4 * 24 * HOUR_NS, 24)])
def test_hours_of_the_week_are_the_engines(store: ClickHouseStore, start: int, hours: int) -> None:
    """A window's hours, counted here and by the engine; 1970 began on a Thursday."""
    moments = "SELECT fromUnixTimestamp64Nano({start:Int64}, 'UTC') + INTERVAL number HOUR AS t FROM numbers({n:UInt32})"
    found = store.query(f"SELECT DISTINCT {hour_of_week('t')} AS h FROM ({moments}) ORDER BY h", {"start": start, "n": hours}).rows
    assert hours_of(start, start + hours * HOUR_NS) == [row[0] for row in found]
