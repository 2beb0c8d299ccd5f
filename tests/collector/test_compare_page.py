"""The comparison page and its twin: what they show, where their links lead, and that what users send stays text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient

import web_helpers as world
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from web_helpers import get

PAIR = f"/compare?a=span:{world.CHAT:016x}&b=span:{world.BATCH:016x}"
TRACES = f"/compare?a=trace:{world.RAG_TRACE:032x}&b=trace:{world.RAG_TRACE:032x}+-name:weather"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    spans, blocks = world.hostile_world()
    with world.stored(tmp_path_factory.mktemp("page") / "data", spans, blocks) as store:
        yield create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()


def _parameters(url: str) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}


def test_the_page_says_the_numbers_of_its_twin(client: FlaskClient) -> None:
    """Counts of both sides, every metric, and as many cards as attributes differ, twelve at most."""
    page = get(client, "/compare?a=model:gpt2&q=is:generation")
    twin = client.get("/compare.json?a=model:gpt2&q=is:generation").json

    for side in ("a", "b"):
        assert f"{twin[side]['spans']} spans" in page.text
    assert len(page.with_class("same")) >= sum(not one["differs"] for one in twin["metrics"])
    assert len([card for card in page.with_class("card") if "few" in str(card["class"])]) in range(13)
    assert twin["mode"] == "rest"
    assert twin["attributes"][0]["score"] >= twin["attributes"][-1]["score"]


def test_the_twin_ranks_what_differs_first(client: FlaskClient) -> None:
    """By distance among those that differ, then among the others."""
    found = client.get("/compare.json?a=model:SmolLM2*").json["attributes"]
    order = [(not one["differs"], -one["score"]) for one in found]

    assert order == sorted(order)
    assert {"span.gen_ai.response.model", "name"} <= {name for one in found for name in (one["attribute"], *one["same"])}


def test_only_and_exclude_narrow_both_sides(client: FlaskClient) -> None:
    """The links keep both queries and put the value into what both match, once as it is and once negated."""
    page = get(client, "/compare?a=model:gpt2")
    links = [_parameters(link) for link in page.links("/compare?") if "q=" in link]

    assert all(link["a"] == "model:gpt2" for link in links)
    wanted = {link["q"] for link in links}
    assert any(query.startswith("-") for query in wanted)
    assert {query.removeprefix("-") for query in wanted} <= wanted | {query.removeprefix("-") for query in wanted}
    one = next(query for query in sorted(wanted) if not query.startswith("-") and ":" in query)
    narrowed = client.get("/compare.json", query_string={"a": "model:gpt2", "q": one}).json
    excluded = client.get("/compare.json", query_string={"a": "model:gpt2", "q": f"-{one}"}).json
    whole = client.get("/compare.json?a=model:gpt2").json
    for side in ("a", "b"):
        assert narrowed[side]["spans"] + excluded[side]["spans"] == whole[side]["spans"]


def test_every_link_of_the_page_leads_somewhere(client: FlaskClient) -> None:
    """Searches, traces, generations and comparisons that it offers all answer."""
    page = get(client, "/compare?a=is:error&q=is:generation")

    for link in {*page.links("/search"), *page.links("/trace"), *page.links("/gen"), *page.links("/compare.json")}:
        assert client.get(link).status_code == 200, link


@pytest.mark.parametrize(("side", "query"), [("a", "ttft:soon"), ("b", 'name:"half'), ("q", "(name:x")])
def test_a_query_that_cannot_be_read_is_refused_beside_its_field(client: FlaskClient, side: str, query: str) -> None:
    """The page keeps what was typed, marks the field and says why; the twin refuses with the same words."""
    parameters = {"a": "is:error", "b": "is:ok", side: query}
    answer = client.get("/compare", query_string=parameters)
    page = world.Page(answer.text)
    fields = {attrs["name"]: attrs for tag, attrs in page.tags if tag == "input" and attrs.get("name") in ("a", "b", "q")}

    assert answer.status_code == 400
    assert [name for name, attrs in fields.items() if attrs.get("aria-invalid")] in ([side], [side] * 2)
    assert fields["b" if side == "q" else side]["value"] == parameters["b" if side == "q" else side]
    assert client.get("/compare.json", query_string=parameters).status_code == 400


@pytest.mark.parametrize("parameters", ["a=is:error&from=yesterday", "a=is:error&from=-1h&to=-2h", "a=x&bfrom=-1h&bto=-2h",
                                        "by=no.such.field", "by=duration", "a=" + "x" * 5000])
def test_a_parameter_that_makes_no_sense_is_refused(client: FlaskClient, parameters: str) -> None:
    """With what would make sense, and as a page."""
    answer = client.get(f"/compare?{parameters}")

    assert answer.status_code == 400
    assert "<h1" in answer.text


def test_by_compares_the_two_most_frequent_values(client: FlaskClient) -> None:
    """Of a field, or of an attribute; what both match and the times go along."""
    answer = client.get("/compare?by=model&q=is:generation")
    found = _parameters(answer.location)

    assert (answer.status_code, found["q"]) == (302, "is:generation")
    twin = client.get("/compare.json", query_string=found).json
    counts = client.get("/search.json?q=is:generation&limit=500").json["rows"]
    assert twin["a"]["spans"] == sum(row["model"] == found["a"].split(":", 1)[1].strip('"') for row in counts)
    assert twin["a"]["spans"] >= twin["b"]["spans"] > 0


@pytest.mark.parametrize(("asked", "said"), [
    ("by=model&q=model:SmolLM2*", "have the same: SmolLM2"), ("by=no.such.field", "no span here has a no.such.field"),
])
def test_a_field_without_two_values_is_told_on_the_page(client: FlaskClient, asked: str, said: str) -> None:
    """With the form and what else may be compared, not as an address that cannot be read."""
    page = get(client, f"/compare?{asked}", status=400)

    assert said in page.text
    assert "Errors against the rest" in page.text


def test_the_start_of_a_comparison_explains_itself(client: FlaskClient) -> None:
    """Without a side nothing is computed, and every preset that it offers answers."""
    page = get(client, "/compare")

    assert "What is different about these spans?" in page.text
    for link in page.links("/compare?"):
        assert client.get(link).status_code in (200, 302, 400), link
    assert client.get("/compare.json").status_code == 400


def test_two_generations_stand_side_by_side(client: FlaskClient) -> None:
    """Each token once; what one side alone has is marked by words as well as by colour."""
    page = get(client, PAIR)
    twin = client.get(PAIR.replace("/compare?", "/compare.json?")).json["tokens"]
    shown = page.with_class("t")

    assert len(shown) == len(twin["steps"]) == twin["same"] + twin["a_only"] + twin["b_only"]
    assert twin["same"] == 52
    assert len(page.with_class("whose")) == 2 + sum(  # the key says the two words once each
        step["kind"] != "same" and step["kind"] != before["kind"] for before, step in pairwise(twin["steps"]))
    assert f"{twin['a_only']} of A alone" in page.text


def test_two_traces_are_aligned_by_their_spans(client: FlaskClient) -> None:
    """The span that one side leaves out is there alone, all others pair with the same name."""
    steps = client.get(TRACES.replace("/compare?", "/compare.json?")).json["spans"]["steps"]
    page = get(client, TRACES)

    assert [(step["name"], step["kind"]) for step in steps if step["kind"] != "same"] == [("weather", "a")]
    assert all(step["a"]["name"] == step["b"]["name"] for step in steps if step["kind"] == "same")
    assert "A alone" in page.text


def test_what_senders_wrote_stays_text(client: FlaskClient) -> None:
    """Attribute names and values that attack the page are neither markup nor addresses."""
    for path in ("/compare?a=trace:" + f"{9000:032x}", PAIR, "/compare?a=%3Cscript%3Ealert(1)%3C/script%3E&b=%22%3E%3Cimg%3E"):
        answer = client.get(path)
        page = world.Page(answer.text)

        assert not [tag for tag, attrs in page.tags if tag in ("img", "textarea") or any(name.startswith("on") for name in attrs)]
        assert not [attrs for tag, attrs in page.tags if tag == "a" and str(attrs["href"]).lower().startswith("javascript")]
        assert all(attrs.get("src") for tag, attrs in page.tags if tag == "script")
        assert not [attrs for _, attrs in page.tags if "style" in attrs]


def test_sides_can_be_exchanged(client: FlaskClient) -> None:
    """The link has the queries and their times the other way round."""
    page = get(client, "/compare?a=is:error&b=is:ok&afrom=-3h&bto=now")
    swap = next(_parameters(link) for link in page.links("/compare?") if _parameters(link).get("a") == "is:ok")

    assert swap == {"a": "is:ok", "b": "is:error", "bfrom": "-3h", "ato": "now"}


def test_generations_against_everything_offers_generations_alone(client: FlaskClient) -> None:
    """Comparing generations with spans of all kinds says little more than that."""
    page = get(client, "/compare?a=service:summaries&b=service:(concierge,encoder,tools,postgres)")

    assert any(_parameters(link).get("q") == "is:generation" for link in page.links("/compare?"))
