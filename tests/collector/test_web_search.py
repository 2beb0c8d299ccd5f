"""The results page: its address is its state, and every link on it leads to exactly what it says."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

import web_helpers as world
from cutaway_collector import search as verb
from cutaway_collector.contracts import Result
from cutaway_collector.search import language
from cutaway_collector.search.window import Window
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app, query_edit, search_plots, search_state, search_table
from cutaway_collector.web.pages import search
from cutaway_collector.web.search_routes import picked, selected
from cutaway_collector.web.search_state import State
from cutaway_collector.web.site import Site
from web_helpers import get, site_of

ROWS_MAX = Settings(data="unused").page_rows_max


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    with world.stored(tmp_path_factory.mktemp("web-search") / "data", *world.world()) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(store: ClickHouseStore) -> FlaskClient:
    return create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()


def found_by(client: FlaskClient, url: str) -> list[dict[str, object]]:
    """The rows of a link's search."""
    parameters = dict(parse_qsl(urlsplit(url).query)) | {"limit": "500"}
    answer = client.get("/search.json", query_string=parameters)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, object]] = answer.json["rows"]
    return rows


# --- The address ----------------------------------------------------------------------------------------------------------

SITE = Site(None, Settings(data="unused"), lambda: world.NOW_NS)  # type: ignore[arg-type]  # reading an address asks no store
PLAIN = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30).map(str.strip)
NAME = PLAIN.filter(bool)
STATES = st.builds(
    State,
    q=PLAIN, from_=st.sampled_from(["all", "-1h", "2026-01-31T18:00", "1795361600123456789"]),
    to=st.sampled_from(["", "now", "-5m"]),
    view=st.sampled_from(["spans", "traces", "generations"]), sort=st.sampled_from(["", "time", "-perplexity", "score.x"]),
    limit=st.integers(1, ROWS_MAX), cols=st.lists(NAME, max_size=5, unique=True).map(tuple),
    plot=st.sampled_from(search_state.PLOTS),
    table=st.booleans(), facets=st.lists(NAME, max_size=5, unique=True).map(tuple), count=PLAIN,
    after=st.text("abcXYZ09-_", max_size=20), before=st.text("abcXYZ09-_", max_size=20),
)


@settings(deadline=None)
@given(STATES)
def test_a_state_survives_its_address(state: State) -> None:
    """State to address to state is the same state, whatever its texts hold; and the address is always the same one."""
    address = state.url()
    again = search_state.read(SITE, dict(parse_qsl(urlsplit(address).query, keep_blank_values=True)))

    assert state == again
    assert address == again.url()


def test_defaults_are_left_out_of_an_address() -> None:
    """The bare page has the bare address; what changes the rows leads to their first page, what only looks does not."""
    assert "/search" == State().url()
    assert "/search?q=a" == State(after="x", count="model").url(q="a")
    assert "/search?after=x&plot=ttft" == State(after="x").url(plot="ttft")


@pytest.mark.parametrize("query", ["view=tables", "plot=nonsense", "table=2", "cols=" + ",".join(map(str, range(30))),
                                   "facets=" + "x" * 300, "limit=0", "view=traces&sort=-ttft", "view=traces&cols=entropy"])
def test_a_value_that_cannot_be_is_refused_with_rule_and_remedy(client: FlaskClient, query: str) -> None:
    """400 on page and twin, with a message that names the rule."""
    twin = client.get(f"/search.json?{query}")
    assert (400, 400) == (client.get(f"/search?{query}").status_code, twin.status_code)
    assert twin.json["error"]["message"]


@pytest.mark.parametrize(("sent", "meant"), [
    ("facets=a&facet=b,c", {"facets": ['a,"b,c"']}), ("facet=+&q=x", {"q": ["x"]}),
    ("col=ttft&col=model&more=user.id", {"cols": ["ttft,model,user.id"]}),
    ("more=", {}), ("cols=a&more=&col=" + "&col=".join(search_state.USUAL_COLUMNS), {}),
])
def test_a_form_leads_to_the_address_it_means(client: FlaskClient, sent: str, meant: dict[str, list[str]]) -> None:
    """Ticked columns and a facet that is added become the one address of that state."""
    answer = client.get(f"/search?{sent}")
    assert 302 == answer.status_code
    assert meant == parse_qs(urlsplit(answer.location).query)


# --- Editing the query ----------------------------------------------------------------------------------------------------

VALUES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).map(str.strip).filter(bool)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_values_go_in_and_out_of_a_query(one: str, other: str) -> None:
    """Two values let in are both in the list; each let go leaves the other; only leaves one; the rest of the query stays."""
    a, b = query_edit.quoted(one), query_edit.quoted(other)
    start = 'is:error "x y"'
    both = query_edit.including(query_edit.including(start, "model", a), "model", b)

    assert ([a, b] if a != b else []) == query_edit.values(both, "model")
    assert f"{start} model:{a}" == query_edit.only(both, "model", a)
    assert start == query_edit.dropping(query_edit.only(both, "model", a), "model", a)
    assert f"{start} -has:model" == query_edit.lacking(both, "model")


@pytest.mark.parametrize(("query", "meant"), [
    ("a OR b", "(a OR b) x:y"), ("a | stats count() by model", "a x:y | stats count() by model"), ("", "x:y"),
    ("any{name:b OR is:error} /a b/", "any{name:b OR is:error} /a b/ x:y"),
    ("name:/p q/ -model:(a, b)", "name:/p q/ -model:(a, b) x:y"),
])
def test_a_term_is_added_to_the_search_alone(query: str, meant: str) -> None:
    """An OR is held together, braces and patterns are kept whole, stages stay behind."""
    assert meant == query_edit.adding(query, "x:y")


# --- The picture ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["", "&from=-45m", "&from=-1h&to=-30m", "&q=service:concierge"])
def test_every_bar_leads_to_what_it_counts(client: FlaskClient, where: str) -> None:
    """The link of each bar finds as many spans as the bar says, to the nanosecond at the ends of the range too."""
    page = search.page(site_of(client), MultiDict(parse_qsl(where)))
    bars = page.picture.plot.histogram
    assert bars is not None
    counts = {url: bar.count for bar, url in zip(bars.bars, page.picture.plot.bar_urls, strict=True) if bar.count}
    assert sum(counts.values()) == bars.total
    for url, count in list(counts.items())[:: max(1, len(counts) // 8)] + list(counts.items())[-1:]:
        assert count == len(found_by(client, url)), url


@pytest.mark.parametrize("plot", ["duration", "ttft", "perplexity", "surprisal"])
def test_every_cell_leads_to_what_it_counts(client: FlaskClient, plot: str) -> None:
    """The link of each cell finds as many spans as the cell says; all cells and what has no value make the whole."""
    page = search.page(site_of(client), {"plot": plot})
    drawn = page.picture.plot.map
    assert drawn is not None
    assert len(found_by(client, "/search?")) == drawn.total + drawn.missing
    edges = [cell for cell in drawn.cells if cell.row in (0, drawn.rows - 1)]
    for cell in [*drawn.cells[::12], *edges]:
        assert cell.count == len(found_by(client, cell.url)), cell.url


@pytest.mark.parametrize("query", ["-has:perplexity", "is:generation -has:perplexity"])
@pytest.mark.parametrize("table", ["", "&table=1"])
def test_a_measure_that_no_match_has_is_said_to_be_absent(client: FlaskClient, query: str, table: str) -> None:
    """Rows and rail are there all the same; in the place of the picture stands why there is none."""
    page = get(client, f"/search?plot=perplexity&q={query}{table}")
    assert "No match has this measure." in page.text
    assert len(page.named("pick")) == min(50, len(found_by(client, f"/search?q={query}"))) > 0


def test_a_picture_has_a_table(client: FlaskClient) -> None:
    """The table of a picture has one line a bar or cell, with the same counts and links; the twin has the numbers."""
    for plot in ("count", "perplexity"):
        page = search.page(site_of(client), {"plot": plot, "table": "1"})
        twin = client.get(f"/search/plot.json?plot={plot}").json
        total = sum(twin["counts"]) if plot == "count" else sum(map(sum, twin["counts"]))
        assert total == sum(line.count for line in page.picture.plot.rows)
        shown = get(client, f"/search?plot={plot}&table=1")
        assert {line.url for line in page.picture.plot.rows} <= set(shown.links("/search?"))


@settings(deadline=None)
@given(st.integers(0, 2 * 10**18), st.integers(1, 10**17), st.integers(2, 100))
def test_steps_of_time_are_round_and_cover_it(start: int, length: int, wanted: int) -> None:
    """At most as many steps as wanted, all of a range, beginning at a multiple of the step."""
    first, step, number = search_plots.steps(start, start + length, wanted)
    assert 1 <= number <= wanted
    assert first <= start < first + step
    assert first + number * step >= start + length
    assert first % step == 0


@pytest.mark.parametrize(("args", "target"), [
    ({"q": "a", "field": "ttft", "low": "1s", "from": "x", "to": "y"},
     {"a": ["ttft:>=1s"], "b": ["-(ttft:>=1s)"], "q": ["a"], "from": ["x"], "to": ["y"]}),
    ({"field": "perplexity", "low": "2", "high": "3"},
     {"a": ["perplexity:>=2 perplexity:<3"], "b": ["-(perplexity:>=2 perplexity:<3)"]}),
    ({"q": "a", "field": "count", "from": "m", "to": "n", "start": "l", "end": "o"},
     {"q": ["a"], "afrom": ["m"], "ato": ["n"], "bfrom": ["l"], "bto": ["m"]}),
    ({"field": "count", "from": "l", "to": "n", "start": "l", "end": "o"},
     {"afrom": ["l"], "ato": ["n"], "bfrom": ["n"], "bto": ["o"]}),
])
def test_a_selection_leads_to_its_comparison(args: dict[str, str], target: dict[str, list[str]]) -> None:
    """Values against the others of their time; without values, the time against what came before, or after where nothing did."""
    url = urlsplit(selected(args))
    assert ("/compare", target) == (url.path, parse_qs(url.query))


@pytest.mark.parametrize("args", ["field=ttft&low=1 OR x", "field=name&low=1", "field=count&from=a&to=b&start=a&end=b",
                                  "field=ttft"])
def test_a_selection_that_selects_nothing_is_refused(client: FlaskClient, args: str) -> None:
    """Text that is no number, a field that is not drawn and the whole picture get a 400."""
    assert 400 == client.get(f"/search/selection?{args}").status_code


# --- The rail -------------------------------------------------------------------------------------------------------------


def _facets(client: FlaskClient, name: str, **args: str) -> search.Facet:
    return search.facet_fragment(site_of(client), {"name": name, **args})


@pytest.mark.parametrize("name", ["model", "status", "env", "finish", "error", "host.name", "gen_ai.request.temperature"])
def test_every_link_of_a_facet_leads_to_what_it_says(client: FlaskClient, name: str) -> None:
    """Only a value finds its count, excluding it the others, and missing the spans without any; alike for fields and attributes."""
    total = len(found_by(client, "/search?"))
    facet = _facets(client, name)
    assert facet.values
    for value in facet.values:
        assert value.count == len(found_by(client, value.only_url))
        assert value.count == len(found_by(client, value.include_url))
        assert total - value.count == len(found_by(client, value.exclude_url))


def _by_value(client: FlaskClient, name: str, query: str) -> dict[str, search.FacetValue]:
    return {value.value: value for value in _facets(client, name, q=query).values}


def _query_of(url: str) -> str:
    return parse_qs(urlsplit(url).query).get("q", [""])[0]


@pytest.mark.parametrize("rest", ["", "is:generation"])
def test_letting_a_second_value_in_adds_its_spans(client: FlaskClient, rest: str) -> None:
    """With one value let in the others are still there with what each would add; a click on one widens the choice, a second one
    narrows it again."""
    whole = {name: value.count for name, value in _by_value(client, "model", rest).items()}
    first, second = "gpt2", "Qwen2.5-7B-Instruct"
    chosen = _by_value(client, "model", f"{rest} model:{first}".strip())

    assert whole == {name: value.count for name, value in chosen.items()}
    assert [first] == [name for name, value in chosen.items() if value.included]
    both = chosen[second].include_url
    assert whole[first] + whole[second] == len(found_by(client, both))
    after = _by_value(client, "model", _query_of(both))
    assert {first, second} == {name for name, value in after.items() if value.included}
    assert whole[second] == len(found_by(client, after[first].include_url))


def test_what_is_kept_out_is_shown_and_can_be_let_in_again(client: FlaskClient) -> None:
    """An excluded value stays in the rail with its count, marked, and its link takes the exclusion back."""
    whole = _by_value(client, "model", "")
    without = _by_value(client, "model", _query_of(whole["gpt2"].exclude_url))

    assert ["gpt2"] == [name for name, value in without.items() if value.excluded]
    assert whole["gpt2"].count == without["gpt2"].count
    assert "" == _query_of(without["gpt2"].exclude_url)
    assert whole["gpt2"].count == len(found_by(client, without["gpt2"].include_url))


def test_missing_and_a_value_take_each_others_place(client: FlaskClient) -> None:
    """No span both lacks a field and has a value of it: letting one in lets the other go, so that no click finds nothing."""
    chosen = _by_value(client, "model", "model:gpt2")
    lacking = _by_value(client, "model", _query_of(chosen[""].include_url))

    assert chosen[""].count == len(found_by(client, chosen[""].include_url)) > 0
    assert [""] == [name for name, value in lacking.items() if value.included]
    assert lacking["gpt2"].count == len(found_by(client, lacking["gpt2"].include_url)) > 0


def test_the_page_and_its_fragment_say_the_same(client: FlaskClient) -> None:
    """A facet that the page had no time for is fetched later and looks as if it had been there."""
    fragment = get(client, "/search/facet?name=service&q=is:error")
    twin = client.get("/search/facet.json?name=service&q=is:error").json
    titles = [attrs["title"] for attrs in fragment.with_class("pick") if attrs.get("href")]
    assert [entry["value"] for entry in twin["values"]] == titles[: len(twin["values"])]


def test_counts_that_would_keep_rows_waiting_come_later(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are there at once; the picture and each facet are fragments then, which say what the page says that has the time."""
    patient = get(client, "/search?q=is:error")
    monkeypatch.setattr(search, "PAGE_SECONDS", 0.0)
    hurried = get(client, "/search?q=is:error")
    sources = [str(attrs["data-src"]) for tag, attrs in hurried.tags if tag == "later-part"]

    assert [attrs["value"] for attrs in hurried.named("pick")] == [attrs["value"] for attrs in patient.named("pick")]
    assert [urlsplit(source).path for source in sources] == ["/search/picture", *["/search/facet"] * (len(sources) - 1)]
    fragment = get(client, sources[0])
    bars = [attrs["href"] for page in (patient, fragment) for tag, attrs in page.tags
            if tag == "a" and re.match(r"/search\?from=.*&to=", str(attrs.get("href")))]
    assert len(bars) == 2 * len(set(bars)) > 0
    said, = (attrs["data-shown"] for attrs in fragment.with_class("picture"))
    assert str(said) in patient.text
    assert "not all matches are counted yet" in hurried.text
    assert "not all matches are counted yet" not in patient.text + fragment.text
    assert [attrs["data-src"] for tag, attrs in get(client, "/search?q=is:error&count=*").tags if tag == "later-part"] == []


def test_a_facet_does_not_say_none_where_nothing_was_counted(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where time was up before the first match was counted, the facet is counted all the same."""
    nothing = verb.Extent(Window(0, world.NOW_NS), 0, 0, 0, exact=False, cut=True)
    monkeypatch.setattr(search.verb, "extent", lambda *_, **__: nothing)
    assert client.get("/search/facet.json?name=service").json["values"]


@pytest.mark.parametrize("rows", ["", "-1", "5e3", "1234567"])
def test_a_picture_is_of_a_page_with_some_rows(client: FlaskClient, rows: str) -> None:
    """Anything else is refused."""
    assert client.get(f"/search/picture?rows={rows}").status_code == 400


def test_any_attribute_can_be_a_facet_and_leave_again(client: FlaskClient) -> None:
    """A key in the address has its place in the rail, and a link that takes it out; a number says why it is none."""
    page = search.page(site_of(client), {"facets": "host.name,perplexity", "count": "host.name"})
    facets = {facet.name: facet for facet in page.facets}
    assert "/search?facets=perplexity" == facets["host.name"].remove_url
    assert facets["host.name"].counted
    assert "number" in _facets(client, "perplexity").fault


# --- The rows -------------------------------------------------------------------------------------------------------------


def test_previous_and_next_are_links(client: FlaskClient) -> None:
    """The second page leads back to the first one and on to the third."""
    links = [attrs for tag, attrs in get(client, "/search?limit=20").tags if tag == "a" and attrs.get("rel")]
    assert ["next"] == [link["rel"] for link in links]
    second = get(client, str(links[0]["href"]))
    previous = next(str(attrs["href"]) for _, attrs in second.tags if attrs.get("rel") == "prev")
    assert {"first", "prev", "next"} == {attrs["rel"] for tag, attrs in second.tags if tag == "a" and attrs.get("rel")}
    first = [attrs["href"] for attrs in get(client, "/search?limit=20").with_class("cover")]
    assert first == [attrs["href"] for attrs in get(client, previous).with_class("cover")]


def test_how_many_is_said(client: FlaskClient) -> None:
    """The page says how many rows it shows of how many."""
    rows = len(found_by(client, "/search?q=model:gpt2"))
    assert f"20 of {rows} spans" in get(client, "/search?limit=20&q=model:gpt2").text


class _Slow:
    """The same store, in which whatever may be cut is."""

    def __init__(self, store: ClickHouseStore) -> None:
        self.database, self._store = store.database, store

    def query(self, sql: str, parameters: Any = None, *, seconds_max: float | None = None) -> Result:
        found = self._store.query(sql, parameters)
        return found if seconds_max is None else replace(found, cut=True)


def test_a_search_that_was_cut_off_says_so_with_a_remedy(store: ClickHouseStore) -> None:
    """What was found is shown under a banner; the count becomes a lower bound; facets are left to be asked for."""
    slow = create_app(_Slow(store), Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()  # type: ignore[arg-type]
    page = get(slow, "/search?limit=20")
    assert "Not everything was searched." in page.text
    assert "Narrow the time range" in page.text
    assert "20 of more than " in page.text
    assert 20 == len(page.with_class("cover"))
    assert page.links("/search?count=model")

    nothing = get(slow, "/search?q=service:nobody").text
    assert "nothing was found until then, but there may be matches" in nothing
    assert "No match so far" in nothing
    assert "these rows match" not in nothing


def test_everything_is_counted_on_demand(store: ClickHouseStore) -> None:
    """Where counting was cut short a link lets it take its time; where that was done, or all is counted, there is no such link."""
    slow = create_app(_Slow(store), Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()  # type: ignore[arg-type]
    offered = [link for link in get(slow, "/search?limit=20&q=model:gpt2").links("/search?") if "count=%2A" in link]
    assert [{"q": ["model:gpt2"], "limit": ["20"], "count": ["*"]}] == [parse_qs(urlsplit(link).query) for link in offered]
    counted = get(slow, offered[0]).text
    assert "after 10 s" in counted
    assert "Count all" not in counted
    whole = create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()
    assert "Count all" not in get(whole, offered[0]).text


def test_columns_appear_in_the_table_and_in_the_twin(client: FlaskClient) -> None:
    """A field, a score and an attribute, each under its heading, sortable where they have an order."""
    page = get(client, "/search?cols=entropy,score.repetition,host.name&q=tokens.out:122")
    row = client.get("/search.json?cols=entropy,score.repetition,host.name&q=tokens.out:122").json["rows"][0]
    assert {"score.repetition": 0.04, "host.name": "gpu-7"}.items() <= row["columns"].items()
    assert "gpu-7" in page.text
    sorts = {sort for link in page.links("/search?") for sort in parse_qs(urlsplit(link).query).get("sort", [])}
    assert {"-entropy", "-score.repetition"} <= sorts
    assert "-host.name" not in sorts


def _ordered(client: FlaskClient, **parameters: str) -> tuple[list[tuple[str, str, str]], list[list[str]]]:
    """Of the table: (heading, aria-sort, where its link leads), and the texts of each row's cells."""
    text = client.get("/search", query_string=parameters).text
    headings = re.findall(r'<th scope="col"([^>]*)>(?:<a href="([^"]*)">)?<bdi>([^<]*)</bdi>', text)
    body = text.split('<table class="hits">')[1].split("<tbody>")[1].split("</tbody>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in body.split("<tr")[1:]]
    marked = [(label, "".join(re.findall(r'aria-sort="(\w+)"', rest)), html.unescape(link)) for rest, link, label in headings]
    return marked, [[re.sub("<[^>]*>", "", cell) for cell in row] for row in rows]


@pytest.mark.parametrize("sort", ["surprisal.p95", "-surprisal.p95", "entropy", "-attn.entropy[layer=3].mean"])
@pytest.mark.parametrize("staged", [False, True])
def test_rows_show_what_they_are_sorted_by(client: FlaskClient, sort: str, staged: bool) -> None:
    """A field or an aggregate of a series that has no column gets one, in order, whether the address or the query asks for it."""
    asked = {"q": f"has:tokens.out | sort {sort}"} if staged else {"q": "has:tokens.out", "sort": sort}
    name = sort.removeprefix("-")
    headings, _ = _ordered(client, **asked)
    rows = client.get("/search.json", query_string=asked).json["rows"]
    found = [row["columns"][name] if "columns" in row else row["measured"] for row in rows]
    values = [value for value in found if value is not None]

    (marked,) = [(way, link) for _, way, link in headings if way]
    assert len(values) >= 2
    assert values == sorted(values, reverse=sort.startswith("-"))
    assert marked[0] == ("descending" if sort.startswith("-") else "ascending")
    assert [name if sort.startswith("-") else f"-{name}"] == parse_qs(urlsplit(marked[1]).query)["sort"]


def test_the_values_that_order_the_rows_are_in_their_cells(client: FlaskClient) -> None:
    """The twin's figures, as the page prints numbers."""
    _, rows = _ordered(client, q="has:tokens.out | sort -surprisal.p95 | limit 3")
    twin = client.get("/search.json", query_string={"q": "has:tokens.out | sort -surprisal.p95 | limit 3"}).json["rows"]

    assert [f"{row['measured']:.3g}" for row in twin] == [f"{float(cells[3]):.3g}" for cells in rows]


@pytest.mark.parametrize(("query", "sort", "heading", "way"), [
    ("is:error | sort -duration", "ttft", "Duration", "descending"), ("| sort latency | limit 5", "", "Duration", "ascending"),
    ('name:"a | sort b" | sort time', "-ttft", "Time", "ascending"), ("", "-tokens.out", "Tokens", "descending"),
    ("", "", "Time", "descending"),
])
def test_the_arrow_stands_where_the_rows_are_sorted(
    client: FlaskClient, query: str, sort: str, heading: str, way: str
) -> None:
    """`| sort` goes before the address, under any name of its field; the click on any heading then has its way."""
    headings, _ = _ordered(client, q=query, sort=sort) if "a | sort b" not in query else (_headings_of(query, sort), [])

    assert [(heading, way)] == [(label, found) for label, found, _ in headings if found]
    for label, _, link in headings:
        if link:
            led = "".join(parse_qs(urlsplit(link).query).get("q", []))
            assert language.read(led).sort is None, label
            assert language.read(led).limit == language.read(query).limit or ("| limit 5" in query and "| limit 5" in led)


def _headings_of(query: str, sort: str) -> list[tuple[str, str, str]]:
    """Of a search that finds nothing, which has no table."""
    return [(heading.label, heading.direction, heading.url) for heading in search_table.headings(State(q=query, sort=sort))]


def test_a_sparkline_speaks(client: FlaskClient) -> None:
    """The curve of a row has its story as text; a row without a series has no curve."""
    page = search.page(site_of(client), {"q": "is:generation"})
    drawn = {hit.row["span_id"]: hit.spark for hit in page.hits}
    assert drawn[f"{world.CHAT:016x}"].said.startswith(f"Surprisal over {len(world.PIECES)} tokens: ")
    assert drawn[f"{world.FAILED:016x}"] is None


def test_two_rows_are_picked_for_comparison(client: FlaskClient) -> None:
    """Two checkboxes lead to the comparison of the two; any other number is explained."""
    assert "/compare?a=span%3A0a&b=trace%3A0b" == picked(["span:0a", "trace:0b"])
    for picks in ("pick=span:1", "pick=span:1&pick=span:2&pick=span:3", "pick=span:1&pick=is:error OR"):
        assert 400 == client.get(f"/search/compare?{picks}").status_code


def test_a_closer_look_is_a_fragment(client: FlaskClient) -> None:
    """The link behind e gives attributes and first tokens; an address of nothing is a 404, a wrong time a 400."""
    hit = next(hit for hit in search.page(site_of(client), {}).hits if hit.row["span_id"] == f"{world.CHAT:016x}")
    look = get(client, hit.more_url)
    assert "gen_ai.request.temperature" in look.text
    assert "".join(world.PIECES[:3]) in look.text
    assert 404 == client.get(re.sub(r"at=\d+", "at=7", hit.more_url)).status_code
    assert 400 == client.get(re.sub(r"at=\d+", "at=x", hit.more_url)).status_code


def test_the_page_is_light(client: FlaskClient) -> None:
    """Any picture, any view: the page itself stays under 150 kB, its own script and style under 30."""
    for query in ("", "?plot=duration", "?view=traces", "?plot=perplexity&table=1"):
        assert len(client.get(f"/search{query}").data) < 150_000
    own = sum(len(client.get(f"/static/search.{kind}").data) for kind in ("js", "css"))
    assert own < 30_000
