"""One batch into the store: spans, token series, scores, each under its token; what the store refuses is singled out.

Not a retry loop: a failure that may pass is raised, and the caller repeats the batch, which stores nothing twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from cutaway_collector.batch import Pending, merge, rows_of
from cutaway_collector.blocks import Block
from cutaway_collector.contracts import Rows, Scorer, Store
from cutaway_collector.errors import StoreError
from cutaway_collector.pipeline.letters import letter_block
from cutaway_collector.pipeline.metrics import Metrics
from cutaway_collector.spool import Letter

_LOG: Final = logging.getLogger(__name__)
FAILURES_MAX: Final = 200
"""Failed inserts of one batch before what is left of it is given up: about ten bad rows among 100 000 are singled out exactly."""


class ScoreBlock(Protocol):
    """score.score_block: tokens and scorers to a gen_ai_scores block."""

    def __call__(
        self, tokens: Block, scorers: Iterable[Scorer], *, now_ms: int, on_failure: Callable[[str, Exception], None]
    ) -> Block:
        """The scores as rows, perhaps none."""
        ...


@dataclass(slots=True)
class Outcome:
    """What became of a batch. refused: sequence number -> (why, spans lost), of requests that lost at least one row."""

    spans_stored: int = 0
    spans_lost: int = 0
    refused: dict[int, tuple[str, int]] = field(default_factory=dict)


class BatchInsert:
    """Stores batches. One thread at a time."""

    def __init__(self, store: Store, scorers: Iterable[Scorer], score_block: ScoreBlock, metrics: Metrics) -> None:
        self._store = store
        self._scorers = list(scorers)
        self._score_block = score_block
        self._metrics = metrics
        self._said: dict[str, str] = {}

    def run(self, items: list[Pending], rows: Rows, token: str) -> Outcome:
        """Stores the rows of `items` under `token`. Raises StoreError only when trying the same again can help."""
        outcome = Outcome()
        if rows.spans.rows:
            lost = self._insert(rows.spans, token)
            outcome.spans_lost = sum(stop - start for start, stop, _ in lost)
            outcome.spans_stored = rows.spans.rows - outcome.spans_lost
            _blame(outcome, lost, [(item.sequence, item.rows) for item in items], are_spans=True)
        tokens = rows.tokens if rows.tokens.rows else None
        if tokens is not None:
            lost = self._insert(tokens, token)
            self._metrics.sequences.inc(tokens.rows - sum(stop - start for start, stop, _ in lost))
            _blame(outcome, lost, [(item.sequence, count) for item, count in zip(items, rows.token_rows.tolist(), strict=True)])
        judged = [(item.sequence, item.request.scores) for item in items if item.request.scores is not None]
        sent = merge([scores for _, scores in judged])
        if sent is not None:
            # A token of their own: the scores we compute from the same batch go into the same table.
            lost = self._insert(sent, f"{token}:sent")
            self._metrics.scores.inc(sent.rows - sum(stop - start for start, stop, _ in lost))
            _blame(outcome, lost, [(sequence, scores.rows) for sequence, scores in judged])
        if tokens is not None:
            self._scores(tokens, token)
        return outcome

    def tell(self, letters: Sequence[Letter], token: str) -> None:
        """The dead letters of a batch as rows, under its token. Raises StoreError only when trying the same again can help."""
        block = letter_block(letters)
        try:
            self._insert_once(block, f"{token}:{block.table}")
        except StoreError as error:
            if error.retryable:
                raise
            _LOG.error("the store does not take the reasons of %d dead letters, they are in the spool's dead folder: %s",
                       len(letters), error)

    def _scores(self, tokens: Block, token: str) -> None:
        if not self._scorers:
            return
        try:
            scores = self._score_block(tokens, self._scorers, now_ms=time.time_ns() // 1_000_000, on_failure=self._scorer_failed)
        except Exception as error:  # scores are worth less than the spans behind them in the line
            self._scorer_failed("score_block", error)
            return
        if scores.rows:
            lost = sum(stop - start for start, stop, _ in self._insert(scores, token))
            self._metrics.scores.inc(scores.rows - lost)

    def _scorer_failed(self, name: str, error: Exception) -> None:
        self._metrics.scorer_failures.labels(name).inc()
        if self._said.get(name) != str(error):  # one line a fault, not a batch
            _LOG.warning("the scorer %s failed, its scores are missing: %s: %s", name, type(error).__name__, error)
        self._said[name] = str(error)

    def _insert(self, block: Block, token: str) -> list[tuple[int, int, str]]:
        """Inserts all rows, halving what is refused until the rows at fault are alone; (start, stop, reason) of those."""
        lost: list[tuple[int, int, str]] = []
        failures = 0
        todo = [(0, block.rows)]
        while todo:
            start, stop = todo.pop()
            whole = stop - start == block.rows
            try:
                # Halves are cut at the same rows at every try, so that their tokens, too, stand for the same rows.
                self._insert_once(block if whole else rows_of(block, start, stop),
                                  f"{token}:{block.table}" + ("" if whole else f":{start}-{stop}"))
            except StoreError as error:
                if error.retryable:
                    raise
                failures += 1
                if stop - start == 1 or failures > FAILURES_MAX:
                    lost.append((start, stop, str(error)))
                else:
                    middle = (start + stop) // 2
                    todo += [(middle, stop), (start, middle)]
        return lost

    def _insert_once(self, block: Block, token: str) -> None:
        started = time.monotonic()
        try:
            self._store.insert(block, token)
        except StoreError as error:
            self._metrics.insert_failures.labels(block.table, "passing" if error.retryable else "permanent").inc()
            raise
        except Exception as error:
            # A fault of ours in one block must not hold up every other: it is handled like rows the store refuses.
            _LOG.exception("an insert into %s failed unexpectedly", block.table)
            self._metrics.insert_failures.labels(block.table, "permanent").inc()
            raise StoreError(f"{type(error).__name__}: {error}", retryable=False) from error
        finally:
            self._metrics.insert_seconds.labels(block.table).observe(time.monotonic() - started)


def _blame(
    outcome: Outcome, lost: list[tuple[int, int, str]], rows: list[tuple[int, int]], *, are_spans: bool = False
) -> None:
    for start, stop, reason in lost:
        first = 0
        for sequence, count in rows:
            overlap = min(stop, first + count) - max(start, first)
            if overlap > 0:
                words, spans = outcome.refused.get(sequence, (f"{overlap} of {count} rows were refused: {reason}", 0))
                outcome.refused[sequence] = words, spans + (overlap if are_spans else 0)
            first += count
