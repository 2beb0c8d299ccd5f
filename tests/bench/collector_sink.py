"""A ClickHouse server that throws span inserts away: python tests/bench/collector_sink.py PORT DIR. For measuring what sends.

Not a store. Everything but INSERTs of spans, series and scores runs on a real engine (tests/clickhouse_http.py), so a client finds
the version, settings and tables it asks for; those INSERTs are read, counted and answered. GET /taken tells what came, as JSON.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path
from typing import ClassVar

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)]

from tests.bench.collector_payloads import MARK  # noqa: E402  # as above

import clickhouse_http  # noqa: E402  # this file is a program: it finds its neighbours first

DISCARDED = re.compile(rb"\s*INSERT\s+INTO\s+[`\w.]*(otel_traces|gen_ai_tokens|gen_ai_scores)\b", re.IGNORECASE)


class Sink(clickhouse_http.Handler):
    """One connection; counters are the process's."""

    lock = threading.Lock()
    taken: ClassVar = {"inserts": 0, "bytes": 0, "spans": 0}

    def do_GET(self) -> None:
        if self.path == "/taken":
            with self.lock:
                self.answer(200, json.dumps(self.taken).encode(), {})
        else:
            super().do_GET()

    def run(self, arguments: dict[str, str], body: bytes) -> tuple[bytes, dict[str, str]]:
        """Counts and discards the INSERTs that are measured; everything else is executed."""
        if not DISCARDED.match(arguments.get("query", "").encode() or body[:200]):
            return super().run(arguments, body)
        spans = body.count(MARK)
        with self.lock:
            self.taken["inserts"] += 1
            self.taken["bytes"] += len(body)
            self.taken["spans"] += spans
        return b"", {}


if __name__ == "__main__":
    clickhouse_http.Handler = Sink  # type: ignore[misc]  # the server of that module is to use this handler
    clickhouse_http.main()
