"""POST /v1/scores over real sockets, and its scores through the pipeline: whose they are, what is answered, stored once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from cutaway_collector import decode
from cutaway_collector.contracts import Receipt
from cutaway_collector.errors import MalformedRequest, Overloaded
from cutaway_collector.receive import HttpReceiver
from cutaway_collector.redact import Redactor
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from pipeline_helpers import Tampered, running, sample
from receive_helpers import JSON, PROTOBUF, Keys, Recorder, post
from store_helpers import wait_until

GOOD = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331", "name": "helpful", "value": 1}
BODY = json.dumps([GOOD, {**GOOD, "sequence": 1}]).encode()


@pytest.fixture(autouse=True, scope="module")
def _compiled() -> None:
    decode.warm_up()


@pytest.fixture(scope="module")
def submit() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def address(submit: Recorder) -> Iterator[tuple[str, int]]:
    receiver = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=4096, concurrency_max=4, threads=2, authenticate=Keys(),
                            cors_origins="https://app.example.com")
    yield receiver.address
    receiver.close()


@pytest.fixture(autouse=True)
def _fresh(submit: Recorder) -> None:
    submit.payloads.clear()
    submit.tenants.clear()
    submit.receipt, submit.error = Receipt(2, 1, "score 2: a score has a name"), None


def send(address: tuple[str, int], body: bytes = BODY, **headers: str) -> tuple[int, dict[str, str], Any]:
    given = {**JSON, "Authorization": "Bearer sender", **{name.replace("_", "-"): value for name, value in headers.items()}}
    status, answered, said = post(address, body, given, path="/v1/scores")
    return status, answered, json.loads(said)


def test_scores_are_taken_and_answered_in_numbers(address: tuple[str, int], submit: Recorder) -> None:
    """Of the credential's tenant, with what was turned away and why."""
    status, _, said = send(address)
    assert (status, said) == (200, {"accepted": 2, "rejected": 1, "message": "score 2: a score has a name"})
    assert submit.payloads == [(BODY, "scores/json")]
    assert submit.tenants == ["team-a"]


def test_compressed_bodies_are_inflated_within_the_limit(address: tuple[str, int], submit: Recorder) -> None:
    """As with spans."""
    assert send(address, gzip.compress(BODY), Content_Encoding="gzip")[0] == 200
    assert submit.payloads == [(BODY, "scores/json")]
    assert send(address, gzip.compress(b" " * 100_000), Content_Encoding="gzip")[0] == 413
    assert send(address, b" " * 5000)[0] == 413


@pytest.mark.parametrize(("headers", "status"), [
    ({"Authorization": ""}, 401), ({"Authorization": "Bearer reader"}, 403), ({"Authorization": "Bearer busy"}, 429),
    ({"Content_Type": "application/x-protobuf"}, 415), ({"Content_Type": "text/plain"}, 415), ({"Content_Encoding": "br"}, 415),
])
def test_what_may_not_come_in_is_refused(address: tuple[str, int], submit: Recorder, headers: dict[str, str], status: int) -> None:
    """Before anything is read of it."""
    given = {**JSON, "Authorization": "Bearer sender", **{name.replace("_", "-"): value for name, value in headers.items()}}
    assert post(address, BODY, given, path="/v1/scores")[0] == status
    assert submit.payloads == []


@pytest.mark.parametrize(("error", "status"), [
    (MalformedRequest("none can be kept"), 400), (Overloaded("full", retry_after_s=3), 503),
])
def test_refusals_say_why_in_json(address: tuple[str, int], submit: Recorder, error: Exception, status: int) -> None:
    """With Retry-After where coming back helps."""
    submit.error = error
    answered = send(address)
    assert (answered[0], answered[2]["message"]) == (status, str(error))
    assert answered[1].get("retry-after", "") == ("3" if status == 503 else "")


def test_pages_may_send_scores_where_their_origin_is_allowed(address: tuple[str, int]) -> None:
    """A thumb in a web page: preflight and reply; another origin gets neither."""
    for origin, allowed in (("https://app.example.com", True), ("https://evil.example.com", False)):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        preflight = post(address, b"", asked, path="/v1/scores", method="OPTIONS")
        assert (preflight[0] == 204) is allowed
        assert ("access-control-allow-origin" in send(address, Origin=origin)[1]) is allowed
    assert post(address, b"", {"Authorization": "Bearer sender"}, path="/v1/scores", method="GET")[0] == 405
    assert post(address, BODY, {**PROTOBUF, "Authorization": "Bearer sender"}, path="/v1/score")[0] == 404


def stored(store: ClickHouseStore) -> list[tuple[Any, ...]]:
    """Score rows as they lie in the table."""
    return [tuple(row) for row in store.query(
        "SELECT TenantId, ScoreName, SeqIndex, Value, count() FROM otel.gen_ai_scores GROUP BY ALL ORDER BY ALL").rows]


def test_scores_are_stored_once(store: ClickHouseStore, settings: Settings) -> None:
    """Acknowledged while the store was away and sent again by the sender and by the next process: one row each."""
    with running(Tampered(store, hold=True), settings, close_s=0.05) as pipeline:
        assert pipeline.submit(BODY, "scores/json", "team-a").accepted == 2
        assert pipeline.submit(BODY, "scores/json", "team-a").accepted == 2
    with running(Tampered(store, lose_answers=2), settings) as pipeline:
        assert pipeline.submit(BODY, "scores/json", "team-a").accepted == 2
        assert pipeline.submit(BODY, "scores/json", "team-b").accepted == 2
        wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
        assert sample(pipeline, "cutaway_requests_duplicate_total", encoding="scores/json") == 1
    assert stored(store) == [(team, "helpful", sequence, 1.0, 1) for team in ("team-a", "team-b") for sequence in (0, 1)]


def test_a_request_without_a_good_score_leaves_nothing_behind(store: ClickHouseStore, settings: Settings) -> None:
    """Neither on disk nor in the table."""
    with running(store, settings) as pipeline:
        with pytest.raises(MalformedRequest):
            pipeline.submit(b'{"name": "helpful"}', "scores/json")
        assert pipeline.status()[1]["spool_bytes"] == 0


def test_scores_are_redacted_before_they_are_kept() -> None:
    """Texts by pattern, fields by name; ids stay; what holds nothing of it goes on byte for byte."""
    redact = Redactor(["expl*"], ["secret"])
    assert redact(BODY, "scores/json") == BODY
    open_words = {**GOOD, "label": "a secret", "explanation": "x", "name": "secret"}
    said = json.loads(redact(json.dumps(open_words).encode(), "scores/json"))
    assert said == {**GOOD, "label": "a [redacted]", "explanation": "[redacted]", "name": "[redacted]"}
