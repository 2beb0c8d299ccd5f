"""Search a running collector from the shell: the same language as the search page, rows as a table or as JSON lines."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Final

from cutaway_collector.commands.running import KEY_VARIABLE
from cutaway_collector.errors import CutawayError, SettingsError

COLUMNS: Final = (
    ("trace_id", 32), ("span_id", 16), ("name", 40), ("status", 6), ("duration_ms", 11), ("ttft_ms", 8), ("output_tokens", 13),
    ("perplexity", 10),
)

FIGURE_WIDTH_MAX: Final = 60


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Flags of `cutaway query`."""
    to.add_argument("q", nargs="?", default="", help="what to search, e.g. 'perplexity:>20 ttft:>500ms -status:Ok'")
    to.add_argument("--url", default="http://127.0.0.1:8088", help="the collector's UI")
    to.add_argument("--ca", default="", metavar="FILE", help="PEM file of who signed its certificate, if not known here")
    to.add_argument("--from", dest="start", default="", help="start of the range: ISO time or relative, e.g. -1h")
    to.add_argument("--to", dest="end", default="", help="end of the range")
    to.add_argument("--limit", type=int, default=20, help="rows")
    to.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    to.epilog = f"An API key, where the collector demands one, comes from the variable {KEY_VARIABLE}; it needs the scope read."


def run(arguments: argparse.Namespace) -> int:
    """Prints the rows. Exit 0 when there are any, 1 when there are none."""
    asked = {"q": arguments.q, "from": arguments.start, "to": arguments.end, "limit": str(arguments.limit)}
    words = urllib.parse.urlencode({name: value for name, value in asked.items() if value}, errors="replace")
    url = f"{arguments.url.rstrip('/')}/search.json?{words}"
    if not url.startswith(("http://", "https://")):
        raise CutawayError(f"--url is an http or https address, it is {arguments.url!r}")
    answer = _fetch(url, arguments.ca)
    if "columns" in answer and "rows" in answer:  # what `| stats` asks for
        return _figures(answer, as_json=arguments.json)
    if "rows" not in answer:  # what `| compare` leads to
        print(json.dumps(answer) if arguments.json else json.dumps(answer, indent=2))
        return 0
    rows = answer["rows"]
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
        return 0 if rows else 1
    print("  ".join(f"{name:<{width}}" for name, width in COLUMNS))
    for row in rows:
        row["duration_ms"] = f"{row['duration_ns'] / 1e6:.1f}"
        row["ttft_ms"] = "" if row["ttft_s"] is None else f"{row['ttft_s'] * 1e3:.0f}"
        row["perplexity"] = "" if row["perplexity"] is None else f"{row['perplexity']:.2f}"
        print("  ".join(f"{_printable(row[name]):<{width}.{width}}" for name, width in COLUMNS))
    return 0 if rows else 1


def _figures(answer: Any, *, as_json: bool) -> int:
    """Prints a table of figures. Exit 0 when it has rows, 1 when it has none."""
    columns, rows = answer["columns"], answer["rows"]
    names = [column["name"] for column in columns]
    if as_json:
        for row in rows:
            print(json.dumps(dict(zip(names, row, strict=True))))
        return 0 if rows else 1
    headings = [f"{column['name']} ({column['unit']})" if column["unit"] else column["name"] for column in columns]
    table = [[_printable(_number(value) if isinstance(value, float) else value)[:FIGURE_WIDTH_MAX] for value in row]
             for row in [headings, *rows]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip())
    if answer["cut"]:
        print(answer["cut"], file=sys.stderr)
    return 0 if rows else 1


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _printable(value: Any) -> str:
    """Spans come from anywhere: control characters must not reach the terminal."""
    return "" if value is None else "".join(c if c.isprintable() else "·" for c in str(value))


def _words(error: urllib.error.HTTPError) -> str:
    """What the collector says is wrong, with its hint."""
    try:
        said = json.load(error)["error"]
        return ": ".join(part for part in (said["message"], said.get("hint")) if part)
    except (ValueError, KeyError, TypeError):
        return ""


def _fetch(url: str, ca: str) -> Any:
    key = os.environ.get(KEY_VARIABLE, "")
    try:
        trust = ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise SettingsError(f"--ca {ca} cannot be read as PEM certificates: {error}") from None
    try:
        asked = urllib.request.Request(url)  # noqa: S310  the scheme was checked
        if key:
            asked.add_unredirected_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(asked, timeout=30, context=trust) as answer:  # noqa: S310  the scheme was checked
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise CutawayError(_words(error) or f"{url} answered {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        print("is the collector running? `cutaway serve --data DIR` starts one", file=sys.stderr)
        raise CutawayError(f"{url} cannot be read: {error}") from None
