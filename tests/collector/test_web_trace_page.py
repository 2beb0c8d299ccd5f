"""The trace page over a real store: what it shows without script, what its script reads, and what it says of odd traces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from flask.testing import FlaskClient

import web_helpers as world
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app
from cutaway_collector.web.pages import trace
from search_helpers import START_NS, Event, Span
from web_helpers import TRACE, Page, get, site_of

MS = 1_000_000
MANY, RING, CHAIN, HUGE = 70, 71, 72, 73
ADDRESS = {trace: f"/trace/{trace:032x}" for trace in (MANY, RING, CHAIN, HUGE)}
SPANS_MAX = 1500


def _span(trace: int, number: int, parent: int, at_ms: float, name: str = "step", **more: object) -> Span:
    base = trace * 100_000
    return Span(base + number, name, trace, base + parent if parent else 0, start_ns=START_NS + int(at_ms * MS),
                duration_ns=3 * MS, **more)  # type: ignore[arg-type]  # a helper that passes on what tests say


def _odd_traces() -> list[Span]:
    spans = [_span(MANY, 1, 0, 0, "agent", attributes={"gen_ai.operation.name": "invoke_agent"})]
    spans += [_span(MANY, n, 1, n, "tool.call", status="Error" if n == 7 else "Ok",
                    attributes={"gen_ai.operation.name": "execute_tool", "n": str(n)}) for n in range(2, 42)]
    spans += [_span(MANY, 50 + n, 1, 50 + n, f"own {n}", attributes={"n": str(n)}) for n in range(600)]
    spans += [_span(RING, 1, 2, 0, "a"), _span(RING, 2, 1, 1, "b"), _span(RING, 3, 9, 2, "lost", events=[Event("exception")])]
    spans += [_span(RING, 4, 3, -50, "skewed")]
    spans += [_span(CHAIN, n, n - 1, n, f"level {n}") for n in range(1, 1001)]
    spans += [_span(HUGE, n, n // 50, n / 100, f"kind {n % 3}") for n in range(1, 2001)]
    return spans


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    spans, blocks = world.world()
    with world.stored(tmp_path_factory.mktemp("trace-page") / "data", [*spans, *_odd_traces()], blocks) as opened:
        yield opened


@pytest.fixture
def client(store: ClickHouseStore) -> FlaskClient:
    return create_app(store, Settings(data="unused", trace_spans_max=SPANS_MAX), now_ns=lambda: world.NOW_NS).test_client()


def _rows(page: Page) -> int:
    return len(page.with_class("row"))


def test_a_row_says_its_place_in_the_tree(client: FlaskClient) -> None:
    """Rows of a tree grid carry level, index, whether they are open and which is selected."""
    rows = get(client, f"{TRACE}?span={world.CHAT:016x}").with_class("row")

    assert ["1", "2", "3"] == [row["aria-level"] for row in rows[:3]]
    assert [str(n + 1) for n in range(14)] == [row["aria-rowindex"] for row in rows]
    assert ["true", "true", None] == [row.get("aria-expanded") for row in rows[:3]]
    assert ["11"] == [str(at) for at, row in enumerate(rows) if row["aria-selected"] == "true"]


def test_repeated_siblings_are_one_row_that_a_link_opens(client: FlaskClient) -> None:
    """Forty calls of one tool are a row with their number, percentiles and errors; its link shows them and leads back."""
    closed = get(client, ADDRESS[MANY])
    key = f"{MANY * 100_000 + 2:016x}"

    assert "× 40" in closed.text
    assert "1 error" in closed.text
    opening = [link for link in closed.links(ADDRESS[MANY]) if f"open={key}" in link]
    assert opening
    opened = get(client, opening[0])
    assert f"span={MANY * 100_000 + 3:016x}" in "".join(opened.links(ADDRESS[MANY]))
    assert "p50 3.00 ms" in closed.text.replace("\u202f", " ")


def test_a_span_inside_a_group_is_shown_when_it_is_asked_for(client: FlaskClient) -> None:
    """A link to a span opens the group around it."""
    page = get(client, f"{ADDRESS[MANY]}?span={MANY * 100_000 + 7:016x}")

    assert 1 == len([row for row in page.with_class("row") if row["aria-selected"] == "true"])


def test_many_rows_come_in_pages(client: FlaskClient) -> None:
    """Beyond five hundred rows a page has a part of them, and links lead to every other; nothing is repeated."""
    seen: list[str] = []
    path = ADDRESS[MANY]
    while path:
        page = get(client, path)
        assert _rows(page) <= trace.ROWS_A_PAGE
        seen += [str(row["aria-rowindex"]) for row in page.with_class("row")]
        path = next((str(link["href"]) for link in page.with_class("more") if f"rows={len(seen)}" in str(link["href"])), "")

    assert [str(n) for n in range(1, 603)] == seen


@pytest.mark.parametrize(("show", "names"), [
    ("", ["POST /answer", "call tools", "opening_hours", "answer"]), ("with", ["POST /answer", "call tools", "opening_hours"]),
    ("alone", ["opening_hours"]),
])
def test_a_filter_works_without_script(client: FlaskClient, show: str, names: list[str]) -> None:
    """The form fades what does not match, or leaves the matches and what they stand under, or the matches alone."""
    lines = trace.page(site_of(client), f"{world.RAG_TRACE:032x}", {"f": "is:error", "show": show}).lines

    found = [line.name for line in lines]
    assert names == [name for name in found if name in names]
    assert bool(show) == (len(found) == len(names))
    assert ["opening_hours"] == [line.name for line in lines if line.state == "matched"]
    assert "1 span matches" in get(client, f"{TRACE}?f=is:error&show={show}").text


def test_the_script_filters_by_the_same_language(client: FlaskClient) -> None:
    """The answer holds the ids; a query that cannot be read is refused with its place and a hint."""
    found = client.get(f"{TRACE}/matches.json?f=duration:>1s").json
    assert {f"{1:016x}", f"{11:016x}", f"{world.CHAT:016x}"} == set(found["span_ids"])
    refused = client.get(f"{TRACE}/matches.json?f=is:eror")
    assert (400, "did you mean is:error?") == (refused.status_code, refused.json["error"]["hint"])
    assert 400 == client.get(f"{TRACE}?f=is:eror").status_code


def test_the_skeleton_has_every_row_of_the_page(client: FlaskClient) -> None:
    """Ids, depths, places and the path in the script's answer are those of the rows that the server draws."""
    page = trace.page(site_of(client), f"{world.RAG_TRACE:032x}", {})
    bones = client.get(f"{TRACE}/skeleton.json").json

    assert [line.identity for line in page.lines] == bones["ids"]
    assert [line.depth for line in page.lines] == bones["depths"]
    assert [line.name for line in page.lines] == [bones["names"][at] for at in bones["name"]]
    assert [line.duration_ns for line in page.lines] == bones["duration"]
    for row, line in enumerate(page.lines):
        assert line.bar is not None
        assert line.bar.x == pytest.approx(100 * bones["start"][row] / bones["total_ns"], abs=1e-6)
        assert line.path_ns == sum(size for at, _, size in bones["path"] if at == row)
        digits = [digit for digit in bones["stripes"].get(str(row), ["", "", ""])[2] if digit != "."]
        assert [cell.kind for cell in line.stripe] == [str(int(digit, 16) or 1) for digit in digits][: len(line.stripe)]
    assert bones["numbers"][str(bones["ids"].index(f"{world.CHAT:016x}"))][:3] == [31, len(world.PIECES), pytest.approx(0.312)]


def test_a_span_is_a_fragment_and_json(client: FlaskClient) -> None:
    """What the script puts beside the rows is what the page has there; its JSON is the span of the trace's JSON."""
    whole = client.get(f"{TRACE}.json").json
    one = client.get(f"{TRACE}/span/{world.CHAT:016x}.json").json
    scores = one.pop("scores")

    assert one == next(span for span in whole["spans"] if span["span_id"] == f"{world.CHAT:016x}")
    assert scores == whole["scores"]
    fragment = client.get(f"{TRACE}/span/{world.CHAT:016x}?start={START_NS}").text
    assert fragment[fragment.index("<article") :].strip() in client.get(f"{TRACE}?span={world.CHAT:016x}").text
    assert "<html" not in fragment


@pytest.mark.parametrize(("path", "status"), [
    (f"{TRACE}/span/ffffffffffffffff", 404), (f"{TRACE}/span/zz", 400), (f"{TRACE}/span/{1:016x}?start=x", 400),
    (f"{TRACE}/span/{MANY * 100_000 + 2:016x}.json", 404), (f"/trace/{'e' * 32}/skeleton.json", 404),
    ("/trace/zz/skeleton.json", 400),
    ("/trace/zz/matches.json", 400), (f"{TRACE}?zoom=9-1", 400), (f"{TRACE}?show=x", 400), (f"{TRACE}/next?q=model:nowhere", 400),
    (f"{TRACE}/sideways", 404),
])
def test_wrong_addresses_of_its_parts_are_explained(client: FlaskClient, path: str, status: int) -> None:
    """Parts of a trace refuse what they cannot read or find, in words."""
    answer = client.get(path)

    assert status == answer.status_code
    assert "Traceback" not in answer.text


def test_only_generations_have_an_inside(client: FlaskClient) -> None:
    """A tool call or an agent is an operation too, and has no tokens to look at."""
    assert "Look inside" in get(client, f"{TRACE}?span={world.CHAT:016x}").text
    assert "Look inside" not in get(client, f"{ADDRESS[MANY]}?span={MANY * 100_000 + 2:016x}").text
    assert "Look inside" not in get(client, f"{TRACE}?span={3:016x}").text


def test_the_header_sums_the_trace_up(client: FlaskClient) -> None:
    """Tokens, the least expected of all and where, and the largest part of the critical path."""
    page = trace.page(site_of(client), f"{world.RAG_TRACE:032x}", {})
    spans = client.get(TRACE + ".json").json["spans"]
    worst = max((span for span in spans if span["surprisal_max"]), key=lambda span: span["surprisal_max"])

    assert (sum(span["input_tokens"] or 0 for span in spans), sum(span["output_tokens"] or 0 for span in spans)) == (
        page.input_tokens, page.output_tokens)
    assert worst["surprisal_max"] == page.worst_surprisal
    assert worst["span_id"] in page.worst_url
    assert "chat SmolLM2-135M-Instruct" == page.path[0].name
    assert 4210 * MS == page.path_ns
    assert page.energy_j is None


def test_odd_traces_are_shown_and_named(client: FlaskClient) -> None:
    """Rings, missing parents and clocks that differ are said in words; every span has a row; a thousand levels are drawn."""
    ring = get(client, ADDRESS[RING])
    assert 4 == _rows(ring)
    for words in ("said to stand under itself", "a parent that is not stored", "begins before its parent"):
        assert words in ring.text
    chain = get(client, f"{ADDRESS[CHAIN]}?rows=900")
    assert 100 == _rows(chain)
    assert "1000" == chain.with_class("row")[-1]["aria-level"]


def test_a_trace_that_is_too_large_is_shown_in_groups(client: FlaskClient) -> None:
    """Beyond trace_spans_max spans the rows are names at a depth, with how many there are, and a link lists their spans."""
    page = trace.page(site_of(client), f"{HUGE:032x}", {})
    expected: dict[tuple[int, str], int] = {}
    depth = {0: -1}
    for n in range(1, 2001):
        depth[n] = depth[n // 50] + 1
        expected[depth[n], f"kind {n % 3}"] = expected.get((depth[n], f"kind {n % 3}"), 0) + 1

    assert page.grouped
    assert 2000 == page.span_count
    assert sorted(expected.values()) == sorted(line.members for line in page.lines)
    assert "too large for a row a span" in get(client, ADDRESS[HUGE]).text
    largest = max(page.lines, key=lambda line: line.members)
    opened = trace.page(site_of(client), f"{HUGE:032x}", {"open": largest.identity})
    assert len(expected) + largest.members == opened.row_count
    assert len(client.get(f"{ADDRESS[HUGE]}/skeleton.json?open={largest.identity}").json["ids"]) == opened.row_count


def test_a_filter_of_a_trace_in_groups_says_which_hold_matches(client: FlaskClient) -> None:
    """Groups of a large trace that hold a match stay, closed as they are; those that hold none go, or fade."""
    lone = f"span:{HUGE * 100_000 + 700:016x}"
    shown = trace.page(site_of(client), f"{HUGE:032x}", {"f": lone, "show": "with"})
    faded = trace.page(site_of(client), f"{HUGE:032x}", {"f": lone})
    bones = client.get(f"{ADDRESS[HUGE]}/skeleton.json?f={lone}").json

    assert [f"kind {700 % 3}"] == [line.name for line in shown.lines]
    assert 1 == len(shown.lines) == len([line for line in faded.lines if line.state == "matched"])
    assert [line.identity for line in shown.lines] == [bones["ids"][row] for row in bones["holds"]]


def test_zooming_is_a_link(client: FlaskClient) -> None:
    """Zoomed into a part of its time, the page draws that part, and the buttons lead in, out and along."""
    page = trace.page(site_of(client), f"{world.RAG_TRACE:032x}", {"zoom": "0-50"})
    bars = {line.name: line.bar for line in page.lines}

    assert bars["late callback"] is None
    whole = trace.page(site_of(client), f"{world.RAG_TRACE:032x}", {})
    plan = next(line.bar for line in whole.lines if line.name == "plan")
    assert plan is not None
    assert bars["plan"] is not None
    assert (2 * plan.x, 2 * plan.width) == pytest.approx((bars["plan"].x, bars["plan"].width))
    assert "zoom=12.5-37.5" in page.zoom.in_url
    assert "zoom=25-75" in page.zoom.on_url
    assert "zoom" not in page.zoom.out_url


def test_the_search_that_led_here_comes_along(client: FlaskClient) -> None:
    """Query, times and sort of the search stay in every link of the page, and stepping keeps them; copied times are dates."""
    rng = np.random.default_rng(0)
    found = client.get("/search.json?q=service:evals&sort=-perplexity&from=-1d").json["rows"]
    order = list(dict.fromkeys(row["trace_id"] for row in found))
    at = int(rng.integers(1, len(order) - 1))
    state = "from=-1d&q=service%3Aevals&sort=-perplexity"
    page = get(client, f"/trace/{order[at]}?{state}")

    assert f"/search?{state}" in page.links("/search?from=-1d&q")
    assert client.get(f"/trace/{order[at]}/next?{state}").location.startswith(f"/trace/{order[at + 1]}?{state}&span=")
    assert client.get(f"/trace/{order[at]}/previous?{state}").location.startswith(f"/trace/{order[at - 1]}?{state}&span=")
    assert order[1] == client.get(f"/trace/{order[0]}/next.json?{state}").json["trace_id"]
    last = client.get(f"/trace/{order[0]}/previous?{state}").location
    assert "This is the first trace of the search" in get(client, last).text
    frozen = trace.page(site_of(client), order[at], {"from": "-1d", "q": "x"}).frozen_from
    assert frozen.startswith("20")


def test_links_of_a_span_lead_to_the_other_trace(client: FlaskClient) -> None:
    """A span link opens the trace and the span it names."""
    assert get(client, f"{TRACE}?span={world.CHAT:016x}").links(f"/trace/{99:032x}?span={99:016x}")


def test_events_are_ticks(client: FlaskClient) -> None:
    """Each event of a span is a mark on its bar, an exception a longer one."""
    lines = trace.page(site_of(client), f"{world.RAG_TRACE:032x}", {}).lines
    line = next(line for line in lines if line.name == "opening_hours")

    assert [True, False] == [tick.failure for tick in line.ticks]
    assert line.bar is not None
    assert all(line.bar.x <= tick.x <= line.bar.x + line.bar.width for tick in line.ticks)
