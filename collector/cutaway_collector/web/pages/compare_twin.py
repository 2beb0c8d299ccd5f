"""The comparison as JSON: plain numbers in base units, every attribute, every cell. The page shows the best of it.

Not the comparing: see the comparison flow. A query that cannot be read is refused, where the page says so beside its field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from cutaway_collector.comparison import Comparison, compare
from cutaway_collector.comparison.attributes import Card
from cutaway_collector.comparison.metrics import Metric
from cutaway_collector.comparison.pairs import Tokens, summary
from cutaway_collector.search.compare import Count, Key, SideError
from cutaway_collector.search.window import Window
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.pages import compare as page
from cutaway_collector.web.pages.compare_words import language_name
from cutaway_collector.web.site import Arguments, Site


def twin(site: Site, args: Arguments) -> dict[str, Any]:
    """{"mode", "a", "b", "both", "metrics", "attributes", "left_out", "inside", "tokens", "spans"}.

    Raises BadParameter, QueryError, StoreError.
    """
    if not page.asked(args):
        raise BadParameter("a comparison has at least one side, and none is given", hint="try /compare.json?a=is:error")
    try:
        found = compare(site.store, page.request_from(args, site.now_ns()))
    except SideError as error:
        raise BadParameter(f"{error.side} cannot be read: {error}", hint=error.hint) from None
    return shown(found, args)


def shown(found: Comparison, args: Mapping[str, str]) -> dict[str, Any]:
    """A comparison as plain JSON values."""
    query = {"queries": args.get("b", ""), "times": args.get("a", ""), "rest": None}[found.mode]
    return {
        "mode": found.mode, "a": _side(found.a, found.a_sampled, found.sides.a_window, args.get("a", "")),
        "b": _side(found.b, found.b_sampled, found.sides.b_window, query), "both": found.both,
        "metrics": [attribute_shown(one) for one in found.metrics],
        "attributes": [attribute_shown(card) for card in found.cards], "left_out": _plain(found.left),
        "inside": _plain(found.white),
        "tokens": _tokens(found.tokens) if found.tokens else None, "spans": _plain(found.spans),
    }


def _side(count: Count, sampled: int, window: Window, query: str | None) -> dict[str, Any]:
    return {"query": query, "start_ns": window.start_ns, "end_ns": window.end_ns, **count._asdict(), "sampled": sampled}


def attribute_shown(one: Card | Metric) -> dict[str, Any]:
    """A ranked attribute, or a metric of the header."""
    return {**_plain(one), "differs": one.differs} if isinstance(one, Metric) else _card(one)


def _card(card: Card) -> dict[str, Any]:
    body = {name: _plain(getattr(card, name)) for name in ("kind", "score", "p", "q", "differs", "a_n", "b_n")}
    body = {"attribute": language_name(card.key), **body, "same": [language_name(key) for key in card.same]}
    if card.kind == "number":
        named = zip(("p5", "p50", "p95"), card.a_quantiles, card.b_quantiles, strict=True)
        return body | {"quantiles": {name: {"a": a, "b": b} for name, a, b in named}, "a_example": _plain(card.a_example),
                       "b_example": _plain(card.b_example)}
    return body | {"values": _plain(card.values), "other": _plain(card.other), "missing": _plain(card.missing)}


def _tokens(found: Tokens) -> dict[str, Any]:
    return {**_plain(found), "cut": found.cut, **summary(found)}


def _plain(value: Any) -> Any:
    """Dataclasses and named tuples as objects, keys as the language writes them, other tuples as lists."""
    if isinstance(value, Key):
        return language_name(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        return {name: _plain(one) for name, one in zip(names, value, strict=True)} if names else [_plain(one) for one in value]
    return value
