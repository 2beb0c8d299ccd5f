"""Where installed packages join in the pages: how an attribute reads, what one may do with a span, and lanes of their own numbers.

Not a way to put markup or scripts on a page: a plug-in gives text, numbers and addresses, and the pages draw them. A package adds
one by an entry point:

    [project.entry-points."cutaway.attribute_renderers"]   "order.id" = "my_package:order"   (key, value, span) -> text or Shown
    [project.entry-points."cutaway.span_actions"]          replay = "my_package:replay"      (span) -> list of Link
    [project.entry-points."cutaway.generation_lanes"]      doubt = "my_package:doubt"        (series) -> one number a token

The pages import this module's `Link` and `Shown`; so may plug-ins. One that fails, or is late, is logged once and shown as failed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.web.urls import is_local

RENDERERS: Final = "cutaway.attribute_renderers"
ACTIONS: Final = "cutaway.span_actions"
LANES: Final = "cutaway.generation_lanes"
GROUPS: Final = (RENDERERS, ACTIONS, LANES)
TEXT_CHARS_MAX: Final = 2000
LINKS_MAX: Final = 8
SECONDS_MAX: Final = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Link:
    """One address a plug-in leads to: a path of these pages, or http(s)."""

    label: str
    url: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows in a plug-in's place. failed: the plug-in's name and its trouble, "" where it did well."""

    text: str = ""
    links: tuple[Link, ...] = ()
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane of the generation page: its name, and what its function's first line says it is."""

    name: str
    help: str


@dataclass(slots=True)
class Plugins:
    """The plug-ins of a running UI. found: group -> name -> function; failed: group and name -> what went wrong, of a lane since it
    last did well. seconds_max: how long one may take for an answer; the page waits."""

    found: dict[str, dict[str, Callable[..., Any]]] = field(default_factory=lambda: {group: {} for group in GROUPS})
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    seconds_max: float = SECONDS_MAX
    _late: dict[tuple[str, str], threading.Thread] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Those that can be chosen."""
        return tuple(Lane(name, _first_line(function)) for name, function in self.found[LANES].items())

    def render(self, key: str, value: str, span: Mapping[str, Any]) -> Shown | None:
        """How the renderer of that attribute (its name, or `*` for any) reads it; None where none has something to say."""
        for name in (key, "*"):
            if name in self.found[RENDERERS]:
                shown = self._call(RENDERERS, name, key, value, span)
                if isinstance(shown, Shown) and shown.failed:
                    return shown
                if shown is not None:
                    return self._checked(RENDERERS, name, _shown, shown)
        return None

    def actions(self, span: Mapping[str, Any]) -> tuple[Shown, ...]:
        """What plug-ins offer to do with a span, one entry each; those with nothing to offer are left out."""
        out = []
        for name in self.found[ACTIONS]:
            offered = self._call(ACTIONS, name, span)
            if not isinstance(offered, Shown):
                offered = self._checked(ACTIONS, name, _offered, (name, offered or ()))
            if offered.links or offered.failed:
                out.append(offered)
        return tuple(out)

    def lane(self, name: str, series: Mapping[str, npt.NDArray[np.float32]], tokens: int) -> npt.NDArray[np.float64]:
        """The lane's numbers, float64 [tokens]; NaN everywhere where the plug-in failed, which `trouble` then tells."""
        values = self._call(LANES, name, dict(series))
        nothing = np.full(tokens, np.nan)
        if isinstance(values, Shown):
            return nothing
        try:
            array = np.asarray(values, np.float64)
            if array.shape != (tokens,):
                raise ValueError(f"a lane has one number a token, {tokens} here, it gave {array.shape}")
        except (TypeError, ValueError) as error:
            self._fail(LANES, name, error)
            return nothing
        with self._lock:
            self.failed.pop((LANES, name), None)
        return array

    def trouble(self, group: str, name: str) -> str:
        """What `failed` says of a plug-in, "" while it says nothing."""
        return self.failed.get((group, name), "")

    def _call(self, group: str, name: str, *arguments: Any) -> Any:
        """Its answer, or a Shown that says it failed or took too long. It runs in a thread of its own, which nothing can end: one
        that is late is left behind, and until it ends the plug-in is not asked again."""
        with self._lock:
            late = self._late.get((group, name))
        if late is not None and late.is_alive():
            return self._fail(group, name, TimeoutError("it is still busy with what it was asked before"))
        call = _Call(self.found[group][name], arguments)
        call.start()
        call.join(self.seconds_max)
        if call.is_alive():
            with self._lock:
                self._late[group, name] = call
            return self._fail(group, name, TimeoutError(f"no answer within {self.seconds_max:g} s"))
        return call.answer if call.error is None else self._fail(group, name, call.error)

    def _checked(self, group: str, name: str, check: Callable[[Any], Shown], answer: Any) -> Shown:
        try:
            return check(answer)
        except (TypeError, ValueError, AttributeError) as error:
            return self._fail(group, name, error)

    def _fail(self, group: str, name: str, error: Exception) -> Shown:
        text = f"{type(error).__name__}: {error}"[:300]
        with self._lock:
            known = (group, name) in self.failed
            self.failed.setdefault((group, name), text)
        if not known:
            _log.warning("the plug-in %s of %s failed: %s", name, group, text)
        return Shown(failed=f"plug-in {name}: {text}")


class _Call(threading.Thread):
    """One question to a plug-in: `answer`, or `error`, once it has ended."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        super().__init__(daemon=True, name="plug-in")
        self._function, self._arguments = function, arguments
        self.answer: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.answer = self._function(*self._arguments)
        except Exception as error:
            self.error = error
        except BaseException as error:  # one that calls sys.exit ends its own call
            self.error = RuntimeError(f"{type(error).__name__}: {error}")


def installed(points: Callable[..., Iterable[EntryPoint]] = entry_points) -> Plugins:
    """The plug-ins of the installed packages, by name, loaded now. One that cannot be loaded fails whenever it is asked."""
    plugins = Plugins()
    for group in GROUPS:
        for point in sorted(points(group=group), key=lambda point: point.name):
            plugins.found[group][point.name] = _loaded(point)
    return plugins


def _loaded(point: EntryPoint) -> Callable[..., Any]:
    try:
        function: Any = point.load()
        if not callable(function):
            raise TypeError(f"{point.value} is no function")
    except Exception as error:
        return _broken(error)
    loaded: Callable[..., Any] = function
    return loaded


def _broken(error: Exception) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise error

    refuse.__doc__ = "could not be loaded"
    return refuse


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "a plug-in's numbers").strip().splitlines()[0][:200]


def _shown(answer: Any) -> Shown:
    if isinstance(answer, str):
        return Shown(answer[:TEXT_CHARS_MAX])
    if not isinstance(answer, Shown):
        raise TypeError(f"a renderer gives a str, a Shown or None, not {type(answer).__name__}")
    return Shown(str(answer.text)[:TEXT_CHARS_MAX], _links(answer.links))


def _offered(answer: tuple[str, Sequence[Link]]) -> Shown:
    return Shown(answer[0], _links(answer[1]))


def _links(links: Sequence[Link]) -> tuple[Link, ...]:
    checked = []
    for link in tuple(links)[:LINKS_MAX]:
        url = str(link.url)
        if not (url.startswith(("https://", "http://")) or is_local(url)) or not url.isprintable():
            raise ValueError(f"a link leads to a path, http or https, not to {url[:60]!r}")
        checked.append(Link(str(link.label)[:200], url))
    return tuple(checked)
