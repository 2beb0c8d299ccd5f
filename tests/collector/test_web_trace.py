"""What the trace page works out: nested order, groups, critical path, what a filter leaves, and the map of the whole."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway_collector.search.skeleton import STRIPE_BINS, Stripe
from cutaway_collector.web import minimap, trace_rows, trace_state, waterfall
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.waterfall import GROUP_MEMBERS_MIN, Waterfall
from trace_helpers import Plain, owner_of_each_tick, random_spans, skeleton

PLAIN_STATE = trace_state.read("7" * 32, {})


def _spans_of(tree: Waterfall) -> list[str]:
    return [tree.skeleton.span_ids[entry] for entry in tree.entries if entry >= 0]


def _parents(tree: Waterfall) -> dict[str, str]:
    """Span id -> id of the span it stands under in the rows, groups left out."""
    out = {}
    for row, entry in enumerate(tree.entries):
        if entry < 0:
            continue
        above = tree.parents[row]
        while above >= 0 and tree.entries[above] < 0:
            above = tree.parents[above]
        out[tree.skeleton.span_ids[entry]] = tree.skeleton.span_ids[tree.entries[above]] if above >= 0 else ""
    return out


# --- Nested order ---------------------------------------------------------------------------------------------------------


def test_rows_nest_by_parent_and_follow_the_start() -> None:
    """Children stand under their parent, the earlier first, whatever order the store gave them."""
    tree = waterfall.build(skeleton([("c", "a", 30, 5), ("b", "a", 10, 5), ("d", "b", 11, 1), ("a", "", 0, 100)]))

    assert [("a", 0), ("b", 1), ("d", 2), ("c", 1)] == list(zip(_spans_of(tree), tree.depths, strict=True))
    assert (4, 3, 3, 4) == tree.ends


def test_missing_parents_are_counted_and_shown() -> None:
    """A span whose parent is not stored becomes a root that says so."""
    tree = waterfall.build(skeleton([("a", "", 0, 10), ("b", "gone", 2, 3)]))

    assert {1} == tree.orphans
    assert (0, 0) == tree.depths


def test_a_ring_is_cut_at_its_earliest_span() -> None:
    """Spans that are each other's ancestors all have a row; the earliest is the root and is no orphan."""
    spans = [("a", "c", 1, 5), ("b", "a", 2, 5), ("c", "b", 3, 5), ("root", "", 0, 9), ("self", "self", 4, 1)]
    tree = waterfall.build(skeleton(spans))

    assert {"a", "self"} == {tree.skeleton.span_ids[span] for span in tree.rings}
    assert {"root": "", "a": "", "b": "a", "c": "b", "self": ""} == _parents(tree)
    assert not tree.orphans


@settings(deadline=None)
@given(random_spans())
def test_every_span_has_one_row_whatever_the_parents_say(given_spans: tuple[list[Plain], dict[str, str]]) -> None:
    """No span is lost or repeated; each stands under its parent unless that is missing or it is cut out of a ring."""
    spans, names = given_spans
    tree = waterfall.build(skeleton(spans, names))
    known = {span[0] for span in spans}
    cut = {tree.skeleton.span_ids[span] for span in tree.rings}

    assert sorted(known) == sorted(_spans_of(tree))
    assert _parents(tree) == {one: parent if parent in known and one not in cut else "" for one, parent, _, _ in spans}
    for row, end in enumerate(tree.ends):
        below = [other for other in range(len(tree.entries)) if _stands_below(tree, other, row)]
        assert list(range(row + 1, end)) == below


def _stands_below(tree: Waterfall, row: int, above: int) -> bool:
    while row >= 0:
        row = tree.parents[row]
        if row == above:
            return True
    return False


def test_a_chain_of_twenty_thousand_spans_is_laid_out() -> None:
    """Depth is bounded by the spans of a trace, not by the stack of the interpreter, and the path runs down the chain."""
    tree = waterfall.build(skeleton([(f"{n:05}", f"{n - 1:05}" if n else "", n, 40_000 - 2 * n) for n in range(20_000)]))
    lines = trace_rows.lines(tree, [0, 19_999], PLAIN_STATE, selected="", opened=(), first=0, stripes={}, matched=None)

    assert 19_999 == tree.depths[-1]
    assert (19_999, waterfall.DEPTH_SHOWN_MAX) == (lines[1].depth, lines[1].shown_depth)
    assert 40_000 == sum(part.end_ns - part.start_ns for part in tree.path)


def test_spans_that_begin_before_their_parent_are_marked_and_stay_in_place() -> None:
    """Clocks that differ are named; the trace then begins with its earliest span, and every bar lies inside."""
    tree = waterfall.build(skeleton([("a", "", 100, 50), ("b", "a", 40, 20)]))
    lines = trace_rows.lines(tree, [0, 1], PLAIN_STATE, selected="", opened=(), first=0, stripes={}, matched=None)

    assert ["a", "b"] == [line.name for line in lines]
    assert [False, True] == [line.early for line in lines]
    assert (40, 110) == (tree.start_ns, tree.total_ns)
    assert all(line.bar and 0 <= line.bar.x and line.bar.x + line.bar.width <= 100 for line in lines)


# --- Groups ---------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=300), st.sampled_from([0.5, 0.99]))
def test_percentiles_are_of_the_nearest_rank(durations: list[int], share: float) -> None:
    """The smallest duration that at least this share of all does not exceed."""
    ordered = sorted(durations)
    plain = next(value for value in ordered if sum(other <= value for other in durations) >= share * len(durations) - 1e-9)

    assert plain == waterfall.percentile(ordered, share)


@settings(deadline=None)
@given(random_spans(24, names=2))
def test_siblings_of_one_name_stand_together_from_five_on(given_spans: tuple[list[Plain], dict[str, str]]) -> None:
    """Exactly the names that a span has five children of are groups, at the place of the first child, with all of them inside."""
    spans, names = given_spans
    tree = waterfall.build(skeleton(spans, names))
    above = _parents(tree)
    together = defaultdict(list)
    for one in _spans_of(tree):
        together[above[one], names[one]].append(one)
    size = {span[0]: span[3] for span in spans}
    start = {span[0]: (span[2], span[0]) for span in spans}
    expected = {
        (parent, name): (sorted(members, key=lambda one: start[one]), sorted(size[one] for one in members))
        for (parent, name), members in together.items() if len(members) >= GROUP_MEMBERS_MIN
    }
    ids = tree.skeleton.span_ids
    found = {}
    for row, entry in enumerate(tree.entries):
        if entry < 0:
            group, parent = tree.groups[~entry], tree.parents[row]
            members = [ids[span] for span in group.members]
            found[ids[tree.entries[parent]] if parent >= 0 else "", group.name] = (members, group)
            assert tree.entries[row + 1] == group.members[0]

    assert {key: members for key, (members, _) in expected.items()} == {key: members for key, (members, _) in found.items()}
    for key, (_, sizes) in expected.items():
        group = found[key][1]
        assert (sizes[math.ceil(len(sizes) / 2) - 1], sizes[math.ceil(0.99 * len(sizes)) - 1]) == (group.p50_ns, group.p99_ns)


def test_a_closed_group_hides_its_members_and_an_open_one_shows_them() -> None:
    """A group is one row until it is opened; opening it leaves the other rows alone."""
    tree = waterfall.build(skeleton([("root", "", 0, 99), *((f"t{n}", "root", n, 1) for n in range(7)), ("z", "root", 50, 1)],
                                    {f"t{n}": "tool.call" for n in range(7)}))

    assert 3 == len(waterfall.visible(tree, ()))
    assert 10 == len(waterfall.visible(tree, {0}))


@settings(deadline=None)
@given(random_spans(24))
def test_an_overview_has_a_group_for_each_name_and_depth(given_spans: tuple[list[Plain], dict[str, str]]) -> None:
    """Of a trace too large for a row a span, every span is counted once, under its name and depth."""
    spans, names = given_spans
    data = skeleton(spans, names)
    whole = waterfall.build(data)
    depth = {}
    for one, parent in _parents(whole).items():  # in nested order, so a parent comes before its children
        depth[one] = depth[parent] + 1 if parent else 0
    counts: dict[tuple[int, str], int] = defaultdict(int)
    for one, level in depth.items():
        counts[level, names[one]] += 1

    tree = waterfall.overview(data, frozenset(), members_max=5)

    assert len(tree.entries) == len(tree.groups) == len(counts)
    assert sorted(counts.values()) == sorted(len(group.members) for group in tree.groups)
    first = data.span_ids[tree.groups[-1].members[0]]
    opened = waterfall.overview(data, {first}, members_max=5)
    assert len(opened.entries) == len(counts) + min(5, len(tree.groups[-1].members))


# --- Critical path --------------------------------------------------------------------------------------------------------


def test_the_path_is_what_the_end_waited_for() -> None:
    """Of two parallel calls the one that ended last counts, what it waited for in turn, and the root's own time between."""
    calls = [("slow", "root", 10, 60), ("fast", "root", 10, 20), ("inner", "slow", 40, 30), ("late", "root", 80, 50)]
    spans = [("root", "", 0, 100), *calls]
    tree = waterfall.build(skeleton(spans))

    path = [(tree.skeleton.span_ids[part.span], part.start_ns, part.end_ns) for part in tree.path]

    assert [("late", 80, 100), ("root", 70, 80), ("inner", 40, 70), ("slow", 10, 40), ("root", 0, 10)] == path


@settings(deadline=None)
@given(random_spans())
def test_the_path_is_that_of_walking_back_tick_by_tick(given_spans: tuple[list[Plain], dict[str, str]]) -> None:
    """Each moment of the root belongs to the span that a walk back through time, a tick at a time, finds there."""
    spans, names = given_spans
    tree = waterfall.build(skeleton(spans, names))
    ids = tree.skeleton.span_ids
    starts, sizes = tree.skeleton.starts_ns, tree.skeleton.durations_ns
    times = {one: (starts[at], starts[at] + sizes[at]) for at, one in enumerate(ids)}
    children = defaultdict(list)
    for one, parent in _parents(tree).items():
        children[parent].append(one)
    root = ids[tree.root]

    plain = owner_of_each_tick(times, children, root, *times[root])

    assert plain == {tick: ids[part.span] for part in tree.path for tick in range(part.start_ns, part.end_ns)}
    assert sorted(plain) == list(range(*times[root]))


# --- Filter, lines, map ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(random_spans(24), st.sets(st.integers(0, 23)))
def test_a_filter_leaves_matches_and_their_ancestors(given_spans: tuple[list[Plain], dict[str, str]], wanted: set[int]) -> None:
    """`alone` shows the matches, `with` also their ancestors and nothing else, `dim` every row that is there without a filter."""
    tree = waterfall.build(skeleton(*given_spans))
    matched = {span for span in wanted if span < len(tree.skeleton)}
    rows = {entry: row for row, entry in enumerate(tree.entries)}
    ancestors = {row for span in matched for row in range(len(tree.entries)) if _stands_below(tree, rows[span], row)}

    assert sorted(rows[span] for span in matched) == waterfall.visible(tree, (), matched, "alone")
    assert sorted({rows[span] for span in matched} | ancestors) == waterfall.visible(tree, (), matched, "with")
    assert waterfall.visible(tree, ()) == waterfall.visible(tree, (), matched, "dim")


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_guides_pass_where_a_sibling_of_an_ancestor_follows(steps: list[int]) -> None:
    """A line passes at a level if a row of that level comes before the rows leave what it stands under; and so for `last`."""
    depths = [0]
    for step in steps:
        depths.append(min(step, depths[-1] + 1))
    most = waterfall.DEPTH_SHOWN_MAX

    def follows(at: int, level: int) -> bool:
        later = next((depth for depth in depths[at + 1 :] if depth <= level), None)
        return later == level

    for at, (rails, last) in enumerate(waterfall.guides(depths)):
        levels = {level for level in range(1, min(depths[at], most + 1)) if follows(at, level)}
        assert levels == {level for level in range(1, most + 1) if rails >> level & 1}
        assert depths[at] > most or last == (not follows(at, depths[at]))


def test_the_first_token_never_comes_after_the_span() -> None:
    """A sender's time to first token beyond its own duration is cut to the bar."""
    tree = waterfall.build(skeleton([("a", "", 0, 10**9)], ttfts_s=[3.0]))
    line = trace_rows.lines(tree, [0], PLAIN_STATE, selected="", opened=(), first=0, stripes={}, matched=None)[0]

    assert line.prefill is not None
    assert (0.0, 100.0) == (line.prefill.x, line.prefill.width)


def test_a_stripe_lies_where_the_tokens_came() -> None:
    """Bins fill the time from the first to the last token; a bin without a token leaves a gap; the hottest is the last colour."""
    bins = (9.0, None, *([0.0] * (STRIPE_BINS - 2)))
    tree = waterfall.build(skeleton([("a", "", 0, 4 * 10**9)]))
    line = trace_rows.lines(tree, [0], PLAIN_STATE, selected="", opened=(), first=0, stripes={"a": Stripe(1.0, 3.0, bins)},
                            matched=None)[0]

    assert ("15", 25.0, 50 / STRIPE_BINS) == (line.stripe[0].kind, line.stripe[0].x, pytest.approx(line.stripe[0].width))
    assert 25.0 + 2 * 50 / STRIPE_BINS == pytest.approx(line.stripe[1].x)
    assert 75.0 == pytest.approx(line.stripe[-1].x + line.stripe[-1].width)


@settings(deadline=None)
@given(random_spans(), st.floats(0, 99), st.floats(0.001, 100))
def test_zooming_moves_every_bar_alike(given_spans: tuple[list[Plain], dict[str, str]], low: float, size: float) -> None:
    """A bar of a zoomed trace is where the same stretch of the whole would be, and is left out only when it lies outside."""
    high = min(100.0, low + size)
    tree = waterfall.build(skeleton(*given_spans))
    lane, whole = trace_rows.Lane(tree, low, high), trace_rows.Lane(tree, 0, 100)
    for start, duration in zip(tree.skeleton.starts_ns, tree.skeleton.durations_ns, strict=True):
        place = lane.place(start, start + duration)
        first, behind = whole.at(start), whole.at(start + duration)
        if place is None:
            assert behind < low + 1e-6 or first > high - 1e-6
        else:
            scale = 100 / (high - low)
            assert max((first - low) * scale, -2) == pytest.approx(place.x, abs=1e-3)
            assert min((behind - low) * scale, 102) == pytest.approx(place.x + place.width, abs=1e-3)


@settings(deadline=None)
@given(random_spans(40))
def test_the_map_covers_what_the_spans_cover(given_spans: tuple[list[Plain], dict[str, str]]) -> None:
    """A column of a lane is drawn exactly where one of the lane's spans has time in it."""
    tree = waterfall.build(skeleton(*given_spans))
    order = [entry for entry in tree.entries if entry >= 0]
    lanes = min(minimap.LANES_MAX, len(order))
    expected = np.zeros((lanes, minimap.COLUMNS), bool)
    for place, span in enumerate(order):
        start = tree.skeleton.starts_ns[span] - tree.start_ns
        first = min(minimap.COLUMNS - 1, math.floor(start * minimap.COLUMNS / tree.total_ns))
        behind = math.ceil((start + tree.skeleton.durations_ns[span]) * minimap.COLUMNS / tree.total_ns)
        expected[place * lanes // len(order), first : max(first + 1, behind)] = True
    drawn = np.zeros_like(expected)
    for part in minimap.draw(tree).spans.split("M")[1:]:
        x, rest = part.split(" ")
        y, width = rest.split("h")
        drawn[round(float(y) * lanes / minimap.HEIGHT - 0.5), int(x) : int(x) + int(width)] = True

    assert (expected == drawn).all()


# --- Address --------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional={
    "f": st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20).map(str.strip).filter(bool),
    "show": st.sampled_from(["with", "alone"]), "zoom": st.sampled_from(["0-50", "12.5-40", "99.999-100"]),
    "open": st.lists(st.integers(0, 2**63).map("{:016x}".format), min_size=1, max_size=4, unique=True).map(",".join),
    "q": st.just("model:gpt2 OR x"), "from": st.just("-1h"), "sort": st.just("-perplexity"), "view": st.just("traces"),
}))
def test_an_address_reads_back_as_its_state(parameters: dict[str, str]) -> None:
    """What an address says is what the page's own links say again."""
    state = trace_state.read("7" * 32, parameters)

    assert parameters == state.parameters()
    assert state == trace_state.read("7" * 32, state.parameters())


@pytest.mark.parametrize("parameters", [
    {"show": "hide"}, {"zoom": "5"}, {"zoom": "40-12"}, {"zoom": "0-101"}, {"zoom": "0-1e1"}, {"zoom": "\u0661-\u0662"},
    {"open": "x"}, {"open": ",".join(f"{n:016x}" for n in range(trace_state.OPEN_MAX + 1))},
])
def test_other_addresses_are_refused_by_name(parameters: dict[str, str]) -> None:
    """A parameter that cannot be read is named, with what would be one."""
    with pytest.raises(BadParameter, match=next(iter(parameters))) as refused:
        trace_state.read("7" * 32, parameters)

    assert refused.value.hint
