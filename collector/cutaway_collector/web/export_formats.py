"""The files an export can be: CSV, JSON Lines, Parquet, each written piece by piece as the rows come.

Not the rows and not the road to the browser. A file that does not hold all that was found says so at its end: CSV and JSON Lines in
a last line, Parquet in the metadata of its footer (`cutaway.cut_off`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import orjson

from cutaway_collector.search.export import Kind

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the start of a formula, or of a cell in which one stands."""
CUT_OFF: Final = "cutaway.cut_off"


class Writer(Protocol):
    """Rows in, pieces of the file out."""

    def rows(self, page: Sequence[Mapping[str, Any]]) -> bytes:
        """The next piece, maybe b""."""
        ...

    def end(self, cut_off: str) -> bytes:
        """The last piece. cut_off: why rows are missing, "" when none are."""
        ...


class Csv:
    """RFC 4180, UTF-8, with a line of names. Lists are JSON. Text that a spreadsheet would run is preceded by an apostrophe."""

    def __init__(self, columns: Mapping[str, Kind]) -> None:
        self._columns = columns
        self._head = True

    def rows(self, page: Sequence[Mapping[str, Any]]) -> bytes:
        """The rows' lines, after the line of names if they are the first."""
        lines = [[_cell(row.get(key)) for key in self._columns] for row in page]
        if self._head:
            lines.insert(0, list(self._columns))
            self._head = False
        return _lines(lines)

    def end(self, cut_off: str) -> bytes:
        """A line of one cell where rows are missing."""
        return (self.rows(()) if self._head else b"") + (_lines([[f"# {cut_off}"]]) if cut_off else b"")


def _lines(lines: Sequence[Sequence[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(lines)
    return out.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode() if isinstance(value, list) else value


class JsonLines:
    """One object a line, with the keys of the JSON twin of search."""

    def __init__(self, columns: Mapping[str, Kind]) -> None:
        self._columns = columns

    def rows(self, page: Sequence[Mapping[str, Any]]) -> bytes:
        """The rows' lines."""
        option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        return b"".join(orjson.dumps({key: row.get(key) for key in self._columns}, option=option) for row in page)

    def end(self, cut_off: str) -> bytes:
        """A line of one key where rows are missing."""
        return orjson.dumps({"cut_off": cut_off}) + b"\n" if cut_off else b""


class Parquet:
    """A row group a page, compressed with Zstandard. pyarrow is imported here, by the first who wants such a file."""

    def __init__(self, columns: Mapping[str, Kind]) -> None:
        import pyarrow
        import pyarrow.parquet

        types = {"text": pyarrow.string(), "whole": pyarrow.uint64(), "integer": pyarrow.int64(), "number": pyarrow.float64(),
                 "single": pyarrow.float32()}
        fields = []
        for key, kind in columns.items():
            held = types[kind.base]
            for _ in range(kind.depth):
                held = pyarrow.list_(held)
            fields.append((key, held))
        self._schema = pyarrow.schema(fields)
        self._table = pyarrow.Table
        self._sink = _Sink()
        self._writer = pyarrow.parquet.ParquetWriter(pyarrow.PythonFile(self._sink, mode="w"), self._schema, compression="zstd")

    def rows(self, page: Sequence[Mapping[str, Any]]) -> bytes:
        """A row group."""
        if page:
            self._writer.write_table(self._table.from_pylist([dict(row) for row in page], schema=self._schema))
        return self._sink.taken()

    def end(self, cut_off: str) -> bytes:
        """The footer."""
        if cut_off:
            self._writer.add_key_value_metadata({CUT_OFF: cut_off})
        self._writer.close()
        return self._sink.taken()


class _Sink(io.RawIOBase):
    """Keeps what is written until it is taken; the position is that of the whole file."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes written so far, those that were taken included."""
        return self._position

    def write(self, piece: Any) -> int:
        """Keeps a copy."""
        self._pieces.append(bytes(piece))
        self._position += len(self._pieces[-1])
        return len(self._pieces[-1])

    def taken(self) -> bytes:
        """What was written since the last time."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
