"""The start page and its twin: figures of each model against NumPy, what is new since yesterday, and what an empty store shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

import search_helpers as spans_of
import web_helpers as world
from cutaway_collector.comparison.changes import before
from cutaway_collector.errors import StoreError
from cutaway_collector.rates import wilson
from cutaway_collector.search.tenants import TenantStore
from cutaway_collector.search.window import Window
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from cutaway_collector.web.pages import overview, overview_changes
from search_helpers import Span
from web_helpers import get

HOUR_NS = 3600 * 10**9
NOW_NS = spans_of.START_NS + HOUR_NS
RNG = np.random.default_rng(21)


def _day(first: int, ago_h: float, model: str, version: str, slow: float, errors: int) -> list[Span]:
    """300 generations of a model within six hours that ended `ago_h` ago, the first of them failed."""
    return [Span(
        first + place, f"chat {model}", first + place, 0, "tests",
        start_ns=NOW_NS - int((ago_h + 6 * RNG.random()) * HOUR_NS) + 10**9,
        duration_ns=int(RNG.gamma(9, 1e8) * slow), status="Error" if place < errors else "Ok",
        attributes=world.generation_attributes(RNG, 20, model=model) | {spans_of.TTFT: f"{RNG.gamma(9, 0.01) * slow:.5f}"},
        resource={"service.version": version}) for place in range(300)]


THEN = [*_day(1000, 24, "steady", "1", 1, 6), *_day(2000, 24, "slower", "1", 1, 6)]
NOW = [*_day(3000, 0, "steady", "1", 1, 6), *_day(4000, 0, "slower", "2", 1.8, 60)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    hostile = Span(9, "chat", 9, 0, "tests", start_ns=NOW_NS - HOUR_NS, attributes={spans_of.MODEL: world.XSS[1]})
    with world.stored(tmp_path_factory.mktemp("overview") / "data", [*THEN, *NOW, hostile], ()) as store:
        yield create_app(store, Settings(data="unused"), now_ns=lambda: NOW_NS).test_client()


@pytest.fixture(scope="module")
def twin(client: FlaskClient) -> dict[str, object]:
    """Six hours."""
    found: dict[str, object] = client.get("/overview.json?from=-6h").json
    return found


@pytest.fixture(scope="module")
def changed(client: FlaskClient) -> dict[str, Any]:
    """Model -> what changed of it in six hours."""
    found = client.get("/overview/changes.json?from=-6h").json
    return {one["model"]: one for one in found["models"]}


def _model(twin: dict[str, object], name: str) -> dict[str, object]:
    return next(one for one in twin["models"] if one["name"] == name)  # type: ignore[attr-defined]  # plain JSON


@pytest.mark.parametrize("name", ["steady", "slower"])
def test_the_figures_of_a_model_are_those_of_its_spans(twin: dict[str, object], name: str) -> None:
    """Counts are exact, quantiles are near those of NumPy, errors have Wilson's interval."""
    mine = [span for span in NOW if span.attributes[spans_of.MODEL] == name]
    found = _model(twin, name)
    first = np.array([float(span.attributes[spans_of.TTFT]) for span in mine])
    errors = sum(span.status == "Error" for span in mine)

    assert (found["spans"], found["errors"]) == (len(mine), errors)
    assert (found["ttft_p50_s"], found["ttft_p95_s"]) == pytest.approx(tuple(np.quantile(first, (0.5, 0.95))), rel=0.02)
    assert (found["error_rate"]["low"], found["error_rate"]["high"]) == pytest.approx(wilson(errors, len(mine))[3:])  # type: ignore[index]
    assert (sum(found["curves"]["spans"]), sum(found["curves"]["errors"])) == (len(mine), errors)  # type: ignore[index]


def test_what_changed_since_yesterday_is_found_and_nothing_else(changed: dict[str, Any]) -> None:
    """The slower model, which decodes as before, with its new version and its errors; of the steady one nothing that matters."""
    assert {one["name"] for one in changed["slower"]["metrics"]} == {"duration", "ttft", "errors"}
    assert "resource.service.version" in {one["attribute"] for one in changed["slower"]["attributes"]}
    assert (changed["steady"]["metrics"], changed["steady"]["attributes"]) == ([], [])
    assert changed["steady"]["comparable"] is True


def test_a_model_with_few_spans_is_said_to_have_few(changed: dict[str, Any], client: FlaskClient) -> None:
    """Nothing is claimed of it."""
    assert changed[world.XSS[1]]["comparable"] is False
    assert "fewer than 30 say nothing" in get(client, "/?from=-6h&changes=now").text


@pytest.mark.parametrize(
    ("asked", "said"), [("-6h", "since yesterday"), ("-24h", "since yesterday"), ("-7d", "since the time before")])
def test_the_heading_says_what_is_compared_with(client: FlaskClient, asked: str, said: str) -> None:
    """A day at most has a yesterday; a week is compared with the week before, and is not called otherwise."""
    assert f"What changed {said} against" in " ".join(get(client, f"/overview/changes?from={asked}").text.split())


def test_the_page_does_not_wait_for_what_changed(client: FlaskClient) -> None:
    """It comes with a part that is fetched later and a link to the page that waits; once they are known, it has them at once."""
    site = world.site_of(client)
    fresh = create_app(site.store, Settings(data="unused"), now_ns=lambda: NOW_NS).test_client()
    first = get(fresh, "/?from=-6h")
    sources = [attrs["data-src"] for tag, attrs in first.tags if tag == "later-part"]
    assert (sources, "spans then" in first.text) == (["/overview/changes?from=-6h"], False)
    assert "/?changes=now&from=-6h" in first.links("/?")

    fragment = get(fresh, str(sources[0]))
    assert ("spans then" in fragment.text, [tag for tag, _ in fragment.tags if tag == "later-part"]) == (True, [])
    again = get(fresh, "/?from=-6h")
    assert ("spans then" in again.text, [tag for tag, _ in again.tags if tag == "later-part"]) == (True, [])
    assert "spans then" in get(fresh, "/?changes=now&from=-5h").text


def test_every_link_of_the_page_leads_somewhere(client: FlaskClient, twin: dict[str, object]) -> None:
    """Searches, comparisons and the other pages; the page shows every model."""
    page = get(client, "/?from=-6h&changes=now")

    assert all(str(one["name"]) in page.text for one in twin["models"])  # type: ignore[attr-defined]
    compared = [link for link in page.links("/compare?") if "afrom" in link and "slower" in link]
    for link in {*page.links("/search"), *compared, *page.links("/?"), *page.links("/overview.json")}:
        assert client.get(link).status_code == 200, link


def test_a_model_named_like_markup_stays_text(client: FlaskClient) -> None:
    """No image, no handler."""
    page = get(client, "/")

    assert world.XSS[1] in page.text
    assert not [tag for tag, attrs in page.tags if tag == "img" or any(name.startswith("on") for name in attrs)]


@pytest.mark.parametrize("text", ["all", "yesterday", "-400d", "2999-01-01"])
def test_a_time_that_makes_no_sense_is_refused(client: FlaskClient, text: str) -> None:
    """With times that would."""
    assert [client.get(path).status_code for path in (f"/?from={text}", f"/overview.json?from={text}",
            f"/overview/changes?from={text}")] == [400] * 3


def test_a_time_without_models_says_so(client: FlaskClient) -> None:
    """It names how old the newest span is and offers to search everything."""
    site = world.site_of(client)
    late = type(site)(site.store, site.settings, lambda: NOW_NS + 400 * HOUR_NS)
    page = overview.page(late, {}, overview_changes.Recent(), "")

    assert (page.store_empty, page.models, "d ago" in page.newest) == (False, (), True)


def test_a_tenant_without_spans_is_shown_how_to_begin(client: FlaskClient) -> None:
    """What others stored is not there for it: neither models nor ages, but the first run."""
    site = world.site_of(client)
    nobody = type(site)(TenantStore(site.store, lambda: "nobody"), site.settings, site.now_ns)

    assert overview.page(nobody, {}, overview_changes.Recent(), "nobody") == overview.OverviewPage(True)


def test_changes_are_kept_for_a_minute_by_tenant_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once; again after a minute; of another tenant for itself; without time left the old ones stay."""
    monkeypatch.setattr(overview_changes, "CHANGES_SECONDS", 2.5)
    now = [0.0]
    made: list[str] = []
    recent = overview_changes.Recent(lambda: now[0])

    def make(seconds: float = 0.0) -> object:
        def one(name: str) -> object:
            made.append(name)
            now[0] += seconds
            return name

        return one

    assert recent.get("t", "-24h", ["a", "b"], make(2.0)) == ["a", "b"]
    assert recent.get("t", "-24h", ["a", "b", "c"], make()) == ["a", "b", "c"]
    assert made == ["a", "b", "c"]
    recent.get("other", "-24h", ["a"], make())
    assert recent.known("t", "-24h", ["a", "b"]) == (["a", "b"], True)
    assert recent.known("t", "-24h", ["a", "d"]) == (["a"], False)
    now[0] += 61
    assert recent.known("t", "-24h", ["a", "b"]) == (["a", "b"], False)
    assert recent.get("t", "-24h", ["a", "b", "c"], make(3.0)) == ["a", "b", "c"]
    assert made == ["a", "b", "c", "a", "a"]
    now[0] += 600
    assert recent.get("t", "-24h", ["a", "b", "c"], make(3.0)) == ["a"]


def test_a_comparison_that_runs_out_of_time_does_not_cost_the_page() -> None:
    """The models before it keep their changes, the others count as not reached, and no other is begun."""
    made: list[str] = []

    def make(name: str) -> object:
        made.append(name)
        if name == "b":
            raise StoreError("the query ran longer than query_seconds_max allows", retryable=False)
        return name

    assert overview_changes.Recent(lambda: 0.0).get("t", "-24h", ["a", "b", "c"], make) == ["a"]  # type: ignore[arg-type]
    assert made == ["a", "b"]


def test_the_window_before_is_a_day_earlier_or_the_one_before() -> None:
    """The same hours of yesterday; of a week the week before."""
    day = 24 * HOUR_NS

    assert before(Window(10 * day, 10 * day + HOUR_NS)) == Window(9 * day, 9 * day + HOUR_NS)
    assert before(Window(20 * day, 27 * day)) == Window(13 * day, 20 * day)
