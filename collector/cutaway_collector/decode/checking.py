"""What must be known of a request before it is acknowledged: whether it is sound, what is turned away, how large its rows will be.

It makes no rows of spans: that is building.py's, for many requests at once and after they are safe. One pass over the bytes is
enough for most; series, which may contradict one another, and evaluation events, which are scores, need a second look.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import numpy as np

from cutaway_collector import amplification
from cutaway_collector.blocks import Block
from cutaway_collector.contracts import Checked, Encoding
from cutaway_collector.decode import logs, otlp_json, scores, series, walk
from cutaway_collector.decode import tables as t
from cutaway_collector.decode.building import build
from cutaway_collector.decode.limits import Limits
from cutaway_collector.decode.rows import keep
from cutaway_collector.decode.tables import Tables
from cutaway_collector.errors import TooLarge

_REJECTED: Final[dict[int, str]] = {
    t.BAD_TRACE_ID: "trace_id must be 16 bytes, not all zero",
    t.BAD_SPAN_ID: "span_id must be 8 bytes, not all zero",
    t.BAD_START: "start_time_unix_nano must lie from 1971 to 2105",
    t.TOO_MANY_ATTRIBUTES: "a span, its resource, an event or a link may hold {attributes_max} attributes",
    t.TOO_DEEP: "attribute values may nest {attribute_depth_max} deep",
}


def check(payload: bytes, encoding: Encoding, *, received_ns: int, tenant: str, limits: Limits) -> Checked:
    """Raises MalformedRequest with the reason and where, TooLarge when its rows would take more than limits.working_bytes_max (a
    large resource repeats in the row of each of its spans). received_ns: nanoseconds since 1970.
    """
    if encoding == "scores/json":
        judged, rejected, message = scores.of_json(payload, received_ns=received_ns, tenant=tenant, limits=limits)
        return Checked(b"", (), 0, rejected, message, _nbytes(judged), received_ns, tenant, judged)
    if encoding in ("logs/protobuf", "logs/json"):
        wire = otlp_json.logs_to_protobuf(payload) if encoding == "logs/json" else payload
        judged, rejected, message = logs.scores_of(wire, received_ns=received_ns, tenant=tenant, limits=limits)
        return Checked(b"", (), 0, rejected, message, _nbytes(judged), received_ns, tenant, judged)
    return _spans(otlp_json.to_protobuf(payload) if encoding == "json" else payload, received_ns, tenant, limits)


def _spans(payload: bytes, received_ns: int, tenant: str, limits: Limits) -> Checked:
    wire, work = walk.count(payload, limits)
    counts = tuple(work[: t.TABLES].tolist())
    amplification.at_most(max(counts[t.RESOURCES], counts[t.SCOPES]), amplification.GROUPS_MAX, "resources or scopes")
    row_bytes = int(work[t.ROW_BYTES])
    if row_bytes > limits.working_bytes_max:
        raise TooLarge(f"the rows of a request may take {limits.working_bytes_max} bytes, these {counts[t.SPANS]} take about "
                       f"{row_bytes}: send fewer spans at once, or a smaller resource, which every row repeats")
    t.check_affordable(counts, limits.working_bytes_max)
    faults = work[t.REJECTED : t.REJECTED + len(_REJECTED) + 1].tolist()
    kept, rejected = faults[t.NO_FAULT], sum(faults[t.NO_FAULT + 1 :])
    said: list[str] = []
    if rejected:
        maxima = asdict(limits)
        said = [f"{faults[code]} span(s) rejected: {rule.format_map(maxima)}" for code, rule in _REJECTED.items() if faults[code]]
    # Attributes of two bytes take more in the tables than in the rows: a batch must be bounded by the larger of both.
    held_bytes = max(row_bytes, t.nbytes(counts))
    found = Checked(wire, counts, kept, rejected, "; ".join(said), held_bytes, received_ns, tenant)
    if not work[t.SERIES_SEEN] and not counts[t.EVENTS]:
        return found
    return _second_look(found, limits, said)


def _second_look(found: Checked, limits: Limits, said: list[str]) -> Checked:
    tables = walk.fill(found.wire, found.counts, limits)
    data = walk.bytes_of(found.wire)
    said = said + _series(data, tables, limits)
    judged = None
    if scores.seen(data, tables.events, tables.event_attributes, found.counts[t.EVENTS]):
        spans = build([found], limits).spans
        judged, told = scores.of_events(spans, received_ns=found.received_ns, tenant=found.tenant, limits=limits)
        said += [told] if told else []
    return Checked(found.wire, found.counts, found.spans, found.rejected, "; ".join(said), found.row_bytes + _nbytes(judged),
                   found.received_ns, found.tenant, judged)


def _series(data: Any, tables: Tables, limits: Limits) -> list[str]:
    """What to tell of series that are left out."""
    kept = keep(tables)
    plan = series.plan(data, tables.span_attributes, kept.found, kept.marks, limits)
    left_out = np.bincount(plan.shape[:, series.K_FAULT], minlength=len(series.REASONS) + 1)
    return [f"token series of {left_out[code]} span(s) left out, the spans are kept: {reason}"
            for code, reason in series.REASONS.items() if left_out[code]]


def _nbytes(judged: Block | None) -> int:
    return 0 if judged is None else judged.nbytes()
