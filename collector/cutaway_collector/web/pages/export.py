"""The export of a search: the page that says how many rows it would have, and the file itself as it is written.

Not the rows (the search verb's) and not the formats. A file is begun only when its first rows are there, so what is wrong with a
query is said as on any page; what goes wrong later is said in the file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cutaway_collector.errors import AskerGone, QueryError, StoreError
from cutaway_collector.search import explain, export
from cutaway_collector.search.find import SearchRequest
from cutaway_collector.search.language import split_scope
from cutaway_collector.search.scores import SCOPE
from cutaway_collector.web import times, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.export_formats import Csv, JsonLines, Parquet, Writer
from cutaway_collector.web.pages import search
from cutaway_collector.web.site import Arguments, Site

SECONDS_MAX: Final = 600
"""How long a file may be under way: a client that reads slower holds a thread of the UI."""
ROWS: Final = ("all", "these")


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file."""

    name: str
    label: str
    help: str
    mimetype: str
    suffix: str
    writer: type[Csv | JsonLines | Parquet]


FORMATS: Final[dict[str, Format]] = {
    one.name: one for one in (
        Format("csv", "CSV", "for spreadsheets", "text/csv; charset=utf-8", "csv", Csv),
        Format("jsonl", "JSON Lines", "one object a line", "application/x-ndjson", "jsonl", JsonLines),
        Format("parquet", "Parquet", "for pandas, Polars, DuckDB, ClickHouse", "application/vnd.apache.parquet", "parquet",
               Parquet),
    )
}


@dataclass(frozen=True, slots=True)
class ExportPage:
    """Everything the template may use. matching: rows found, up to one above the limit; these: rows of the page one came from."""

    query: str
    from_text: str
    explanation: str
    matching: int
    cut: bool
    rows_max: int
    these: int
    formats: tuple[Format, ...]
    hidden: Mapping[str, str]
    back_url: str
    twin_url: str


@dataclass(frozen=True, slots=True)
class Download:
    """A file that has begun. pieces: to be read once, and closed."""

    name: str
    mimetype: str
    pieces: Iterator[bytes]


def _request(site: Site, args: Arguments) -> tuple[SearchRequest, dict[str, str]]:
    request, kept = search.request_from(site, args, site.now_ns())
    return request, kept | {name: args[name] for name in ("after", "before") if args.get(name)}


def twin(site: Site, args: Arguments) -> dict[str, Any]:
    """The JSON twin of the page: how many rows, the limit, the formats. Raises BadParameter, QueryError, StoreError."""
    request, _ = _request(site, args)
    most = site.settings.export_rows_max
    found = export.matching(site.store, request, most)
    return {"rows": min(found, most), "more": found > most, "rows_max": most, "formats": list(FORMATS),
            "columns": list(export.COLUMNS), "arrays": list(export.ARRAYS)}


def page(site: Site, args: Arguments) -> ExportPage:
    """The page. Raises BadParameter, QueryError, StoreError."""
    request, kept = _request(site, args)
    most = site.settings.export_rows_max
    found = export.matching(site.store, request, most)
    return ExportPage(
        query=request.q, from_text=args.get("from", ""), explanation=explain(request.q), matching=min(found, most),
        cut=found > most, rows_max=most, these=min(request.limit, found), formats=tuple(FORMATS.values()), hidden=kept,
        back_url=urls.search(kept),
        twin_url=urls.export(kept).replace("/export", "/export.json", 1),
    )


def download(site: Site, args: Arguments) -> Download:
    """The file that `format` asks for. Raises BadParameter, QueryError, StoreError."""
    form = FORMATS.get(args.get("format", ""))
    if form is None:
        raise BadParameter(f"format is {', '.join(FORMATS)}, it is {args.get('format', '')[:20]!r}")
    wanted, arrays = args.get("rows", "all"), args.get("arrays", "0")
    if wanted not in ROWS or arrays not in ("0", "1"):
        raise BadParameter(f"rows is {' or '.join(ROWS)} and arrays 0 or 1, they are {wanted[:20]!r} and {arrays[:20]!r}")
    request, _ = _request(site, args)
    request = replace(request, after=None, before=None) if wanted == "all" else replace(request, only=True)
    most = site.settings.export_rows_max if wanted == "all" else request.limit
    columns = dict(export.COLUMNS)
    if split_scope(request.staged().sort.removeprefix("-"))[0] == SCOPE:
        columns["score"] = export.Kind("number")
    columns |= export.more_columns(request.columns)
    if arrays == "1":
        columns |= export.ARRAYS
    pages = export.pages(site.store, request, most, arrays=arrays == "1")
    first = next(pages)
    stamp = times.moment(site.now_ns()).strftime("%Y%m%d-%H%M%S")
    pieces = _pieces(form.writer(columns), first, pages, most)
    return Download(f"cutaway-{stamp}.{form.suffix}", form.mimetype, pieces)


def _pieces(
    writer: Writer, first: tuple[list[dict[str, Any]], bool], pages: Iterator[tuple[list[dict[str, Any]], bool]], most: int
) -> Iterator[bytes]:
    """The file, of at most so many rows."""
    until = time.monotonic() + SECONDS_MAX
    count, (page, more), trouble = 0, first, ""
    while True:
        count += len(page)
        yield writer.rows(page)
        if time.monotonic() > until:
            trouble = f"an export may take {SECONDS_MAX} seconds" if more else ""
            break
        try:
            page, more = next(pages)
        except StopIteration:
            trouble = f"the setting export_rows_max allows {most:,} rows" if more else ""
            break
        except AskerGone:
            return  # nobody reads the end
        except (StoreError, QueryError) as error:
            if isinstance(writer, Parquet):  # a footer would make a part look like the whole: break off instead
                raise
            trouble = str(error)
            break
    yield writer.end(f"cut off after {count:,} rows: {trouble}; narrow the search for the rest" if trouble else "")
