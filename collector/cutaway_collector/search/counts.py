"""How many spans match, when, and how many of them failed: exact counts in which a span that was sent twice is one.

Not rows: `find` gives those. Counting each span once means holding an id a span; where none was sent twice, which one query tells,
the plain count is the same and cheaper, and above UNIQUE_MAX rows it is the only one, and said to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import rows, sql, window
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.request import SearchRequest
from cutaway_collector.search.window import Window

UNIQUE_MAX: Final = 1_000_000
BUCKETS_MAX: Final = 1000
_IDENTITY: Final = "cityHash64(TraceId, SpanId, Timestamp)"


@dataclass(frozen=True, slots=True)
class Extent:
    """What a search matches. span: its time range; first_ns, last_ns: starts of the first and of the last match.

    count: matching spans. exact: False when it counts rows as they came, of which some may be repetitions. repeated: some are, so
    that other counts have to mind it. cut: time was up, and there may be more than `count`.
    """

    span: Window
    count: int
    first_ns: int
    last_ns: int
    exact: bool = True
    repeated: bool = False
    cut: bool = False

    def tally(self, condition: str = "") -> str:
        """SQL aggregate: spans that fulfil the condition, each once."""
        if self.repeated:
            return f"uniqExactIf({_IDENTITY}, {condition})" if condition else f"uniqExact({_IDENTITY})"
        return f"countIf({condition})" if condition else "count()"


def extent(store: Store, request: SearchRequest, *, seconds_max: float | None = None) -> Extent:
    """Counts the matches of a search; seconds_max: what all of it may take. Raises QueryError, StoreError."""
    tree = request.tree()
    taken_s = 0.0
    span = window.choose(store, request.start_ns, request.end_ns)

    def ask(columns: str) -> Any:
        nonlocal taken_s
        parameters = Parameters(database=store.database)
        where = f"{span.condition(parameters)} AND {sql.condition(tree, parameters)}"
        text = f"SELECT {columns} FROM {rows.table(store)} WHERE {where}"
        answer = rows.run(store, text, parameters.values, tree, seconds_max=rows.seconds_left(seconds_max, taken_s))
        taken_s += answer.elapsed_s
        return answer

    found = ask("count(), toUnixTimestamp64Nano(min(Timestamp)), toUnixTimestamp64Nano(max(Timestamp))")
    # A SELECT that is stopped early may have no row at all.
    count, first, last = map(int, found.rows[0]) if found.rows else (0, 0, 0)
    plain = Extent(span, count, first, last, exact=not count, cut=found.cut)
    if found.cut or not 0 < count <= UNIQUE_MAX:
        return plain
    ids = ask("uniqExact(SpanId)")
    if not ids.cut and int(ids.rows[0][0]) == count:
        return Extent(span, count, first, last)
    spans = ids if ids.cut else ask(f"uniqExact({_IDENTITY})")
    if spans.cut:
        return plain
    unique = int(spans.rows[0][0])
    return Extent(span, unique, first, last, repeated=unique < count)


def over_time(
    store: Store, request: SearchRequest, matches: Extent, start_ns: int, step_ns: int, buckets: int, *,
    seconds_max: float | None = None,
) -> dict[str, Any]:
    """Matching spans over time: {"counts", "errors", "cut"}, one count for each step from start_ns on.

    matches: what `extent` said of the same search; only its time is looked at, where steps reach beyond it. Raises QueryError,
    StoreError.
    """
    if not 1 <= buckets <= BUCKETS_MAX:
        raise QueryError(f"a histogram has 1 to {BUCKETS_MAX} buckets, {buckets} were asked for")
    tree = request.tree()
    span = Window(max(start_ns, matches.span.start_ns), min(start_ns + buckets * step_ns, matches.span.end_ns))
    parameters = Parameters(database=store.database)
    where = f"{span.condition(parameters)} AND {sql.condition(tree, parameters)}"
    start, step = parameters.bind(start_ns, "Int64"), parameters.bind(step_ns, "Int64")
    failed = "StatusCode = 'Error'"
    text = (
        f"SELECT intDiv(toUnixTimestamp64Nano(Timestamp) - {start}, {step}) AS bucket, {matches.tally()}, {matches.tally(failed)} "
        f"FROM {rows.table(store)} WHERE {where} GROUP BY bucket ORDER BY bucket"
    )
    counts, errors = [0] * buckets, [0] * buckets
    found = rows.run(store, text, parameters.values, tree, seconds_max=seconds_max)
    for bucket, count, bad in found.rows:
        counts[int(bucket)], errors[int(bucket)] = int(count), int(bad)
    return {"counts": counts, "errors": errors, "cut": found.cut}


def histogram(store: Store, request: SearchRequest, buckets: int) -> dict[str, Any]:
    """What `over_time` gives with {"start_ns", "end_ns", "bucket_ns"}, for so many buckets in the time of the request.

    When the request leaves an end of its time range open, the histogram runs from the first to the last match instead, so that a
    minute of data in a day does not become a single bar. Raises QueryError, StoreError.
    """
    if not 1 <= buckets <= BUCKETS_MAX:
        raise QueryError(f"a histogram has 1 to {BUCKETS_MAX} buckets, {buckets} were asked for")
    matches = extent(store, request)
    start_ns, end_ns = matches.span.start_ns, matches.span.end_ns
    if matches.count:
        start_ns = matches.first_ns if request.start_ns is None else start_ns
        end_ns = matches.last_ns + 1 if request.end_ns is None else end_ns
    width = max(-(-(end_ns - start_ns) // buckets), 1)
    found = over_time(store, request, matches, start_ns, width, buckets)
    return {"start_ns": start_ns, "end_ns": end_ns, "bucket_ns": width, **found}
