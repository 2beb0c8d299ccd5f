"""The results view of `| stats`, its twin, and where `| compare` leads."""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutaway_collector.commands import query as command
from cutaway_collector.contracts import Store
from cutaway_collector.search import SearchRequest, find, stats
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from search_helpers import START_NS, Span
from web_helpers import NOW_NS, get, served, stored

HOSTILE = '<b>"x" OR 1=1 | stats\\'
SPANS = [Span(number, ["tool", "chat"][number % 2], number, service=["api", HOSTILE, "a b"][number % 3], duration_ns=number * 10**6,
              start_ns=START_NS + number * 10**9) for number in range(1, 121)]
FORMS = {form: unicodedata.normalize(form, "Café Ångström") for form in ("NFC", "NFD")}
ACCENTED = [Span(500 + place, f"visit {text}", 500 + place, attributes={"place": text}, message=text.upper())
            for place, text in enumerate(FORMS.values())]
PIECES = (
    "any{", "none{", "ancestor{", "}", "(", ")", "[", "]", " TO ", " OR ", "-", "NOT ", '"', "\\", "/", "|",
    " | stats ", " | sort ", " | limit ", " | compare ", "count()", "p95(duration)", " by ", " every ", "1h", "attn[layer=3].p95",
    "surprisal.count(>8)", "score.x", ":", ":>", "=", "*", "?", ",", "is:error", "has:", "name", "duration", "x", "é",
    "\u0301", "\0", "'", "5", "8bits", " ",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with stored(Path(tmp_path_factory.mktemp("web-stats")), SPANS + ACCENTED, []) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(store: Store) -> FlaskClient:
    return create_app(store, Settings(data="unused"), now_ns=lambda: NOW_NS).test_client()  # type: ignore[arg-type]  # any store


def _address(query: str, path: str = "/search") -> str:
    return f"{path}?q={urllib.parse.quote(query)}"


def test_the_page_and_its_twin_show_the_same(client: FlaskClient, store: Store) -> None:
    """A table, a link from each group to its spans, and what it cost; the twin has the numbers."""
    query = "-service:tests | stats count(), p95(duration) by service"
    twin = client.get(_address(query, "/search.json")).get_json()
    found = stats(store, SearchRequest(q=query))
    assert [tuple(row) for row in twin["rows"]] == list(found.rows)
    assert [column["name"] for column in twin["columns"]] == ["service", "count()", "p95(duration)"]
    page = get(client, _address(query))
    assert HOSTILE in page.text
    links = [urllib.parse.parse_qs(urllib.parse.urlsplit(link).query)["q"][0] for link in page.links("/search?q=")]
    mine = [link for link in links if link.startswith("-service:tests service:")]
    assert len(mine) == 3
    for _, count, _ in found.rows:
        lengths = [len(find(store, SearchRequest(q=link, limit=500), rows_max=500)["rows"]) for link in mine]
        assert lengths.count(count) == 3


def test_lines_are_drawn_for_each_group(client: FlaskClient) -> None:
    """An image with words for every group and figure; the numbers are there as a table too."""
    page = get(client, _address("-service:tests | stats count(), max(duration) by name every 1m"))
    drawn = page.with_class("line")
    assert len(drawn) == 4
    assert all("values from" in str(line["aria-label"]) for line in drawn)
    assert "rows as a table" in page.text


@pytest.mark.parametrize(("query", "a", "b"), [
    ("is:error | compare", "is:error", None), ("is:error | compare (model:x OR y)", "is:error", "model:x OR y")])
def test_compare_leads_to_its_page(client: FlaskClient, query: str, a: str, b: str | None) -> None:
    """With the condition as one side and the argument, or nothing for the rest, as the other; the time range goes along."""
    for path in ("/search", "/search.json"):
        answer = client.get(f"{_address(query, path)}&from=-1h")
        assert answer.status_code == 302
        target = urllib.parse.urlsplit(answer.headers["Location"])
        asked = dict(urllib.parse.parse_qsl(target.query))
        assert target.path == path.replace("search", "compare")
        assert (asked["a"], asked.get("b"), asked["from"]) == (a, b, "-1h")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(query=st.one_of(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.text(max_size=40)))
def test_no_text_breaks_the_page(client: FlaskClient, query: str) -> None:
    """Whatever is typed is answered, led elsewhere, or refused with a reason and a place within the text."""
    answer = client.get("/search.json", query_string={"q": query.encode("utf-8", "replace").decode()})
    assert answer.status_code in (200, 302, 400), answer.text
    if answer.status_code == 400:
        error = answer.get_json()["error"]
        assert error["message"]
        assert 0 <= error.get("column", 0) <= len(query)


@pytest.mark.parametrize("typed", [*FORMS.values(), FORMS["NFC"].lower(), FORMS["NFD"].upper()])
@pytest.mark.parametrize("query", ["{0}", '"{0}"'])
def test_words_are_found_in_either_form_and_case(store: Store, typed: str, query: str) -> None:
    """Composed or apart, capital or not: what a person sees as the same text is the same."""
    text = query.format(typed) if query.startswith('"') else query.format(typed).replace(" ", "*")
    assert {row["span_id"] for row in find(store, SearchRequest(q=text), rows_max=9)["rows"]} == {span.span_id for span in ACCENTED}


@pytest.mark.parametrize("typed", FORMS.values())
@pytest.mark.parametrize("query", ['place:"{0}"', 'name:"visit {0}"', "place:{1}*", "name:*{1}*", 'place:("{0}", x)'])
def test_values_are_found_in_either_form(store: Store, typed: str, query: str) -> None:
    """Of attributes and fields, whole, in lists and as globs; their case counts."""
    asked = query.format(typed, typed.split()[0])
    found = find(store, SearchRequest(q=asked), rows_max=9)["rows"]
    assert {row["span_id"] for row in found} == {span.span_id for span in ACCENTED}
    assert find(store, SearchRequest(q=asked.lower()), rows_max=9)["rows"] == []


def _shell(address: str, query: str, **more: object) -> int:
    asked = {"q": query, "url": address, "ca": "", "start": "", "end": "", "limit": 20, "json": False}
    return command.run(argparse.Namespace(**asked | more))


def test_the_shell_prints_figures_and_rows(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """`cutaway query` takes the whole language: a table of figures, JSON lines, or rows; nothing found is exit 1."""
    with served(store) as address:  # type: ignore[arg-type]  # any store
        query = "-service:tests | stats count(), max(duration) by name"
        assert _shell(address, query) == 0
        assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
            ["name", "count()", "max(duration)", "(ns)"], ["chat", "60", "119000000"], ["tool", "60", "120000000"]]
        assert _shell(address, query, json=True) == 0
        assert [json.loads(line)["count()"] for line in capsys.readouterr().out.splitlines()] == [60, 60]
        assert _shell(address, "any{name:tool} | sort -duration | limit 2") == 0
        assert len(capsys.readouterr().out.splitlines()) == 3
        assert _shell(address, "nothing:x | stats count() by name") == 1


@pytest.mark.parametrize("path", ["/search?q=name:%22%3Ci%3E%22", "/search?q=name:%22%3Ci%3E%22&view=traces",
                                  "/search?q=name:%22%3Ci%3E%22%20%7C%20stats%20count()"])
def test_the_statement_shown_is_complete(client: FlaskClient, path: str) -> None:
    """Beside the SQL stands each value that it binds, as text of the page and never as markup."""
    page = client.get(path).text
    (shown,) = re.findall(r'<details class="sql">.*?</details>', page, re.DOTALL)
    (listed,) = re.findall(r"<dl class=\"bound\".*?</dl>", shown, re.DOTALL)
    bound = dict(re.findall(r"<dt>(p\d+)</dt><dd><bdi>(.*?)</bdi>", listed))
    assert set(bound) == set(re.findall(r"\{(p\d+):", shown)) != set()
    assert "&#34;&lt;i&gt;&#34;" in bound.values()
