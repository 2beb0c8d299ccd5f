"""Stepping from one trace of a search to the next: where the links and keys of the trace page lead.

Not a page of its own: it answers with the address of the other trace, which keeps the search.
"""

from __future__ import annotations

from typing import Any

from cutaway_collector.search.neighbours import Neighbour, neighbour
from cutaway_collector.search.request import SearchRequest
from cutaway_collector.web import times, trace_state, urls
from cutaway_collector.web.pages.span import checked_id
from cutaway_collector.web.site import Arguments, Site


def _found(site: Site, trace_id: str, args: Arguments, *, forward: bool) -> tuple[str, dict[str, str], Neighbour | None]:
    trace_id = checked_id(trace_id, 32, "trace")
    search = dict(trace_state.read(trace_id, args).search)
    now_ns = site.now_ns()
    request = SearchRequest(
        q=search.get("q", ""), start_ns=times.parse(search.get("from", ""), now_ns, "from"),
        end_ns=times.parse(search.get("to", ""), now_ns, "to"), sort=search.get("sort", ""), view=search.get("view", "spans"),
    )
    return trace_id, search, neighbour(site.store, request, trace_id, forward=forward)


def twin(site: Site, trace_id: str, args: Arguments, *, forward: bool) -> dict[str, Any]:
    """{"trace_id", "span_id", "url"} of the other trace, each None at the end. Raises BadParameter, QueryError, StoreError."""
    _, search, found = _found(site, trace_id, args, forward=forward)
    if found is None:
        return {"trace_id": None, "span_id": None, "url": None}
    return {**found._asdict(), "url": urls.trace(found.trace_id, span=found.span_id, **search)}


def page(site: Site, trace_id: str, args: Arguments, *, forward: bool) -> str:
    """Address of the other trace; at the end that of this one, which then says so. Raises BadParameter, QueryError, StoreError."""
    own, search, found = _found(site, trace_id, args, forward=forward)
    if found is None:
        return urls.trace(own, **search, end="last" if forward else "first")
    return urls.trace(found.trace_id, span=found.span_id, **search)
