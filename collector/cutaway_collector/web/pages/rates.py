"""The page of trigger rates: of the answers that were judged, how many were toxic, refused, broke a policy, by category and model;
each share with Wilson's interval, so that three of ten is not taken for three hundred of a thousand.

Not the scorers, which judge one text each, and no alert: a rule with `score_share` watches such a share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.judge import catalogue
from cutaway_collector.rates import Rate, wilson
from cutaway_collector.search import triggers as query
from cutaway_collector.web import query_edit, times, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.site import Arguments, Site, Tab

KINDS: Final = {"toxicity": "toxic", "refusal": "refusal", "prompt_injection": "", "system_prompt_leak": "leak",
                **{score.name: "" for score in catalogue.SCORES if score.name.startswith("policy_")}}
"""Score -> the label that says it triggered, "" where a value above 0.5 does."""
SINCE_DEFAULT: Final = "-24h"
VALUE_CHARACTERS_MAX: Final = 1000
_MEANINGS: Final = {score.name: score.meaning for score in catalogue.SCORES}


@dataclass(frozen=True, slots=True)
class RateRow:
    """One score of one model, as printed. x, width: of its interval in a box 100 wide; at: of its share; url: what triggered."""

    name: str
    meaning: str
    model: str
    triggered: int
    judged: int
    share: str
    interval: str
    x: str
    width: str
    at: str
    url: str


@dataclass(frozen=True, slots=True)
class RatesPage:
    """Everything the template may use."""

    rows: tuple[RateRow, ...]
    ranges: tuple[Tab, ...]
    filters: tuple[Tab, ...]
    twin_url: str


def twin(site: Site, args: Arguments) -> dict[str, Any]:
    """The JSON twin: {"rates": [{"score", "model", "triggered", "judged", "share", "low", "high"}]}. Raises as `page`."""
    found, _ = _found(site, args)
    return {"rates": [{"score": name, "model": model, **rate._asdict()} for name, model, rate in found]}


def page(site: Site, args: Arguments) -> RatesPage:
    """The page. Raises BadParameter, StoreError."""
    found, kept = _found(site, args)
    current = "" if kept.get("to") else kept.get("from", SINCE_DEFAULT)
    return RatesPage(
        rows=tuple(_row(name, model, rate, kept) for name, model, rate in found),
        ranges=tuple(Tab(label, urls.rates(kept, from_=text or "all", to=""), current == (text or "all"))
                     for text, label in times.RANGES),
        filters=tuple(Tab(f"{name}: {kept[name]}", urls.rates({key: kept[key] for key in kept if key != name}), True)
                      for name in ("service", "model") if name in kept),
        twin_url=urls.rates(kept, json=True))


def _found(site: Site, args: Arguments) -> tuple[list[tuple[str, str, Rate]], dict[str, str]]:
    kept = {key: args[key] for key in ("from", "to", "service", "model") if args.get(key)}
    for name, value in kept.items():
        if len(value) > VALUE_CHARACTERS_MAX:
            raise BadParameter(f"{name} has at most {VALUE_CHARACTERS_MAX} characters, it has {len(value)}")
    now_ns = site.now_ns()
    start_ns = times.parse(kept.get("from", SINCE_DEFAULT), now_ns, "from")
    end_ns = times.parse(kept.get("to", ""), now_ns, "to")
    if start_ns is not None and end_ns is not None and start_ns >= end_ns:
        raise BadParameter("from lies before to, here it does not", hint="exchange the two")
    counted = query.triggers(site.store, KINDS, start_ns=start_ns, end_ns=end_ns, service=kept.get("service", ""),
                             model=kept.get("model", ""))
    order = {name: place for place, name in enumerate(KINDS)}
    counted.sort(key=lambda one: (order[one.name], -one.judged, one.model))
    return [(one.name, one.model, wilson(one.triggered, one.judged)) for one in counted], kept


def _row(name: str, model: str, rate: Rate, kept: dict[str, str]) -> RateRow:
    condition = f"score.{name}:{KINDS[name]}" if KINDS[name] else f"score.{name}:>{query.THRESHOLD:g}"
    asked = [condition, *(f"{field}:{query_edit.quoted(value)}" for field, value in (("service", kept.get("service", "")),
                                                                                     ("model", model)) if value)]
    return RateRow(
        name, _MEANINGS[name], model, rate.triggered, rate.judged, _percent(rate.share),
        f"{_percent(rate.low)} to {_percent(rate.high)}",
        f"{100 * rate.low:.1f}", f"{max(1.0, 100 * (rate.high - rate.low)):.1f}", f"{100 * rate.share:.1f}",
        urls.search({"q": " ".join(asked), "from": kept.get("from", SINCE_DEFAULT), "to": kept.get("to", "")}))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
