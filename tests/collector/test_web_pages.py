"""The pages and their JSON twins over a real store: what they show, what they refuse, and what no text can make them do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from flask.testing import FlaskClient

import web_helpers as world
from cutaway_collector.contracts import Result
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app
from cutaway_collector.web.pages import generation, search, trace
from cutaway_collector.web.pages.generation_lane import WINDOWS
from web_helpers import TRACE, gen, get, site_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    with world.stored(tmp_path_factory.mktemp("web") / "data", *world.hostile_world()) as open_store:
        yield open_store


@pytest.fixture
def client(store: ClickHouseStore) -> FlaskClient:
    return create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()


# --- Search ---------------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_rows_of_its_twin(client: FlaskClient) -> None:
    """Page and twin give the same spans in the same order, under the same query."""
    rows = client.get("/search.json?q=perplexity:>20&sort=-perplexity").json["rows"]

    opened = list(get(client, "/search?q=perplexity:>20&sort=-perplexity").links("/gen/"))

    assert [f"/gen/{row['span_id']}" for row in rows] == opened
    assert all(row["perplexity"] > 20 for row in rows)
    assert [row["perplexity"] for row in rows] == sorted((row["perplexity"] for row in rows), reverse=True)


def test_a_row_carries_what_the_contract_promises(client: FlaskClient) -> None:
    """Every promised key is in every row of the twin, next to the cursor and the costs."""
    body = client.get("/search.json?limit=3").json

    promised = {
        "trace_id",
        "span_id",
        "name",
        "service",
        "start_ns",
        "duration_ns",
        "status",
        "model",
        "input_tokens",
        "output_tokens",
        "ttft_s",
        "perplexity",
    }
    assert all(promised <= set(row) for row in body["rows"])
    assert {"rows", "next", "previous", "stats"} == set(body)


def test_pages_follow_each_other_without_gap_or_repeat(client: FlaskClient) -> None:
    """Following "next" over the whole result gives every span once, in order."""
    whole = [row["span_id"] for row in client.get("/search.json?limit=500&q=service:concierge").json["rows"]]
    path, seen = "/search?limit=20&q=service:concierge", []

    while path:
        page = get(client, path)
        seen += [
            re.findall(r"[0-9a-f]{16}", link)[-1]
            for tag, attrs in page.tags
            if tag == "a" and attrs.get("class") == "cover"
            for link in [str(attrs["href"])]
        ]
        path = next((str(attrs["href"]) for tag, attrs in page.tags if tag == "a" and attrs.get("rel") == "next"), "")

    assert whole == seen


def test_a_facet_click_narrows_to_its_count(client: FlaskClient) -> None:
    """Following a facet's link shows as many spans as the facet promised."""
    page = search.page(site_of(client), {"limit": "500", "count": "model"})
    value = next(value for facet in page.facets if facet.name == "model" for value in facet.values if value.value == "gpt2")

    assert value.count == client.get(value.include_url.replace("/search?", "/search.json?limit=500&")).json["stats"]["returned"]


def test_excluding_a_facet_leaves_the_rest(client: FlaskClient) -> None:
    """The minus beside a value takes its spans away and nothing else."""
    page = search.page(site_of(client), {"limit": "500", "count": "service"})
    value = next(value for facet in page.facets if facet.name == "service" for value in facet.values if value.value == "evals")
    rows = client.get(value.exclude_url.replace("/search?", "/search.json?limit=500&")).json["rows"]

    assert page.picture.plot.histogram.total - value.count == len(rows)
    assert "evals" not in {row["service"] for row in rows}


def test_the_histogram_counts_what_the_search_finds(client: FlaskClient) -> None:
    """The bars add up to the number of matching spans, errors included."""
    rows = client.get("/search.json?limit=500").json["rows"]

    chart = search.page(site_of(client), {}).picture.plot.histogram

    assert (len(rows), sum(row["status"] == "Error" for row in rows)) == (chart.total, chart.errors)


def test_a_bar_leads_to_its_spans(client: FlaskClient) -> None:
    """Clicking the tallest bar searches its time and finds its spans."""
    page = search.page(site_of(client), {})
    bars = page.picture.plot.histogram.bars
    tallest = max(range(len(bars)), key=lambda index: bars[index].height)

    rows = client.get(page.picture.plot.bar_urls[tallest].replace("/search?", "/search.json?limit=500&")).json["rows"]

    assert bars[tallest].count == len(rows)
    assert all(bars[tallest].start_ns <= row["start_ns"] < bars[tallest].end_ns for row in rows)


@pytest.mark.parametrize(
    ("pasted", "target"),
    [(f"{world.RAG_TRACE:032x}", TRACE), (f" {world.CHAT:016X} ", gen(world.CHAT)), (f"{10:016x}", f"{TRACE}?span={10:016x}")],
)
def test_a_pasted_id_jumps(client: FlaskClient, pasted: str, target: str) -> None:
    """A trace id opens the trace, a generation's span id its tokens, any other span id the span in its trace."""
    assert target == client.get("/search", query_string={"q": pasted}).location


def test_an_unreadable_query_is_pointed_at(client: FlaskClient) -> None:
    """The page says what is wrong, marks the character and keeps the query in the box."""
    page = get(client, "/search?q=model:gpt2+ttft:>foo", 400)

    twin = client.get("/search.json?q=model:gpt2+ttft:>foo")
    assert 400 == twin.status_code
    assert "model:gpt2 ttft:>foo".index("foo") == twin.json["error"]["column"]
    assert "at character 18" in page.text
    assert any(attrs.get("value") == "model:gpt2 ttft:>foo" for tag, attrs in page.tags if tag == "input")


@pytest.mark.parametrize(
    "query",
    ["from=yesterday", "limit=0", "limit=9999999", "limit=x", "from=-1h&to=-2h", "sort=nonsense", "after=bogus", "q=" + "a" * 5000],
)
def test_other_parameters_are_refused_with_a_reason(client: FlaskClient, query: str) -> None:
    """A parameter that cannot be read is a 400 with a message, on the page and in the twin alike."""
    page, twin = client.get(f"/search?{query}"), client.get(f"/search.json?{query}")

    assert (400, 400) == (page.status_code, twin.status_code)
    assert twin.json["error"]["message"]


class _Elsewhere:
    """The same engine, another database: a process has one embedded engine, and this one is in use."""

    def __init__(self, store: ClickHouseStore, database: str) -> None:
        self.database = database
        self.query = store.query


def test_an_empty_store_shows_how_to_begin(store: ClickHouseStore) -> None:
    """The first page of a new installation holds the code to send the first generation, with the addresses that listen."""
    store.command("CREATE DATABASE IF NOT EXISTS fresh")
    for table in ("otel_traces", "otel_traces_trace_id_ts", "gen_ai_tokens", "gen_ai_scores"):
        store.command(f"CREATE TABLE IF NOT EXISTS fresh.{table} AS otel.{table}")
    settings = Settings(data="unused", otlp_grpc="127.0.0.1:5317")

    page = get(create_app(_Elsewhere(store, "fresh"), settings).test_client(), "/search")  # type: ignore[arg-type]

    assert "cutaway.instrument()" in page.text
    assert "http://127.0.0.1:5317" in page.text


def test_no_match_is_not_an_empty_store(client: FlaskClient) -> None:
    """Where spans exist but none matches, the page offers to widen the search instead of the first steps."""
    page = get(client, "/search?q=nothing-like-this&from=-1h")

    assert "No span matches" in page.text
    assert "/search?q=nothing-like-this" in page.links("/search?q=")


# --- Trace ----------------------------------------------------------------------------------------------------------------


def test_the_waterfall_has_every_span(client: FlaskClient) -> None:
    """Each span of the twin has one row; the failed one is marked and opened, since nothing else was asked for."""
    page = get(client, TRACE)

    assert len(client.get(TRACE + ".json").json["spans"]) == len(page.with_class("row"))
    assert 1 == len([attrs for attrs in page.with_class("failed") if "selected" in str(attrs["class"])])
    assert "timed out after 450 ms" in page.text


def test_a_generation_shows_its_first_token_and_its_surprisal(client: FlaskClient) -> None:
    """The bar of a generation is split at its first token and carries a stripe of surprisal."""
    lines = trace.page(site_of(client), f"{world.RAG_TRACE:032x}", {}).lines
    line = next(line for line in lines if line.identity == f"{world.CHAT:016x}")

    assert line.bar is not None
    assert line.prefill is not None
    assert 0.312 / 2.075 == pytest.approx(line.prefill.width / line.bar.width)
    assert len(line.stripe) >= 16
    assert all(0 <= int(cell.kind) < 16 and 0 <= cell.x < 100 for cell in line.stripe)


def test_lines_of_a_value_are_kept(client: FlaskClient) -> None:
    """A stack trace takes the whole width of the pane, values of one line stay beside their key."""
    opened = trace.page(site_of(client), f"{world.RAG_TRACE:032x}", {"span": f"{10:016x}"}).opened

    assert opened is not None
    exception = {item.key: item.wide for item in opened.events[0].properties}
    assert {"exception.type": False, "exception.message": False, "exception.stacktrace": True} == exception
    assert 1 == len(get(client, f"{TRACE}?span={10:016x}").with_class("wide"))


def test_the_waterfall_explains_only_what_it_shows(client: FlaskClient) -> None:
    """The key of colours is there where a bar uses them, and nowhere else."""
    assert "until the first token" in get(client, TRACE).text
    assert "surprisal of the tokens" in get(client, TRACE).text
    for text in ("until the first token", "surprisal of the tokens"):
        assert text not in get(client, f"/trace/{11:032x}").text


def test_an_opened_span_shows_all_it_carries(client: FlaskClient) -> None:
    """Attributes, events, links, resource and the way into the generation are there without script."""
    page = get(client, f"{TRACE}?span={world.CHAT:016x}")

    for expected in ("output.perplexity", "huggingface", "gpu-7", "Resource"):
        assert expected in page.text
    assert gen(world.CHAT) in page.links("/gen/")
    assert page.links(f"/trace/{99:032x}")


def test_a_missing_parent_is_named(client: FlaskClient) -> None:
    """A span whose parent is not stored is announced, not silently made a root."""
    assert "1 span names a parent that is not stored" in get(client, TRACE).text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/trace/" + "0" * 31 + "1", 404),
        ("/trace/zz", 400),
        (f"{TRACE}?span=ffffffffffffffff", 404),
        (f"{TRACE}?rows=99", 400),
        ("/gen/ffffffffffffffff", 404),
        ("/gen/xyz", 400),
        (gen(world.CHAT) + "?signal=mood", 400),
        (gen(world.CHAT) + "?seq=7", 400),
        (gen(world.CHAT) + "?heads=99", 400),
        (gen(world.CHAT) + "?view=3d", 400),
        (gen(world.CHAT) + "?start=-1", 400),
    ],
)
def test_wrong_addresses_are_explained(client: FlaskClient, path: str, status: int) -> None:
    """Unknown ids are 404, unreadable parameters 400, each with a sentence and no trace of the code."""
    page = get(client, path, status)

    assert len(page.text.split("Search")[-1]) > 40
    assert "Traceback" not in page.text


@pytest.mark.parametrize("junk", ["x", "-1", "1e3", "1.5", "99999999999", "000000000001", "\u0663", "0x1", "%00", "9999999"])
@pytest.mark.parametrize("name", ["seq", "start", "count", "heads"])
def test_parameters_of_a_generation_are_numbers(client: FlaskClient, name: str, junk: str) -> None:
    """What is no number in range is a 400 naming the parameter, on the page and in its twin; a window beyond the end is empty."""
    answers = [client.get(f"{gen(world.CHAT)}{twin}?{name}={junk}") for twin in ("", ".json")]

    beyond = junk == "9999999" and name in ("start", "count")
    assert [200 if name == "count" and beyond else 400, 200 if beyond else 400] == [answer.status_code for answer in answers]
    assert beyond or f"{name} " in answers[1].json["error"]["message"]


def test_unknown_parameters_are_ignored(client: FlaskClient) -> None:
    """A link with something appended by another tool still opens; a search says what it did not look at, for it may be a slip."""
    for path in (gen(world.CHAT), gen(world.CHAT) + ".json", TRACE, "/search", "/search.json"):
        assert 200 == client.get(path + "?utm_source=chat&x=").status_code
    assert "`fom`" in get(client, "/search?fom=-1h").text
    assert any("`fom`" in said for said in client.get("/search.json?fom=-1h").json["stats"]["warnings"])


# --- Generation -----------------------------------------------------------------------------------------------------------


def test_every_token_is_shown_in_order(client: FlaskClient) -> None:
    """The lane holds each token once, with its index and value; blanks and new lines are visible."""
    answer = client.get(gen(world.CHAT)).text
    titles = re.findall(r'<span class="t q\d+(?: h)?" title="#(\d+) · ([\d.]+)', answer)
    values = client.get(gen(world.CHAT) + ".json").json["sequences"][0]["signals"]["surprisal"]

    assert list(range(len(world.PIECES))) == [int(index) for index, _ in titles]
    assert values == pytest.approx([float(value) for _, value in titles], rel=6e-3, abs=1e-5)
    assert world.PIECES.count("\n") == answer.split('class="lane-box')[1].split("</div>")[0].count("↵")


def test_the_twin_carries_the_recorded_numbers(client: FlaskClient, store: ClickHouseStore) -> None:
    """Signals and attention come back as stored: float32 to the last digit, attention to a millionth of a nat."""
    stored: Result = store.query(
        "SELECT Surprisals, AttentionEntropies, TokenIds, TokenTexts FROM otel.gen_ai_tokens WHERE SpanId = {id:String}",
        {"id": f"{world.CHAT:016x}"},
    )
    surprisals, attention, ids, texts = stored.rows[0]

    body = client.get(gen(world.CHAT) + ".json").json
    sequence = body["sequences"][0]

    assert np.array_equal(np.float32(surprisals), np.float32(sequence["signals"]["surprisal"]))
    assert np.allclose(np.reshape(attention, (-1, world.LAYERS)), sequence["attention_entropy"], atol=2e-6)
    assert (list(ids), list(texts)) == (sequence["token_ids"], sequence["tokens"])
    assert {"surprisal", "entropy", "margin", "rank", "inter_token_s"} <= set(sequence["signals"])


@pytest.mark.parametrize(("heads", "depth"), [("", 2), ("3", 2), ("all", 3)])
def test_heads_choose_the_map(client: FlaskClient, heads: str, depth: int) -> None:
    """The twin gives the mean over heads, one head, or all of them; the mean of all is the mean."""
    values = np.array(client.get(f"{gen(world.CHAT)}.json?heads={heads}").json["sequences"][0]["attention_entropy"])
    every = np.array(client.get(f"{gen(world.CHAT)}.json?heads=all").json["sequences"][0]["attention_entropy"])

    assert depth == values.ndim
    expected = {"": every.mean(2), "3": every[:, :, 3], "all": every}[heads]
    assert np.allclose(expected, values, atol=1e-5)


def test_a_window_of_the_twin_is_cut_from_the_whole(client: FlaskClient) -> None:
    """`seq`, `start` and `count` give exactly that part of every series."""
    whole = client.get(gen(world.BATCH) + ".json").json["sequences"][1]

    part = client.get(gen(world.BATCH) + ".json?seq=1&start=10&count=5").json["sequences"]

    assert 1 == len(part)
    assert whole["signals"]["rank"][10:15] == part[0]["signals"]["rank"]
    assert whole["tokens"][10:15] == part[0]["tokens"]
    assert whole["attention_entropy"][10:15] == part[0]["attention_entropy"]


def test_signals_change_the_colours(client: FlaskClient) -> None:
    """Each signal is a link; the chosen one is marked and colours by its own values."""
    page = get(client, gen(world.CHAT) + "?signal=margin")
    values = client.get(gen(world.CHAT) + ".json").json["sequences"][0]["signals"]["margin"]
    hottest = [int(str(attrs["title"]).split()[0][1:]) for attrs in page.with_class("q15")]

    assert {"surprisal", "entropy", "rank", "inter_token_s"} - {"surprisal"} <= {
        re.sub(".*signal=", "", link) for link in page.links("/gen/")
    }
    assert max(values[index] for index in hottest) < np.median(values)


def test_a_batch_has_a_tab_for_each_sequence(client: FlaskClient) -> None:
    """Each sequence of a batch is one link away and shows its own tokens."""
    pages = [generation.page(site_of(client), f"{world.BATCH:016x}", {"seq": str(n)}) for n in range(3)]

    assert [52, 40, 28] == [page.lanes.count for page in pages if page.lanes]
    assert [3, 3, 3] == [len(page.tabs["sequence"]) for page in pages]


def test_what_was_not_recorded_is_said(client: FlaskClient) -> None:
    """A sender that captured no text and could not read attention is shown as such, with the reason, and with token ids."""
    page = get(client, gen(world.BARE))

    assert "text not captured: token ids shown" in page.text
    assert "attention unsupported" in page.text
    assert "does not route attention through AttentionInterface" in page.text
    assert not [tag for tag, _ in page.tags if tag == "heat-grid"]


def test_a_failed_call_without_tokens_still_has_a_page(client: FlaskClient) -> None:
    """A generation that broke before its first token shows its state instead of breaking the page."""
    page = get(client, gen(world.FAILED))

    assert "No tokens" in page.text
    assert "tokens error" in page.text


def test_a_long_generation_is_cut_into_windows(client: FlaskClient) -> None:
    """Nine thousand tokens: each window links to the next, and together they hold every token once, whatever the view."""
    for view, size in WINDOWS.items():
        if view == "layers":
            continue
        page, sizes = get(client, f"{gen(world.LONG)}?view={view}&start={9000 // size * size - size}"), []
        while True:
            sizes.append(len(page.with_class("t")))
            further = [link for link in page.links("/gen/") if f"start={9000 // size * size}" in link and "tok=" not in link]
            if len(sizes) == 2 or not further:
                break
            page = get(client, further[0])
        assert [size, 9000 % size] == sizes


def test_the_table_holds_every_number(client: FlaskClient) -> None:
    """The table view has a row a token and a column a signal, for those who cannot use colours."""
    page = get(client, gen(world.CHAT) + "?view=table")

    headings = [str(attrs.get("title")) for tag, attrs in page.tags if tag == "th" and attrs.get("title")]
    assert 6 == len(headings)
    assert len(world.PIECES) == len(page.with_class("t"))


def test_scores_are_listed(client: FlaskClient) -> None:
    """Scores of the generation stand in a table with their scorer."""
    text = get(client, gen(world.CHAT)).text

    assert "worst_window_surprisal" in text
    assert "3.21" in text
