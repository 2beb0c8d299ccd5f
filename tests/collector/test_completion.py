"""Suggestions: what stands at the caret of a half-typed query, and that whatever is offered can be taken and finds what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import example, given, settings
from hypothesis import strategies as st

import search_helpers
import web_helpers as world
from cutaway_collector import credentials
from cutaway_collector.contracts import Result
from cutaway_collector.credentials import Credentials
from cutaway_collector.errors import QueryError, StoreError
from cutaway_collector.search import FIELDS, FLAGS, completion, language
from cutaway_collector.search.aggregates import measure
from cutaway_collector.search.caret import context
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.sessions import Sessions
from search_helpers import Span

HOSTILE = [
    *[text for text in world.XSS if "\x00" not in text], "OR", "AND", "NOT", "TO", "*", "?", "a*b?", "/x/", "[1 TO 2]", "(a, b)",
    ">5", "!=x", "-minus", "  blanks  ", "a,b", "a:b", "has:x", "is:error", '"', "\\", '\\"', 'say "hi"', "7", "7.0", "1e3",
    "any{x}", "} | limit 1", "a | b", "é 名 😀", "tab\tin", "%_", "'", "null", "{{x}}", "a" * 200,
]
CASES: list[tuple[str, str, str, str]] = [
    ("|", "field", "", ""), ("mod|", "field", "", "mod"), ("a mod|", "field", "", "mod"), ("-mod|", "field", "", "mod"),
    ("NOT mod|", "field", "", "mod"), ("(is:ok OR mod|", "field", "", "mod"), ("model:x |", "field", "", ""),
    ("model:|", "value", "model", ""), ("model:gp|t2 x", "value", "model", "gp"), ('model:"out of|', "value", "model", "out of"),
    ('model:(a, "b c|', "value", "model", "b c"), ("ttft:>|", "value", "ttft", ""), ("ttft > |", "value", "ttft", ""),
    ('score."a b":x|', "value", 'score."a b"', "x"), ("attn.entropy[layer=3].mean:|", "value", "attn.entropy[layer=3].mean", ""),
    ("any{name:x is:err|", "flag", "is", "err"), ("has:fin|", "has", "has", "fin"), ("any{na|", "field", "", "na"),
    ("is:ok | st|", "stage", "", "st"), ("is:ok | stats p95(tt|", "argument", "", "tt"),
    ("is:ok | sort -dur|", "argument", "", "dur"), ("is:ok | limit 2|", "none", "", "2"),
    ("| stats count() every 1|", "none", "", "1"),
    ("| stats count() b|", "joint", "", "b"), ("| stats count() by mod|", "argument", "", "mod"),
    ("| stats count() by a, b |", "joint", "", ""), ("is:ok | compare (mod|", "field", "", "mod"),
    ("is:ok | compare (is:x model:g|", "value", "model", "g"), ("resource.ho|", "field", "", "resource.ho"),
    ('"some words|', "field", "", "some words"), ("x:/pat|", "none", "", ""), ("perplexity:[10 TO|", "none", "", ""),
    ("12:30|", "none", "", ""),
    ("/users/{id} mod|", "field", "", "mod"), ('x:"a \\" b" mod|', "field", "", "mod"),
]
"""Query with the caret as |, the kind of its place, whose value it is, what is typed of it."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    spans, blocks = world.world()
    hostile = [Span(6000 + index, "hostile", 6000, service="hostile",
                    attributes={search_helpers.MODEL: text, "a key": text, "plain": text}) for index, text in enumerate(HOSTILE)]
    keyed = [Span(6500 + index, "keyed", 6500, service="keyed", attributes={text: "here"}) for index, text in enumerate(HOSTILE)]
    with world.stored(tmp_path_factory.mktemp("completion") / "data", [*spans, *hostile, *keyed], blocks) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(store: ClickHouseStore) -> FlaskClient:
    return create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()


def _complete(client: FlaskClient, text: str, **parameters: str) -> dict[str, Any]:
    """The answer for a query with the caret as ‸, or at its end."""
    caret = text.find("‸")
    place = {"caret": str(caret)} if caret >= 0 else {}
    query = text.replace("‸", "")
    answer = client.get("/complete.json", query_string={"q": query, **place, **parameters})
    assert 200 == answer.status_code, answer.text
    found: dict[str, Any] = answer.json
    return found | {"query": query}


def _accepted(answer: Mapping[str, Any], item: Mapping[str, Any], behind: str = "") -> str:
    """The query once a suggestion has taken its place."""
    place, query = answer["context"], answer["query"]
    return f"{query[: place['start']]}{item['insert']}{behind}{query[place['end'] :]}"


def _found(client: FlaskClient, query: str) -> set[str]:
    answer = client.get("/search.json", query_string={"q": query, "limit": "500"})
    assert 200 == answer.status_code, (query, answer.text)
    return {row["span_id"] for row in answer.json["rows"]}


@pytest.mark.parametrize(("text", "kind", "field", "prefix"), CASES, ids=[case[0] for case in CASES])
def test_the_place_of_the_caret_is_known(text: str, kind: str, field: str, prefix: str) -> None:
    """Half-typed queries have a place too: a field, whose value, a flag, a stage."""
    at = text.rindex("|")
    place = context(text[:at] + text[at + 1 :], at)

    assert (kind, field, prefix) == (place.kind, place.field, place.prefix)


@given(text=st.text(alphabet='ab:"\\(){}[]|,-<>=~/ \n\té.is has OR', max_size=40), at=st.integers(0, 40))
@example(text="|\n", at=2)
@settings(max_examples=400, deadline=None)
def test_nothing_left_of_the_word_is_touched(text: str, at: int) -> None:
    """Whatever was typed, a suggestion takes the place of what stands at the caret, from the beginning of its word on."""
    at = min(at, len(text))
    place = context(text, at)

    assert place.term <= place.start <= at <= place.end <= len(text)
    assert '"' in text[place.start : at] or not any(char.isspace() for char in text[place.start : at])


@pytest.mark.parametrize(("field", "opening"), [("model", ""), ('"a key"', '"'), ("span.plain", "(")])
def test_every_value_that_is_offered_finds_itself(client: FlaskClient, field: str, opening: str) -> None:
    """Hostile values, quoted where they need it: the accepted query finds the spans with this value and no others."""
    offered: dict[str, str] = {}
    for part in ("", "a", "x", "1", "<", "is"):
        answer = _complete(client, f"service:hostile {field}:{opening}{part}")
        offered |= {item["text"]: _accepted(answer, item, ")" if opening == "(" else "") for item in answer["items"]}

    assert 20 <= len(offered)
    for value, query in offered.items():
        assert {f"{6000 + HOSTILE.index(value):016x}"} == _found(client, query), (value, query)


def test_every_value_can_be_reached_by_typing(client: FlaskClient) -> None:
    """Typed in part and in quotes, each of the hostile values is offered."""
    for text in HOSTILE[::3]:
        part = text[:-1].replace("\\", "\\\\").replace('"', '\\"')
        offered = [item["text"] for item in _complete(client, f'service:hostile model:"{part}')["items"]]
        assert text in offered or len(offered) == completion.ITEMS_MAX, (text, offered)


def test_values_of_the_other_side_are_of_its_own_condition(client: FlaskClient) -> None:
    """Within `compare (` the rest is what stands there; what is compared with it does not limit the values."""
    offered = {item["text"] for item in _complete(client, "service:hostile | compare (service:keyed name:")["items"]}

    assert {"keyed"} == offered


def test_every_attribute_that_is_offered_finds_its_spans(client: FlaskClient) -> None:
    """Keys with any characters, quoted where they need it, behind `has:` and as fields."""
    offered: dict[str, str] = {}
    for typed in ("a", "o", "x", '"<', '" ', '"*', "span.", "span.a", 'span."<'):
        answer = _complete(client, f"service:keyed {typed}")
        offered |= {_accepted(answer, item, ":here"): item["text"] for item in answer["items"] if item["text"] in HOSTILE}

    assert 20 <= len(offered)
    for query, key in offered.items():
        assert {f"{6500 + HOSTILE.index(key):016x}"} == _found(client, query), (key, query)
    for item in _complete(client, "service:keyed has:a")["items"]:
        if item["text"] in HOSTILE:
            assert f"{6500 + HOSTILE.index(item['text']):016x}" in _found(client, f"service:keyed has:{item['insert']}")


@pytest.mark.parametrize(("text", "narrowed"), [
    ("service:evals model:‸", "service:evals"), ("model:‸ service:evals", "service:evals"), ("is:error OR model:‸", ""),
    ("-service:evals model:‸", "-service:evals"), ("service:evals (is:ok OR model:‸", "service:evals"),
    ("service:evals -model:‸", "service:evals"), ("service:evals NOT model:‸", "service:evals"),
    ("service:evals model:(gpt2, ‸", "service:evals"), ("any{service:evals model:‸", "service:evals"),
    ("is:ok any{service:evals model:‸} is:error", "service:evals"), ("service:evals ((model:‸", "service:evals"),
    ("service:evals model:‸ AND", "service:evals"), ("ttft:x model:‸", ""),
    ("service:evals model:‸ | sort -duration", "service:evals"),
])
def test_only_values_that_can_match_the_rest_are_offered(client: FlaskClient, text: str, narrowed: str) -> None:
    """The numbers beside the values are those of a search for the rest of the query; where that cannot be read, of all spans."""
    items = _complete(client, text)["items"]

    assert items
    for item in items:
        expected = _found(client, f"{narrowed} model:{item['insert']}")
        assert len(expected) == item["count"], item


def test_values_keep_to_the_time_range(client: FlaskClient) -> None:
    """What lies outside of from and to is not offered."""
    late = {item["text"] for item in _complete(client, "name:", **{"from": str(search_helpers.START_NS + 14_000_000_000)})["items"]}

    assert late == {"chat bare", "chat broken"}


def test_a_number_is_offered_with_thresholds_of_what_is_found(client: FlaskClient) -> None:
    """Taken, the median leaves about half of the spans, the 99th percentile almost none."""
    everything = len(_found(client, "service:concierge has:ttft"))
    answer = _complete(client, "service:concierge ttft:")
    shares = [len(_found(client, _accepted(answer, item))) / everything for item in answer["items"]]

    assert 3 == len(shares)
    assert 0.4 < shares[0] < 0.6
    assert shares[2] <= shares[1] < 0.1


@pytest.mark.parametrize("field", [field.name for field in FIELDS if field.kind == "number"])
def test_thresholds_of_every_field_can_be_read(client: FlaskClient, field: str) -> None:
    """Whatever the unit, what is offered is a number of this field."""
    answer = _complete(client, f"{field}:")
    for item in answer["items"]:
        _found(client, _accepted(answer, item))


def test_scores_are_offered_by_name(client: FlaskClient) -> None:
    """Names of stored scores, with the scope that makes them scores; behind one of them the words it was given."""
    assert "score.repetition" in [item["insert"] for item in _complete(client, "repet")["items"]]
    assert {"score.repetition", "score.worst_window_surprisal"} <= {item["insert"] for item in _complete(client, "score.")["items"]}
    assert ["low"] == [item["insert"] for item in _complete(client, "score.repetition:")["items"]]


@pytest.mark.parametrize("text", ["model:>", "model:~x", "x:/a", "is:", "perplexity:[1 TO", "12:30", "is:ok | st"])
def test_where_nothing_fits_nothing_is_offered(client: FlaskClient, text: str) -> None:
    """Patterns, ranges, comparisons of texts, what the page knows by itself: no answer of the store."""
    assert [] == _complete(client, text)["items"]


@given(text=st.text(alphabet='model:ttft"\\(){}[]|,-<>=~/ é.is has OR', max_size=30), at=st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_no_half_typed_query_breaks_it(client: FlaskClient, text: str, at: int) -> None:
    """An answer, always: what the language cannot read yet is no error here."""
    assert 200 == client.get("/complete.json", query_string={"q": text, "caret": str(min(at, len(text)))}).status_code


@pytest.mark.parametrize("parameters", [
    {"q": "x" * 5000}, {"caret": "-1"}, {"caret": "one"}, {"caret": "9" * 9}, {"from": "yesterday"},
])
def test_other_parameters_are_refused(client: FlaskClient, parameters: dict[str, str]) -> None:
    """Too long or not a number: 400, with the rule."""
    assert 400 == client.get("/complete.json", query_string=parameters).status_code


def test_a_tenant_is_offered_its_own_values_alone(store: ClickHouseStore, tmp_path: Path) -> None:
    """Neither values nor names of others are told."""
    key = credentials.add(tmp_path / "keys.json", "reader", ["read"], "acme")
    block = search_helpers.spans_block([
        Span(7000, "mine", 7000, service="tenants", attributes={search_helpers.MODEL: "model-of-acme", "key.of.acme": "1"}),
        Span(7001, "theirs", 7001, service="tenants", attributes={search_helpers.MODEL: "model-of-others", "key.of.others": "1"})])
    tenants = search_helpers.Strings.of(["acme", "other"])
    store.insert(replace(block, columns={**block.columns, "TenantId": tenants}), "completion-tenants")
    gate = Gate(Credentials(tmp_path / "keys.json"), Sessions(b"s" * 32, secure=False))
    client = create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS, gate=gate).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"

    assert ["model-of-acme"] == [item["text"] for item in _complete(client, "model:")["items"]]
    assert ["key.of.acme"] == [item["text"] for item in _complete(client, "key.of")["items"]]


class _Away:
    """A store that does not answer."""

    database = "otel"

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, seconds_max: float | None = None) -> Result:
        assert seconds_max == completion.SECONDS_MAX
        raise StoreError("away", retryable=True)


@pytest.mark.parametrize("text", ["mod", "model:", "ttft:", "score.x:", "has:x"])
def test_a_store_that_is_away_offers_nothing(text: str) -> None:
    """Typing goes on; every question to the store has its limit of time."""
    found = completion.complete(_Away(), text, len(text))  # type: ignore[arg-type]  # all that is asked of it is to answer queries

    assert ((), True) == (found.items, found.cut)


def test_the_vocabulary_is_the_languages(client: FlaskClient) -> None:
    """Every field, flag, kind of braces and stage the language knows, and no other."""
    words = client.get("/vocabulary.json").json

    assert [field.name for field in FIELDS] == [one["name"] for one in words["fields"]]
    assert [flag.name for flag in FLAGS] == [one["name"] for one in words["flags"]]
    for one in words["kinds"]:
        language.parse(f"{one['name']}{{is:error}}")
    for one in words["functions"]:
        language.read(f"is:ok | stats {one['name']}(duration)")
    for series in words["series"]:
        for aggregate in words["aggregates"]:
            assert measure(f"{series['name']}.{aggregate['name']}") is not None
    for stage, rest in {"stats": "count()", "sort": "-duration", "limit": "20", "compare": "(is:error)"}.items():
        assert stage in words["stages"]
        language.read(f"is:ok | {stage} {rest}")
    with pytest.raises(QueryError):
        language.read("is:ok | other x")


def test_the_vocabulary_is_sent_once(client: FlaskClient) -> None:
    """A browser that has it is told so in a few bytes."""
    first = client.get("/vocabulary.json")
    again = client.get("/vocabulary.json", headers={"If-None-Match": first.headers["ETag"]})

    assert (304, b"") == (again.status_code, again.data)
    assert "no-cache" in first.headers["Cache-Control"]


def test_an_endless_store_does_not_hold_typing_up(store: ClickHouseStore) -> None:
    """What a store finds by the limit is the answer, and it is said that there may be more."""
    slow = f"SELECT number % 7 AS value, count() AS n FROM system.numbers GROUP BY value LIMIT {completion.ITEMS_MAX}"

    assert store.query(slow, seconds_max=0.2).cut
