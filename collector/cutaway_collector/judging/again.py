"""The part of a back-fill that judges texts: spans that scorers missed, by time. Not the thread that judges fresh spans.

Missed are those of a scorer that failed or was switched on later, whose extra was installed later, that the sample left out, and
that were there before judging began. A back-fill asks for no sample: who names a range wants it whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from cutaway_collector.backfill.part import Offer, OnFailure, Todo
from cutaway_collector.backfill.reader import Key, Range, slices
from cutaway_collector.backfill.sequences import present
from cutaway_collector.blocks import Block
from cutaway_collector.contracts import Store, Texts, TextScorer
from cutaway_collector.errors import MissingExtra
from cutaway_collector.judge import Models, text_scorers
from cutaway_collector.judging.rows import Row, block, judge
from cutaway_collector.judging.spans import PAGE_SPANS, Found, Spans
from cutaway_collector.settings import Settings

_LOG: Final = logging.getLogger(__name__)
_DAY_NS: Final = 86_400_000_000_000
_LAST_NS: Final = 2**63 - 1


class Again:
    """missing: only spans without a score of the scorer's version. version_ms: the scores' Version. batch_rows_max: of a piece."""

    name = "texts"

    def __init__(self, store: Store, wanted: Range, scorers: Sequence[TextScorer], *, missing: bool, version_ms: int,
                 batch_rows_max: int = 64) -> None:
        self._store = store
        self._spans = Spans(store)
        self._wanted = wanted
        self._scorers = list(scorers)
        self._missing = missing
        self._version_ms = version_ms
        self._batch_rows_max = batch_rows_max
        self._givers: dict[str, str] = {}
        self._names: dict[str, set[str]] = {}

    def count(self) -> int:
        """Spans with text in the range, those stored twice included. Raises StoreError."""
        return sum(count for _, count in self._counts(_DAY_NS, self._wanted.start_ns, min(self._wanted.end_ns, _LAST_NS)))

    def pieces(self, after: Key | None) -> Iterator[Todo]:
        """As backfill.Part. Raises StoreError."""
        start_ns = self._wanted.start_ns if after is None else max(self._wanted.start_ns, after.timestamp_ns)
        for first_ns, stop_ns in slices(self._counts, start_ns, min(self._wanted.end_ns, _LAST_NS)):
            while page := self._spans.within(first_ns, stop_ns, after or (), service=self._wanted.service, model=self._wanted.model,
                                             limit=PAGE_SPANS):
                for start in range(0, len(page), self._batch_rows_max):
                    batch = page[start:start + self._batch_rows_max]
                    keys = [_key(found) for found in batch]
                    yield Todo(keys, partial(self._score, batch, keys))
                    after = keys[-1]

    def _counts(self, unit_ns: int, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        return self._spans.counts(unit_ns, start_ns, end_ns, service=self._wanted.service, model=self._wanted.model)

    def _score(self, batch: Sequence[Found], keys: Sequence[Key], on_failure: OnFailure) -> Block:
        made: list[Row] = []
        lacking = self._lacking(batch, keys)
        told = self._spans.texts([found for found in batch if any(found in those for those in lacking.values())])
        for scorer in self._scorers:
            wanted = lacking[scorer.name]
            judged, failed, _ = judge(told, wanted, [scorer], self._givers)
            if failed and not isinstance(failed[scorer.name], MissingExtra):
                # A bad text costs its own scores alone.
                alone = [judge(told, [found], [scorer], self._givers) for found in wanted]
                judged, failed = [row for rows, _, _ in alone for row in rows], {name: error for _, bad, _ in alone
                                                                                for name, error in bad.items()}
            for name, error in failed.items():
                on_failure(name, error)
            made += judged
        return block(made, self._version_ms)

    def _lacking(self, batch: Sequence[Found], keys: Sequence[Key]) -> Mapping[str, Sequence[Found]]:
        """Scorer -> the spans it is to judge: where only missing scores are asked for those without any of its version."""
        if not self._missing:
            return {scorer.name: batch for scorer in self._scorers}
        names = {name: scorer.version for scorer in self._scorers for name in self._names_of(scorer)}
        there: dict[tuple[str, str, str], set[str]] = {}
        for key in present(self._store, keys, names) if names else ():
            there.setdefault((str(key[1]), str(key[3]), str(key[4])), set()).update(key[6])
        return {scorer.name: [found for found in batch if not self._names_of(scorer)
                              & there.get((found.place.tenant, found.place.trace_id, found.place.span_id), set())]
                for scorer in self._scorers}

    def _names_of(self, scorer: TextScorer) -> set[str]:
        """What its scores are called, asked with no texts to judge; nothing where it cannot say, and then all are lacking."""
        if scorer.name not in self._names:
            try:
                self._names[scorer.name] = set(scorer.score(Texts([], [], [], [])))
            except Exception as error:
                _LOG.warning("the text scorer %s does not say what its scores are called (%s): all are judged again", scorer.name,
                             str(error) if isinstance(error, MissingExtra) else type(error).__name__)
                self._names[scorer.name] = set()
        return self._names[scorer.name]


def offer(store: Store, settings: Settings) -> Offer:
    """The scorers of texts that the settings choose, with models of their own: one is used by one thread. Raises SettingsError."""
    models = Models(device=settings.score_device, bytes_max=settings.judge_memory_bytes_max,
                    embedding=settings.judge_embedding_model, reference=settings.judge_reference_model)
    return offer_of(store, text_scorers(settings.judge, models, on_failure=_left_out), settings.judge_batch_rows_max)


def offer_of(store: Store, scorers: Sequence[TextScorer], batch_rows_max: int = 64) -> Offer:
    """These scorers of texts."""
    return Offer(scorers, lambda job, chosen: Again(store, job.request, chosen, missing=job.request.missing,
                                                    version_ms=job.started_ms, batch_rows_max=batch_rows_max))


def _left_out(name: str, error: Exception) -> None:
    _LOG.warning("the text scorer %s cannot be loaded and is left out of the back-fill: %s", name, type(error).__name__)


def _key(found: Found) -> Key:
    place = found.place
    return Key(place.timestamp_ns, place.tenant, place.service, place.trace_id, place.span_id, 0)
