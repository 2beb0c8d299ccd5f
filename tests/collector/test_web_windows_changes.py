"""Where the scores of windows change on the page of windows: planted steps with their deployment, healthy series without."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

import drift_helpers as made
from cutaway_collector.drift import streams
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app
from drift_helpers import START_NS
from web_helpers import XSS, get

NS = 10**9
SECONDS = 900
WINDOWS, TURN = 24, 15
START_S = START_NS // NS // SECONDS * SECONDS
NOW_NS = (START_S + WINDOWS * SECONDS) * NS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """Six hours of windows of two services of two tenants: one's cosine rises when a version that attacks the page takes over."""
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("turns")), retention_days=0, scores_retention_days=0))
    rng, rows = np.random.default_rng(3), list[str]()
    for tenant, service, first in (("acme", "sick", 0), ("zoo", "sick", 10_000), ("acme", "well", 20_000)):
        for number in range(WINDOWS):
            start_s = START_S + number * SECONDS
            turned = (tenant, service) == ("acme", "sick") and number >= TURN
            at = np.arange(8) * NS + (start_s + 30) * NS
            opened.insert(made.block(made.healthy(rng, 8), at, first=first + number * 8, service=service, tenant=tenant,
                                     version=XSS[0] if turned else "1.0"), f"{tenant} {service} {number}")
            for name, level in (("pairwise_cosine", 0.5 if turned else 0.2), ("distinct_2", 0.8)):
                rows.append(f"('{tenant}', {start_s}, {SECONDS}, '{service}', 'm', '{name}', {rng.normal(level, 0.02)}, 8, 8)")
    opened.command("INSERT INTO otel.gen_ai_window_scores (TenantId, WindowStart, WindowSeconds, ServiceName, ResponseModel, "
                   f"ScoreName, Value, Count, Answers) VALUES {', '.join(rows)}")
    yield opened
    opened.close()


@pytest.fixture
def client(store: ClickHouseStore) -> FlaskClient:
    return create_app(store, Settings(data="unused"), now_ns=lambda: NOW_NS).test_client()


def windows(client: FlaskClient, query: str = "") -> list[dict[str, Any]]:
    """Windows of the twin, oldest first."""
    answer = client.get(f"/windows.json?limit=100{query}")
    assert answer.status_code == 200
    return list(reversed((answer.json or {})["windows"]))


def test_a_planted_step_is_marked_with_its_deployment(client: FlaskClient) -> None:
    """On the window in which it begins, with the levels before and since; nothing else of any service is marked."""
    marked = [(one["tenant"], one["service"], (one["start_ns"] // NS - START_S) // SECONDS, change)
              for one in windows(client) for change in one["changes"]]
    assert [(tenant, service, number, change["name"]) for tenant, service, number, change in marked] == [
        ("acme", "sick", TURN, "pairwise_cosine")]
    change = marked[0][3]
    assert change["before"] == pytest.approx(0.2, abs=0.02)
    assert change["since"] == pytest.approx(0.5, abs=0.02)
    assert change["service_version"] == XSS[0]


def test_deployments_stand_at_their_windows(client: FlaskClient) -> None:
    """Of the service and tenant that deployed; another tenant's service of that name has none."""
    found = [(one["tenant"], one["service"], (one["start_ns"] // NS - START_S) // SECONDS, one["deployed"]["previous"])
             for one in windows(client) if one["deployed"]]
    assert found == [("acme", "sick", TURN, "1.0")]


def test_the_page_says_it_in_words(client: FlaskClient) -> None:
    """What rose, from where to where, with which version; the version's markup stays text."""
    page = get(client, "/windows?service=sick&limit=100")
    assert "Cosine rose from 0.2" in page.text
    assert "takes over from 1.0" in page.text
    raw = client.get("/windows?service=sick&limit=100").text
    assert XSS[0] not in raw
    assert "style=" not in raw


def test_few_windows_claim_nothing(client: FlaskClient) -> None:
    """The newest seven windows of each group are too few for a step, whatever they hold."""
    start = (START_S + (WINDOWS - 7) * SECONDS) * NS
    assert not [change for one in windows(client, f"&from={start}") for change in one["changes"]]


def test_the_step_is_the_largest_of_all_splits() -> None:
    """Against every split by a two-sample t without its pooled variance, and p against all orders of a short series."""
    series = [0.1, 0.3, 0.2, 0.25, 0.9, 0.8, 0.85, 0.95]

    def largest(values: tuple[float, ...]) -> float:
        n = len(values)
        return max(abs(np.mean(values[:k]) - np.mean(values[k:])) * np.sqrt(k * (n - k) / n)
                   for k in range(streams.STEP_MIN, n - streams.STEP_MIN + 1))

    index, p = streams.step(series)
    exact = np.mean([largest(order) >= largest(tuple(series)) - 1e-12 for order in permutations(series)])
    assert index == 4
    assert p == pytest.approx(exact, abs=4 * float(np.sqrt(exact / 2000)) + 1 / 2000)


def test_steps_of_noise_are_as_rare_as_said() -> None:
    """Of 400 series of noise at most alpha and three standard errors have p below it; a step is placed exactly."""
    rng = np.random.default_rng(1)
    p = np.array([streams.step(rng.gamma(2, size=30).tolist(), permutations=199, seed=run)[1] for run in range(400)])
    assert np.mean(p <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert streams.step([*rng.normal(0, 0.1, 17), *rng.normal(1, 0.1, 13)])[0] == 17


@pytest.mark.parametrize("series", [[], [1.0], [2.0] * 50, [0.0, 1.0] * 3])
def test_what_has_no_step(series: list[float]) -> None:
    """Nothing, one value, equal values, too few."""
    assert streams.step(series) == (0, 1.0)
