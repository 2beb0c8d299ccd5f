"""Scores that the collector computed, sent on as `gen_ai.evaluation.result` log records over OTLP/HTTP. Reads no store.

A bounded queue and one thread. What cannot be delivered for a while is tried again; when the queue is full the oldest go, and what
a receiver refuses for good goes too: both are counted. Explanations stay here, for they may quote what was said. Only rows whose
source is the collector itself are sent, and whoever receives them stores them as sent ones, so no two collectors can go in circles.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import numpy as np
import urllib3
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import ScopeLogs
from prometheus_client import CollectorRegistry, Counter, Gauge

from cutaway import conventions as c
from cutaway_collector.blocks import Array, Block, Strings
from cutaway_collector.errors import SettingsError
from cutaway_collector.settings import Settings

_LOG: Final = logging.getLogger(__name__)
OWN: Final = b"collector"
REQUEST_ROWS_MAX: Final = 2000
TIMEOUT_S: Final = 10.0
RETRY_FIRST_S: Final = 0.5
RETRY_LONGEST_S: Final = 30.0
DRAIN_S: Final = 3.0
"""How long a stop waits for what is queued."""
_TEXTS: Final = ("Source", "ServiceName", "ScorerVersion", "TraceId", "SpanId", "ScoreName", "Label", "GenAiModel")
_IDS: Final = re.compile(r"[0-9a-f]{32} (?:[0-9a-f]{16})?")
_PASSING: Final = frozenset({429, 502, 503, 504})
"""Statuses that OTLP/HTTP calls retryable."""


class Forwarder:
    """Takes blocks of gen_ai_scores, sends their rows. rows_max: of the queue. Raises SettingsError for a bad endpoint."""

    def __init__(self, endpoint: str, *, rows_max: int, authorization: str = "", registry: CollectorRegistry | None = None) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError("scores_forward is the URL of an OTLP/HTTP logs endpoint, like http://host:4318/v1/logs: "
                                f"it has {'no host' if parts.scheme in ('http', 'https') else 'another scheme'}")
        self._url = endpoint if parts.path not in ("", "/") else f"{endpoint.rstrip('/')}/v1/logs"
        self._headers = {"Content-Type": "application/x-protobuf"} | ({"Authorization": authorization} if authorization else {})
        self._rows_max = rows_max
        self._queue: deque[Block] = deque()
        self._rows = 0
        self._changed = threading.Condition()
        self._closing = False
        self._away = False
        self._pool = urllib3.PoolManager(retries=False, timeout=TIMEOUT_S)
        self._sent = Counter("cutaway_scores_forwarded", "scores that scores_forward has taken", registry=registry)
        self._dropped = Counter("cutaway_scores_forward_dropped", "scores that were not sent on: the queue was full, the receiver "
                                "refused them, or the collector stopped", ["reason"], registry=registry)
        Gauge("cutaway_scores_forward_waiting", "scores waiting to be sent on", registry=registry).set_function(lambda: self._rows)
        self._thread = threading.Thread(target=self._run, name="scores-forward", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, settings: Settings, registry: CollectorRegistry) -> Forwarder | None:
        """As the settings say; None where nothing is sent on. Raises SettingsError."""
        if not settings.scores_forward:
            return None
        if urlsplit(settings.scores_forward).netloc == settings.otlp_http:
            raise SettingsError(f"scores_forward names this collector itself ({settings.otlp_http}): name another one, or leave it "
                                "out")
        authorization = ""
        if settings.scores_forward_authorization_file:
            try:
                authorization = Path(settings.scores_forward_authorization_file).read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"scores_forward_authorization_file cannot be read: {type(error).__name__}") from None
            if not authorization.isprintable():
                raise SettingsError("scores_forward_authorization_file holds one line, the value of the header: Bearer ...")
        return cls(settings.scores_forward, rows_max=settings.scores_forward_rows_max, authorization=authorization,
                   registry=registry)

    def put(self, block: Block) -> None:
        """Queues the collector's own rows of a block; never waits."""
        sources = block.columns["Source"]
        assert isinstance(sources, Strings)
        if not any(source == OWN for source in _distinct(sources)):
            return
        with self._changed:
            if self._closing:
                return
            self._queue.append(block)
            self._rows += block.rows
            while self._rows > self._rows_max and self._queue:
                oldest = self._queue.popleft()
                self._rows -= oldest.rows
                self._dropped.labels("full").inc(oldest.rows)
            self._changed.notify_all()

    def close(self) -> None:
        """Sends what is queued for DRAIN_S at most; what is left is counted as dropped. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(DRAIN_S + TIMEOUT_S)
        with self._changed:
            if self._rows:
                self._dropped.labels("stopped").inc(self._rows)
                self._queue.clear()
                self._rows = 0

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                block = self._queue.popleft()
            for start in range(0, block.rows, REQUEST_ROWS_MAX):
                request, rows = _request(block, start, min(block.rows, start + REQUEST_ROWS_MAX))
                if rows and not self._deliver(request, rows):
                    return
                with self._changed:
                    self._rows -= min(block.rows, start + REQUEST_ROWS_MAX) - start

    def _deliver(self, request: bytes, rows: int) -> bool:
        """Sends until it is taken or refused for good. False when the collector stops meanwhile."""
        delay_s = RETRY_FIRST_S
        while True:
            taken, trouble = self._post(request, rows)
            if trouble and not self._away:
                _LOG.warning("scores are not sent on: %s; at most %d wait to be tried again", trouble, self._rows_max)
            elif self._away and not trouble:
                _LOG.info("scores are sent on again")
            self._away = bool(trouble)
            if taken:
                return True
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, delay_s):
                    return False
            delay_s = min(delay_s * 2, RETRY_LONGEST_S)

    def _post(self, request: bytes, rows: int) -> tuple[bool, str]:
        """(whether these rows are done with, what is wrong with the way there or "")."""
        try:
            answer = self._pool.request("POST", self._url, body=request, headers=self._headers, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            return False, type(error).__name__
        if answer.status in _PASSING:
            return False, f"status {answer.status}"
        if answer.status != 200:
            self._dropped.labels("refused").inc(rows)
            return True, f"status {answer.status}, which trying again does not change"
        refused = _rejected(answer.data)
        self._sent.inc(rows - refused)
        if refused:
            self._dropped.labels("refused").inc(refused)
        return True, ""


def _rejected(body: bytes) -> int:
    response = ExportLogsServiceResponse()
    try:
        response.ParseFromString(body)
    except Exception:  # the receiver said 200: what else it says is its own affair
        return 0
    return max(0, int(response.partial_success.rejected_log_records))


def _distinct(texts: Strings) -> Iterator[bytes]:
    """Texts, each at least once; a block of one source, which is the rule, is looked at once."""
    if len(texts) and texts.offsets[-1] and bool(np.all(np.diff(texts.offsets) == texts.offsets[1])):
        wide = texts.data.reshape(len(texts), -1)
        if bool(np.all(wide == wide[0])):
            yield texts[0]
            return
    yield from texts


def _request(block: Block, start: int, stop: int) -> tuple[bytes, int]:
    """Rows [start, stop) of the collector's own as one ExportLogsServiceRequest, and how many they are."""
    message = ExportLogsServiceRequest()
    groups: dict[tuple[str, str], ScopeLogs] = {}
    texts = {name: _texts(block, name) for name in _TEXTS}
    times, values, sequences, deleted = (_array(block, name) for name in ("Timestamp", "Value", "SeqIndex", "IsDeleted"))
    rows = 0
    for row in range(start, stop):
        said = {name: column[row].decode("utf-8", "replace") for name, column in texts.items()}
        if said["Source"].encode() != OWN or deleted[row] or not _IDS.fullmatch(f"{said['TraceId']} {said['SpanId']}"):
            continue
        rows += 1
        key = said["ServiceName"], said["ScorerVersion"]
        if key not in groups:
            resource = message.resource_logs.add()
            resource.resource.attributes.add(key="service.name").value.string_value = key[0]
            groups[key] = resource.scope_logs.add()
            groups[key].scope.name, groups[key].scope.version = "cutaway-collector", key[1]
        record = groups[key].log_records.add(
            time_unix_nano=int(times[row]), event_name=c.EVALUATION_EVENT, trace_id=bytes.fromhex(said["TraceId"]),
            span_id=bytes.fromhex(said["SpanId"]))
        for name, text in ((c.EVALUATION_NAME, said["ScoreName"]), (c.EVALUATION_SCORE_LABEL, said["Label"]),
                           (c.REQUEST_MODEL, said["GenAiModel"]), (c.EVALUATION_SOURCE, said["Source"])):
            if text:
                record.attributes.add(key=name).value.string_value = text
        if np.isfinite(values[row]):
            record.attributes.add(key=c.EVALUATION_SCORE_VALUE).value.double_value = float(values[row])
        record.attributes.add(key=c.EVALUATION_SEQUENCE).value.int_value = int(sequences[row])
    return bytes(message.SerializeToString()), rows


def _texts(block: Block, name: str) -> Strings:
    column = block.columns[name]
    assert isinstance(column, Strings)
    return column


def _array(block: Block, name: str) -> Array:
    column = block.columns[name]
    assert isinstance(column, np.ndarray)
    return column
