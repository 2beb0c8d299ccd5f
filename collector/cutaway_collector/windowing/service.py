"""When windows are judged: one thread that takes each closed window once, catches up after a pause, and tells Prometheus.

Exactly once: all rows of a window are one insert, whose deduplication token names the window, so that a window judged again, after
a kill or by a second collector, is stored once. How far it came stands in the table itself, so a restart goes on from there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from cutaway_collector.columns import WINDOW_SCORES
from cutaway_collector.contracts import Store
from cutaway_collector.errors import CutawayError, SettingsError, StoreError
from cutaway_collector.windowing.reader import Group, Reader, Window
from cutaway_collector.windowing.rows import block
from cutaway_collector.windows import KINDS, VERSION, Embed, Floats, Index, WindowScore, corpora, window_scores

_LOG: Final = logging.getLogger(__name__)
LATENESS_SECONDS: Final = 120
"""After its end, before a window is judged: a span is sent when it has ended, and counts from when it began."""
CATCH_UP_WINDOWS: Final = 96
"""Missed windows that are made up for, a day of quarters of an hour; what lies before stays unjudged."""
TRIES_MAX: Final = 3
"""Failures for good of one window before it is passed over."""
_LOOK_SECONDS: Final = 5.0
_LOOK_LONGEST_S: Final = 60.0
_BATCH_ANSWERS: Final = 2000
"""Answers that are read with one query: some hundred megabytes where all are long."""
_LOOK_WINDOWS: Final = 8
"""Windows that one query looks through for generations."""


class Windows:
    """Judges the windows of a store, of every tenant apart. minutes: of a window, one or more.

    folder: where registered corpora lie; it is looked at anew for each window. embed: sentence vectors, where there is a model.
    give_way: true while fresh spans need the store. now_s takes the place of the clock.
    """

    def __init__(self, store: Store, *, minutes: int, answers_max: int, groups_max: int, folder: Path, registry: CollectorRegistry,
                 give_way: Callable[[], bool] = lambda: False, embed: Embed | None = None,
                 now_s: Callable[[], float] = time.time) -> None:
        self._store = store
        self._seconds = 60 * minutes
        self._reader = Reader(store, answers_max=answers_max, groups_max=groups_max)
        self._folder = folder
        self._give_way = give_way
        self._embed = embed
        self._now_s = now_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._next_s: int | None = None
        self._failed: tuple[int, int] = (-1, 0)
        self._said: set[str] = set()
        self._judged = Counter("cutaway_windows_judged", "windows whose scores are stored", registry=registry)
        self._failures = Counter("cutaway_window_failures", "tries of a window that failed", registry=registry)
        self._passed = Counter("cutaway_windows_passed_over", "windows given up after several failures", registry=registry)
        self._answers = Counter("cutaway_window_answers", "answers judged in windows", registry=registry)
        self._took = Gauge("cutaway_window_duration_seconds", "time it took to judge the last window", registry=registry)
        self._worst = Gauge("cutaway_window_score_worst", "worst value over the groups of the last window", ["score"],
                            registry=registry)
        self._labels = Gauge("cutaway_window_groups_labelled", "groups of the last window with that label", ["label"],
                             registry=registry)
        for kind in KINDS:
            if kind.label:
                self._labels.labels(kind.label).set(0)

    def start(self) -> None:
        """Begins to judge, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="windows", daemon=True)
        self._thread.start()

    def close(self, deadline_s: float = 10.0) -> None:
        """Stops after the groups at hand; what is not stored then is judged after the next start."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(deadline_s)
            if self._thread.is_alive():
                _LOG.warning("window scores did not stop in %g s: the window is judged again at the next start", deadline_s)

    def catch_up(self) -> int:
        """Judges every window that is closed and not judged yet, oldest first; how many it stored. Raises StoreError."""
        end_s = (int(self._now_s()) - LATENESS_SECONDS) // self._seconds * self._seconds
        first_s = max(self._begin() if self._next_s is None else self._next_s, end_s - CATCH_UP_WINDOWS * self._seconds, 0)
        self._next_s = first_s
        stored = 0
        while self._next_s < end_s:
            look = 1 if self._failed[0] == self._next_s else _LOOK_WINDOWS  # what was too much at once is taken apart
            stop_s = min(self._next_s + look * self._seconds, end_s)
            for window in self._reader.occupied(self._next_s, stop_s, self._seconds):
                self._next_s = window.start_s
                if not self._one(window):
                    return stored
                stored += 1
                self._next_s = window.start_s + self._seconds
            self._next_s = stop_s
        return stored

    def _begin(self) -> int:
        """Where the stored scores end; 0, the beginning of time, without any."""
        database = self._store.database.replace("\\", "\\\\").replace("`", "\\`")
        ((last_s, count),) = self._store.query(
            f"SELECT toUInt32(max(WindowStart)), count() FROM `{database}`.{WINDOW_SCORES.name} "
            f"WHERE WindowSeconds = {self._seconds}").rows
        return int(last_s) + self._seconds if int(count) else 0

    def _one(self, window: Window) -> bool:
        """Judges and stores one window; false when it was told to stop meanwhile."""
        began_s = time.monotonic()
        indexes = self._corpora()
        judged: list[tuple[Group, WindowScore]] = []
        for groups in _batches(self._reader.groups(window)):
            while self._give_way() and not self._stop.is_set():
                self._stop.wait(0.2)
            if self._stop.is_set():
                return False
            for group, answers in zip(groups, self._reader.answers(window, groups), strict=True):
                mine = [index for index in indexes if index.tenant in ("", group.tenant)]
                judged += [(group, score) for score in window_scores(answers, corpora=mine, embed=self._meaning)]
                self._answers.inc(len(answers))
        if judged:
            token = f"windows:{VERSION}:{window.seconds}:{window.start_s}"
            self._store.insert(block(window, judged, now_ms=time.time_ns() // 1_000_000), token)
        self._judged.inc()
        self._took.set(time.monotonic() - began_s)
        self._tell([score for _, score in judged])
        return True

    def _meaning(self, texts: Sequence[str]) -> Floats | None:
        """The sentence model's vectors; None without one. What it cannot do it is asked once: the rest goes on without it."""
        if self._embed is None:
            return None
        try:
            return self._embed(texts)
        except Exception as error:
            self._failures.inc()
            self._embed = None
            said = str(error) if isinstance(error, CutawayError) else type(error).__name__
            _LOG.warning("no window is judged by a sentence model until the next start: %s", said)
            return None

    def _corpora(self) -> list[Index]:
        """The registered corpora; one that cannot be read is left out, which is said once and keeps nothing else back."""
        def failed(error: SettingsError) -> None:
            self._failures.inc()
            if str(error) not in self._said:
                self._said.add(str(error))
                _LOG.warning("answers are not compared with a corpus: %s", error)

        return corpora.load(self._folder, on_failure=failed)

    def _tell(self, scores: Sequence[WindowScore]) -> None:
        """Metrics by words of ours: what groups are called is a sender's to choose, and stands in the table."""
        self._worst.clear()
        for kind in KINDS:
            values = [score.value for score in scores if score.name == kind.name]
            if values:
                self._worst.labels(kind.name).set(max(values) if kind.worse == "high" else min(values))
            if kind.label:
                self._labels.labels(kind.label).set(sum(score.label == kind.label for score in scores))

    def _run(self) -> None:
        delay_s = _LOOK_SECONDS
        while not self._stop.is_set():
            try:
                self.catch_up()
                delay_s = _LOOK_SECONDS
            except Exception as error:
                self._fail(error)
                delay_s = min(2 * delay_s, _LOOK_LONGEST_S)
            self._stop.wait(delay_s)

    def _fail(self, error: Exception) -> None:
        """A store that is away is waited for; a window that fails for good is tried again a few times, then passed over."""
        self._failures.inc()
        at_s = -1 if self._next_s is None else self._next_s
        if isinstance(error, StoreError) and error.retryable:
            return
        said = str(error) if isinstance(error, StoreError) else type(error).__name__
        _LOG.warning("window scores failed: %s", said)
        self._failed = (at_s, self._failed[1] + 1 if self._failed[0] == at_s else 1)
        if at_s >= 0 and self._failed[1] >= TRIES_MAX:
            self._passed.inc()
            self._next_s = at_s + self._seconds


def _batches(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Groups in their order, as many together as hold _BATCH_ANSWERS; a larger one alone."""
    batch: list[Group] = []
    held = 0
    for group in groups:
        if batch and held + len(group.sample) > _BATCH_ANSWERS:
            yield batch
            batch, held = [], 0
        batch.append(group)
        held += len(group.sample)
    if batch:
        yield batch
