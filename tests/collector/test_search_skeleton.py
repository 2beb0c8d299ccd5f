"""The skeleton of a trace, its stripes, energy and filter, one span of it, and the traces around it in a search."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import web_helpers as world
from cutaway import conventions as c
from cutaway_collector.blocks import Block, Lists, Strings
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import SearchRequest, find
from cutaway_collector.search.neighbours import neighbour
from cutaway_collector.search.skeleton import STRIPE_BINS, Skeleton, energy_j, matches, skeleton, stripes
from cutaway_collector.search.trace import span, trace
from search_helpers import START_NS, Event, Span, spans_block, stored

MS = 1_000_000
CALL, BROKEN, PLAIN = 20, 21, 22
TRACE = f"{1:032x}"
_ENERGY = {c.MACHINE_GPU_ENERGY: "[1.5, 2.0]"}
SPANS = [
    Span(1, "root", start_ns=START_NS, duration_ns=100 * MS, attributes={"user": "ada"},
         events=[Event("seen"), Event("exception", {"exception.message": "no"})]),
    *(Span(number, "tool.call", parent=1, start_ns=START_NS + number * MS, duration_ns=number, kind="Client",
           status="Error" if number == 5 else "Ok") for number in range(2, 9)),
    Span(CALL, "chat", parent=1, start_ns=START_NS + 30 * MS, duration_ns=60 * MS,
         attributes=world.generation_attributes(np.random.default_rng(1), 50) | _ENERGY),
    Span(BROKEN, "chat", parent=1, start_ns=START_NS + 40 * MS,
         attributes=world.generation_attributes(np.random.default_rng(2), 3)),
    Span(PLAIN, "embed", parent=1, start_ns=START_NS + 50 * MS, attributes={"gen_ai.operation.name": "embeddings"} | _ENERGY),
]


def _ways() -> list[Span]:
    """Traces 100 to 113 of a few matching spans each, interleaved in time."""
    rng = np.random.default_rng(7)
    out = []
    for number in range(30):
        attributes = {"cutaway.output.perplexity": f"{rng.integers(1, 9)}"} if rng.random() < 0.8 else {}
        out.append(Span(1000 + number, "step", 100 + int(rng.integers(0, 14)), service="walk", attributes=attributes,
                        start_ns=START_NS - (number + 1) * 10 * MS))
    return out


WAYS = _ways()


def _pace(target: Span, gaps: list[float], surprisals: list[float]) -> Block:
    """One sequence with these series and no others."""
    offsets = np.array([0, len(gaps)], np.int64)
    return Block("gen_ai_tokens", 1, {
        "Timestamp": np.array([target.start_ns], np.int64), "TraceId": Strings.of([target.trace_id]),
        "SpanId": Strings.of([target.span_id]), "SeqIndex": np.zeros(1, np.uint16),
        "OutputTokens": np.array([len(gaps)], np.uint32),
        "Surprisals": Lists(offsets, np.array(surprisals, np.float32)), "InterTokenS": Lists(offsets, np.array(gaps, np.float32)),
    })


RNG = np.random.default_rng(5)
GAPS = [0.25, *RNG.gamma(2, 0.02, 49).tolist()]
SURPRISALS = [7.0, *RNG.gamma(1, 1.5, 49).tolist()]
SURPRISALS[9] = float("nan")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    call = next(one for one in SPANS if one.number == CALL)
    broken = next(one for one in SPANS if one.number == BROKEN)
    blocks = (_pace(call, GAPS, SURPRISALS), _pace(broken, [0.1, 0.2], [float("nan"), float("nan")]), world.scores_block(call),
              spans_block([SPANS[3]]))
    with stored(Path(tmp_path_factory.mktemp("skeleton")), [*SPANS, *WAYS], *blocks) as opened:
        yield opened


def test_a_skeleton_is_the_trace_without_what_spans_carry(store: Store) -> None:
    """Each span once, by start, with the numbers of the whole trace's answer; events by their distance from the start."""
    bones, whole = skeleton(store, TRACE.upper(), spans_max=100), trace(store, TRACE, spans_max=100)
    assert bones is not None
    assert whole is not None
    spans = whole["spans"]
    for column, key in (
        (bones.span_ids, "span_id"), (bones.parent_ids, "parent_span_id"), (bones.names, "name"), (bones.kinds, "kind"),
        (bones.services, "service"), (bones.starts_ns, "start_ns"), (bones.durations_ns, "duration_ns"),
        (bones.output_tokens, "output_tokens"), (bones.ttfts_s, "ttft_s"), (bones.surprisal_maxima, "surprisal_max"),
    ):
        assert [one[key] for one in spans] == list(column)
    assert len(SPANS) == len(bones)
    assert [one["status"] == "Error" for one in spans] == list(map(bool, bones.failed))
    assert {0: ([7, 7], [0, 1])} == {at: (list(offsets), list(failures)) for at, (offsets, failures) in bones.events.items()}
    assert not bones.truncated


def _whole(store: Store, trace_id: str) -> Skeleton:
    found = skeleton(store, trace_id, spans_max=100)
    assert found is not None
    return found


def test_a_skeleton_is_cut_where_the_limit_bites(store: Store) -> None:
    """The earliest spans stay and it says so; what is no trace is None; no limit is refused."""
    bones = skeleton(store, TRACE, spans_max=3)
    assert bones is not None
    assert ((f"{1:016x}", f"{2:016x}", f"{3:016x}"), True) == (tuple(bones.span_ids), bones.truncated)
    assert skeleton(store, "f" * 32, spans_max=3) is None
    assert skeleton(store, "no id", spans_max=3) is None
    with pytest.raises(QueryError, match="at least one"):
        skeleton(store, TRACE, spans_max=0)


def test_a_stripe_holds_the_largest_surprisal_of_each_time(store: Store) -> None:
    """Thirty-two equal times from the first to the last token; a token counts in each it touches; NaN counts nowhere."""
    found = stripes(store, _whole(store, TRACE))[f"{CALL:016x}"]
    gaps, nats = np.float32(GAPS).astype(float), np.float32(SURPRISALS).astype(float)
    ends = np.cumsum(gaps)
    edges = np.linspace(ends[0], ends[-1], STRIPE_BINS + 1)
    expected = []
    for low, high in pairwise(edges):
        touching = [nats[i] for i in range(1, 50) if ends[i - 1] < high and ends[i] > low and np.isfinite(nats[i])]
        expected.append(max(touching) if touching else None)

    assert (pytest.approx(0.25), pytest.approx(ends[-1])) == (found.first_s, found.last_s)
    assert expected == pytest.approx(list(found.bins))
    assert {None} == set(stripes(store, _whole(store, TRACE))[f"{BROKEN:016x}"].bins)


def test_a_span_whose_start_is_known_is_the_same(store: Store) -> None:
    """With its start a span is found as without; with that of another moment it is not."""
    for one in (CALL, PLAIN):
        plain = span(store, TRACE, f"{one:016x}")
        assert plain is not None
        assert plain == span(store, TRACE, f"{one:016x}", start_ns=plain["start_ns"])
        assert span(store, TRACE, f"{one:016x}", start_ns=plain["start_ns"] + 1) is None


def test_energy_is_summed_over_the_spans_that_say_it(store: Store) -> None:
    """Joules of all GPUs of all calls; a trace that says none has none."""
    assert pytest.approx(7.0) == energy_j(store, _whole(store, TRACE))
    assert energy_j(store, _whole(store, WAYS[0].trace_id)) is None


@pytest.mark.parametrize("query", ["is:error", "name:tool.*", "ada", "duration:>50ms", "-name:tool.call", "score.repetition:<1",
                                   "nothing-like-this", "", "name:/^ch/ OR user:ada", "kind:Client -is:error"])
def test_a_filter_finds_what_the_search_finds(store: Store, query: str) -> None:
    """The same query, asked of one trace or of all and then of this one, finds the same spans."""
    everywhere = find(store, SearchRequest(q=f"({query}) trace:{TRACE}" if query else f"trace:{TRACE}", limit=100), rows_max=100)

    assert {row["span_id"] for row in everywhere["rows"]} == matches(store, TRACE, query, spans_max=100).span_ids


def test_a_filter_that_cannot_be_read_says_where(store: Store) -> None:
    """A wrong query is refused at its column, a strange regular expression by the engine's own words."""
    with pytest.raises(QueryError) as refused:
        matches(store, TRACE, "duration:>soon", spans_max=10)
    assert 10 == refused.value.column
    with pytest.raises(QueryError, match="RE2"):
        matches(store, TRACE, "name:/(?=x)/", spans_max=10)


def test_one_span_has_all_it_carries(store: Store) -> None:
    """Asked for alone, a span is as in its trace, with its scores; of another trace, or unknown, it is None."""
    whole = trace(store, TRACE, spans_max=100)
    assert whole is not None
    for one in whole["spans"]:
        alone = span(store, TRACE, one["span_id"])
        assert alone is not None
        scores = alone.pop("scores")
        assert one == alone
        assert (3 if one["span_id"] == f"{CALL:016x}" else 0) == len(scores)
    assert span(store, WAYS[0].trace_id, f"{CALL:016x}") is None
    assert span(store, TRACE, "f" * 16) is None
    assert span(store, TRACE, "' OR 1") is None


@pytest.mark.parametrize(("sort", "view"), [("", "spans"), ("start", "traces"), ("-perplexity", "spans"), ("perplexity", "spans")])
def test_stepping_visits_every_trace_once_in_the_order_of_the_search(store: Store, sort: str, view: str) -> None:
    """Forwards from the first trace to the last, and backwards again: each trace stands where its first match does."""
    request = SearchRequest(q="service:walk", sort=sort, limit=500)
    order = list(dict.fromkeys(row["trace_id"] for row in find(store, request, rows_max=500)["rows"]))
    request = SearchRequest(q="service:walk", sort=sort, view=view)
    walked = [order[0]]
    while (following := neighbour(store, request, walked[-1], forward=True)) and len(walked) <= len(order):
        walked.append(following.trace_id)

    assert len(order) > 8
    assert order == walked
    back = [neighbour(store, request, one, forward=False) for one in order]
    assert [None, *order[:-1]] == [one and one.trace_id for one in back]


def test_a_step_keeps_to_the_time_of_the_search(store: Store) -> None:
    """Outside its time range a search has no neighbours; a trace that it does not find is told so."""
    newest = SearchRequest(q="service:walk", start_ns=START_NS - 15 * MS)
    assert neighbour(store, newest, WAYS[0].trace_id, forward=True) is None
    with pytest.raises(QueryError, match="does not find this trace"):
        neighbour(store, SearchRequest(q="service:walk"), TRACE, forward=True)


def test_a_trace_of_many_matches_is_stepped_over(store: Store) -> None:
    """Hundreds of matches of one trace between two others hide neither."""
    many = [Span(5000 + n, "many", 500, service="crowd", start_ns=START_NS - n * 1000) for n in range(1, 450)]
    before, after = Span(5900, "a", 501, service="crowd", start_ns=START_NS), Span(5901, "b", 502, service="crowd",
                                                                                  start_ns=START_NS - 10**9)
    again = Span(5902, "a", 501, service="crowd", start_ns=START_NS - 500_000)
    store.insert(spans_block([*many, before, after, again]), "crowd")
    request = SearchRequest(q="service:crowd")

    assert [500, 502, None] == [
        one and int(one.trace_id, 16) for one in (neighbour(store, request, f"{n:032x}", forward=True) for n in (501, 500, 502))]
    assert [None, 501, 500] == [
        one and int(one.trace_id, 16) for one in (neighbour(store, request, f"{n:032x}", forward=False) for n in (501, 500, 502))]
