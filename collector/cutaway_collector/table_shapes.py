"""What a stored table is made of: its columns, the axes of its series, its skip indexes. No table stands here: see `columns`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cutaway_collector.dialects import Source


@dataclass(frozen=True, slots=True)
class Axes:
    """The axes of a series: what it has one entry of, and the columns that hold the lengths of its inner axes, "" for none.

    length: "token", "prompt" or "step". Series that name the same column must agree in that axis.
    """

    length: str
    layers: str = ""
    heads: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One stored column.

    type: ClickHouse type. codec: its CODEC arguments, "" for the server's default. attributes: span attributes that fill it, the
    first one present wins. foreign: what fills it in the spans of other tools, asked after `attributes`. series: the packed series
    that fills it. axes: how that series is laid out (see `Axes`). default: DEFAULT expression where no attribute gives one. reason:
    what it is for.
    """

    name: str
    type: str
    codec: str
    reason: str
    attributes: tuple[str, ...] = ()
    series: str = ""
    axes: Axes | None = None
    default: str = ""
    foreign: tuple[Source, ...] = ()

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every attribute that may fill it, in the order in which they are asked: the first that gives a value wins."""
        return (*(Source(name) for name in self.attributes), *self.foreign)

    @property
    def default_expression(self) -> str:
        """The DEFAULT expression, derived from `sources` when there are any, else `default`; "" for none."""
        if not self.sources:
            return self.default
        parts = [_from_map(self.type, source) for source in self.sources]
        if len(parts) == 1:
            return parts[0]
        if not self.type.startswith("Nullable("):
            parts = [*(f"nullIf({part}, '')" for part in parts[:-1]), parts[-1]]
        return f"coalesce({', '.join(parts)})"


def _from_map(type: str, source: Source) -> str:
    value = f"SpanAttributes['{source.name}']"
    if type.startswith("Nullable("):
        number = f"to{type.removeprefix('Nullable(').removesuffix(')')}OrNull({value})"
        return number if source.divisor == 1 else f"{number} / {source.divisor:g}"
    if source.words:
        said, meant = ([f"'{pair[side]}'" for pair in source.words] for side in (0, 1))
        rest = value if source.rest is None else f"'{source.rest}'"
        return f"transform(lower({value}), [{', '.join(said)}], [{', '.join(meant)}], {rest})"
    return value if source.rest is None else f"if({value} = '', '', '{source.rest}')"


@dataclass(frozen=True, slots=True)
class Index:
    """One data-skipping index: name, expression, type, granularity. needs: the engine's setting that tells whether it has this
    type, "" for one that every version has; where it is off or unknown the index is left out, and searches read more."""

    name: str
    expression: str
    type: str
    granularity: int = 1
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One table: columns in order, engine and keys. `retention` names the setting that holds its days.

    retired_indexes: what an earlier version made and nothing reads any more; they are dropped from a store that has them.

    Days are counted from IngestedAt, not from the span's own time: what arrives late, a back-fill say, is kept as long as anything
    else, and a sender's wrong clock neither hides a span at once nor keeps it for ever.
    """

    name: str
    columns: tuple[Column, ...]
    engine: str
    partition_by: str
    order_by: str
    primary_key: str = ""
    indexes: tuple[Index, ...] = ()
    retired_indexes: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str, str], ...] = ()
    retention: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    reason: str = ""

    def column(self, name: str) -> Column:
        """The column of that name. Raises KeyError."""
        return {column.name: column for column in self.columns}[name]


DEDUPLICATION: Final = ("non_replicated_deduplication_window", "10000")
"""A replayed batch carries the same token; the window is how many inserts ago a token is still known."""
ON_DISK: Final = (("fsync_after_insert", "1"), ("fsync_part_directory", "1"),
                  ("min_bytes_for_wide_part", "134217728"), ("vertical_merge_algorithm_min_rows_to_activate", "1"),
                  ("concurrent_part_removal_threshold", "1000000"))
"""An insert that has returned has reached the disk: only then may the spool forget the records.

A part of an insert is one file with all columns. By default one above 10 MiB has two files a column, some 270 that are each written
and synced, which doubled the CPU time of an insert; merges make such parts, column by column, where all at once took 400 MiB.
Merged parts are removed by one thread: from a hundred on, the engine starts up to 128 for it, which it never ends.
"""
DROP_PARTS: Final = ("ttl_only_drop_parts", "1")
