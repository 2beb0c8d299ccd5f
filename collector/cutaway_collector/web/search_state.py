"""The state of the search page, which is its address and nothing else: read from the parameters, written back as a link.

Not the search: `request` says what the verb is asked. Equal states have equal addresses, and an address that was read and written
again is the same one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from werkzeug.datastructures import MultiDict

from cutaway_collector import search as verb
from cutaway_collector.errors import QueryError
from cutaway_collector.search import language
from cutaway_collector.search.heat import MEASURES
from cutaway_collector.search.request import COLUMNS_MAX, VIEWS
from cutaway_collector.web import times, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.site import Arguments, Site

DEFAULT_FROM: Final = "all"
"""Everything stored: a link says all it needs, and nobody wonders where yesterday's demo went."""
LIMIT_DEFAULT: Final = 50
QUERY_CHARS_MAX: Final = 4096
NAME_CHARS_MAX: Final = 200
FACETS_MAX: Final = 8
PLOTS: Final = ("count", *MEASURES)
USUAL_COLUMNS: Final = ("model", "duration", "tokens", "ttft", "perplexity", "surprisal")
"""What is shown when nothing is chosen."""
OWN_COLUMNS: Final = (*USUAL_COLUMNS, "tps")
"""What every row brings along without being asked."""
_NAME: Final = re.compile(r'(?:"(?:\\.|[^"\\])*"|[^,"])+')


@dataclass(frozen=True, slots=True)
class State:
    """One page: the parameters by their names, defaults filled in ("to" "" is the newest span).

    cols: () for the usual columns. after, before: position of the page. table: the plot as a table. count: a facet to count first.
    """

    q: str = ""
    from_: str = DEFAULT_FROM
    to: str = ""
    view: str = VIEWS[0]
    sort: str = ""
    limit: int = LIMIT_DEFAULT
    cols: tuple[str, ...] = ()
    plot: str = PLOTS[0]
    table: bool = False
    facets: tuple[str, ...] = ()
    count: str = ""
    after: str = ""
    before: str = ""

    def parameters(self) -> dict[str, str]:
        """Name -> text of everything that is not its default."""
        out: dict[str, str] = {}
        for name, value in self._items():
            if value != getattr(_EMPTY, name):
                out[name.rstrip("_")] = _written(value)
        return out

    def _items(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def url(self, **changes: Any) -> str:
        """Address of this page with changes. What changes the rows leads back to their first page."""
        if set(changes) - {"after", "before", "plot", "table", "facets", "count", "cols"}:
            changes = {"after": "", "before": "", "count": "", **changes}
        return urls.search(replace(self, **changes).parameters())

    @property
    def order(self) -> str:
        """The order of the rows: what `| sort` of the query says, else the address. "" for newest first."""
        try:
            stage = language.read(self.q).sort
        except QueryError:  # nothing is found then, and the page says why
            return self.sort
        return stage.text if stage else self.sort

    def request(self, now_ns: int) -> verb.SearchRequest:
        """What the verb is asked. Raises BadParameter."""
        start, end = times.parse(self.from_, now_ns, "from"), times.parse(self.to, now_ns, "to")
        if start is not None and end is not None and start >= end:
            raise BadParameter("from lies before to, here it does not", hint="exchange the two")
        asked = tuple(name for name in self.cols if name not in OWN_COLUMNS)
        return verb.SearchRequest(self.q, start, end, self.limit, self.after, self.sort, self.view, self.before, asked)


_EMPTY: Final = State()
NAMES: Final = tuple(field.name.rstrip("_") for field in fields(State))
"""Parameters of the search page."""


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f'"{_escaped(name)}"' if re.search(r'[,"\\]|^\s|\s$', name) else name for name in value)
    return "1" if value is True else str(value)


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


def names(text: str, parameter: str, most: int) -> tuple[str, ...]:
    """Names between commas, each once; one that holds a comma stands in quotes. Raises BadParameter."""
    found: list[str] = []
    for part in _NAME.findall(text):
        name = part.strip()
        if len(name) > 1 and name.startswith('"') and name.endswith('"'):
            name = re.sub(r"\\(.)", r"\1", name[1:-1], flags=re.DOTALL)
        if name and name not in found:
            found.append(name)
    if len(found) > most:
        raise BadParameter(f"{parameter} names at most {most}, it names {len(found)}", hint="leave some out")
    if any(len(name) > NAME_CHARS_MAX for name in found):
        raise BadParameter(f"a name in {parameter} has at most {NAME_CHARS_MAX} characters")
    return tuple(found)


def tidied(args: MultiDict[str, str]) -> str:
    """The address meant by a form that adds a facet or chooses columns; "" for one that needs no tidying. Raises BadParameter."""
    if not {"facet", "col", "more"} & set(args):
        return ""
    kept = {name: value for name, value in args.items() if name not in ("facet", "col", "more")}
    if args.get("facet", "").strip():
        kept["facets"] = _written((*names(kept.get("facets", ""), "facets", FACETS_MAX), args["facet"].strip()))
    if {"col", "more"} & set(args):
        chosen = (*args.getlist("col"), *names(args.get("more", ""), "more", COLUMNS_MAX))
        kept["cols"] = "" if set(chosen) == set(USUAL_COLUMNS) else _written(tuple(dict.fromkeys(chosen)))
    return urls.search(kept)


def unknown(args: Arguments) -> list[str]:
    """A sentence for each parameter that a search has not: other tools append some, which stops nothing, but a slip should show."""
    return [f"The address has `{name[:40]}`, which is no parameter of a search and was not looked at. There are {', '.join(NAMES)}."
            for name in list(args)[:5] if name not in NAMES]


def read(site: Site, args: Arguments) -> State:
    """The parameters of an address. Raises BadParameter for one that is not what its name says."""
    query = args.get("q", "").strip()
    if len(query) > QUERY_CHARS_MAX:
        raise BadParameter(f"q has at most {QUERY_CHARS_MAX} characters, it has {len(query)}",
                           hint="search for fewer terms at once")
    to = args.get("to", "").strip()
    return State(
        q=query, from_=args.get("from", "").strip() or DEFAULT_FROM, to="" if to == "all" else to,  # "all" says what "" says
        view=_one_of(args, "view", VIEWS), sort="" if args.get("sort") in ("-start", "-time") else args.get("sort", ""),
        limit=_limit(args.get("limit", ""), site.settings.page_rows_max),
        cols=names(args.get("cols", ""), "cols", COLUMNS_MAX), plot=_one_of(args, "plot", PLOTS),
        table=_one_of(args, "table", ("", "1")) == "1",
        facets=names(args.get("facets", ""), "facets", FACETS_MAX), count=args.get("count", "")[:NAME_CHARS_MAX],
        after=args.get("after", ""), before=args.get("before", ""),
    )


def _one_of(args: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    value = args.get(name, "") or known[0]
    if value not in known:
        raise BadParameter(f"{name} is one of {', '.join(filter(None, known))}, it is {value[:20]!r}",
                           hint=f"leave {name} out for {known[0] or 'none'}")
    return value


def _limit(text: str, rows_max: int) -> int:
    if not text:
        return min(LIMIT_DEFAULT, rows_max)
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= rows_max:
        raise BadParameter(f"limit is a number from 1 to {rows_max}, it is {text[:20]!r}", hint="page through with `after` instead")
    return int(text)
