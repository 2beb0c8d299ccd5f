"""What scores say: every score that we compute has one sentence, and people find it where they meet the score."""

from __future__ import annotations

from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from cutaway import evaluations
from cutaway_collector.errors import MissingExtra
from cutaway_collector.judge import Models, catalogue, registry
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app
from cutaway_collector.web.score_meanings import MEANINGS
from judge_helpers import texts
from scores_helpers import score_of, scores_block
from search_helpers import MODEL, OUTPUT, Span, stored

CHAT = Span(2, "chat", trace=3, attributes={MODEL: "gpt2", OUTPUT: "5"})
SAID = "The canal froze twice that winter. Skaters crossed it at night, and nobody counted them as they went home."
NEED_A_MODEL = ("relevance", "reference_model")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    folder = Path(tmp_path_factory.mktemp("meanings"))
    rows = [score_of(CHAT, name, 0.5) for name in ("rauq", "toxicity", "cutaway.nll", "ours")]
    with stored(folder, [CHAT], scores_block(rows)) as store:
        yield create_app(store, Settings(data=str(folder))).test_client()


@pytest.mark.parametrize("name", [name for name in registry.OWN if name not in NEED_A_MODEL])
def test_the_catalogue_names_what_the_text_scorers_give(name: str) -> None:
    """Every score of a scorer stands in the catalogue under it, and nothing else does."""
    (scorer,) = registry.text_scorers(name, Models(), on_failure=_raise)
    try:
        given = scorer.score(texts(SAID, prompt=SAID, reference=SAID, system=SAID))
    except MissingExtra as error:
        pytest.skip(str(error))
    assert list(given) == [one.name for one in catalogue.SCORES if one.scorer == name]


def test_every_scorer_and_every_score_of_a_span_has_a_meaning() -> None:
    """Those that need a model too, and those that the SDK sends along."""
    assert {one.scorer for one in catalogue.SCORES} == set(registry.OWN)
    sent = {name for name, _, _ in evaluations._SCORES} | {"cutaway.surprisal_slope"}
    assert {one.name for one in MEANINGS.values() if one.giver == "SDK"} == sent


def test_each_is_a_sentence_that_stands_by_itself() -> None:
    """None leans on the one above it, on code marks or on a bare name."""
    for one in MEANINGS.values():
        assert len(one.text) > 15, one.name
        assert "the same" not in one.text, one.name
        assert "`" not in one.sentence, one.name
        assert one.sentence.endswith("."), one.name


def test_pages_say_what_a_score_means_where_it_stands(client: FlaskClient) -> None:
    """As the title of its name, with the unit; a score that is not ours has none, and the help page has them all."""
    page = unescape(client.get(f"/gen/{CHAT.span_id}").text)
    for name in ("rauq", "toxicity", "cutaway.nll"):
        assert f'title="{MEANINGS[name].sentence} Opens' in page
    assert 'title="Opens the spans with this score' in page
    assert "(nats)." in MEANINGS["rauq"].sentence
    assert 'href="/help#scores"' in page


def test_the_help_page_has_them_all(client: FlaskClient) -> None:
    """Name, unit and sentence of each, under the heading that the tables link to."""
    text = unescape(client.get("/help").text)
    assert 'id="scores"' in text
    assert [one.name for one in MEANINGS.values() if one.text not in text or f"score.{one.name}" not in text] == []


def _raise(name: str, error: Exception) -> None:
    raise error
