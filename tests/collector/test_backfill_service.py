"""Back-fills in a running collector: asked for over HTTP, one at a time, watched, cancelled, and shown by the command."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from backfill_helpers import FOREVER, Constant, sequences
from cutaway_collector.backfill import Backfills, Request
from cutaway_collector.errors import Conflict
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app
from serving import Serving
from store_helpers import server, wait_until
from web_helpers import with_token

EVERYTHING = ("--from", "2020-01-01")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ClickHouseStore]:
    opened = open_store(Settings(data=str(tmp_path / "data")))
    opened.insert(sequences(5000), "tokens")
    yield opened
    opened.close()


class Gated:
    """A service whose jobs wait after their first piece until the gate opens."""

    def __init__(self, store: ClickHouseStore) -> None:
        self.registry = CollectorRegistry()
        self.pressure = threading.Event()
        self.pressure.set()
        self.service = Backfills(store, lambda: [Constant()], rows_s_max=1e9, registry=self.registry, give_way=self.pressure.is_set)

    def sample(self, name: str) -> float:
        return self.registry.get_sample_value(name) or 0.0


@pytest.fixture
def gated(store: ClickHouseStore) -> Iterator[Gated]:
    made = Gated(store)
    yield made
    made.service.close()


def test_one_at_a_time(gated: Gated) -> None:
    """While a job runs another is refused; the figures say how far it is; then it comes to its end by itself."""
    gated.service.start(Request.of(FOREVER))
    with pytest.raises(Conflict, match="is running"):
        gated.service.start(Request.of(FOREVER))
    wait_until(lambda: gated.sample("cutaway_backfill_sequences_total") == 2000)
    assert gated.sample("cutaway_backfill_running") == 1
    assert gated.sample("cutaway_backfill_progress_ratio") == pytest.approx(0.4)
    gated.pressure.clear()
    wait_until(lambda: not gated.service.running)
    status = gated.service.status()
    assert status is not None
    assert (status["state"], status["rows"], gated.sample("cutaway_backfill_scores_total")) == ("done", 5000, 5000)
    assert (gated.sample("cutaway_backfill_running"), gated.sample("cutaway_backfill_progress_ratio")) == (0, 1)


def test_cancelled_and_gone_on_with(gated: Gated, store: ClickHouseStore) -> None:
    """A cancelled job stops after its piece, and the same request goes on from there."""
    first = gated.service.start(Request.of(FOREVER))
    wait_until(lambda: gated.sample("cutaway_backfill_sequences_total") == 2000)
    gated.service.cancel()
    wait_until(lambda: not gated.service.running)
    stopped = gated.service.status()
    assert stopped is not None
    assert (stopped["state"], stopped["rows"]) == ("stopped", 2000)
    gated.pressure.clear()
    assert gated.service.start(Request.of(FOREVER))["job"] == first["job"]
    wait_until(lambda: not gated.service.running)
    assert store.query("SELECT count() FROM otel.gen_ai_scores").rows[0][0] == 5000


def test_closing_waits_for_the_piece(gated: Gated) -> None:
    """After close no thread is left that would use the store, and nothing new begins."""
    gated.service.start(Request.of(FOREVER))
    wait_until(lambda: gated.sample("cutaway_backfill_sequences_total") == 2000)
    gated.service.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "backfill"]
    with pytest.raises(Conflict, match="is stopping"):
        gated.service.start(Request.of(FOREVER))


def test_the_routes_refuse_what_is_no_request(gated: Gated, store: ClickHouseStore) -> None:
    """Forms, unknown words, wrong kinds and unknown scorers are told so; nothing is started."""
    client = with_token(create_app(store, Settings(), backfills=gated.service).test_client())
    route = "/admin/backfill.json"
    assert client.post(route, data={"resume": "1"}).status_code == 415
    for body, word in (([1], "object"), ({"from": 1}, "no 'from'"), ({"start_ns": 1}, "end_ns"),
                       ({**FOREVER, "scorers": "x"}, "list"), ({**FOREVER, "missing": 1}, "true or false"),
                       ({"start_ns": -1, "end_ns": 1}, "nanoseconds"),
                       ({**FOREVER, "scorers": ["x"]}, "there is no scorer 'x'"), ({"resume": True}, "no back-fill was cut short")):
        answer = client.post(route, json=body)
        assert answer.status_code == 400, body
        assert word in answer.json["error"]["message"]
    assert client.get(route).json == {"backfill": None}
    assert create_app(store, Settings()).test_client().get(route).status_code == 404


def cutaway(*arguments: str) -> subprocess.CompletedProcess[str]:
    return Serving.run(*arguments)


@pytest.mark.slow
def test_the_command_works_by_itself_and_through_a_collector(tmp_path: Path) -> None:
    """On a directory nobody uses it opens the store; on one in use it asks the collector; both end with the same words."""
    data = tmp_path / "data"
    opened = open_store(Settings(data=str(data)))
    opened.insert(sequences(300), "tokens")
    opened.close()
    alone = cutaway("backfill", "--data", str(data), *EVERYTHING)
    assert alone.returncode == 0, alone.stderr
    with Serving(data) as running:
        asked = cutaway("backfill", "--data", str(data), *EVERYTHING)
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout == alone.stdout
        assert "300 of 300 sequences" in asked.stderr
        assert "100%" in asked.stderr
        assert running.json("/admin/backfill.json")["backfill"]["state"] == "done"
        assert "cutaway_backfill_sequences_total 300.0" in running.text("/metrics")
        again = cutaway("backfill", "--url", f"http://{running.addresses['ui']}", *EVERYTHING, "--missing")
        assert again.returncode == 0, again.stderr
        assert not (data / "collector.json").stat().st_mode & 0o077
        assert running.stop() == 0
    assert not (data / "collector.json").exists()


@pytest.mark.slow
def test_a_collector_that_is_told_to_stop_stops_its_back_fill(tmp_path: Path) -> None:
    """SIGTERM in the middle of a job ends in time; the next collector goes on with it."""
    data = tmp_path / "data"
    opened = open_store(Settings(data=str(data)))
    opened.insert(sequences(5000), "tokens")
    opened.close()
    with Serving(data, "--backfill-rows-s-max", "100") as running:
        started = running.post("/admin/backfill.json", FOREVER)["backfill"]
        assert started["state"] == "running"
        wait_until(lambda: running.json("/admin/backfill.json")["backfill"]["rows"] == 2000, 60)
        assert running.stop() == 0
    with Serving(data) as running:
        assert running.post("/admin/backfill.json", {"resume": True})["backfill"]["job"] == started["job"]
        wait_until(lambda: running.json("/admin/backfill.json")["backfill"]["state"] == "done", 60)
        assert running.json("/admin/backfill.json")["backfill"]["rows"] == 5000


@pytest.mark.slow
def test_the_command_stops_on_sigterm_and_goes_on(tmp_path: Path) -> None:
    """With a server the command works alone: told to stop it says how to go on, and the same command does."""
    with server(tmp_path) as running:
        opened = open_store(Settings(clickhouse=running.url))
        opened.insert(sequences(5000), "tokens")
        words = [sys.executable, "-m", "cutaway_collector", "backfill", "--clickhouse", running.url, "--from", "2020-01-01",
                 "--to", "2100-01-01"]
        child = subprocess.Popen([*words, "--backfill-rows-s-max", "50"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stored = "SELECT countIf(JSONExtractUInt(Counts, 'rows') > 0) FROM otel.cutaway_backfills FINAL"
        wait_until(lambda: opened.query(stored).rows[0][0] == 1, 60)
        child.terminate()
        _, said = child.communicate(timeout=60)
        assert child.returncode == 1
        assert "the same command goes on from there" in said
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=os.environ)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("5000 sequences read")
        keys = "Timestamp, TenantId, ServiceName, TraceId, SpanId, SeqIndex, ScoreName"
        count, distinct = opened.query(f"SELECT count(), uniqExact({keys}) FROM otel.gen_ai_scores").rows[0]
        assert count == distinct
        opened.close()


@pytest.mark.slow
def test_an_admin_key_is_needed_where_keys_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind API keys: no key and a reader's key are refused, an admin's key is not, one of a tenant is."""
    data = tmp_path / "data"
    keys = {name: cutaway("keys", "add", "--data", str(data), "--name", name, "--scope", scope, *more).stdout.strip()
            for name, scope, more in (("boss", "admin", ()), ("reader", "read", ()), ("team", "admin", ("--tenant", "team-a")))}
    with Serving(data, "--auth", "required"):
        def command(key: str) -> subprocess.CompletedProcess[str]:
            monkeypatch.setenv("CUTAWAY_API_KEY", key)
            return cutaway("backfill", "--data", str(data), *EVERYTHING)

        assert [command(key).returncode for key in ("", keys["reader"], keys["team"])] == [1, 1, 1]
        assert "covers every tenant" in command(keys["team"]).stderr
        done = command(keys["boss"])
        assert done.returncode == 0, done.stderr
