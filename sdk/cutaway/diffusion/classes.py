"""Finds every class of pipeline, also those imported later, and puts a listener around its `__call__`.

Not an importer: diffusers is never loaded by us. While it is absent, a finder on `sys.meta_path` waits for the one module that
defines `DiffusionPipeline`; it finds nothing itself, and goes when the module is there or `remove` is called.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib.machinery import ModuleSpec
from typing import Any, Final

import torch

from cutaway import guard
from cutaway.diffusion.calls import BASE_MODULE, Session, bound, signature_of
from cutaway.diffusion.recorder import Recorder

Opener = Callable[[Any, dict[str, Any], Callable[[Recorder | None], Any]], Any]
"""(pipeline, arguments by name, run) -> what `run(recorder or None)` returned: the flow wraps the call and sees its result."""

_BASE: Final = "DiffusionPipeline"

_open: ContextVar[tuple[Session, ...]] = ContextVar("cutaway_pipelines", default=())
"""Calls that are running in this context, outermost first."""

_lock = threading.Lock()
"""Held by those who change classes. Nothing is imported under it: a thread that imports a pipeline comes here too."""


class _Home:
    """One installation."""

    def __init__(self, opener: Opener) -> None:
        self.opener = opener
        self.inert = False
        self.base: Any = None
        self.classes: weakref.WeakSet[type] = weakref.WeakSet()
        self.finder = _Finder(self)


_home: _Home | None = None


def _begin_in_child() -> None:
    """The lock may have been held by a thread that does not live in the child."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


def install(opener: Opener) -> None:
    """Hears every pipeline of this process, now or as soon as diffusers is imported; a second call changes nothing."""
    global _home
    with _lock:
        if _home is not None:
            return
        home = _home = _Home(opener)
        sys.meta_path.insert(0, home.finder)  # first, so that no import can slip through between looking and waiting
    if BASE_MODULE in sys.modules:
        importlib.import_module(BASE_MODULE)  # waits for another thread that is in the middle of importing it
        _attach(home)


def remove() -> None:
    """Puts the methods back. Where somebody patched one after us, theirs stays, and ours below it passes through."""
    global _home
    with _lock:
        home, _home = _home, None
        if home is None:
            return
        home.inert = True
        if home.finder in sys.meta_path:
            sys.meta_path.remove(home.finder)
        for kind in list(home.classes):
            _restore(home, kind, "__call__")
        if home.base is not None:
            _restore(home, home.base, "__init_subclass__")
    signature_of.cache_clear()


def _restore(home: _Home, kind: Any, name: str) -> None:
    now = vars(kind).get(name)
    mark = _mark_of(getattr(now, "__func__", now))
    if mark is None or mark[0] is not home:
        text = "%s.%s was patched by somebody else after cutaway: ours stays below it, and does nothing any more"
        guard.once(f"patched:{kind.__name__}.{name}", text, kind.__name__, name)
    elif mark[1] is None:
        delattr(kind, name)
    else:
        setattr(kind, name, mark[1])


def _attach(home: _Home) -> None:
    """Patches the classes that are there, and sees to those that will be."""
    base = getattr(sys.modules.get(BASE_MODULE), _BASE, None)
    if base is None:
        return  # `install` was called in the middle of that import: the finder tries again at the next one
    with _lock:
        if home.finder in sys.meta_path:
            sys.meta_path.remove(home.finder)
        if home.inert or home.base is not None:
            return
        home.base = base
        base.__init_subclass__ = classmethod(_later(home, base, vars(base).get("__init_subclass__")))
        for kind in _family(base):
            _patch(home, kind)


def _family(kind: Any) -> Iterator[Any]:
    """The class and everything derived from it, each once."""
    waiting, seen = [kind], set()
    while waiting:
        each = waiting.pop()
        if each not in seen:
            seen.add(each)
            waiting += type.__subclasses__(each)
            yield each


def _later(home: _Home, base: Any, before: Any) -> Any:
    """The `__init_subclass__` that patches classes as they are made."""
    def __init_subclass__(cls: Any, **kwargs: Any) -> None:  # noqa: N807  # it takes that method's place
        if before is None:
            super(base, cls).__init_subclass__(**kwargs)
        else:
            before.__get__(None, cls)(**kwargs)
        with guard.guarded("patching a pipeline's class"), _lock:
            _patch(home, cls)

    return _signed(__init_subclass__, home, before)


def _patch(home: _Home, kind: Any) -> None:
    """Puts the listener around the class's own `__call__`, if it has one."""
    original = vars(kind).get("__call__")
    if home.inert or not callable(original) or kind in home.classes:
        return
    home.classes.add(kind)
    mark = _mark_of(original)
    if mark is None or mark[0] is not home:  # else: a class that took over another's method
        kind.__call__ = _signed(functools.wraps(original)(_listening(home, original)), home, original)


def _signed(function: Any, home: _Home, before: Any) -> Any:
    """Marks a function as ours. It names itself: whoever wraps it the usual way copies the mark."""
    function._cutaway = (home, before, function)
    return function


def _mark_of(function: Any) -> tuple[_Home, Any] | None:
    """(installation, what was there before) of a function of ours."""
    mark = getattr(function, "_cutaway", None)
    return (mark[0], mark[1]) if mark is not None and mark[2] is function else None


def _listening(home: _Home, original: Callable[..., Any]) -> Callable[..., Any]:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807  # it takes that method's place
        if home.inert or torch.compiler.is_compiling():
            return original(self, *args, **kwargs)
        around = _open.get()
        for session in around:
            if session.pipe is self:
                args, kwargs = session.join(original, args, kwargs)
                return original(self, *args, **kwargs)

        def run(recorder: Recorder | None) -> Any:
            session = Session(self, recorder)
            token = _open.set((*around, session))
            try:
                given, named = session.join(original, args, kwargs)
                return original(self, *given, **named)
            finally:
                _open.reset(token)

        arguments: dict[str, Any] = {}
        with guard.guarded("reading a pipeline's arguments"):
            arguments = bound(original, args, kwargs)
        return home.opener(self, arguments, run)

    return __call__


class _Finder(importlib.abc.MetaPathFinder):
    """Notices that the base module is being imported; the other finders find it."""

    def __init__(self, home: _Home) -> None:
        self._home = home

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """The spec the others find, with a loader that tells us when it has run. Other modules are none of our business."""
        if self._home.inert or not fullname.startswith("diffusers."):
            return None
        if fullname != BASE_MODULE:
            with guard.guarded("finding diffusion pipelines"):
                _attach(self._home)
            return None
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self._home)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """The real loader, followed by `_attach`. The module keeps the real one."""

    def __init__(self, real: Any, home: _Home) -> None:
        self._real = real
        self._home = home

    def create_module(self, spec: ModuleSpec) -> Any:
        """As the real loader does."""
        return self._real.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """As the real loader does; then the classes are there."""
        module.__loader__ = self._real
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        self._real.exec_module(module)
        with guard.guarded("finding diffusion pipelines"):
            _attach(self._home)
