"""The drift page, its twin and the routes of baselines over a real store, with and without keys; and the command that asks them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from flask.testing import FlaskClient

import drift_helpers as made
from cutaway_collector import cli, credentials
from cutaway_collector.baselines import pin, remove, stored
from cutaway_collector.baselines.attributes import Scope
from cutaway_collector.baselines.compare import compare
from cutaway_collector.credentials import Credentials
from cutaway_collector.drift import sketch
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app, drift_charts, sessions, times
from cutaway_collector.web.gate import Gate
from drift_helpers import HOUR_NS, MODEL, SERVICE, START_NS
from flask_serving import serving
from web_helpers import XSS, get

DAY = (START_NS, START_NS + 24 * HOUR_NS)
HOURS = 4
NOW_NS = DAY[1] + HOURS * HOUR_NS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """A pinned day and four stored windows, the last of which is cold and of a version whose name attacks the page."""
    opened = open_store(Settings(data=str(tmp_path_factory.mktemp("web") / "data"), retention_days=0, scores_retention_days=0))
    rng = np.random.default_rng(1)
    opened.insert(made.block(made.healthy(rng, 2000), made.moments(rng, 2000, *DAY)), "day")
    for hour in range(HOURS):
        numbers = made.healthy(rng, 200)
        start = DAY[1] + hour * HOUR_NS
        last, at = hour == HOURS - 1, made.moments(rng, 200, start, start + HOUR_NS)
        opened.insert(made.block(made.cold(numbers) if last else numbers, at, first=10_000 * (hour + 1),
                                 version=XSS[0] if last else "1.0"), f"hour {hour}")
    one = pin(opened, Scope("", SERVICE, MODEL, *DAY))
    for hour in range(HOURS):
        stored.write(opened, compare(opened, one, DAY[1] + hour * HOUR_NS, DAY[1] + (hour + 1) * HOUR_NS))
    at = made.moments(rng, 200, *DAY)
    opened.insert(made.block(made.healthy(rng, 200), at, first=900_000, tenant="other", service=XSS[1]), "other")
    pin(opened, Scope("other", XSS[1], MODEL, *DAY))
    yield opened
    opened.close()


@pytest.fixture
def client(store: ClickHouseStore) -> FlaskClient:
    return create_app(store, Settings(data="unused"), now_ns=lambda: NOW_NS).test_client()


def test_the_page_says_what_shifted(client: FlaskClient) -> None:
    """The newest stored window: what moved stands first, with its deployment, and leads to the window's generations."""
    page = get(client, "/drift")
    assert page.text.index("Entropy") < page.text.index("Answer length", page.text.index("Reference"))
    assert "shifted" in page.text
    query = parse_qs(urlsplit(next(link for link in page.links("/search?") if "sort=entropy" in link)).query)
    assert query["q"] == [f"service:{SERVICE} model:{MODEL}"]
    assert query["from"] == [times.iso(NOW_NS - HOUR_NS)]


def test_the_twin_has_the_numbers_of_the_page(client: FlaskClient, store: ClickHouseStore) -> None:
    """Rows of the window, which windows shifted, deployments; what is stored is what a comparison now would say."""
    body = client.get("/drift.json").json
    assert {row["attribute"] for row in body["rows"] if row["label"] == "shifted"} >= {"entropy", "perplexity"}
    assert [bool({"entropy", "perplexity"} & set(window["shifted"])) for window in body["windows"]] == [False] * 3 + [True]
    assert [one["version"] for one in body["deployments"]] == [XSS[0]]
    again = client.get(f"/drift.json?from={NOW_NS - HOUR_NS}&to={NOW_NS}").json
    assert (body["window"]["stored"], again["window"]["stored"]) == (True, False)
    for one, other in zip(again["rows"], body["rows"], strict=True):
        assert _equal(one, other)


def _equal(one: dict[str, object], other: dict[str, object]) -> bool:
    """Alike but for the last digits of numbers, which depend on the order in which the engine adds."""
    return one.keys() == other.keys() and all(
        value == (pytest.approx(other[name]) if isinstance(value, float) else other[name]) for name, value in one.items())


def test_a_reference_of_hours_is_told_by_the_hour(client: FlaskClient, store: ClickHouseStore) -> None:
    """Days for a reference of days; of one within a day the times, for its date alone would say nothing."""
    first, last = (times.iso(moment)[11:16] for moment in (DAY[1], DAY[1] + HOUR_NS))
    assert f">{times.iso(DAY[0])[:10]}</time> to " in client.get("/drift").text
    one = pin(store, Scope("", SERVICE, MODEL, DAY[1], DAY[1] + HOUR_NS, "1.0"))
    try:
        assert f">{times.iso(DAY[1])[:10]} {first}</time> to " in client.get(f"/drift?baseline={one.id}").text
        assert f">{last}</time>" in client.get(f"/drift?baseline={one.id}").text
    finally:
        remove(store, one.id, "")


def test_every_window_has_an_address(client: FlaskClient) -> None:
    """`at` opens an earlier window, whose page leads to the later ones."""
    page = get(client, f"/drift?at={NOW_NS - 2 * HOUR_NS}")
    assert [link for link in page.links("/drift?") if f"at={NOW_NS - HOUR_NS}" in link]
    assert "steady" in page.text


def test_senders_words_stay_words(client: FlaskClient) -> None:
    """A service and a version that are markup are shown as they are spelled."""
    other = next(one["baseline"] for one in client.get("/drift.json").json["baselines"] if one["service"] == XSS[1])
    for path in ("/drift", f"/drift?baseline={other}"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert not any(text in answer.text for text in XSS[:2])
        assert "style=" not in answer.text


@pytest.mark.parametrize("path", ["/drift?baseline=nothing", "/drift?at=tomorrow", f"/drift?from={NOW_NS}&to={NOW_NS - 5}"])
def test_what_makes_no_sense_is_refused(client: FlaskClient, path: str) -> None:
    """With 400, on the page and in the twin."""
    assert client.get(path).status_code == 400
    assert client.get(path.replace("/drift", "/drift.json")).status_code == 400


def test_a_window_without_generations_says_so(client: FlaskClient) -> None:
    """Not an error and not steady."""
    assert "No generation in this window" in get(client, f"/drift?from={DAY[0] - 9 * HOUR_NS}&to={DAY[0] - 8 * HOUR_NS}").text


def test_the_foreign_generations_are_listed_when_asked_for(client: FlaskClient) -> None:
    """The second opinion stands on the page and in the twin on request alone, with links to the generations."""
    assert "together" not in client.get("/drift.json").json
    found = client.get("/drift.json?explain=1").json["together"]
    assert found["p"] < 0.05
    assert found["auc_p"] < 0.05
    page = get(client, "/drift?explain=1")
    assert page.links("/gen/") == [f"/gen/{one['span_id']}" for one in found["foreign"]]
    assert len(found["foreign"]) == 10


@pytest.fixture
def keys(store: ClickHouseStore, tmp_path: Path) -> tuple[FlaskClient, dict[str, dict[str, str]]]:
    """A closed application and headers of a reader and an admin of the tenant `other`, and an admin of none."""
    file = tmp_path / "keys.json"
    found = {name: {"Authorization": f"Bearer {credentials.add(file, name, [scope], tenant)}"}
             for name, scope, tenant in (("reader", "read", "other"), ("theirs", "admin", "other"), ("admin", "admin", ""))}
    gate = Gate(Credentials(file), sessions.Sessions(b"s" * 32, secure=False))
    return create_app(store, Settings(data="unused"), now_ns=lambda: NOW_NS, gate=gate).test_client(), found


def test_a_tenant_sees_its_own(keys: tuple[FlaskClient, dict[str, dict[str, str]]]) -> None:
    """Neither page nor list tells a tenant of another's baselines; an admin of none sees all."""
    client, headers = keys
    assert [one["tenant"] for one in client.get("/drift.json", headers=headers["reader"]).json["baselines"]] == ["other"]
    assert SERVICE not in client.get("/drift", headers=headers["reader"]).text
    assert [one["tenant"] for one in client.get("/admin/baselines.json", headers=headers["theirs"]).json["baselines"]] == ["other"]
    assert len(client.get("/admin/baselines.json", headers=headers["admin"]).json["baselines"]) == 2


def test_only_an_admin_pins_and_only_its_own(keys: tuple[FlaskClient, dict[str, dict[str, str]]]) -> None:
    """A reader may not; a tenant's admin may neither pin for others nor remove theirs."""
    client, headers = keys
    body = {"service": SERVICE, "model": MODEL, "start_ns": DAY[0], "end_ns": DAY[1]}
    foreign = next(one["baseline"] for one in client.get("/admin/baselines.json", headers=headers["admin"]).json["baselines"]
                   if one["tenant"] == "")

    def post(path: str, who: str, sent: object) -> int:
        return client.post(path, json=sent, headers=headers[who]).status_code

    assert post("/admin/baselines.json", "reader", body) == 403
    assert post("/admin/baselines.json", "theirs", {**body, "tenant": "third"}) == 403
    assert post("/admin/baselines.json", "theirs", body) == 400  # no such generations of theirs
    assert post("/admin/baselines-remove.json", "theirs", {"baseline": foreign}) == 400
    for wrong in ({**body, "colour": "red"}, {**body, "start_ns": "noon"}, {**body, "service": 5}, {**body, "start_ns": True}):
        assert post("/admin/baselines.json", "admin", wrong) == 400


def test_the_command_asks_a_running_collector(store: ClickHouseStore, capsys: pytest.CaptureFixture[str]) -> None:
    """Pin, list, drift and remove over HTTP; drift exits 1 when something shifted."""
    rng = np.random.default_rng(5)
    store.insert(made.block(made.healthy(rng, 300), made.moments(rng, 300, *DAY), first=800_000, service="asked"), "asked")
    window = ["--from", str(DAY[0]), "--to", str(DAY[1])]
    with serving(create_app(store, Settings(data="unused"), now_ns=time.time_ns)) as url:
        def run(*words: str) -> tuple[int, str]:
            return cli.main(["baselines", *words, "--url", url]), capsys.readouterr().out

        assert run("pin", "--service", "asked", "--model", MODEL, *window)[0] == 0
        code, out = run("list")
        assert code == 0
        (line,) = [line for line in out.splitlines() if "asked" in line]
        assert "300 generations" in line
        code, out = run("drift", "--service", "asked", *window, "--json")
        assert (code, {json.loads(row)["label"] for row in out.splitlines()}) == (0, {"steady"})
        code, out = run("drift", "--service", SERVICE, "--from", str(NOW_NS - HOUR_NS), "--to", str(NOW_NS))
        assert code == 1
        assert "entropy" in out
        assert run("remove", line.split()[0])[0] == 0
        assert "asked" not in run("list")[1]


def test_the_outline_has_the_shape_of_the_values() -> None:
    """A histogram drawn from one-per-cent bins rises and falls with the values, without a comb of empty bars."""
    values = np.random.default_rng(6).normal(10, 2, 20_000)
    bins, counts = np.unique(sketch.bins(values), return_counts=True)
    shape = drift_charts.numbers({int(each): (float(count), float(count)) for each, count in zip(bins, counts, strict=True)}, "s")
    assert shape is not None
    heights = np.array([bar.height for bar in shape.bars])[1:-1]
    expected = np.histogram(values, np.linspace(*np.quantile(values, [0.005, 0.995]), drift_charts.BARS + 1))[0][1:-1]
    assert np.corrcoef(heights, expected)[0, 1] > 0.99

