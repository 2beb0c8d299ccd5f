"""What is new since yesterday, model by model: a part of the start page that comes after it, for comparing days costs seconds.

Not the comparing, which is the comparison flow's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.comparison.changes import DAY_NS, Changes, before, changes
from cutaway_collector.comparison.metrics import Metric
from cutaway_collector.drift.rule import VALUES_MIN
from cutaway_collector.errors import StoreError
from cutaway_collector.search import overview as queries
from cutaway_collector.search.window import Window
from cutaway_collector.web import figures, query_edit, times, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.pages.compare import metric_row
from cutaway_collector.web.pages.compare_cards import title_of
from cutaway_collector.web.pages.compare_twin import attribute_shown
from cutaway_collector.web.pages.compare_words import percent
from cutaway_collector.web.site import Arguments, Site

DEFAULT_FROM: Final = "-24h"
CHANGES_SECONDS: Final = 2.5
"""When the last model of one request is begun with: some models soon are better than all of them late."""
FRESH_SECONDS: Final = 60
KEPT_SECONDS: Final = 600
KEPT_MAX: Final = 2000


@dataclass(frozen=True, slots=True)
class ChangeView:
    """One model's changes: what it says in short lines, each (what, from, to), and where all of it is."""

    model: str
    lines: tuple[tuple[str, str, str], ...]
    said: str
    url: str


@dataclass(frozen=True, slots=True)
class ChangesPart:
    """The part as it is known now. title: what it is compared with, in words; since: that time; not_reached: models left out.

    later_url: the fragment that goes on comparing, "" when nothing is left or the last try came no further; now_url: the page that
    waits for it, for those without script.
    """

    title: str
    since: str
    changes: tuple[ChangeView, ...]
    not_reached: int
    later_url: str
    now_url: str


class Recent:
    """Changes that were computed lately, by tenant, time range and model: they cost seconds and hardly change. Thread-safe.

    What is older than FRESH_SECONDS is computed again while there is time, and shown as it is when there is none.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[tuple[str, ...], tuple[float, Changes]] = {}
        self._lock = threading.Lock()

    def known(self, tenant: str, asked: str, models: Sequence[str]) -> tuple[list[Changes], bool]:
        """(those that are known of the models, in their order; whether all are, and all are fresh). Nothing is computed."""
        now = self._clock()
        with self._lock:
            kept = [self._kept.get((tenant, asked, name)) for name in models]
        shown = [one for one in kept if one is not None and now - one[0] < KEPT_SECONDS]
        return [found for _, found in shown], len(shown) == len(models) and all(now - at < FRESH_SECONDS for at, _ in shown)

    def get(self, tenant: str, asked: str, models: Sequence[str], make: Callable[[str], Changes]) -> list[Changes]:
        """The changes of the models, in their order, those left out that there was no time for.

        One that takes longer than a query may is such a one, and none after it is begun. Raises what else `make` raises.
        """
        began = self._clock()
        with self._lock:
            kept = {name: self._kept.get((tenant, asked, name)) for name in models}
        # What was never made comes first: half of the models must not wait for ever for the other half.
        for name in sorted(models, key=lambda each: kept[each] is not None):
            known = kept[name]
            if (known is None or began - known[0] >= FRESH_SECONDS) and self._clock() - began < CHANGES_SECONDS:
                try:
                    kept[name] = (self._clock(), make(name))
                except StoreError:
                    break
        with self._lock:
            if len(self._kept) > KEPT_MAX:
                self._kept.clear()
            self._kept.update({(tenant, asked, name): known for name, known in kept.items() if known is not None})
        return [known[1] for known in kept.values() if known is not None and began - known[0] < KEPT_SECONDS]


def asked_for(args: Arguments, now_ns: int) -> tuple[str, Window]:
    """(the time range as it was asked for, what it is now). Raises BadParameter."""
    asked = args.get("from", "").strip() or DEFAULT_FROM
    start_ns = times.parse(asked, now_ns, "from")
    if start_ns is None or not 0 < now_ns - start_ns <= 31 * 86_400 * times.NS:
        raise BadParameter("from is a time within the last month, it is " + repr(asked[:40]), hint="try -1h, -24h or -7d")
    return asked, Window(start_ns, now_ns)


def part(span: Window, asked: str, models: Sequence[str], found: Sequence[Changes], *, going_on: bool) -> ChangesPart:
    """What is known of the models' changes. going_on: more may be had by asking again."""
    where = "" if asked == DEFAULT_FROM else asked
    return ChangesPart(_title(span), _since(span), tuple(_change(one, span) for one in found), max(0, len(models) - len(found)),
                       urls.overview_changes(from_=where) if going_on else "", urls.overview(from_=where, changes="now"))


def make(site: Site, span: Window, asked: str, models: Sequence[str], recent: Recent, tenant: str) -> ChangesPart:
    """The part after comparing as many models as there is time for. Raises StoreError."""
    before_it, _ = recent.known(tenant, asked, models)
    found = _computed(site, span, asked, models, recent, tenant)
    return part(span, asked, models, found, going_on=len(before_it) < len(found) < len(models))


def fragment(site: Site, args: Arguments, recent: Recent, tenant: str) -> ChangesPart:
    """The part by itself. Raises BadParameter, StoreError."""
    asked, span = asked_for(args, site.now_ns())
    return make(site, span, asked, queries.names(site.store, span), recent, tenant)


def twin(site: Site, args: Arguments, recent: Recent, tenant: str) -> dict[str, Any]:
    """{"then_start_ns", "then_end_ns", "models": what changed of each}. Raises BadParameter, StoreError."""
    asked, span = asked_for(args, site.now_ns())
    then = before(span)
    return {"then_start_ns": then.start_ns, "then_end_ns": then.end_ns, "models": [
        {"model": one.model, "then": one.then_n, "now": one.now_n, "comparable": one.comparable,
         "metrics": [attribute_shown(metric) for metric in one.metrics],
         "attributes": [attribute_shown(card) for card in one.cards]}
        for one in _computed(site, span, asked, queries.names(site.store, span), recent, tenant)]}


def _computed(site: Site, span: Window, asked: str, models: Sequence[str], recent: Recent, tenant: str) -> list[Changes]:
    return recent.get(tenant, asked, models, lambda name: changes(site.store, span, name, f"model:{query_edit.quoted(name)}"))


def _title(span: Window) -> str:
    """A day and less are compared with yesterday, more with as much before it."""
    return f"What changed since {'yesterday' if span.end_ns - span.start_ns <= DAY_NS else 'the time before'}"


def _since(span: Window) -> str:
    then = before(span)
    first, last = (f"{figures.day(ns)} {figures.clock(ns)[:5]}" for ns in (then.start_ns, then.end_ns))
    return f"{first} to {last} UTC"


def _change(one: Changes, span: Window) -> ChangeView:
    then = before(span)
    url = urls.compare(a=one.query, b=one.query, afrom=times.iso(then.start_ns), ato=times.iso(then.end_ns),
                       bfrom=times.iso(span.start_ns), bto=times.iso(span.end_ns))
    if not one.comparable:
        side = "then" if one.then_n < one.now_n else "now"
        count = min(one.then_n, one.now_n)
        said = f"{figures.count(count)} span{'' if count == 1 else 's'} {side}: fewer than {VALUES_MIN} say nothing."
        return ChangeView(one.model, (), said, url)
    lines = [*map(_metric_line, one.metrics), *((title_of(card.key), "", _card_words(card)) for card in one.cards)]
    traffic = f"{figures.count(one.then_n)} spans then, {figures.count(one.now_n)} now"
    return ChangeView(one.model, tuple(lines), f"{traffic}{'' if lines else ': nothing that matters has changed'}.", url)


def _metric_line(one: Metric) -> tuple[str, str, str]:
    row = metric_row(one)
    return row.name, row.a, row.b


def _card_words(card: Any) -> str:
    """The value whose share moved most, or the medians."""
    if card.kind == "number":
        return f"median {figures.number(card.a_quantiles[1])} → {figures.number(card.b_quantiles[1])}"
    a_n, b_n = (max(1, sum(getattr(value, side) for value in card.values) + card.other[place] + card.missing[place])
                for place, side in enumerate(("a", "b")))
    shares = [(value.text or "empty text", value.a / a_n, value.b / b_n) for value in card.values]
    shares.append(("missing", card.missing[0] / a_n, card.missing[1] / b_n))
    text, before_share, now_share = max(shares, key=lambda each: (abs(each[2] - each[1]), each[0]))
    return f"{text[:60]} {percent(before_share)} → {percent(now_share)}"
