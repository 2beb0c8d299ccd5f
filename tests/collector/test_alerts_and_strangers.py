"""Small hostile things around scores and alerts: another tenant's span, a webhook by the letter of its documentation."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from alerts_helpers import T0_S, Bench, document, hook, put_minutes
from cutaway_collector import credentials
from cutaway_collector.alerts import Desk
from cutaway_collector.alerts.book import Delivery
from cutaway_collector.alerts.channels import Channels, Secrets, parse_channel
from cutaway_collector.alerts.egress import Egress, Refused, networks
from cutaway_collector.alerts.fields import NS
from cutaway_collector.blocks import Strings
from cutaway_collector.contracts import Store
from cutaway_collector.credentials import Credentials
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.sessions import Sessions
from judge_helpers import chat
from scores_helpers import score_of, scores_block
from search_helpers import spans_block

SPAN = chat(7, "question", "answer", trace=7)


@pytest.fixture
def tenants(alerts_store: Store, tmp_path: Path) -> dict[str, FlaskClient]:
    """A span of acme, a score of it by acme, and one that zoo sent under the same ids: a client a tenant, and one for everybody."""
    block = spans_block([SPAN])
    block.columns["TenantId"] = Strings.of(["acme"])
    alerts_store.insert(block, f"span {tmp_path}")
    alerts_store.insert(scores_block([score_of(SPAN, "helpful", 1.0, tenant="acme", source="acme"),
                               score_of(SPAN, "forged", 0.0, tenant="zoo", source="zoo")]), f"scores {tmp_path}")
    path = tmp_path / "keys.json"
    keys = {name: credentials.add(path, name, ["read"], name) for name in ("acme", "zoo")}
    app = create_app(alerts_store, Settings(data="unused"), gate=Gate(Credentials(path), Sessions(b"secret" * 8, secure=False)))
    clients = {name: app.test_client() for name in keys}
    for name, client in clients.items():
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {keys[name]}"
    return clients


def test_a_score_for_anothers_span_is_the_senders_alone(tenants: dict[str, FlaskClient]) -> None:
    """Whose a score is the credential says: the owner of the span sees its own scores and none of the stranger's, and finds no span
    by it; nor does the stranger come to see the span."""
    mine = tenants["acme"].get(f"/trace/{SPAN.trace_id}.json")
    assert [score["name"] for score in mine.get_json()["scores"]] == ["helpful"]
    assert "forged" not in tenants["acme"].get(f"/trace/{SPAN.trace_id}").text
    for name in tenants:
        found = tenants[name].get("/search.json?q=score.forged:<1&from=2020-01-01")
        assert (found.status_code, SPAN.trace_id in found.text) == (200, False)
    theirs = tenants["zoo"].get(f"/trace/{SPAN.trace_id}.json")
    assert theirs.status_code == 404


def _signed(directory: Path, allowed: str) -> Channels:
    (directory / "ops-hook").write_text("a secret\n")
    return Channels(Egress(networks(allowed)), Secrets(directory, {}), seconds_max=5)


def _fired(store: Store, url: str) -> Delivery:
    """A rule with that webhook, fired by planted loops: the delivery that is noted."""
    channel = {"name": "ops", "kind": "webhook", "url": url, "secret_file": "ops-hook"}
    Desk(store, Settings(data="unused")).apply({"rules": [document(channels=["ops"])], "channels": [channel]})
    bench = Bench(store)
    bench.evaluator.tick((T0_S + 31) * NS)
    put_minutes(store, [0.5] * 5)
    bench.run(T0_S, 5)
    return bench.sent[0]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="another program's HMAC is the oracle")
def test_a_webhook_arrives_signed_as_the_documentation_says(alerts_store: Store, tmp_path: Path) -> None:
    """From a planted failure to a server on loopback that the settings allow: `sha256=` and the HMAC-SHA256 of TIMESTAMP.BODY, as
    openssl computes it."""
    with hook() as server:
        delivery = _fired(alerts_store, server.url)
        channel = parse_channel({"name": "ops", "kind": "webhook", "url": server.url, "secret_file": "ops-hook"})
        _signed(tmp_path, "127.0.0.1/32").send(channel, json.loads(delivery.body))
    ((_, headers, body),) = server.got
    signed = headers["X-Cutaway-Timestamp"].encode() + b"." + body
    said = subprocess.run(["openssl", "dgst", "-sha256", "-hmac", "a secret"], input=signed, capture_output=True, check=True).stdout
    assert headers["X-Cutaway-Signature"] == "sha256=" + said.decode().strip().rpartition(" ")[2]
    assert json.loads(body)["rule"] == "loops"


def test_without_the_setting_loopback_is_not_reached(alerts_store: Store, tmp_path: Path) -> None:
    """The same alert, no network allowed: refused before a connection, and nothing arrives."""
    with hook() as server:
        delivery = _fired(alerts_store, server.url)
        channel = parse_channel({"name": "ops", "kind": "webhook", "url": server.url, "secret_file": "ops-hook"})
        with pytest.raises(Refused):
            _signed(tmp_path, "").send(channel, json.loads(delivery.body))
    assert server.got == []
