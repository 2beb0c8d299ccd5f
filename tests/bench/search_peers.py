"""The same questions asked of cutaway and of Arize Phoenix over the same spans: `python -m tests.bench search-peers [--keep]`.

Not a comparison of features, nor of taking spans in, which collector_peers.py measures. Both are the programs that their users
start, with their embedded stores (chDB, SQLite), sent the same OTLP requests, then asked in turns: as a program asks, through their
own HTTP APIs for the same 50 rows, and as a person does, in Chromium, until rows can be seen (search_peers_pages.py). The figure is
the median of the ratios of neighbouring answers, of wall time and of the servers' CPU time. Phoenix takes some 40 spans a CPU
second, so that 20,000 are minutes; --keep leaves both stores in build/bench/peers and begins with those that lie there. Without
Phoenix (collector_peers.py tells how to install it) nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import psutil
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.bench import collector_peers as peers
from tests.bench import search_filler as filler
from tests.bench import search_peers_pages as pages

OUT: Final = filler.ROOT / "build" / "bench" / "search_peers.json"
SPANS_A_REQUEST: Final = 500
SPANS_A_TRACE: Final = 10
FOLDER: Final = filler.ROOT / "build" / "bench" / "peers"
PAGE: Final = 50
PLANS: Final = ("free", "free", "free", "pro", "team")


def requests(spans: int, end_ns: int) -> tuple[list[bytes], list[str]]:
    """OTLP requests of so many spans, traces of ten, the last one beginning just before end_ns; and the ids of the traces."""
    chance, words = random.Random(5), filler.words()
    bodies, ids = [], []
    for first in range(0, spans, SPANS_A_REQUEST):
        message = ExportTraceServiceRequest()
        group = message.resource_spans.add()
        _put(group.resource.attributes, {"service.name": "concierge", "host.name": "gpu-7"})
        scope = group.scope_spans.add()
        for number in range(first, min(spans, first + SPANS_A_REQUEST)):
            place = number % SPANS_A_TRACE
            if place == 0:
                trace_id, parents = chance.randbytes(16), list[bytes]()
                ids.append(trace_id.hex())
            span = scope.spans.add(trace_id=trace_id, span_id=chance.randbytes(8), kind=1)
            span.parent_span_id = chance.choice(parents) if parents else b""
            parents.append(span.span_id)
            span.start_time_unix_nano = end_ns - (spans - number) * 20_000_000
            span.end_time_unix_nano = span.start_time_unix_nano + int(chance.lognormvariate(4, 1) * 1e6)
            attributes = {"user.plan": chance.choice(PLANS), "user.id": f"user-{chance.randrange(500)}"}
            span.name = filler.ROUTES[chance.randrange(16)] if place == 0 else chance.choice(filler.OTHERS)
            if place % 5 == 4:
                model = chance.choice(filler.MODELS)
                span.name = f"chat {model}"
                question, answer = (" ".join(words[at : at + chance.randrange(16, most)])
                                    for at, most in ((chance.randrange(7000), 64), (chance.randrange(7000), 140)))
                # Both spellings, so that either side finds what it knows.
                attributes |= {"gen_ai.operation.name": "chat", "gen_ai.request.model": model, "openinference.span.kind": "LLM",
                               "llm.model_name": model, "input.value": question, "output.value": answer}
                span.attributes.add(key="cutaway.output.perplexity").value.double_value = 1 + chance.lognormvariate(1.2, 0.7)
            _put(span.attributes, attributes)
            if chance.random() < 0.03:
                span.status.code, span.status.message = 2, "timed out"
        bodies.append(message.SerializeToString())
    return bodies, ids


def _put(attributes: Any, values: dict[str, str]) -> None:
    for key, value in values.items():
        attributes.add(key=key).value.string_value = value


def post(target: str, body: bytes) -> None:
    """One OTLP request."""
    request = urllib.request.Request(target, body, {"Content-Type": "application/x-protobuf"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        answer.read()


class _Cutaway:
    """Questions put to cutaway; each answers how many rows came."""

    def __init__(self, ui: str) -> None:
        self._ui = ui

    def _rows(self, path: str, key: str) -> int:
        with urllib.request.urlopen(f"{self._ui}{path}", timeout=120) as answer:
            return len(json.loads(answer.read())[key])

    def search(self, query: str) -> int:
        return self._rows(f"/search.json?limit={PAGE}&q={urllib.parse.quote(query)}", "rows")

    def trace(self, trace_id: str) -> int:
        return self._rows(f"/trace/{trace_id}.json", "spans")

    def names(self, trace_id: str) -> list[str]:
        """Of the spans of a trace."""
        with urllib.request.urlopen(f"{self._ui}/trace/{trace_id}.json", timeout=120) as answer:
            return [span["name"] for span in json.loads(answer.read())["spans"]]

    def stats(self, query: str) -> int:
        return self._rows(f"/search.json?q={urllib.parse.quote(query)}", "rows")


class _Phoenix:
    """Questions put to Phoenix's GraphQL; each answers how many rows came."""

    FIELDS: Final = "edges { node { name spanId parentId statusCode startTime latencyMs attributes tokenCountTotal } }"

    def __init__(self, url: str) -> None:
        self._url = url
        edges = self._ask("{ projects { edges { node { id name traceCount } } } }")["projects"]["edges"]
        self._project = max((edge["node"] for edge in edges), key=lambda node: int(node["traceCount"]))["id"]

    def _ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self._url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            found = json.loads(answer.read())
        if found.get("errors"):
            raise RuntimeError(f"Phoenix says {str(found['errors'])[:400]}")
        return found["data"]

    @property
    def project(self) -> str:
        """The id of the project that holds the spans."""
        return str(self._project)

    def search(self, condition: str, of_trace: str = "") -> int:
        text = ("query($id: ID!, $where: String, $trace: String, $first: Int!) { node(id: $id) { ... on Project { "
                "spans(first: $first, filterCondition: $where, traceFilterCondition: $trace, sort: {col: startTime, dir: desc}) "
                f"{{ {self.FIELDS} }} }} }} }}")
        asked = self._ask(text, id=self._project, where=condition, trace=of_trace or None, first=PAGE)
        return len(asked["node"]["spans"]["edges"])

    def trace(self, trace_id: str) -> int:
        text = ("query($id: ID!, $trace: ID!) { node(id: $id) { ... on Project { trace(traceId: $trace) { spans(first: 1000) "
                f"{{ {self.FIELDS} }} }} }} }} }}")
        return len(self._ask(text, id=self._project, trace=trace_id)["node"]["trace"]["spans"]["edges"])

    def quantile(self, probability: float, condition: str) -> int:
        text = ("query($id: ID!, $at: Float!, $where: String) { node(id: $id) { ... on Project { "
                "latencyMsQuantile(probability: $at, filterCondition: $where) } } }")
        return int(self._ask(text, id=self._project, at=probability, where=condition)["node"]["latencyMsQuantile"] is not None)


def timed(process: psutil.Process, work: Callable[[], int]) -> tuple[float, float, int]:
    """(wall seconds, CPU seconds of the process, what came)."""
    used, began = peers.cpu_s(process), time.perf_counter()
    came = work()
    return time.perf_counter() - began, peers.cpu_s(process) - used, came


Asking = Callable[[int], int]


def questions(ours: _Cutaway, theirs: _Phoenix, ids: Sequence[str]) -> dict[str, tuple[Asking, Asking]]:
    """Name -> (asks cutaway, asks Phoenix); both for something else each time, and for the same."""
    words = sorted({word for word in filler.words() if len(word) > 6})
    level = [4 + 0.35 * number for number in range(100)]
    perplexity = "attributes['cutaway']['output']['perplexity']"
    failed = "any(span.status_code == 'ERROR' and span.latency_ms > {0} for span in spans)"
    return {
        "list of the newest": (lambda n: ours.search(""), lambda n: theirs.search("")),
        "by attribute, 40 have it": (lambda n: ours.search(f"user.id:user-{n}"),
                                     lambda n: theirs.search(f"user.id == 'user-{n}'")),
        "by attribute, one in five": (lambda n: ours.search(f"user.plan:pro -user.id:user-{n}"),
                                      lambda n: theirs.search(f"user.plan == 'pro' and user.id != 'user-{n}'")),
        "threshold on a signal": (lambda n: ours.search(f"perplexity:>{level[n]:.2f}"),
                                  lambda n: theirs.search(f"{perplexity} > {level[n]:.2f}")),
        "threshold on duration": (lambda n: ours.search(f"duration:>{400 + 20 * n}ms"),
                                  lambda n: theirs.search(f"latency_ms > {400 + 20 * n}")),
        "free text": (lambda n: ours.search(f'"{words[n * 7]}"'),
                      lambda n: theirs.search(f"'{words[n * 7]}' in input.value or '{words[n * 7]}' in output.value")),
        "structure, any span of the trace": (
            lambda n: ours.search(f"any{{is:error duration:>{40 + 5 * n}ms}} is:root"),
            lambda n: theirs.search("parent_id is None", of_trace=failed.format(40 + 5 * n))),
        "a quantile of durations": (lambda n: ours.stats(f"perplexity:>{1 + n / 10:.1f} | stats p95(duration)"),
                                    lambda n: theirs.quantile(0.95, f"{perplexity} > {1 + n / 10:.1f}")),
        "trace by id": (lambda n: ours.trace(ids[-1 - n * 3 % len(ids)]), lambda n: theirs.trace(ids[-1 - n * 3 % len(ids)])),
    }


def main(arguments: Sequence[str]) -> int:
    """Prints a line a question and writes build/bench/search_peers.json."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench search-peers", description=__doc__)
    parser.add_argument("--spans", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--visits", type=int, default=5, help="of each page in Chromium, with an empty cache and with a warm one")
    parser.add_argument("--keep", action="store_true", help="leave the stores for another run, and begin with those that were left")
    given = parser.parse_args(arguments)
    if not given.keep:
        shutil.rmtree(FOLDER, ignore_errors=True)
    folders = [FOLDER / str(given.spans) / name for name in ("cutaway", "phoenix")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    end = FOLDER / str(given.spans) / "end_ns"
    sent = end.exists()
    ids = requests(given.spans, int(end.read_text()))[1] if sent else []
    try:
        with peers.phoenix_queryable(folders[1]) as theirs, \
                peers.cutaway(folders[0], "--data", str(folders[0] / "data")) as (ready, own):
            if not sent:
                began, end_ns = time.monotonic(), time.time_ns()
                bodies, ids = requests(given.spans, end_ns)
                send(bodies, theirs, f"http://{ready['otlp_http']}/v1/traces", given.spans)
                end.write_text(str(end_ns))
                filler.log(f"both hold {given.spans:,} spans after {time.monotonic() - began:.0f} s")
            ours, phoenix = _Cutaway(f"http://{ready['ui']}"), _Phoenix(theirs.target.removesuffix("/v1/traces"))
            processes = psutil.Process(own.pid), psutil.Process(theirs.process.pid)
            report = [figure(name, *both, processes, given.rounds) for name, both in questions(ours, phoenix, ids).items()]
            names = [name for name in ours.names(ids[-1]) if not name.startswith("chat ")]
            seen = pages.visit(f"http://{ready['ui']}", theirs.target.removesuffix("/v1/traces"), phoenix.project, ids[-1], names,
                               processes, given.visits)
    except FileNotFoundError as error:
        print(f"Nothing was measured: {error}")
        return 0
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"spans": given.spans, "load": os.getloadavg(), "questions": report, "pages": seen}, indent=2) + "\n")
    if not given.keep:
        shutil.rmtree(FOLDER)
    return 0


def send(bodies: Sequence[bytes], theirs: peers.Contender, own: str, spans: int) -> None:
    """Both get every request; returns when Phoenix counts all spans."""
    for number, body in enumerate(bodies):
        post(theirs.target, body)
        post(own, body)
        filler.log(f"sent {min(spans, (number + 1) * SPANS_A_REQUEST):,} spans")
    peers.wait(lambda: theirs.done() >= spans, "Phoenix counts every span", 7200)


def figure(
    name: str, mine: Callable[[int], int], theirs: Callable[[int], int], processes: tuple[psutil.Process, psutil.Process],
    rounds: int,
) -> dict[str, Any]:
    """One question asked in turns; prints its line."""
    mine(rounds)
    theirs(rounds)
    pairs = [(timed(processes[0], partial(mine, number)), timed(processes[1], partial(theirs, number))) for number in range(rounds)]
    wall = [other[0] / own[0] for own, other in pairs]
    low, _, high = statistics.quantiles(wall, n=4)
    mine_s, theirs_s = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
    cpu = [sum(pair[side][1] for pair in pairs) for side in (0, 1)]
    rows = [sum(pair[side][2] for pair in pairs) for side in (0, 1)]
    print(f"{name:20} {1000 * mine_s:8.1f} ms  Phoenix {1000 * theirs_s:8.1f} ms  {statistics.median(wall):6.1f} x "
          f"[{low:.1f}, {high:.1f}]  CPU {cpu[0]:.2f} against {cpu[1]:.2f} s, {cpu[1] / max(cpu[0], 0.01):.1f} x; "
          f"rows {rows[0]} and {rows[1]}, {rounds} rounds", flush=True)
    return {"name": name, "own_s": mine_s, "phoenix_s": theirs_s, "ratio": statistics.median(wall), "spread": [low, high],
            "cpu_s": cpu, "rows": rows, "rounds": rounds}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
