"""Fault 6: a server that says 200 and then, in the body, that the insert failed."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from pipeline_helpers import request, running, sample, stored
from store_helpers import server, wait_until

_INSERT = re.compile(r"\s*INSERT\s+INTO\s+\S*otel_traces\b", re.IGNORECASE)
EXCEPTION = b"Code: 241. DB::Exception: Memory limit (total) exceeded: would use 9.00 GiB. (MEMORY_LIMIT_EXCEEDED) (version 26.1)\n"


class Hasty(BaseHTTPRequestHandler):
    """A proxy that answers the first `failing` inserts of spans with 200 and `words`, and carries on everything else."""

    protocol_version = "HTTP/1.1"
    behind = ""
    words = EXCEPTION
    failing = 0
    seen: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the test's own output matters."""

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self._body()
        if _INSERT.match(parse_qs(urlsplit(self.path).query).get("query", [""])[0] or body[:100].decode("utf-8", "replace")):
            self.seen.append(self.path)
            if type(self).failing:
                type(self).failing -= 1
                self._say(200, self.words, {})
                return
        headers = {name: value for name, value in self.headers.items()
                   if name.lower() not in ("host", "content-length", "transfer-encoding", "connection")}
        asked = urllib.request.Request(self.behind + self.path, body or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                self._say(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as error:
            self._say(error.code, error.read(), dict(error.headers))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower().startswith("x-"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[str]:
    """URL of the proxy before a real engine."""
    with server(tmp_path / "server") as behind:
        Hasty.behind, Hasty.words, Hasty.failing = f"http://127.0.0.1:{behind.port}", EXCEPTION, 0
        Hasty.seen.clear()
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), Hasty)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://default:@127.0.0.1:{proxy.server_port}"
        proxy.shutdown()
        proxy.server_close()


@pytest.mark.parametrize("words", [EXCEPTION, b"<html>the gateway is busy</html>"])
def test_fault_6_200_and_then_an_exception(hasty: str, tmp_path: Path, words: bytes) -> None:
    """The batch is not taken for stored: it is tried again, and every row is stored once."""
    settings = Settings(clickhouse=hasty, spool=str(tmp_path / "spool"), batch_age_ms_max=20)
    store = open_store(settings)
    try:
        Hasty.words, Hasty.failing = words, 2
        with running(store, settings) as pipeline:
            pipeline.submit(request(0), "protobuf")
            wait_until(lambda: Hasty.failing == 0)
            wait_until(lambda: pipeline.status()[1]["waiting_requests"] == 0)
            assert sample(pipeline, "cutaway_insert_failures_total", table="otel_traces", kind="passing") == 2
        assert stored(store) == list(range(10))
    finally:
        store.close()


def test_an_insert_asks_for_an_honest_status(hasty: str, tmp_path: Path) -> None:
    """The server is asked to decide about the status at the end, for it may otherwise say 200 while it still works."""
    settings = Settings(clickhouse=hasty, spool=str(tmp_path / "spool"), batch_age_ms_max=20)
    store = open_store(settings)
    try:
        with running(store, settings) as pipeline:
            pipeline.submit(request(0), "protobuf")
        assert Hasty.seen
        asked = [parse_qs(urlsplit(path).query) for path in Hasty.seen]
        assert [(one.get("wait_end_of_query"), one.get("send_progress_in_http_headers")) for one in asked] == [(["1"], ["0"])]
    finally:
        store.close()
