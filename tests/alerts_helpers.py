"""Shared by the tests of alerts: spans and scores at given times, rules in a few words, and an HTTP server that takes webhooks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import numpy as np

from cutaway_collector.alert_columns import ALERT_TABLES
from cutaway_collector.alerts.book import Book, Delivery, Event
from cutaway_collector.alerts.evaluator import Evaluator
from cutaway_collector.alerts.fields import NS
from cutaway_collector.alerts.rules import Rule, parse_rule
from cutaway_collector.blocks import Block, Nullable, Strings
from cutaway_collector.contracts import Store

T0_S = 1_800_000_000 - 1_800_000_000 % 3600
"""The tests' midnight: a whole hour."""
MINUTE = 60
_NUMBERS = count(1)


def put_spans(store: Store, start_s: float, values: Sequence[float], *, service: str | Sequence[str] = "chat", model: str = "m",
              every_s: float = 1.0, delay_s: float = 0.5, tenant: str = "") -> list[str]:
    """One generation a value of repetition, `every_s` apart from `start_s`, that arrive `delay_s` later; their span ids."""
    rows = len(values)
    times = ((start_s + np.arange(rows) * every_s) * NS).astype(np.int64)
    ids = [f"{next(_NUMBERS):016x}" for _ in range(rows)]
    store.insert(Block("otel_traces", rows, {
        "Timestamp": times, "TraceId": Strings.of([one * 2 for one in ids]), "SpanId": Strings.of(ids),
        "SpanName": Strings.of(["chat"] * rows),
        "ServiceName": Strings.of([service] * rows if isinstance(service, str) else service),
        "StatusCode": Strings.of(["Ok"] * rows), "TenantId": Strings.of([tenant] * rows),
        "IngestedAt": times // 1_000_000 + int(delay_s * 1000), "GenAiOperation": Strings.of(["chat"] * rows),
        "GenAiModel": Strings.of([model] * rows), "Repetition": Nullable(np.array(values, np.float64), np.zeros(rows, bool)),
    }), f"spans-{ids[0]}")
    return ids


def put_minutes(store: Store, shares: Sequence[float], *, service: str = "chat", start_s: int = T0_S, delay_s: float = 0.5) -> None:
    """Twenty answers a minute, of which this share repeats itself."""
    values = [0.9 if number < round(20 * share) else 0.05 for share in shares for number in range(20)]
    put_spans(store, start_s, values, service=service, every_s=3, delay_s=delay_s)


def put_scores(store: Store, ids: Sequence[str], start_s: float, name: str, values: Sequence[float], *, service: str = "chat",
               every_s: float = 1.0, tenant: str = "") -> None:
    """A score of each of these spans."""
    rows = len(values)
    store.insert(Block("gen_ai_scores", rows, {
        "Timestamp": ((start_s + np.arange(rows) * every_s) * NS).astype(np.int64), "TenantId": Strings.of([tenant] * rows),
        "ServiceName": Strings.of([service] * rows), "GenAiModel": Strings.of(["m"] * rows),
        "TraceId": Strings.of([one * 2 for one in ids]), "SpanId": Strings.of(list(ids)), "SeqIndex": np.zeros(rows, np.uint16),
        "ScoreName": Strings.of([name] * rows), "ScorerVersion": Strings.of(["1"] * rows), "Source": Strings.of(["tests"] * rows),
        "Value": np.array(values, np.float64),
    }), f"scores-{name}-{ids[0]}")


def put_windows(store: Store, name: str, values: Sequence[float], *, start_s: int = T0_S, seconds: int = 900, service: str = "chat",
                model: str = "m", route: str = "/ask", template: str = "", count: int = 50, tenant: str = "") -> None:
    """A window score a value, of windows of so many seconds that lie end to end from start_s on. count: answers behind each."""
    rows = ", ".join(
        f"('{tenant}', {start_s + number * seconds}, {seconds}, '{service}', '{model}', '{route}', '{template}', '{name}', "
        f"{value}, {count}, {count})" for number, value in enumerate(values))
    store.command("INSERT INTO otel.gen_ai_window_scores (TenantId, WindowStart, WindowSeconds, ServiceName, ResponseModel, Route, "
                  f"PromptTemplate, ScoreName, Value, Count, Answers) VALUES {rows}")


def rule(name: str = "loops", **changes: Any) -> Rule:
    """A rule: more than a fifth of the answers repeat themselves, for two minutes, unless something else is said."""
    return parse_rule(document(name, **changes))


def document(name: str = "loops", **changes: Any) -> dict[str, Any]:
    """The same as YAML would give it. A change to None leaves the key out."""
    said = {"name": name, "query": "is:generation", "aggregate": "share", "of": "repetition:>0.5",
            "condition": {"kind": "threshold", "above": 0.2, "clear": 0.1, "for": "2m"}, **changes}
    return {key: value for key, value in said.items() if value is not None}


def wipe(store: Store) -> None:
    """Empties every table that alerts read or write."""
    for table in ("otel_traces", "gen_ai_tokens", "gen_ai_scores", "gen_ai_window_scores", "gen_ai_drift",
                  *(table.name for table in ALERT_TABLES)):
        store.command(f"TRUNCATE TABLE otel.{table}")


@dataclass
class Bench:
    """An evaluator with a clock of its own. `sent`: deliveries handed on."""

    store: Store
    sent: list[Delivery] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.book = Book(self.store)
        self.restart()

    def restart(self) -> None:
        """As after a kill: all that is not in the store is gone."""
        self.evaluator = Evaluator(self.store, self.book, lateness_s=30, deliver=self.sent.extend)

    def run(self, start_s: int, minutes: int, *, every_s: int = MINUTE) -> list[Event]:
        """Ticks through these minutes; the events in the order in which they were recorded."""
        found = []
        for now_s in range(start_s, start_s + minutes * MINUTE + 1, every_s):
            found += self.evaluator.tick((now_s + 31) * NS).events
        return found


@dataclass
class Hook:
    """A server that takes POSTs. answers: status of each, the last for ever; got: (path, headers, body)."""

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [200])
    got: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)


@contextmanager
def hook(*answers: int, headers: Mapping[str, str] | None = None) -> Iterator[Hook]:
    """On a free port of loopback."""
    state = Hook(answers=list(answers) or [200], headers=dict(headers or {}))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the library's name
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            state.got.append((self.path, dict(self.headers), body))
            self.send_response(state.answers.pop(0) if len(state.answers) > 1 else state.answers[0])
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
