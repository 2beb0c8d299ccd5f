"""The start page: how each model does, what watches found, and what is new since yesterday.

Not a dashboard of anybody's choosing: the same figures for every model, each a link to the page that explains it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.alerts import Desk
from cutaway_collector.comparison.changes import Changes, before, changes
from cutaway_collector.comparison.metrics import Metric
from cutaway_collector.drift.rule import VALUES_MIN
from cutaway_collector.errors import StoreError
from cutaway_collector.rates import Rate, wilson
from cutaway_collector.search import overview as queries
from cutaway_collector.search.overview import Curves, Model, Shifted
from cutaway_collector.search.window import Window
from cutaway_collector.web import charts, figures, query_edit, times, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.pages.compare import PRESETS, metric_row
from cutaway_collector.web.pages.compare_cards import title_of
from cutaway_collector.web.pages.compare_twin import attribute_shown
from cutaway_collector.web.pages.compare_words import percent
from cutaway_collector.web.site import Arguments, Site, Tab

DEFAULT_FROM: Final = "-24h"
RANGES: Final = (("-1h", "1 h"), ("-6h", "6 h"), ("-24h", "24 h"), ("-7d", "7 d"))
CHANGES_SECONDS: Final = 2.5
"""When the last model is begun with. A page in a few seconds says more than one that says everything."""
FRESH_SECONDS: Final = 60
KEPT_SECONDS: Final = 600
KEPT_MAX: Final = 2000
RULES_SHOWN: Final = 6
LINE_WIDTH: Final = 480
LINE_HEIGHT: Final = 30


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model as printed. traffic: its spans over time; line: SVG path of the first token's median over time, "" for none.

    marks: (words, tone, address) of what watches found. rate: of errors with Wilson's interval.
    """

    name: str
    url: str
    spans: int
    rate: str
    interval: str
    failing: bool
    errors_url: str
    traffic: charts.Histogram
    line: str
    line_top: str
    figures: tuple[tuple[str, str, str], ...]
    marks: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class ChangeView:
    """One model's changes: what it says in short lines, each (what, from, to), and where all of it is."""

    model: str
    lines: tuple[tuple[str, str, str], ...]
    said: str
    url: str


@dataclass(frozen=True, slots=True)
class OverviewPage:
    """Everything the template may use. store_empty: nothing is stored at all, and nothing else is filled."""

    store_empty: bool
    ranges: tuple[Tab, ...] = ()
    models: tuple[ModelView, ...] = ()
    models_more: int = 0
    newest: str = ""
    newest_url: str = ""
    firing: tuple[tuple[str, str], ...] = ()
    firing_more: int = 0
    rules: int = 0
    since: str = ""
    changes: tuple[ChangeView, ...] = ()
    not_reached: int = 0
    presets: tuple[Tab, ...] = ()
    twin_url: str = ""


class Recent:
    """Changes that were computed lately, by tenant, time range and model: they cost seconds and hardly change. Thread-safe.

    What is older than FRESH_SECONDS is computed again while there is time, and shown as it is when there is none.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[tuple[str, ...], tuple[float, Changes]] = {}
        self._lock = threading.Lock()

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


@dataclass(frozen=True, slots=True)
class _Read:
    """What is read for page and twin alike."""

    span: Window
    models: list[Model]
    all_models: int
    curves: Mapping[str, Curves]
    labels: Mapping[str, Mapping[str, int]]
    drifted: Sequence[Shifted]
    rules: Sequence[Mapping[str, Any]]
    changes: Sequence[Changes]


def _read(site: Site, args: Arguments, recent: Recent, tenant: str) -> _Read:
    now_ns = site.now_ns()
    asked = args.get("from", "").strip() or DEFAULT_FROM
    start_ns = times.parse(asked, now_ns, "from")
    if start_ns is None or not 0 < now_ns - start_ns <= 31 * 86_400 * times.NS:
        raise BadParameter("from is a time within the last month, it is " + repr(asked[:40]), hint="try -1h, -24h or -7d")
    span = Window(start_ns, now_ns)
    models, every = queries.models(site.store, span)
    names = [one.name for one in models]
    return _Read(
        span, models, every, queries.curves(site.store, span, names), queries.labelled(site.store, span),
        queries.drifted(site.store, span), Desk(site.store, site.settings).listing(now_ns)["rules"],
        recent.get(tenant, asked, names, lambda name: changes(site.store, span, name, f"model:{query_edit.quoted(name)}")))


def twin(site: Site, args: Arguments, recent: Recent, tenant: str) -> dict[str, Any]:
    """{"start_ns", "end_ns", "models", "models_in_all", "drift", "alerts", "changes"}. Raises BadParameter, StoreError."""
    read = _read(site, args, recent, tenant)
    then = before(read.span)
    return {
        "start_ns": read.span.start_ns, "end_ns": read.span.end_ns, "bucket_ns": queries.bucket_ns(read.span),
        "models": [{**one._asdict(), "error_rate": wilson(one.errors, one.spans)._asdict(),
                    "curves": {key: list(value) for key, value in read.curves[one.name]._asdict().items()},
                    "window_labels": read.labels.get(one.name, {})} for one in read.models],
        "models_in_all": read.all_models, "drift": [one._asdict() for one in read.drifted],
        "alerts": [{"name": rule["name"], "state": rule["state"]} for rule in read.rules],
        "changes": {"then_start_ns": then.start_ns, "then_end_ns": then.end_ns, "models": [
            {"model": one.model, "then": one.then_n, "now": one.now_n, "comparable": one.comparable,
             "metrics": [attribute_shown(metric) for metric in one.metrics],
             "attributes": [attribute_shown(card) for card in one.cards]} for one in read.changes]},
    }


def page(site: Site, args: Arguments, recent: Recent, tenant: str) -> OverviewPage:
    """The page. Raises BadParameter, StoreError."""
    newest_ns = queries.newest_ns(site.store)
    if not newest_ns:
        return OverviewPage(True)
    read = _read(site, args, recent, tenant)
    asked = args.get("from", "").strip() or DEFAULT_FROM
    firing = [rule["name"] for rule in read.rules if rule["state"] == "firing"]
    ranges = (Tab(label, urls.overview(from_="" if text == DEFAULT_FROM else text), text == asked) for text, label in RANGES)
    return OverviewPage(
        False, tuple(ranges), tuple(_model(one, read) for one in read.models), max(0, read.all_models - len(read.models)),
        figures.ago(newest_ns, site.now_ns()), urls.search(from_="all"),
        tuple((name, urls.alerts(rule=name)) for name in firing[:RULES_SHOWN]), max(0, len(firing) - RULES_SHOWN), len(read.rules),
        _since(read.span), tuple(_change(one, read.span) for one in read.changes), max(0, len(read.models) - len(read.changes)),
        tuple(Tab(label, urls.compare(parameters), False) for label, parameters in PRESETS),
        urls.overview(from_="" if asked == DEFAULT_FROM else asked, json=True))


def _since(span: Window) -> str:
    then = before(span)
    first, last = (f"{figures.day(ns)} {figures.clock(ns)[:5]}" for ns in (then.start_ns, then.end_ns))
    return f"{first} to {last} UTC"


def _model(one: Model, read: _Read) -> ModelView:
    query = f"model:{query_edit.quoted(one.name)}"
    where = {"from_": times.iso(read.span.start_ns), "to": times.iso(read.span.end_ns)}
    rate = wilson(one.errors, one.spans)
    curve = read.curves[one.name]
    line, top = _line(curve.ttft_s)
    return ModelView(
        one.name, urls.search(q=query, **where), one.spans, percent(rate.share), _interval(rate), bool(one.errors),
        urls.search(q=f"{query} is:error", **where),
        charts.histogram(read.span.start_ns, queries.bucket_ns(read.span), curve.spans, curve.errors), line,
        figures.seconds(top) if top else "", _figures(one), _marks(one, read))


def _interval(rate: Rate) -> str:
    return f"{100 * rate.low:.2g} to {percent(rate.high)}"


def _figures(one: Model) -> tuple[tuple[str, str, str], ...]:
    """(name, value, what it is) of what is known of the model."""
    shown = (
        ("first token p50", figures.seconds(one.ttft_p50_s), "median time to first token"),
        ("p95", figures.seconds(one.ttft_p95_s), "95th percentile of the time to first token"),
        ("tokens/s", figures.number(one.tokens_per_s), "median of output tokens by duration"),
        ("perplexity", figures.number(one.perplexity), "median over spans"),
        ("surprisal", figures.number(one.surprisal), "median of the mean surprisal, nats"),
        ("attention entropy", figures.number(one.attention_entropy), "median of the mean attention entropy, nats"),
    )
    return tuple(each for each in shown if each[1] != figures.ABSENT)


def _marks(one: Model, read: _Read) -> tuple[tuple[str, str, str], ...]:
    marks = [(f"{label} in {figures.count(count)} windows" if count > 1 else f"{label} in a window", "bad",
              urls.windows(model=one.name, label=label)) for label, count in read.labels.get(one.name, {}).items()]
    for found in read.drifted:
        if found.model == one.name:
            words = f"{found.shifted} of {found.attributes} shifted" if found.shifted else "no drift"
            marks.append((words, "bad" if found.shifted else "good", urls.drift(baseline=found.baseline, at=found.end_ns)))
    return tuple(marks[:6])


def _line(values: Sequence[float | None]) -> tuple[str, float]:
    """(SVG path of a curve with gaps where nothing is known, its largest value): LINE_WIDTH by LINE_HEIGHT."""
    top = max((value for value in values if value is not None), default=0.0)
    if not top:
        return "", 0.0
    step, path, pen = LINE_WIDTH / len(values), "", "M"
    for index, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        # A single point has no length: a dot of the width of a bucket.
        alone = pen == "M" and (index + 1 == len(values) or values[index + 1] is None)
        path += f"{pen}{(index + 0.5) * step:.1f} {LINE_HEIGHT - 1 - value / top * (LINE_HEIGHT - 3):.1f}" + ("h2" if alone else "")
        pen = "L"
    return path, top


def _change(one: Changes, span: Window) -> ChangeView:
    then = before(span)
    url = urls.compare(a=one.query, b=one.query, afrom=times.iso(then.start_ns), ato=times.iso(then.end_ns),
                       bfrom=times.iso(span.start_ns), bto=times.iso(span.end_ns))
    if not one.comparable:
        side = "then" if one.then_n < one.now_n else "now"
        count = min(one.then_n, one.now_n)
        return ChangeView(one.model, (), f"{figures.count(count)} spans {side}: fewer than {VALUES_MIN} say nothing.", url)
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
