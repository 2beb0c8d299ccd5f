"""`@cutaway.trace` and `cutaway.span` on every kind of function: one span, the right parent, the host's exceptions."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry import trace as otel

import cutaway
from cutaway import conventions as c
from cutaway import instrumentation
from cutaway.errors import ConfigurationError
from cutaway.testing import recorded, tiny_model
from sdk_helpers import batch


def names(spans: Any) -> list[str]:
    return [span.name for span in spans.get_finished_spans()]


def test_a_bare_decorator_names_the_function_and_keeps_it() -> None:
    """The span has the qualified name; result, name and signature of the function stay."""
    @cutaway.trace
    def double(x: int) -> int:
        """Doubles."""
        return 2 * x

    with recorded() as spans:
        assert double(4) == 8

    assert names(spans) == ["test_a_bare_decorator_names_the_function_and_keeps_it.<locals>.double"]
    assert (double.__name__, double.__doc__, list(inspect.signature(double).parameters)) == ("double", "Doubles.", ["x"])


def test_options_name_and_describe_the_span() -> None:
    """`name` and `attributes` are put on the span; arguments are not, unless asked for."""
    @cutaway.trace(name="one", attributes={"team": "blue"})
    def one(secret: str) -> None: ...

    @cutaway.trace(name="two", record_arguments=True, capture="text")
    def two(word: str, number: int = 3) -> None: ...

    with recorded() as spans:
        one("hush")
        two("x" * 5000)
    first, second = spans.get_finished_spans()

    assert dict(first.attributes) == {"team": "blue"}
    assert len(second.attributes["code.argument.word"]) == 1000
    assert "code.argument.number" not in second.attributes


def test_generations_are_children() -> None:
    """The span of `generate` has the decorated function's span as parent, in one trace."""
    @cutaway.trace(name="request")
    def request() -> None:
        tiny_model().generate(batch(1)[0], max_new_tokens=2, do_sample=False)

    with recorded() as spans:
        request()
    child, parent = spans.get_finished_spans()

    assert child.parent.span_id == parent.context.span_id
    assert child.attributes[c.OPERATION_NAME] == "text_completion"


def test_an_async_function_is_spanned_to_its_end() -> None:
    """Concurrent tasks keep their own parents."""
    @cutaway.trace(name="inner")
    async def inner() -> None:
        await asyncio.sleep(0)

    @cutaway.trace(name="outer")
    async def outer() -> int:
        await asyncio.sleep(0)
        await inner()
        return 5

    async def main() -> list[int]:
        return list(await asyncio.gather(outer(), outer()))

    with recorded() as spans:
        assert asyncio.run(main()) == [5, 5]
    finished = spans.get_finished_spans()
    outers = {span.context.span_id for span in finished if span.name == "outer"}

    assert sorted(names(spans)) == ["inner", "inner", "outer", "outer"]
    assert {span.parent.span_id for span in finished if span.name == "inner"} == outers
    assert inspect.iscoroutinefunction(outer)


def test_a_generator_is_current_only_while_it_runs() -> None:
    """send, throw, return and close reach the generator; between items the consumer sees its own context."""
    seen = []

    @cutaway.trace(name="numbers")
    def numbers() -> Iterator[Any]:
        got = yield 1
        try:
            yield got * 2
        except KeyError:
            seen.append(otel.get_current_span().is_recording())
            yield "caught"
        return "done"

    with recorded() as spans:
        running = numbers()
        assert next(running) == 1
        assert not otel.get_current_span().is_recording()
        assert running.send(21) == 42
        assert running.throw(KeyError("k")) == "caught"
        assert names(spans) == []
        with pytest.raises(StopIteration) as end:
            next(running)
    (span,) = spans.get_finished_spans()

    assert end.value.value == "done"
    assert seen == [True]
    assert span.status.status_code is otel.StatusCode.UNSET
    assert inspect.isgeneratorfunction(numbers)


def test_a_generator_left_early_is_closed_without_error() -> None:
    """A consumer that stops after one item: the generator's finally runs, the span ends and is not an error."""
    ended = []

    @cutaway.trace(name="numbers")
    def numbers() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ended.append(otel.get_current_span().is_recording())

    with recorded() as spans:
        running = numbers()
        next(running)
        running.close()
    (span,) = spans.get_finished_spans()

    assert ended == [True]
    assert span.status.status_code is otel.StatusCode.UNSET


def test_an_async_generator_is_spanned_to_its_end() -> None:
    """Items, asend and early aclose work; generations inside are children."""
    @cutaway.trace(name="stream")
    async def stream() -> AsyncIterator[Any]:
        tiny_model().generate(batch(1)[0], max_new_tokens=2, do_sample=False)
        got = yield "first"
        yield got

    async def whole() -> list[Any]:
        running = stream()
        items = [await running.asend(None), await running.asend("sent")]
        items += [item async for item in running]
        return items

    async def early() -> None:
        running = stream()
        await running.asend(None)
        await running.aclose()

    with recorded() as spans:
        assert asyncio.run(whole()) == ["first", "sent"]
        asyncio.run(early())
    generated, around, *_ = spans.get_finished_spans()

    assert names(spans) == ["text_completion tiny-llama", "stream"] * 2
    assert generated.parent.span_id == around.context.span_id
    assert all(span.status.status_code is otel.StatusCode.UNSET for span in spans.get_finished_spans())


@pytest.mark.parametrize("kind", ["plain", "async", "generator", "block"])
def test_the_hosts_exception_passes_unchanged(kind: str) -> None:
    """The same exception object reaches the caller; the span has error status, type and one exception event."""
    error = LookupError("nothing there")

    def fail() -> None:
        raise error

    @cutaway.trace
    async def later() -> None:
        fail()

    @cutaway.trace
    def items() -> Iterator[int]:
        fail()
        yield 1

    def block() -> None:
        with cutaway.span("block"):
            fail()

    calls = {
        "plain": cutaway.trace(fail), "async": lambda: asyncio.run(later()), "generator": lambda: next(items()), "block": block,
    }
    with recorded() as spans, pytest.raises(LookupError) as caught:
        calls[kind]()
    (span,) = spans.get_finished_spans()

    assert caught.value is error
    assert span.status.status_code is otel.StatusCode.ERROR
    assert span.attributes[c.ERROR_TYPE] == "LookupError"
    assert len(span.events) == 1


def test_a_block_gives_its_span() -> None:
    """`with cutaway.span(name, attributes) as span`: attributes can be added inside."""
    with recorded() as spans, cutaway.span("block", {"a": 1}) as span:
        span.set_attribute("b", 2)
    (found,) = spans.get_finished_spans()

    assert (found.name, dict(found.attributes)) == ("block", {"a": 1, "b": 2})


@pytest.mark.parametrize("kind", ["block", "pipeline"])
def test_a_block_may_end_in_another_context(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Begun in one Context and ended in another (teardown on another task): nothing is raised, logged or marked."""
    with recorded() as spans:
        around = cutaway.span("block") if kind == "block" else instrumentation.pipeline_scope(None, None)
        contextvars.copy_context().run(around.__enter__)
        around.__exit__(None, None, None)

    assert names(spans) == ["block"] * (kind == "block")
    assert all(span.status.status_code is otel.StatusCode.UNSET for span in spans.get_finished_spans())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_wrong_option_is_refused_while_decorating() -> None:
    """An unknown capture level is an error of the program's author, told at once with rule, value and remedy."""
    with pytest.raises(ConfigurationError, match=r"numbers, ids, text; it is 'everything'"):
        cutaway.trace(capture="everything")


class Thing:
    """Called with await."""

    async def __call__(self, word: str) -> str:
        await asyncio.sleep(0)
        return word * 2


@pytest.mark.parametrize(("target", "remedy"), [
    ("load", r"it is the string 'load': write @trace\(name='load'\)"),
    (Thing, "it is the class Thing: decorate its methods"),
    (property(lambda self: 1), "it is a property: write @property above @trace"),
    (classmethod(lambda cls: 1), "it is a classmethod: write @classmethod above @trace"),
    (staticmethod(lambda: 1), "it is a staticmethod: write @staticmethod above @trace"),
    (5, "it is of type int: decorate what is called"),
])
def test_what_is_no_function_is_refused_while_decorating(target: Any, remedy: str) -> None:
    """Bare or with options: rule, value and remedy."""
    with pytest.raises(ConfigurationError, match=f"trace decorates a function; {remedy}"):
        cutaway.trace(target)
    with pytest.raises(ConfigurationError, match=remedy):
        cutaway.trace(seed=1)(target)


@pytest.mark.parametrize("option", [{"name": 5}, {"attributes": ["a"]}, {"generation_attributes": "a"}])
def test_a_name_and_attributes_of_a_wrong_type_are_refused(option: dict[str, Any]) -> None:
    """Told while decorating."""
    with pytest.raises(ConfigurationError, match="leave it out"):
        cutaway.trace(**option)


def test_an_object_called_with_await_is_spanned_to_its_end() -> None:
    """An object whose `__call__` is async: the span ends when the awaited call does, its class names it."""
    async def main() -> str:
        call = cutaway.trace(Thing())("ab")
        assert names(spans) == []
        return str(await call)

    with recorded() as spans:
        assert asyncio.run(main()) == "abab"

    assert names(spans) == ["Thing"]


def test_an_argument_that_cannot_be_shown_is_left_out_alone() -> None:
    """One `__repr__` that raises: the call works, the other arguments are there."""
    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError("no words")

    @cutaway.trace(record_arguments=True, capture="text")
    def put(mute: Any, number: int, word: str) -> int:
        return number

    with recorded() as spans:
        assert put(Mute(), 3, "x") == 3
    (span,) = spans.get_finished_spans()

    assert dict(span.attributes) == {"code.argument.number": 3, "code.argument.word": "'x'"}


def test_a_cancelled_task_has_not_failed() -> None:
    """`asyncio.CancelledError` passes; the span ends without status, error type or event."""
    started = asyncio.Event()

    @cutaway.trace(name="waiting")
    async def waiting() -> None:
        started.set()
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(waiting())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with recorded() as spans:
        asyncio.run(main())
    (span,) = spans.get_finished_spans()

    assert span.status.status_code is otel.StatusCode.UNSET
    assert (dict(span.attributes), span.events) == ({}, ())
