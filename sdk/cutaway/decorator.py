"""The flow of `@cutaway.trace` and `cutaway.span`: a function or a block of the host program becomes a span.

Not about models: generations inside find this span as their parent through OpenTelemetry's own context, and what the decorator
says about them (tokenizer, capture, conversation, seed) through `configuration.scope`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final, TypeVar, overload

from opentelemetry import context as otel_context
from opentelemetry import trace as otel

from cutaway import configuration, failures, guard, propagation
from cutaway import conventions as c
from cutaway.errors import ConfigurationError
from cutaway.redaction import Redaction, Room, inside, valid
from cutaway.settings import CAPTURES
from cutaway.steps import Scope

F = TypeVar("F", bound=Callable[..., Any])

_ARGUMENT_CHARACTERS_MAX: Final = 1000


class _Open:
    """An open span and the scope that holds while its code runs; `active()` may be entered many times (generators)."""

    __slots__ = ("_context", "_reasons", "_scope", "span")

    def __init__(self, name: str, attributes: Mapping[str, Any] | None, overrides: dict[str, Any], headers: Any = None) -> None:
        self.span: otel.Span = otel.INVALID_SPAN
        self._reasons: list[str] = []
        outer = configuration.scope.get()
        every = {**outer.generation_attributes, **overrides.get("generation_attributes", {})}
        self._scope: Scope = replace(outer, **{**overrides, "generation_attributes": every})
        self._context = None
        around = None
        if headers is not None:
            with guard.guarded("reading the headers of a request"):
                around = propagation.context_of(headers)
        with guard.guarded("starting a span"):
            self.span = configuration.tracer().start_span(valid(name), around, attributes=attributes)
            self._context = otel.set_span_in_context(self.span, around)

    @contextmanager
    def active(self) -> Iterator[otel.Span]:
        """The span is the current one inside."""
        token = configuration.scope.set(self._scope)
        attached = None if self._context is None else otel_context.attach(self._context)
        try:
            yield self.span
        finally:
            if configuration.leave(token) and attached is not None:
                otel_context.detach(attached)

    def record(self, attributes: Mapping[str, Any], reasons: Sequence[str]) -> None:
        """Attributes that are words, with what was left out of them."""
        self._reasons += reasons
        self.span.set_attributes(attributes)

    def close(self, error: BaseException | None = None) -> None:
        """Ends the span; a generator that is closed early has not failed."""
        with guard.guarded("ending a span"):
            try:
                if error is not None and not isinstance(error, GeneratorExit):
                    text = _text_may_leave(self._scope.capture)
                    self._reasons += failures.fail(self.span, error, text, configuration.redact())
                if self._reasons:
                    self.span.set_attribute(c.STATUS_REASON, "; ".join(self._reasons))
            finally:
                self.span.end()


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    tokenizer: Any = None,
    capture: str | None = None,
    conversation_id: str | None = None,
    seed: int | None = None,
    generation_attributes: Mapping[str, Any] | None = None,
    headers: Any = None,
) -> Iterator[otel.Span]:
    """A block as a span, the parent of every span made inside. Yields the OpenTelemetry span.

    `headers`: those of the request or message that is being answered (a mapping or pairs); the span continues the trace they name.
    The host's exceptions mark the span and pass unchanged. The other options are those of `trace`.
    """
    opened = _Open(name, attributes, _overrides(tokenizer, capture, conversation_id, seed, generation_attributes), headers)
    try:
        with opened.active() as current:
            yield current
    except BaseException as error:
        opened.close(error)
        raise
    opened.close()


@overload
def trace(function: F, /) -> F: ...


@overload
def trace(
    *,
    name: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    capture: str | None = None,
    conversation_id: str | None = None,
    seed: int | None = None,
    generation_attributes: Mapping[str, Any] | None = None,
    record_arguments: bool = False,
    headers: str | Callable[..., Any] | None = None,
) -> Callable[[F], F]: ...


def trace(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    capture: str | None = None,
    conversation_id: str | None = None,
    seed: int | None = None,
    generation_attributes: Mapping[str, Any] | None = None,
    record_arguments: bool = False,
    headers: str | Callable[..., Any] | None = None,
) -> Any:
    """A function as a span; works on plain, async, generator and async-generator functions, bare or with options.

    `name`: instead of the function's qualified name. `attributes`: put on the span. `tokenizer`, `capture` ("numbers", "ids" or
    "text"), `conversation_id` and `seed` hold for the generations inside. `generation_attributes`: put on the spans of all of them
    (a user, a template, the reference an answer is to be compared with), those of a nearer block over those of one around it and
    our own over either; the redaction hook does not see them. `record_arguments`: arguments become attributes
    `code.argument.NAME`, cut to 1000 characters, where text may leave the process. `headers`: name of the argument that holds the
    request or its headers, or a function of the same arguments that returns them; the span continues the trace they name.
    Raises ConfigurationError while decorating.
    """
    overrides = _overrides(tokenizer, capture, conversation_id, seed, generation_attributes)

    def decorate(target: Any) -> Any:
        _refuse_what_is_no_function(target)
        received = _headers_reader(target, headers)
        label = name or str(getattr(target, "__qualname__", type(target).__name__))

        def opened(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Open:
            around = _Open(label, attributes, overrides, None if received is None else received(args, kwargs))
            if record_arguments and around.span.is_recording() and _text_may_leave(capture or configuration.scope.get().capture):
                with guard.guarded("recording arguments"):
                    around.record(*_arguments(target, args, kwargs))
            return around

        return _wrap(target, opened)

    if name is not None and not isinstance(name, str):
        raise ConfigurationError(f"name is a string; it is of type {type(name).__name__}: leave it out for the function's own name")
    _refuse_what_is_no_mapping("attributes", attributes)
    return decorate if function is None else decorate(function)


def _refuse_what_is_no_mapping(name: str, given: Any) -> None:
    if given is not None and not isinstance(given, Mapping):
        raise ConfigurationError(f"{name} is a mapping; it is of type {type(given).__name__}: pass a dict or leave it out")


def _refuse_what_is_no_function(target: Any) -> None:
    """Misuse is the author's error and told while decorating: at the call it would be the host's."""
    remedy = ""
    if isinstance(target, str):
        remedy = f"it is the string {target[:100]!r}: write @trace(name={target[:100]!r})"
    elif isinstance(target, type):
        remedy = f"it is the class {target.__name__}: decorate its methods"
    elif isinstance(target, property | classmethod | staticmethod):
        kind = type(target).__name__
        remedy = f"it is a {kind}: write @{kind} above @trace"
    elif not callable(target):
        remedy = f"it is of type {type(target).__name__}: decorate what is called"
    if remedy:
        raise ConfigurationError(f"trace decorates a function; {remedy}")


def _headers_reader(target: Any, headers: Any) -> Callable[[tuple[Any, ...], dict[str, Any]], Any] | None:
    """How the headers are found at each call; what fails there is told once and the call has no headers."""
    if headers is None:
        return None
    if not isinstance(headers, str) and not callable(headers):
        rule = f"headers is the name of an argument or a function; it is of type {type(headers).__name__}"
        raise ConfigurationError(f"{rule}: for a block, use span(headers=...)")
    signature: inspect.Signature | None = None
    if isinstance(headers, str):
        with suppress(TypeError, ValueError):
            signature = inspect.signature(target)
        if signature is None or headers not in signature.parameters:
            known = ", ".join(signature.parameters) if signature is not None else ""
            raise ConfigurationError(f"headers names an argument of the function; {headers!r} is none: it has {known or 'none'}")

    def received(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            if signature is None:
                return headers(*args, **kwargs)
            bound = signature.bind_partial(*args, **kwargs)
            bound.apply_defaults()
            return bound.arguments.get(headers)
        except Exception as fault:  # the program's function failed, or the call does not fit: the call itself will say so
            kind = type(fault).__name__
            guard.once(f"headers:{kind}", "headers of a traced function could not be read (%s)", kind)
            return None

    return received


def _text_may_leave(asked: str | None) -> bool:
    with guard.guarded("reading the settings"):
        return not inside() and configuration.settings().capture_within(asked) == "text"
    return False


def _overrides(
    tokenizer: Any, capture: str | None, conversation_id: str | None, seed: int | None, generation_attributes: Any
) -> dict[str, Any]:
    if capture is not None and capture not in CAPTURES:
        raise ConfigurationError(f"capture is one of {', '.join(CAPTURES)}; it is {capture!r}: leave it out for the configured one")
    _refuse_what_is_no_mapping("generation_attributes", generation_attributes)
    given = {"tokenizer": tokenizer, "capture": capture, "conversation_id": conversation_id, "seed": seed,
             "generation_attributes": generation_attributes}
    return {key: value for key, value in given.items() if value is not None}


def _arguments(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Arguments as attributes, as the redaction hook leaves them and as far as there is room; what was left out and why."""
    found: dict[str, Any] = {}
    redaction, room = Redaction(configuration.redact()), Room(configuration.settings().text_room_bytes())
    given: Mapping[str, Any] = {}
    with suppress(TypeError, ValueError):  # a wrong call, or a function without a signature: nothing to name arguments by
        given = inspect.signature(target).bind_partial(*args, **kwargs).arguments
    for key, value in given.items():
        if key == "self":
            continue
        name = f"code.argument.{key}"
        with suppress(Exception):  # the host's own __repr__ failed: this argument is left out
            text = repr(value)
            kept = redaction.text(name, text)
            if kept == text and isinstance(value, bool | int | float):
                found[name] = value
            elif kept is not None:
                found[name] = room.text(name, kept, _ARGUMENT_CHARACTERS_MAX)
    return found, [*redaction.reasons, *room.reasons]


Opener = Callable[[tuple[Any, ...], dict[str, Any]], _Open]


def _wrap(target: Any, opened: Opener) -> Any:
    """The wrapper that fits the kind of function."""
    called = (target, type(target).__call__)  # an object may be called through a method of any kind
    if any(map(inspect.isasyncgenfunction, called)):
        return _wrap_async_generator(target, opened)
    if any(map(inspect.isgeneratorfunction, called)):
        return _wrap_generator(target, opened)
    if any(map(inspect.iscoroutinefunction, called)):
        @functools.wraps(target)
        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            around = opened(args, kwargs)
            try:
                with around.active():
                    result = await target(*args, **kwargs)
            except BaseException as error:
                around.close(error)
                raise
            around.close()
            return result

        return asynchronous

    @functools.wraps(target)
    def plain(*args: Any, **kwargs: Any) -> Any:
        around = opened(args, kwargs)
        try:
            with around.active():
                result = target(*args, **kwargs)
        except BaseException as error:
            around.close(error)
            raise
        around.close()
        return result

    return plain


def _wrap_generator(target: Any, opened: Opener) -> Any:
    """The span opens at the first item and is current only while the generator's own code runs."""
    @functools.wraps(target)
    def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        around = opened(args, kwargs)
        inner = target(*args, **kwargs)
        step, value = inner.send, None
        try:
            while True:
                try:
                    with around.active():
                        item = step(value)
                except StopIteration as end:
                    around.close()
                    return end.value
                try:
                    value = yield item
                    step = inner.send
                except GeneratorExit:
                    with around.active():
                        inner.close()
                    raise
                except BaseException as error:
                    step, value = inner.throw, error
        except BaseException as error:
            around.close(error)
            raise

    return generator


def _wrap_async_generator(target: Any, opened: Opener) -> Any:
    @functools.wraps(target)
    async def generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        around = opened(args, kwargs)
        inner = target(*args, **kwargs)
        step, value = inner.asend, None
        try:
            while True:
                try:
                    with around.active():
                        item = await step(value)
                except StopAsyncIteration:
                    around.close()
                    return
                try:
                    value = yield item
                    step = inner.asend
                except GeneratorExit:
                    with around.active():
                        await inner.aclose()
                    raise
                except BaseException as error:
                    step, value = inner.athrow, error
        except BaseException as error:
            around.close(error)
            raise

    return generator
