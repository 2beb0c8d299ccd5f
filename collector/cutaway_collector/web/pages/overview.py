"""The start page: how each model does, what watches found, and, when it is known, what is new since yesterday.

Not a dashboard of anybody's choosing: the same figures for every model, each a link to the page that explains it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.alerts import Desk
from cutaway_collector.rates import Rate, wilson
from cutaway_collector.search import overview as queries
from cutaway_collector.search.overview import Curves, Model, Shifted
from cutaway_collector.search.window import Window
from cutaway_collector.web import charts, figures, query_edit, times, urls
from cutaway_collector.web.pages import overview_changes
from cutaway_collector.web.pages.compare import PRESETS
from cutaway_collector.web.pages.compare_words import percent
from cutaway_collector.web.pages.overview_changes import DEFAULT_FROM, ChangesPart, Recent
from cutaway_collector.web.site import Arguments, Site, Tab

RANGES: Final = (("-1h", "1 h"), ("-6h", "6 h"), ("-24h", "24 h"), ("-7d", "7 d"))
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
    changed: ChangesPart | None = None
    presets: tuple[Tab, ...] = ()
    twin_url: str = ""


@dataclass(frozen=True, slots=True)
class _Read:
    """What is read for page and twin alike."""

    asked: str
    span: Window
    models: list[Model]
    all_models: int
    curves: Mapping[str, Curves]
    labels: Mapping[str, Mapping[str, int]]
    drifted: Sequence[Shifted]
    rules: Sequence[Mapping[str, Any]]


def _read(site: Site, args: Arguments) -> _Read:
    now_ns = site.now_ns()
    asked, span = overview_changes.asked_for(args, now_ns)
    models, every = queries.models(site.store, span)
    return _Read(asked, span, models, every, queries.curves(site.store, span, [one.name for one in models]),
                 queries.labelled(site.store, span), queries.drifted(site.store, span),
                 Desk(site.store, site.settings).listing(now_ns)["rules"])


def twin(site: Site, args: Arguments) -> dict[str, Any]:
    """{"start_ns", "end_ns", "models", "models_in_all", "drift", "alerts"}. Raises BadParameter, StoreError."""
    read = _read(site, args)
    return {
        "start_ns": read.span.start_ns, "end_ns": read.span.end_ns, "bucket_ns": queries.bucket_ns(read.span),
        "models": [{**one._asdict(), "error_rate": wilson(one.errors, one.spans)._asdict(),
                    "curves": {key: list(value) for key, value in read.curves[one.name]._asdict().items()},
                    "window_labels": read.labels.get(one.name, {})} for one in read.models],
        "models_in_all": read.all_models, "drift": [one._asdict() for one in read.drifted],
        "alerts": [{"name": rule["name"], "state": rule["state"]} for rule in read.rules],
    }


def page(site: Site, args: Arguments, recent: Recent, tenant: str) -> OverviewPage:
    """The page, with the changes that are known; with changes=now it waits for them. Raises BadParameter, StoreError."""
    newest_ns = queries.newest_ns(site.store)
    if not newest_ns:
        return OverviewPage(True)
    read = _read(site, args)
    names = [one.name for one in read.models]
    if args.get("changes") == "now":
        changed = overview_changes.make(site, read.span, read.asked, names, recent, tenant)
    else:
        known, fresh = recent.known(tenant, read.asked, names)
        changed = overview_changes.part(read.span, read.asked, names, known, going_on=not fresh)
    firing = [rule["name"] for rule in read.rules if rule["state"] == "firing"]
    where = "" if read.asked == DEFAULT_FROM else read.asked
    ranges = (Tab(label, urls.overview(from_="" if text == DEFAULT_FROM else text), text == read.asked) for text, label in RANGES)
    return OverviewPage(
        False, tuple(ranges), tuple(_model(one, read) for one in read.models), max(0, read.all_models - len(read.models)),
        figures.ago(newest_ns, site.now_ns()), urls.search(from_="all"),
        tuple((name, urls.alerts(rule=name)) for name in firing[:RULES_SHOWN]), max(0, len(firing) - RULES_SHOWN), len(read.rules),
        changed, tuple(Tab(label, urls.compare(parameters), False) for label, parameters in PRESETS),
        urls.overview(from_=where, json=True))


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
        ("first token p95", figures.seconds(one.ttft_p95_s), "95th percentile of the time to first token"),
        ("tokens/s", figures.number(one.tokens_per_s), "median of output tokens a second while decoding"),
        ("perplexity", figures.number(one.perplexity), "median over spans"),
        ("surprisal", figures.measured(one.surprisal, "nats"), "median of the mean surprisal"),
        ("attention entropy", figures.measured(one.attention_entropy, "nats"), "median of the mean attention entropy"),
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
