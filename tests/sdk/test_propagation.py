"""Traces across processes, tasks and threads: a request, the function that answers it and the generation are one trace."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
import requests
from opentelemetry import baggage, propagate
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider

import cutaway
from cutaway.errors import ConfigurationError
from cutaway.testing import recorded, tiny_model
from flask_serving import serving
from sdk_helpers import batch

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
HEADERS = {"Traceparent": TRACEPARENT, "TraceState": "vendor=1", "Baggage": "tenant=blue"}


def generate() -> None:
    tiny_model().generate(batch(1)[0], max_new_tokens=2, do_sample=False)


def parents(spans: Any) -> dict[str, tuple[str, str]]:
    """Name -> (trace id, name of the parent, or its id when it is elsewhere)."""
    finished = spans.get_finished_spans()
    names = {span.context.span_id: span.name for span in finished}
    return {
        span.name: (f"{span.context.trace_id:032x}",
                    "" if span.parent is None else names.get(span.parent.span_id, f"{span.parent.span_id:016x}"))
        for span in finished
    }


def test_an_instrumented_web_server_is_the_parent() -> None:
    """Caller -> server span -> decorated function -> generation, over HTTP: one trace, each the child of the last."""
    app = flask.Flask(__name__)
    host = TracerProvider().get_tracer("host")
    seen: list[str] = []

    @app.route("/")
    def view() -> str:  # what an instrumentation of a web framework does
        context = propagate.extract(flask.request.headers)
        with host.start_as_current_span("GET /", context=context) as server_span:
            seen.append(f"{server_span.get_span_context().span_id:016x}")
            answer()
        return "done"

    @cutaway.trace(name="answer")
    def answer() -> None:
        generate()

    with recorded() as spans, serving(app) as url, host.start_as_current_span("client") as client:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        assert requests.get(url, headers=carrier, timeout=60).text == "done"
    found = parents(spans)
    trace_id = f"{client.get_span_context().trace_id:032x}"

    assert found == {"answer": (trace_id, seen[0]), "text_completion tiny-llama": (trace_id, "answer")}


def test_a_web_server_without_instrumentation_hands_over_its_headers() -> None:
    """`@trace(headers=lambda: request.headers)` on a Flask view and a caller inside `cutaway.span`: one trace over HTTP."""
    app = flask.Flask(__name__)

    @app.route("/")
    @cutaway.trace(name="view", headers=lambda: flask.request.headers)
    def view() -> str:
        generate()
        return str(baggage.get_baggage("tenant"))

    with recorded() as spans, serving(app) as url, cutaway.span("caller"):
        carrier = {"baggage": "tenant=blue"}
        propagate.inject(carrier)
        assert requests.get(url, headers=carrier, timeout=60).text == "blue"
    found = parents(spans)

    assert {name: parent for name, (_, parent) in found.items()} == {
        "caller": "", "view": "caller", "text_completion tiny-llama": "view"}
    assert len({trace for trace, _ in found.values()}) == 1


class Request:
    headers = HEADERS


@pytest.mark.parametrize("headers", [
    HEADERS, list(HEADERS.items()), [(name.encode(), value.encode()) for name, value in HEADERS.items()], Request(),
], ids=["mapping", "pairs", "ASGI", "request"])
def test_a_block_continues_the_trace_of_headers_in_any_shape(headers: Any) -> None:
    """Trace, parent, trace state and baggage arrive; names may be written in large letters."""
    with recorded() as spans, cutaway.span("block", headers=headers) as span:
        assert baggage.get_baggage("tenant") == "blue"
        assert span.get_span_context().trace_state.get("vendor") == "1"
    assert parents(spans)["block"] == (TRACE, PARENT)


def test_an_argument_may_hold_the_request() -> None:
    """`@trace(headers="request")`: by position, by name, and on a method."""
    class Service:
        @cutaway.trace(name="method", headers="request")
        def answer(self, request: Any = None) -> None: ...

    @cutaway.trace(name="function", headers="message")
    def consume(message: Any) -> None: ...

    with recorded() as spans:
        Service().answer(Request())
        consume(message=HEADERS)
    found = parents(spans)

    assert found == {"method": (TRACE, PARENT), "function": (TRACE, PARENT)}


@pytest.mark.parametrize("kind", ["generator", "async", "async generator"])
def test_headers_reach_every_kind_of_function(kind: str) -> None:
    """Generators and coroutines continue the trace as plain functions do."""
    @cutaway.trace(name="generator", headers="message")
    def generator(message: Any) -> Iterator[int]:
        yield 1

    @cutaway.trace(name="async", headers="message")
    async def asynchronous(message: Any) -> None: ...

    @cutaway.trace(name="async generator", headers=lambda message: message)
    async def asynchronous_generator(message: Any) -> Any:
        yield 1

    async def drain() -> None:
        async for _ in asynchronous_generator(HEADERS):
            pass

    runs: dict[str, Callable[[], Any]] = {
        "generator": lambda: list(generator(HEADERS)), "async": lambda: asyncio.run(asynchronous(HEADERS)),
        "async generator": lambda: asyncio.run(drain()),
    }
    with recorded() as spans:
        runs[kind]()

    assert parents(spans) == {kind: (TRACE, PARENT)}


@pytest.mark.parametrize("value", [
    "", "00", "hello", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01",
    f"00-{TRACE.upper()}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01-more", f"00-{TRACE}x-{PARENT}-01", "0" * 10_000, "\ud800", "\x00",
])
def test_a_malformed_header_counts_as_absent(value: str) -> None:
    """The span begins a trace of its own and keeps whatever parent it has here."""
    with recorded() as spans, cutaway.span("outer"), cutaway.span("block", headers={"traceparent": value}):
        pass
    found = parents(spans)

    assert found["block"] == (found["outer"][0], "outer")
    assert found["block"][0] != TRACE


@pytest.mark.parametrize("headers", [5, "traceparent", b"x", [1, None, ("a",)], {"traceparent": 5}, {None: None}, {}])
def test_headers_of_a_wrong_type_are_not_read(headers: Any) -> None:
    """Nothing is raised into the program, and the block runs."""
    with recorded() as spans, cutaway.span("block", headers=headers):
        pass

    assert parents(spans)["block"][1] == ""


def test_headers_that_cannot_be_read_do_not_stop_the_function() -> None:
    """The program's own function fails: the traced one runs and has a span."""
    def broken(*args: Any) -> Any:
        raise RuntimeError("no request here")

    @cutaway.trace(name="work", headers=broken)
    def work(value: int) -> int:
        return value + 1

    with recorded() as spans:
        assert work(1) == 2

    assert parents(spans)["work"][1] == ""


@pytest.mark.parametrize(("headers", "message"), [("requset", "'requset' is none: it has request"), (5, "it is of type int")])
def test_headers_that_cannot_be_found_are_refused_while_decorating(headers: Any, message: str) -> None:
    """A misspelled argument is the author's error."""
    def view(request: Any) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        cutaway.trace(headers=headers)(view)

    assert message in str(caught.value)


def test_a_nearer_span_of_the_same_trace_stays_the_parent() -> None:
    """The framework has read the headers already: handing them over once more does not lift the span past the framework's."""
    host = TracerProvider().get_tracer("host")
    context = propagate.extract({"traceparent": TRACEPARENT})
    with recorded() as spans, host.start_as_current_span("GET /", context=context) as server:
        nearer = f"{server.get_span_context().span_id:016x}"
        with cutaway.span("block", headers=HEADERS):
            pass

    assert parents(spans)["block"] == (TRACE, nearer)


def test_headers_win_over_a_span_of_another_trace() -> None:
    """A worker's loop inside one long span: each message continues the trace it came with."""
    with recorded() as spans, cutaway.span("loop"), cutaway.span("message", headers=HEADERS):
        assert baggage.get_baggage("tenant") == "blue"
    after = otel.get_current_span().get_span_context()

    assert parents(spans)["message"] == (TRACE, PARENT)
    assert not after.is_valid


def test_an_unsampled_caller_is_followed() -> None:
    """Flag 00: neither the block nor the generation inside is recorded, and what goes out says so as well."""
    carrier: dict[str, str] = {}
    with recorded() as spans, cutaway.span("block", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"}):
        generate()
        propagate.inject(carrier)

    assert spans.get_finished_spans() == ()
    assert carrier["traceparent"].startswith(f"00-{TRACE}-")
    assert int(carrier["traceparent"][-2:], 16) & 1 == 0


def test_concurrent_tasks_keep_their_own_parents() -> None:
    """Two requests answered by tasks that take turns: each generation is in the trace of its own request."""
    other = TRACE.replace("4", "5")

    @cutaway.trace(name="answer", headers="request")
    async def answer(request: Any, turn: asyncio.Event, signal: asyncio.Event) -> None:
        signal.set()
        await turn.wait()
        generate()

    async def both() -> None:
        first, second = asyncio.Event(), asyncio.Event()
        await asyncio.gather(answer(HEADERS, first, second), answer({"traceparent": f"00-{other}-{PARENT}-01"}, second, first))

    with recorded() as spans:
        asyncio.run(both())
    finished = spans.get_finished_spans()
    answers = {span.context.span_id: span for span in finished if span.name == "answer"}
    generations = [span for span in finished if span.name != "answer"]

    assert {f"{span.context.trace_id:032x}" for span in generations} == {TRACE, other}
    assert all(answers[span.parent.span_id].context.trace_id == span.context.trace_id for span in generations)


def test_a_thread_with_a_copied_context_keeps_its_parent() -> None:
    """`contextvars.copy_context().run` as the thread's target; a bare thread begins a trace of its own."""
    with recorded() as spans, cutaway.span("block", headers=HEADERS):
        for target, args in ((contextvars.copy_context().run, (generate,)), (generate, ())):
            thread = threading.Thread(target=target, args=args)
            thread.start()
            thread.join()
    finished = [span for span in spans.get_finished_spans() if span.name != "block"]
    traces = [f"{span.context.trace_id:032x}" for span in finished]

    assert traces[0] == TRACE
    assert traces[1] != TRACE
    assert finished[1].parent is None
