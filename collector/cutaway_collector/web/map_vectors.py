"""What the latent map knows of texts: their embeddings, made in the background and kept within bounds, layouts that take long, and
the planes that maps were drawn in, so that later generations are put into the same.

Not the embedder (that is the judge verb's, handed in) and not the map: a page asks for what is known by now, and what is missing is
begun. Everything is kept by tenant, in memory, and gone with the process.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from cutaway_collector import latent
from cutaway_collector.contracts import Store
from cutaway_collector.errors import CutawayError, MissingExtra
from cutaway_collector.latent.place import Floats
from cutaway_collector.search import points
from cutaway_collector.search.points import Key
from cutaway_collector.search.tenants import TenantStore

Of = Literal["answer", "prompt"]
Embed = Callable[[Sequence[str]], Floats]

KNOWN_MAX: Final = 20_000
"""Texts whose vectors are kept: MiniLM's take a kilobyte and a half each."""
WAITING_MAX: Final = 10_000
LAYOUTS_MAX: Final = 8
FRAMES_MAX: Final = 32
LATER_SHARE_MAX: Final = 0.25
"""With more of its points that came later than the plane, a map is drawn in a plane of its own."""
BATCH: Final = 32
CHARACTERS_SHOWN: Final = 160
_PAUSE_S: Final = 0.5
_LOG: Final = logging.getLogger(__name__)
_Entry = tuple[str, Of, Key]


@dataclass(frozen=True, slots=True)
class Known:
    """What a generation says, its beginning, and where that lies: float32 [width], None where there is no text."""

    prompt: str
    answer: str
    vector: npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Looked:
    """known: of the keys asked for. pending: how many are still to come. trouble: why none will, "" when all is well."""

    known: Mapping[Key, Known]
    pending: int
    trouble: str


@dataclass(frozen=True, slots=True)
class Plane:
    """A frame and whose points it was made of."""

    frame: latent.Frame
    made_of: frozenset[Key]


@dataclass(slots=True)
class _Umap:
    vectors: Floats
    places: Floats | None = None
    trouble: str = ""


@dataclass(slots=True)
class Vectors:
    """store: every tenant's; embed: texts to unit vectors [n, width], None where there is no embedder, raises MissingExtra.
    give_way: true while fresh spans need the store, and the background waits. Thread-safe."""

    store: Store
    embed: Embed | None
    give_way: Callable[[], bool] = lambda: False
    _known: OrderedDict[_Entry, Known] = field(default_factory=OrderedDict)
    _waiting: OrderedDict[_Entry, None] = field(default_factory=OrderedDict)
    _layouts: OrderedDict[str, _Umap] = field(default_factory=OrderedDict)
    _planes: OrderedDict[tuple[str, ...], Plane] = field(default_factory=OrderedDict)
    _trouble: str = ""
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _closed: bool = False

    def look(self, tenant: str, of: Of, keys: Sequence[Key], *, wait_s: float = 0.0) -> Looked:
        """What is known of these, after waiting a little for the rest, which is begun."""
        if self.embed is None:
            return Looked({}, 0, "this application has no sentence embedder: `cutaway serve` has one")
        entries: list[_Entry] = [(tenant, of, key) for key in keys]
        end_s = time.monotonic() + wait_s
        with self._changed:
            for entry in entries:
                if entry in self._known:
                    self._known.move_to_end(entry)
                else:
                    self._waiting[entry] = None
                    self._waiting.move_to_end(entry)
            while len(self._waiting) > WAITING_MAX:
                self._waiting.popitem(last=False)
            self._trouble = ""
            self._start()
            while not self._trouble and any(entry not in self._known for entry in entries):
                left_s = end_s - time.monotonic()
                if left_s <= 0 or self._closed:
                    break
                self._changed.wait(left_s)
            found = {entry[2]: self._known[entry] for entry in entries if entry in self._known}
            return Looked(found, 0 if self._trouble else len(entries) - len(found), self._trouble)

    def umap(self, vectors: Floats, *, wait_s: float = 0.0) -> Floats | None:
        """[n, 2] places of these vectors, None while they are made. Raises MissingExtra."""
        name = hashlib.sha256(vectors.tobytes()).hexdigest()
        end_s = time.monotonic() + wait_s
        with self._changed:
            layout = self._layouts.setdefault(name, _Umap(vectors))
            self._layouts.move_to_end(name)
            while len(self._layouts) > LAYOUTS_MAX:
                self._layouts.popitem(last=False)
            self._start()
            while layout.places is None and not layout.trouble and (left_s := end_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            if layout.trouble:
                raise MissingExtra(layout.trouble)
            return layout.places

    def plane(self, name: tuple[str, ...], keys: Sequence[Key], make: Callable[[], latent.Frame], *, keep: bool) -> Plane:
        """The plane of that name where most of the points of these keys went into its making, else a new one, which is kept from
        then on. keep: false while points are still to come, when nothing is kept."""
        with self._changed:
            kept = self._planes.get(name)
            if kept is not None:
                self._planes.move_to_end(name)
        if kept is not None and sum(key not in kept.made_of for key in keys) <= LATER_SHARE_MAX * len(keys):
            return kept
        made = Plane(make(), frozenset(keys))
        if keep:
            with self._changed:
                self._planes[name] = made
                while len(self._planes) > FRAMES_MAX:
                    self._planes.popitem(last=False)
        return made

    def forget_plane(self, name: tuple[str, ...]) -> None:
        """The next map of that name is drawn in a plane of its own."""
        with self._changed:
            self._planes.pop(name, None)

    def close(self) -> None:
        """Begins nothing more and waits for what is under way, though not for long. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(5)

    # --- the thread -------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """With the lock held."""
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="map", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._waiting and self._open_layout() is None:
                    self._changed.wait()
                if self._closed:
                    return
                batch = self._batch()
                layout = None if batch else self._open_layout()
            if self.give_way():
                time.sleep(_PAUSE_S)
            if batch:
                self._place_texts(batch)
            elif layout is not None:
                self._lay_out(layout)

    def _batch(self) -> list[_Entry]:
        """What was asked for last, of one tenant and kind; it stays in line until it is known."""
        found: list[_Entry] = []
        for entry in reversed(self._waiting):
            if found and entry[:2] != found[0][:2]:
                continue
            found.append(entry)
            if len(found) == BATCH:
                break
        return found

    def _open_layout(self) -> _Umap | None:
        return next((layout for layout in reversed(self._layouts.values()) if layout.places is None and not layout.trouble), None)

    def _place_texts(self, batch: list[_Entry]) -> None:
        tenant, of, _ = batch[0]
        known: dict[_Entry, Known] = {}
        trouble = ""
        try:
            said = points.texts(TenantStore(self.store, lambda: tenant), [key for _, _, key in batch])
            texts = {entry: getattr(said[entry[2]], of).strip() for entry in batch if entry[2] in said}
            wanted = [entry for entry, text in texts.items() if text]
            assert self.embed is not None
            vectors = self.embed([texts[entry] for entry in wanted]) if wanted else np.zeros((0, 0))
            placed = dict(zip(wanted, vectors, strict=True))
            for entry in batch:
                words = said.get(entry[2], points.Said("", ""))
                vector = placed.get(entry)
                known[entry] = Known(words.prompt[:CHARACTERS_SHOWN], words.answer[:CHARACTERS_SHOWN],
                                     None if vector is None else vector.astype(np.float32))
        except CutawayError as error:
            trouble = str(error)
        except Exception as error:  # a model may fail in ways of its own; the map then says so
            _LOG.exception("the latent map cannot place texts")
            trouble = f"the sentence embedder failed ({type(error).__name__}), the log says more"
        with self._changed:
            for entry in batch:
                self._waiting.pop(entry, None)
            if trouble:
                self._trouble = trouble
                self._waiting.clear()
            self._known |= known
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
            self._changed.notify_all()

    def _lay_out(self, layout: _Umap) -> None:
        places, trouble = None, ""
        try:
            places = latent.umap(layout.vectors)
        except MissingExtra as error:
            trouble = str(error)
        except Exception as error:
            _LOG.exception("the latent map cannot be laid out")
            trouble = f"UMAP failed ({type(error).__name__}), the principal components are shown"
        with self._changed:
            layout.places, layout.trouble = places, trouble
            self._changed.notify_all()
