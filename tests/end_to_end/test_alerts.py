"""Alerts of a real collector, killed without warning: one event each, judged again from where it stood."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alerts_helpers import hook
from serving import Serving
from store_helpers import wait_until

FLAGS = ("--alerts-interval-seconds", "1", "--alerts-lateness-seconds", "0", "--alerts-networks", "127.0.0.1/32")
SECRET = "only-the-hook-knows-9d1f"
RULE: dict[str, Any] = {
    "name": "loops", "query": "is:generation", "aggregate": "share", "of": "repetition:>0.5", "every": "10s", "channels": ["ops"],
    "condition": {"above": 0.3, "clear": 0.2, "for": "20s"},
}


PLANT = """
import itertools, sys, time
from alerts_helpers import put_spans
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
store = open_store(Settings(data=sys.argv[1]))
put_spans(store, time.time() - 20, list(itertools.islice(itertools.cycle([0.9, 0.9, 0, 0, 0]), 600)), delay_s=-3600)
store.close()
"""


def _plant(data: Path) -> None:
    """Spans of the next ten minutes, one a second, two fifths of them loops. Its own process: an engine opens one directory."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", PLANT, str(data)], check=True, env=environment, timeout=200)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_collector_fires_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL while a rule is pending and again after it fired: the event is recorded once and every delivery bears its id."""
    data = tmp_path / "data"
    monkeypatch.setenv("CUTAWAY_ALERT_KEY", SECRET)
    with hook() as server:
        channel = {"name": "ops", "kind": "webhook", "url": server.url, "secret_env": "CUTAWAY_ALERT_KEY"}
        rules = tmp_path / "rules.yaml"
        rules.write_text(json.dumps({"rules": [RULE], "channels": [channel]}))
        _plant(data)
        with Serving(data, *FLAGS) as running:
            applied = running.run("alerts", "apply", str(rules), "--data", str(data))
            assert 0 == applied.returncode, applied.stderr
            wait_until(lambda: running.json("/alerts.json")["rules"][0]["state"] == "pending", 60)
            running.kill()
        with Serving(data, *FLAGS) as running:
            wait_until(lambda: bool(server.got), 60)
            running.kill()
        with Serving(data, *FLAGS) as running:
            judged = running.json("/alerts.json")["rules"][0]["judged_to"]
            wait_until(lambda: running.json("/alerts.json")["rules"][0]["judged_to"] > judged, 60)
            found = running.json("/alerts.json")
            assert "firing" == found["rules"][0]["state"]
            assert "cutaway_alerts_firing" in running.text("/metrics")
            assert 0 == running.stop()

    (event,) = found["events"]
    assert {event["event"]} == {headers["X-Cutaway-Event"] for _, headers, _ in server.got}
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
