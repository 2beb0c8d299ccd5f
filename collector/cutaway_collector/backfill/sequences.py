"""The part of a back-fill that scores token series again. Texts are another part's."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from cutaway_collector.backfill.part import Offer, OnFailure, Todo
from cutaway_collector.backfill.reader import Key, Piece, Range, Reader
from cutaway_collector.blocks import Block, Strings
from cutaway_collector.columns import SCORES, TOKENS
from cutaway_collector.contracts import Scorer, Store
from cutaway_collector.score.rows import SOURCE, score_block, take

_LOG: Final = logging.getLogger(__name__)


class Sequences:
    """missing: only what lacks a score of the scorer's version. version_ms: the scores' Version. sizes: of `Reader`."""

    name = "sequences"

    def __init__(self, store: Store, wanted: Range, scorers: Sequence[Scorer], *, missing: bool, version_ms: int,
                 **sizes: int) -> None:
        self._store = store
        self._scorers = list(scorers)
        self._missing = missing
        self._version_ms = version_ms
        declared = [getattr(scorer, "columns", None) for scorer in self._scorers]
        columns = [column.name for column in TOKENS.columns
                   if any(names is None or column.name in names for names in declared)]
        self._reader = Reader(store, wanted, columns, **sizes)
        self._names: dict[str, str] | None = None

    def count(self) -> int:
        """As Part."""
        return self._reader.count()

    def pieces(self, after: Key | None) -> Iterator[Todo]:
        """As Part."""
        for piece in self._reader.pieces(after):
            yield Todo(piece.keys, partial(self._score, piece))

    def _score(self, piece: Piece, on_failure: OnFailure) -> Block:
        names = self._score_names()
        present = self._present(piece, names) if names else {}
        if names and all(len(present.get(key, ())) == len(names) for key in piece.keys):
            return Block(SCORES.name, 0, {})
        tokens = piece.read()
        if names:
            kept = [row for row, key in enumerate(rows(tokens)) if len(present.get(key, ())) < len(names)]
            tokens = _taken(tokens, kept)
        scores = score_block(tokens, self._scorers, now_ms=self._version_ms, on_failure=on_failure)
        if present:
            fresh = [row for row, (key, name) in enumerate(zip(rows(scores), texts(scores, "ScoreName"), strict=True))
                     if name not in present.get(key, ())]
            scores = _taken(scores, fresh)
        return scores

    def _score_names(self) -> Mapping[str, str]:
        """Score name -> version, asked of each scorer with no rows to judge. Empty when one cannot say: all are then lacking."""
        if self._names is None:
            self._names = {}
            for scorer in self._scorers if self._missing else ():
                try:
                    self._names.update(dict.fromkeys(scorer.score(self._reader.empty()), scorer.version))
                except Exception as error:
                    _LOG.warning("the scorer %s does not take an empty block (%s): everything is scored again", scorer.name,
                                 type(error).__name__)
                    self._names = {}
                    break
        return self._names

    def _present(self, piece: Piece, names: Mapping[str, str]) -> dict[Key, set[str]]:
        """Which of the scores that these scorers would give are there already, by sequence."""
        found = present(self._store, piece.keys, names)
        return {Key(*key): set(said) for *key, said in found}


def offer(store: Store, scorers: Sequence[Scorer], **sizes: int) -> Offer:
    """These scorers of token series. sizes: of `Reader`."""
    return Offer(scorers, lambda job, chosen: Sequences(store, job.request, chosen, missing=job.request.missing,
                                                        version_ms=job.started_ms, **sizes))


def present(store: Store, keys: Sequence[Key], names: Mapping[str, str]) -> Sequence[Sequence[Any]]:
    """Rows of (the parts of a Key, score names) of what lies between the first and the last key. names: score name -> version."""
    database = store.database.replace("\\", "\\\\").replace("`", "\\`")
    return store.query(
        "SELECT toUnixTimestamp64Nano(Timestamp), hex(TenantId), hex(ServiceName), hex(TraceId), hex(SpanId), SeqIndex, "
        f"groupUniqArray(ScoreName) FROM `{database}`.{SCORES.name} FINAL "
        "WHERE Timestamp >= fromUnixTimestamp64Nano({first:Int64}) AND Timestamp <= fromUnixTimestamp64Nano({last:Int64}) "
        "AND Source = {source:String} AND (ScoreName, ScorerVersion) IN "
        "arrayZip({names:Array(String)}, {versions:Array(String)}) GROUP BY ALL",
        {"first": keys[0].timestamp_ns, "last": keys[-1].timestamp_ns, "source": SOURCE, "names": list(names),
         "versions": list(names.values())}).rows


def texts(block: Block, name: str) -> list[str]:
    """A column of a block as texts."""
    column = block.columns[name]
    assert isinstance(column, Strings)
    return [text.decode() for text in column]


def rows(block: Block) -> Iterable[Key]:
    """Keys of a block's rows, as `Key` spells them."""
    columns: list[Any] = []
    for name in ("Timestamp", "TenantId", "ServiceName", "TraceId", "SpanId", "SeqIndex"):
        column = block.columns[name]
        columns.append([text.hex().upper() for text in column] if isinstance(column, Strings) else np.asarray(column).tolist())
    return map(Key, *columns)


def _taken(block: Block, wanted: Sequence[int]) -> Block:
    if len(wanted) == block.rows:
        return block
    index = np.array(wanted, np.int64)
    return Block(block.table, len(wanted), {name: take(column, index) for name, column in block.columns.items()})
