"""The generation page of a span that carries every signal, and that of a diffusion pipeline: from OTLP bytes to markup."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from flask.testing import FlaskClient

import web_helpers as world
from cutaway import conventions as c
from cutaway_collector import decode
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app, steps
from every_signal_helpers import EVERYTHING, NO_MAP, PIPELINE, STORY, stories
from web_helpers import get

BODY, VALUES = stories(world.XSS, world.NOW_NS - 10**9)
PAGE, DIFFUSION, LOOKBACK = (f"/gen/{span_id.hex()}" for span_id in (EVERYTHING, PIPELINE, NO_MAP))
NEW_SIGNALS = {"varentropy": c.TOKEN_VARENTROPY, "min_p_mass": c.TOKEN_MIN_P_MASS, "sampled_surprisal": c.TOKEN_SAMPLED_SURPRISAL}
MAPS = {
    "entropy": "Attention entropy", "normalized_entropy": "Normalized attention entropy", "sink": "Attention sink",
    "last_key": "Attention to the last key", "lookback": "Lookback ratio", "cross_entropy": "Cross-attention entropy",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    found = decode.decode_protobuf(BODY, received_ns=world.NOW_NS)
    assert found.message == ""
    with world.stored(tmp_path_factory.mktemp("web"), [], [found.spans, found.tokens]) as store:
        yield create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()


@pytest.mark.parametrize("key", NEW_SIGNALS)
def test_a_recorded_signal_colours_the_tokens(client: FlaskClient, key: str) -> None:
    """It has a tab, a legend and a strip of its own, and its numbers stand beside the tokens."""
    page = get(client, f"{PAGE}?signal={key}&view=numbers")
    assert any(f"signal={key}" in link for link in page.links(PAGE))
    assert page.with_class("strip")
    wanted = VALUES[NEW_SIGNALS[key]][: STORY.lengths[0]]
    titles = [str(tag["title"]) for tag in page.with_class("t")]
    found = [float(re.findall(r"· ([0-9.e-]+)", title)[0]) for title in titles]
    np.testing.assert_allclose(found, wanted, rtol=5e-3)


def test_signals_that_were_not_recorded_are_not_offered(client: FlaskClient) -> None:
    """The toolbar stays short for a sender that has only the first five; asked for by address, the page still answers."""
    links = " ".join(get(client, LOOKBACK).links(LOOKBACK))
    assert "signal=entropy" in links
    assert not any(f"signal={key}" in links for key in NEW_SIGNALS)
    assert "No varentropy was recorded" in get(client, f"{LOOKBACK}?signal=varentropy").text


@pytest.mark.parametrize("key", MAPS)
def test_every_map_is_a_link_away(client: FlaskClient, key: str) -> None:
    """The map names what it shows, and its data's address asks for that kind alone."""
    page = get(client, PAGE if key == "entropy" else f"{PAGE}?attention={key}")
    (heat,) = [attrs for tag, attrs in page.tags if tag == "heat-grid"]
    assert (heat["data-kind"], heat["data-label"]) == (key, MAPS[key])
    assert heat["data-names"] == ("0,1" if key == "cross_entropy" else "0,4,8")
    assert sum("attention=" in link for link in page.links(PAGE) if "seq=" not in link) >= len(MAPS) - 1
    drawn = np.frombuffer(client.get(str(heat["data-url"])).data, "<f4")
    sequence = client.get(f"{PAGE}.json").json["sequences"][0]
    shown = {"entropy": sequence["attention_entropy"], **sequence["attention"]}
    np.testing.assert_allclose(drawn, np.ravel(shown[key]), atol=1e-6)


def test_the_one_map_there_is_opens_by_itself(client: FlaskClient) -> None:
    """A sender without attention entropy but with lookback shows lookback; asked for another, the page says there is none."""
    page = get(client, LOOKBACK)
    assert [attrs["data-kind"] for tag, attrs in page.tags if tag == "heat-grid"] == ["lookback"]
    other = get(client, f"{LOOKBACK}?attention=sink")
    assert "recorded no attention sink" in other.text
    assert any("attention=lookback" in link for link in other.links(LOOKBACK))


def test_unknown_maps_are_refused(client: FlaskClient) -> None:
    """The page and its twin name what there is."""
    for path in (f"{PAGE}?attention=nope", f"{PAGE}.json?attention=nope"):
        answer = client.get(path)
        assert (answer.status_code, "normalized_entropy" in answer.text) == (400, True)


def test_the_table_holds_signals_map_and_alternatives(client: FlaskClient) -> None:
    """Without script: every signal, the mean of the chosen map, and what could have been said instead, escaped like any text."""
    answer = client.get(f"{PAGE}?view=table&attention=cross_entropy")
    page = world.Page(answer.text)
    head = [part.strip() for part in re.findall(r'<th scope="col"[^>]*>(.*?)</th>', answer.text)]
    wanted = [
        "#", "Token", "Id", "Surprisal", "Entropy", "Margin", "Rank", "Time",
        "Varentropy", "Min-p_mass", "Sampled", "Cross", "Alternatives",
    ]
    assert [re.sub("<.*", "", part).strip().replace(" ", "_") for part in head[: len(wanted)]] == wanted
    ids = VALUES[c.ALTERNATIVE_ID][: STORY.lengths[0]]
    cells = re.findall(r'<td class="choices">(.*?)</td>', answer.text, re.DOTALL)
    assert len(cells) == STORY.lengths[0]
    assert all(str(number) in cell for cell, number in zip(cells, ids[:, 1].tolist(), strict=True))
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe")]
    assert "onerror" not in " ".join(" ".join(attrs) for _, attrs in page.tags)


def test_scores_and_prompt_of_the_sequence_are_shown(client: FlaskClient) -> None:
    """The sender's own numbers of the chosen sequence, and a strip over its prompt."""
    first, second = get(client, PAGE), get(client, f"{PAGE}?seq=1")
    assert "Negative log-likelihood" in first.text
    assert "0 · 1 · 2 · 3 nats" in first.text
    assert "4 · 5 · 6 · 7 nats" in second.text
    assert "each of 5 prompt tokens" in second.text


def test_the_twin_cuts_windows_of_everything(client: FlaskClient) -> None:
    """Alternatives, maps and sources of the tokens asked for; the prompt stays whole."""
    (sequence,) = client.get(f"{PAGE}.json?seq=0&start=2&count=3").json["sequences"]
    np.testing.assert_allclose(sequence["attention"]["sink"], VALUES[c.ATTENTION_SINK][2:5], atol=1e-6)
    np.testing.assert_allclose(sequence["attention"]["cross_entropy"], VALUES[c.CROSS_ATTENTION_ENTROPY][2:5], atol=1e-6)
    assert [[one["id"] for one in token] for token in sequence["alternatives"]] == VALUES[c.ALTERNATIVE_ID][2:5].tolist()
    assert sequence["sources"]["positions"] == VALUES[c.SOURCE_POSITION][2:5].tolist()
    assert sequence["prompt"]["token_ids"] == VALUES[c.PROMPT_TOKEN_ID].tolist()


def test_a_pipeline_shows_its_curves(client: FlaskClient) -> None:
    """Four curves with their table, tiles of their own, and no empty token lane."""
    page = get(client, DIFFUSION)
    assert len(page.with_class("curve")) == 4
    for words in ("Latent norm", "Latent change", "Timestep", "Not finite", "step 7", "steps recorded"):
        assert words in page.text
    assert "No tokens" not in page.text
    assert [tag for tag, _ in page.tags].count("tr") == STORY.steps + 1


def test_heads_asked_of_what_has_no_attention(client: FlaskClient) -> None:
    """Nothing is said of a mean over heads that is not there either."""
    assert client.get(f"{DIFFUSION}.json?heads=all").get_json()["attention"]["reason"] == ""


def test_the_trace_leads_to_the_pipeline(client: FlaskClient) -> None:
    """A diffusion span has a page worth opening though it generated no token."""
    trace_id = bytes(range(16)).hex()
    page = get(client, f"/trace/{trace_id}?span={PIPELINE.hex()}")
    assert page.links(DIFFUSION)


def test_a_curve_breaks_where_a_value_is_missing() -> None:
    """A line never runs over a step that was not measured; a value alone is still seen; nothing finite draws nothing."""
    nan = np.nan
    assert steps.path(np.array([1, 2, nan, 3.0, nan, 4, 5]), 1, 5).count("M") == 3
    assert "h6" in steps.path(np.array([nan, 2.0, nan]), 2, 2)
    assert steps.path(np.array([nan, nan]), 0, 0) == ""
    first, last = re.findall(r"([0-9.]+) ([0-9.]+)", steps.path(np.array([0.0, 10.0]), 0, 10))
    assert (float(first[0]), float(last[0])) == (0, steps.WIDTH)
    assert float(first[1]) > float(last[1])


def test_help_explains_signals_maps_and_fields(client: FlaskClient) -> None:
    """Whoever meets a new word finds it on the help page."""
    text = get(client, "/help").text
    for words in ("Varentropy", "Lookback ratio", "attn.sink", "bpb", "bits/byte"):
        assert words in text
