"""Every address of the UI, built here and nowhere else: short keys, sorted, defaults left out, so equal pages have equal URLs.

Not a router; the routes stand in `cutaway_collector.web`.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode, urlsplit


def _with(path: str, parameters: Mapping[str, object]) -> str:
    kept = sorted((key, str(value)) for key, value in parameters.items() if value not in ("", None))
    return f"{path}?{urlencode(kept, quote_via=quote)}" if kept else path


def search(parameters: Mapping[str, object] | None = None, /, **changes: object) -> str:
    """The search page with these parameters; `changes` win, and "" or None takes one away. `from_` stands for `from`."""
    merged: dict[str, object] = {**(parameters or {})}
    merged.update({key.rstrip("_"): value for key, value in changes.items()})
    return _with("/search", merged)


def search_facet(parameters: Mapping[str, object], *, name: str, json: bool = False) -> str:
    """One facet of a search, as a fragment of its page or with `json=True` as JSON."""
    return _with(f"/search/facet{'.json' if json else ''}", {**parameters, "name": name})


def search_picture(parameters: Mapping[str, object], *, rows: int) -> str:
    """The picture and counts of a search with so many rows, as a fragment of its page."""
    return _with("/search/picture", {**parameters, "rows": rows})


def search_row(trace_id: str, span_id: str, start_ns: int, *, json: bool = False) -> str:
    """A closer look at one row of a search, as a fragment of its page or with `json=True` as JSON."""
    return _with(f"/search/row/{quote(trace_id, safe='')}/{quote(span_id, safe='')}{'.json' if json else ''}", {"at": start_ns})


def trace(trace_id: str, *, span: str = "", rows: int | str = 0, part: str = "", **state: object) -> str:
    """The trace page, with one span opened and the waterfall starting at row `rows`.

    part: ".json", "/skeleton.json", "/matches.json", "/next", "/previous" and their ".json": what belongs to the page. state: f,
    show, zoom, open, and q, from_, to, sort of the search that led here.
    """
    kept = {key.rstrip("_"): value for key, value in state.items()}
    return _with(f"/trace/{quote(trace_id, safe='')}{part}", {**kept, "span": span, "rows": rows or ""})


def span_of_trace(trace_id: str, span_id: str, *, json: bool = False, **parameters: object) -> str:
    """One span of a trace as a fragment of its page, or with `json=True` as JSON; parameter: start (of the trace, nanoseconds)."""
    return _with(f"/trace/{quote(trace_id, safe='')}/span/{quote(span_id, safe='')}{'.json' if json else ''}", parameters)


def generation(span_id: str, **parameters: object) -> str:
    """The generation page. `json=True` gives its twin, `binary=True` its numbers as float32, `lane=True` a window of its lanes."""
    kinds = (("json", ".json"), ("binary", ".f32"), ("lane", "/lane.json"))
    end = "".join(suffix for kind, suffix in kinds if parameters.pop(kind, False))
    return _with(f"/gen/{quote(span_id, safe='')}{end}", parameters)


def drift(**parameters: object) -> str:
    """The drift page; parameters: baseline, at (end of a window), from_, to, of, chart, run_length. `json=True` gives its twin."""
    twin = ".json" if parameters.pop("json", False) else ""
    return _with(f"/drift{twin}", {key.rstrip("_"): value for key, value in parameters.items()})


def windows(parameters: Mapping[str, object] | None = None, /, **changes: object) -> str:
    """The page of window scores, with parameters and changes as `search` takes them."""
    merged: dict[str, object] = {**(parameters or {})}
    merged.update({key.rstrip("_"): value for key, value in changes.items()})
    return _with("/windows", merged)


def rates(parameters: Mapping[str, object] | None = None, /, **changes: object) -> str:
    """The page of trigger rates, with parameters and changes as `search` takes them. `json=True` gives its twin."""
    twin = ".json" if changes.pop("json", False) else ""
    merged: dict[str, object] = {**(parameters or {})}
    merged.update({key.rstrip("_"): value for key, value in changes.items()})
    return _with(f"/scores{twin}", merged)


def alerts(**parameters: object) -> str:
    """The alerts page; parameters: state, rule. `json=True` gives its twin."""
    twin = ".json" if parameters.pop("json", False) else ""
    return _with(f"/alerts{twin}", parameters)


def latent_map(parameters: Mapping[str, object] | None = None, /, **changes: object) -> str:
    """The map of generations, with parameters and changes as `search` takes them. `json=True` gives its twin."""
    twin = ".json" if changes.pop("json", False) else ""
    merged: dict[str, object] = {**(parameters or {})}
    merged.update({key.rstrip("_"): value for key, value in changes.items()})
    return _with(f"/map{twin}", merged)


def system(*, json: bool = False) -> str:
    """The system page; `json=True` gives its twin."""
    return "/system.json" if json else "/system"


def start(*, json: bool = False) -> str:
    """The page of the first run; `json=True` gives its twin."""
    return "/start.json" if json else "/start"


def alert_test(**parameters: object) -> str:
    """What a rule would have said over the past; parameters: rule, tenant, since. `json=True` gives its twin."""
    twin = ".json" if parameters.pop("json", False) else ""
    return _with(f"/alerts/test{twin}", parameters)


def live(**parameters: object) -> str:
    """The live tail; parameters: q, refresh. `json=True` gives its twin, `events=True` the stream."""
    end = ".json" if parameters.pop("json", False) else "/events" if parameters.pop("events", False) else ""
    return _with(f"/live{end}", parameters)


def saved(**parameters: object) -> str:
    """The page of saved searches; parameters: filter. `json=True` gives its twin."""
    twin = ".json" if parameters.pop("json", False) else ""
    return _with(f"/saved{twin}", parameters)


def export(parameters: Mapping[str, object] | None = None, /, **changes: object) -> str:
    """What a search found, as a file: the page that offers it, or with a `format` the file; parameters and changes as `search`."""
    return search(parameters, **changes).replace("/search", "/export", 1)


def compare(parameters: Mapping[str, object] | None = None, /, **changes: object) -> str:
    """The page that compares two sides; parameters a, b, q (of both), from, to, afrom, ato, bfrom, bto, by; or its twin."""
    twin = ".json" if changes.pop("json", False) else ""
    merged: dict[str, object] = {**(parameters or {})}
    merged.update({key.rstrip("_"): value for key, value in changes.items()})
    return _with(f"/compare{twin}", merged)


def overview(**parameters: object) -> str:
    """The start page; parameters: from_, changes. `json=True` gives its twin."""
    path = "/overview.json" if parameters.pop("json", False) else "/"
    return _with(path, {key.rstrip("_"): value for key, value in parameters.items()})


def overview_changes(*, from_: str, json: bool = False) -> str:
    """What changed since yesterday, as a fragment of the start page or with `json=True` as JSON."""
    return _with(f"/overview/changes{'.json' if json else ''}", {"from": from_})


def sign_in(back: str = "") -> str:
    """The sign-in page, which leads back to `back`."""
    return _with("/sign-in", {"next": back if back not in ("/", "/search") else ""})


def parameters(url: str) -> tuple[tuple[str, str], ...]:
    """The parameters of an address, for the hidden fields of a form that changes one more."""
    return tuple(parse_qsl(urlsplit(url).query))


def sign_in_elsewhere(back: str = "") -> str:
    """The way to the OpenID Connect provider, and then to `back`."""
    return _with("/sign-in/oidc", {"next": back if back not in ("/", "/search") else ""})


def is_local(target: str) -> bool:
    """True for a path on this host: what a redirect may follow. "//evil" and "/\\evil" are other hosts to a browser."""
    return target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
