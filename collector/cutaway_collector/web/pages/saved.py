"""The page of saved searches: what was given a name, found again, renamed, deleted, or made the start of an alert rule.

Not the keeping, which is the search verb's, and not the making of a rule, which is `saved_alert`'s: readers get one as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import yaml

from cutaway_collector.alerts.rules import SEVERITIES
from cutaway_collector.errors import QueryError
from cutaway_collector.search import explain, fields
from cutaway_collector.search.saved import CHARACTERS_MAX, SAVED_MAX, SavedSearch
from cutaway_collector.web import figures, times, urls
from cutaway_collector.web.pages.saved_alert import GROUPS, NUMBERS, SIDES, WINDOWS, Rules, Standing, definition
from cutaway_collector.web.site import Arguments

FILTER_CHARACTERS_MAX: Final = 200
CHOICES: Final[Mapping[str, Mapping[str, str]]] = {
    "number": NUMBERS, "side": {side: side for side in SIDES}, "window": {window: window for window in WINDOWS}, "by": GROUPS,
    "severity": {severity: severity for severity in SEVERITIES},
}
"""Field of the alert form -> value, as the form says it."""
RANGES: Final = {text: f"the last {label}" for text, label in times.RANGES if text}


@dataclass(frozen=True, slots=True)
class Entry:
    """One saved search. said: its query in words, "" where it cannot be read; range: its time range in words; rule: as YAML; alert:
    how its rule stands, None for who may not change it."""

    search: SavedSearch
    url: str
    said: str
    range: str
    ago: str
    updated: str
    rule: str
    alert: Standing | None


@dataclass(frozen=True, slots=True)
class SavedPage:
    """Everything the template may use. filter: what was typed into the filter box; total: of the tenant, shown or not; choices: of
    the alert form, by field; fields: names of numbers that it may be about."""

    entries: tuple[Entry, ...]
    filter: str
    total: int
    most: int
    name_characters_max: int
    may_change: bool
    channels: tuple[str, ...]
    choices: Mapping[str, Mapping[str, str]]
    fields: tuple[str, ...]
    twin_url: str


def address(search: SavedSearch) -> str:
    """The search page with it."""
    return urls.search({"q": search.query, "from": search.time_from, "to": search.time_to, "sort": search.sort,
                        "cols": search.columns, "view": search.view})


def twin(searches: list[SavedSearch], args: Arguments) -> dict[str, Any]:
    """The JSON twin: the searches that the filter leaves, each with its address."""
    return {"searches": [asdict(search) | {"moves": search.moves, "url": address(search)} for search in _left(searches, args)],
            "total": len(searches), "searches_max": SAVED_MAX}


def page(searches: list[SavedSearch], args: Arguments, now_ns: int, rules: Rules | None) -> SavedPage:
    """The page of these. rules: of the visitor's tenant, None for one who may change nothing."""
    return SavedPage(
        entries=tuple(_entry(search, now_ns, rules) for search in _left(searches, args)), filter=_filter(args), total=len(searches),
        most=SAVED_MAX, name_characters_max=CHARACTERS_MAX["name"], may_change=rules is not None,
        channels=rules.channels if rules else (), choices=CHOICES,
        fields=tuple(field.name for field in fields.FIELDS if field.kind == "number"),
        twin_url=urls.saved(filter=_filter(args), json=True),
    )


def _filter(args: Arguments) -> str:
    return args.get("filter", "").strip()[:FILTER_CHARACTERS_MAX]


def _left(searches: list[SavedSearch], args: Arguments) -> list[SavedSearch]:
    """Those in whose name or query every word of the filter stands."""
    words = _filter(args).casefold().split()
    return [search for search in searches if all(word in f"{search.name} {search.query}".casefold() for word in words)]


def _entry(search: SavedSearch, now_ns: int, rules: Rules | None) -> Entry:
    try:
        said = explain(search.query)
    except QueryError:
        said = ""
    updated = search.updated_ns
    return Entry(search, address(search), said, _range(search), figures.ago(updated, now_ns), times.iso(updated), rule(search),
                 rules.standing(search) if rules else None)


def _range(search: SavedSearch) -> str:
    start, end = search.time_from or "all", search.time_to or "all"
    if end == "all":
        return "all time" if start == "all" else RANGES.get(start, f"from {start}" if start.startswith("-") else f"since {start}")
    return f"{'the beginning' if start == 'all' else start} to {end}"


def rule(search: SavedSearch) -> str:
    """An alert rule over this search, as `cutaway alerts apply` takes it: to be given a threshold by whoever puts it in force."""
    # The writer leaves U+0085 as it stands outside ASCII-only documents, and every reader takes it for the end of a line.
    text: str = yaml.safe_dump({"rules": [definition(search)]}, sort_keys=False, allow_unicode="\x85" not in search.query,
                               width=1_000_000)
    return text
