"""Scores on the pages: with the span, with the generation, of the whole trace, and in the JSON twin."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from scipy.stats import binomtest

from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from cutaway_collector.web.pages import score_lines
from scores_helpers import ScoreRow, score_of, scores_block
from search_helpers import MODEL, OUTPUT, START_NS, Span, stored
from web_helpers import XSS

ROOT, CHAT, PLAIN = Span(1, "answer", trace=3), Span(2, "chat", trace=3, parent=1, attributes={MODEL: "gpt2", OUTPUT: "5"}), Span(
    9, "alone", trace=4)
ROWS = [
    score_of(CHAT, "toxicity", 0.125, explanation="polite", source="judge", version="7"),
    score_of(CHAT, "toxicity", 0.5, source="judge", version="8", arrived_ms=2, sequence=1),
    score_of(CHAT, "toxicity", 0.75, source="judge", version="6", arrived_ms=0),
    score_of(CHAT, "gone", 1.0, deleted=True),
    score_of(CHAT, "tone", math.nan, label="kind", time_ns=START_NS + 26 * 3600 * 10**9, source="user", arrived_ms=5),
    ScoreRow(3, None, "solved", 1.0, label="yes", source="api"),
    *(score_of(PLAIN, text.replace("\0", ""), 1.0, label=text, explanation=text, source=text, version=text, sequence=place)
      for place, text in enumerate(XSS)),
]

RATED = [Span(number, "chat", trace=number, service="rated", attributes={MODEL: "m"}) for number in range(101, 141)]
ROWS += [score_of(span, "policy_hate", float(place < 6), model="m", service="rated") for place, span in enumerate(RATED)]
ROWS += [
    score_of(RATED[0], "policy_hate", 0.0, model="m", service="rated", version="0", arrived_ms=0),
    score_of(RATED[39], "policy_hate", 0.0, model="m", service="rated", arrived_ms=9, deleted=True),
    score_of(RATED[0], "policy_hate", 1.0, model="m", service="rated", source="user"),
    score_of(RATED[1], "policy_hate", 1.0, model="m", service="elsewhere", sequence=3),
    *(score_of(span, "toxicity", 0.7, model=XSS[0], service="rated") for span in RATED[3:5]),
    *(score_of(span, "toxicity", 0.85, label="toxic", model=XSS[0], service="rated") for span in RATED[:3]),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    folder = Path(tmp_path_factory.mktemp("web-scores"))
    with stored(folder, [ROOT, CHAT, PLAIN, *RATED], scores_block(ROWS)) as store:
        yield create_app(store, Settings(data=str(folder))).test_client()


def text_of(client: FlaskClient, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.text


def test_the_twin_of_a_trace_lists_its_scores(client: FlaskClient) -> None:
    """Exactly these keys; the newest of each span, sequence, name and source; a label alone has no value."""
    found = client.get(f"/trace/{CHAT.trace_id}.json").get_json()["scores"]
    keys = ("span_id", "sequence", "name", "value", "label", "scorer_version", "source")
    assert found == [dict(zip(keys, row, strict=True)) for row in (
        ("", 0, "solved", 1.0, "yes", "1", "api"), (CHAT.span_id, 0, "tone", None, "kind", "1", "user"),
        (CHAT.span_id, 0, "toxicity", 0.125, "", "7", "judge"), (CHAT.span_id, 1, "toxicity", 0.5, "", "8", "judge"),
    )]
    assert client.get(f"/trace/{PLAIN.trace_id}.json").get_json()["spans"]


@pytest.mark.parametrize(("plain", "told", "ahead"), [(3, 1, 4), (9, 0, 5), (30, 2, 2)])
def test_scores_that_say_nothing_in_words_are_folded(plain: int, told: int, ahead: int) -> None:
    """Few are all there; of many, those with a label, and where none has one the first five."""
    score = {"span_id": "a", "sequence": 0, "value": 0.0, "label": "", "explanation": "", "source": "collector",
             "scorer_version": "1"}
    numbers = [{**score, "name": "loop_period", "sequence": place} for place in range(plain)]
    words = [{**score, "name": "refusal", "label": "refused", "sequence": plain + place} for place in range(told)]
    lines = score_lines.lines([*numbers, *words])

    assert (len(lines), sum(line.ahead for line in lines)) == (plain + told, ahead)
    assert {line.label for line in lines if line.ahead} >= ({"refused"} if told else set())


def test_a_span_shows_its_scores(client: FlaskClient) -> None:
    """Name, value, label, explanation, version and source, and nothing that was replaced or deleted."""
    page = text_of(client, f"/trace/{CHAT.trace_id}?span={CHAT.span_id}")
    for said in ("toxicity", "0.125", "polite", "judge", "sequence 2", "tone", "kind", "user"):
        assert said in page
    for hidden in ("0.75", "gone", "solved"):
        assert hidden not in page


def test_scores_of_the_trace_stand_with_its_root(client: FlaskClient) -> None:
    """For that is what a search finds by them."""
    page = text_of(client, f"/trace/{ROOT.trace_id}?span={ROOT.span_id}")
    assert "solved" in page
    assert "whole trace" in page
    assert "toxicity" not in page


def test_a_generation_shows_its_scores(client: FlaskClient) -> None:
    """The same table, and in its twin with the explanation."""
    page = text_of(client, f"/gen/{CHAT.span_id}")
    assert "toxicity" in page
    assert "polite" in page
    scores = client.get(f"/gen/{CHAT.span_id}.json").get_json()["scores"]
    assert {score["explanation"] for score in scores} == {"polite", ""}


def test_a_score_leads_to_spans_scored_alike(client: FlaskClient) -> None:
    """Largest first; the link finds the span it stands with, also for names that need quoting."""
    page = text_of(client, f"/trace/{CHAT.trace_id}?span={CHAT.span_id}")
    (link,) = set(re.findall(r'href="(/search\?[^"]*toxicity[^"]*)"', page))
    assert CHAT.span_id in text_of(client, link.replace("&amp;", "&"))
    hostile = text_of(client, f"/trace/{PLAIN.trace_id}?span={PLAIN.span_id}")
    links = re.findall(r'href="(/search\?[^"]*sort=-score[^"]*)"', hostile)
    assert len(links) == len(XSS)
    for link in links:
        assert PLAIN.span_id in text_of(client, link.replace("&amp;", "&"))


def test_rows_that_are_sorted_by_a_score_show_it(client: FlaskClient) -> None:
    """In a column of its own, which turns the order around; spans without it show a dash."""
    page = text_of(client, "/search?q=service:tests&sort=-score.toxicity")
    assert re.search(r'<th[^>]*aria-sort="descending"[^>]*><a href="[^"]*sort=score.toxicity"><bdi>toxicity</bdi>', page)
    cells = re.findall(r'<td class="what">.*?</td>\s*<td class="num(?: muted)?"[^>]*><bdi>([^<]*)</bdi></td>', page)
    assert cells == ["0.500", "–", "–"]
    found = client.get("/search.json?q=service:tests&sort=-score.toxicity").get_json()["rows"]
    assert [row["score"] for row in found] == [0.5, None, None]
    assert "score" not in client.get("/search.json").get_json()["rows"][0]


def test_hostile_names_and_words_stay_text(client: FlaskClient) -> None:
    """Of the name, the label, the explanation, the scorer: nothing becomes markup."""
    page = text_of(client, f"/trace/{PLAIN.trace_id}?span={PLAIN.span_id}")
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "<svg/onload" not in page
    assert "&lt;script&gt;" in page


def test_trigger_rates_have_wilson_intervals(client: FlaskClient) -> None:
    """By category and model, of each sequence's newest row; the interval is SciPy's, the link finds what triggered, and only that.

    What others sent, what is deleted and what lies outside of the time or service is left out.
    """
    found = client.get("/scores.json?service=rated&from=all").get_json()["rates"]
    page = text_of(client, "/scores?service=rated&from=all")
    (link,) = [link for link in re.findall(r'href="(/search[^"]*)"', page) if "policy_hate" in link]
    rows = client.get(unescape(link).replace("/search?", "/search.json?")).get_json()["rows"]

    assert {(one["score"], one["model"]): (one["triggered"], one["judged"]) for one in found} == {
        ("policy_hate", "m"): (6, 39), ("toxicity", XSS[0]): (3, 5)}
    for one in found:
        interval = binomtest(one["triggered"], one["judged"]).proportion_ci(0.95, "wilson")
        assert (one["low"], one["high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert {row["span_id"] for row in rows} == {span.span_id for span in RATED[:6]}
    assert "<script>alert" not in page


def test_trigger_rates_are_of_the_time_asked_for(client: FlaskClient) -> None:
    """A later range, another model: nothing, and the page says so; a range that ends before it begins is refused."""
    assert client.get(f"/scores.json?service=rated&from={START_NS // 10**9 + 60}").get_json()["rates"] == []
    assert "No text was judged here" in text_of(client, "/scores?from=all&model=nobody")
    assert client.get("/scores?from=now&to=-1h").status_code == 400
