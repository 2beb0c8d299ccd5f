"""The generation page's address: its parameters checked, and links that change one of them and leave out the defaults.

Not the data: whether a sequence, a token or a head is there is checked where the generation is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from cutaway_collector.web import token_colours, token_units, tokens, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.site import Arguments

VIEWS: Final = (("colour", "Colour"), ("numbers", "Numbers"), ("table", "Table"), ("layers", "Layers"))
MATRIX: Final = "matrix"
"""`heads` of the layer by head picture of one token."""
HEADS_MAX: Final = 1024
LAYERS_MAX: Final = 65_536
TOKENS_MAX: Final = 10**9
STRIPS_MAX: Final = 8
LANE: Final = "lane:"
"""Prefix of a signal that a plug-in makes."""
Linker = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Choice:
    """The URL's parameters. token, first, last, layer: -1 where not said; threshold: None. heads: None is their mean."""

    signal: tokens.Signal
    sequence: int
    heads: int | str | None
    view: str
    map: tokens.Map
    map_asked: bool
    unit: str
    aggregate: str
    colouring: token_colours.Colouring
    strips: tuple[str, ...]
    start: int
    start_asked: bool
    token: int
    first: int
    last: int
    layer: int
    threshold: float | None


def choose(args: Arguments, lanes: tuple[tokens.Signal, ...] = ()) -> Choice:
    """Checks what can be checked without the data. lanes: signals of plug-ins. Raises BadParameter."""
    known = {**tokens.BY_KEY, **{lane.key: lane for lane in lanes}}
    signal = known[_one_of(args, "signal", tuple(known), "surprisal")]
    shown = _one_of(args, "attention", tuple(tokens.MAP_BY_KEY), "entropy")
    text = args.get("heads", "")
    heads = None if text in ("", "mean") else text if text == MATRIX else whole(args, "heads", HEADS_MAX)
    whole(args, "count", TOKENS_MAX)  # the page has no use for it, but an address that its twin refuses is no address of the page
    first, last = _range(args)
    scale = _one_of(args, "scale", token_colours.SCALES, "log" if signal.log else "linear")
    low, high = token_colours.GAMMA_MIN, token_colours.GAMMA_MAX
    gamma = _number(args, "gamma")
    if gamma is not None and not low <= gamma <= high:
        raise BadParameter(f"gamma is a number from {low} to {high}, it is {gamma:g}", hint="leave it out for 1")
    strips = tuple(dict.fromkeys(key for key in args.get("strips", "").split(",") if key))[:STRIPS_MAX]
    wrong = next((key for key in strips if key not in known), None)
    if wrong is not None:
        raise BadParameter(f"strips are some of {', '.join(known)} with commas, one is {wrong[:20]!r}", hint="leave it out")
    return Choice(
        signal=signal, sequence=whole(args, "seq", 65_536), heads=heads, view=_one_of(args, "view", tuple(dict(VIEWS)), "colour"),
        map=tokens.MAP_BY_KEY[shown], map_asked=bool(args.get("attention")),
        unit=_one_of(args, "unit", token_units.UNITS, "token"), aggregate=_one_of(args, "agg", token_units.AGGREGATES, "mean"),
        colouring=token_colours.Colouring(scale, 1.0 if gamma is None else gamma),
        strips=tuple(key for key in strips if key != signal.key), start=whole(args, "start", TOKENS_MAX),
        start_asked=bool(args.get("start")), token=_place(args, "tok", TOKENS_MAX), first=first, last=last,
        layer=_place(args, "layer", LAYERS_MAX), threshold=_number(args, "threshold"),
    )


def whole(args: Arguments, name: str, limit: int) -> int:
    """A parameter from 0 to limit - 1; 0 where it is left out. Raises BadParameter."""
    text = args.get(name, "") or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) >= limit:
        raise BadParameter(f"{name} is a number from 0 to {limit - 1}, it is {text[:20]!r}", hint="leave it out for the first")
    return int(text)


def _place(args: Arguments, name: str, limit: int) -> int:
    return whole(args, name, limit) if args.get(name) else -1


def _one_of(args: Arguments, name: str, known: tuple[str, ...], default: str) -> str:
    text = args.get(name, "") or default
    if text not in known:
        raise BadParameter(f"{name} is one of {', '.join(known)}, it is {text[:20]!r}", hint=f"leave it out for {default}")
    return text


def _number(args: Arguments, name: str) -> float | None:
    text = args.get(name, "")
    if not text:
        return None
    try:
        value = float(text) if text.isascii() and len(text) <= 30 else float("nan")
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e30:
        raise BadParameter(f"{name} is a number, it is {text[:20]!r}", hint="leave it out")
    return value


def _range(args: Arguments) -> tuple[int, int]:
    text = args.get("range", "")
    first, dash, last = text.partition("-")
    if not text:
        return -1, -1
    good = dash and all(part.isascii() and part.isdigit() and len(part) <= 9 for part in (first, last)) and int(first) <= int(last)
    if not good:
        raise BadParameter(f"range is two token numbers with a dash, as 10-40, it is {text[:20]!r}", hint="leave it out for none")
    return int(first), int(last)


def linker(span_id: str, choice: Choice) -> Linker:
    """A function that builds this page's address with some parameters changed and defaults left out."""
    signal = choice.signal
    current: dict[str, Any] = {
        "signal": signal.key, "seq": choice.sequence, "heads": choice.heads, "view": choice.view, "start": choice.start,
        "attention": choice.map.key, "unit": choice.unit, "agg": choice.aggregate, "scale": choice.colouring.scale,
        "gamma": f"{choice.colouring.gamma:g}", "strips": ",".join(choice.strips), "tok": _said(choice.token),
        "range": f"{choice.first}-{choice.last}" if choice.first >= 0 else "", "layer": _said(choice.layer),
        "threshold": "" if choice.threshold is None else f"{choice.threshold:g}",
    }
    defaults: dict[str, Any] = {
        "signal": "surprisal", "seq": 0, "heads": None, "view": "colour", "start": 0, "attention": "entropy", "unit": "token",
        "agg": "mean", "gamma": "1",
    }

    def link(**changes: Any) -> str:
        merged = {**current, **changes}
        if merged["signal"] != signal.key:  # another signal has other values and its own scale
            merged = {**merged, "threshold": "", "scale": ""}
        elif merged["scale"] == ("log" if signal.log else "linear"):
            merged["scale"] = ""
        return urls.generation(span_id, **{key: value for key, value in merged.items() if value != defaults.get(key, "")})

    return link


def _said(number: int) -> str:
    return "" if number < 0 else str(number)


def settled(choice: Choice, found: dict[str, Any]) -> Choice:
    """The choice against what the generation has: an existing sequence, a map that is there, a window around the chosen token.

    Raises BadParameter.
    """
    sequences = found["sequences"]
    if choice.sequence >= max(1, len(sequences)):
        whole({"seq": str(choice.sequence)}, "seq", max(1, len(sequences)))
    if not sequences:
        return replace(choice, start=0)
    sequence = sequences[choice.sequence]
    if sequence["layers"] and not choice.map_asked and choice.map.key not in sequence["layers"]:
        first = next(one for one in tokens.MAPS if one.key in sequence["layers"])
        choice = replace(choice, map=first)
    count = sequence["tokens"]
    for name, value in (("start", choice.start), ("tok", choice.token), ("range", choice.last)):
        if value >= max(1, count):
            raise BadParameter(f"{name} is a token from 0 to {max(0, count - 1)}, it is {value}", hint="leave it out for the first")
    return choice
