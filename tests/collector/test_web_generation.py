"""The generation page's own sums: units of tokens, colours, windows of float32, hesitations, ranges, badges and addresses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

import web_helpers as world
from cutaway import conventions as c
from cutaway_collector import decode
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app, token_colours, token_units, tokens
from cutaway_collector.web.pages import generation, generation_choice, generation_header
from cutaway_collector.web.token_units import Shown
from every_signal_helpers import EVERYTHING, STORY, stories
from web_helpers import gen, get, site_of

BODY, VALUES = stories(world.PIECES, world.NOW_NS - 10**9)
EVERY = f"/gen/{EVERYTHING.hex()}"
CHAT = gen(world.CHAT)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    found = decode.decode_protobuf(BODY, received_ns=world.NOW_NS)
    spans, blocks = world.world()
    with world.stored(tmp_path_factory.mktemp("web") / "data", spans, [*blocks, found.spans, found.tokens]) as store:
        yield create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()


def _floats(client: FlaskClient, path: str) -> np.ndarray:
    answer = client.get(path)
    assert (200, "application/octet-stream") == (answer.status_code, answer.mimetype)
    return np.frombuffer(answer.data, "<f4")


def _page(client: FlaskClient, args: Mapping[str, str], number: int = world.CHAT) -> generation.GenerationPage:
    return generation.page(site_of(client), f"{number:016x}", args)


# --- Words, sentences, lines, characters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "unit", "units"),
    [
        ("The| pen|insula|,| see| it|.", "word", ["The", " peninsula", ",", " see", " it", "."]),
        ("It|'s| the| 3|rd|\n|time", "word", ["It's", " the", " 3rd", "\n", "time"]),
        ("今|天|很好", "word", ["今", "天", "很好"]),
        ("He| left|.| She| said| “|no|.”| Why|?", "sentence", ["He left.", " She said “no.”", " Why?"]),
        ("One| 3|.|14| two|!|\n|\n|Three", "sentence", ["One 3.14 two!\n\n", "Three"]),
        ("好|。|不|。", "sentence", ["好。", "不。"]),
        ("a|\n|\n|b| c|\n|d", "line", ["a\n\n", "b c\n", "d"]),
    ],
)
def test_tokens_fall_into_units(texts: str, unit: str, units: list[str]) -> None:
    """Words end at blanks and signs, sentences at their marks, lines at their ends; nothing is lost and nothing doubled."""
    shown = token_units.joined(texts.split("|"))
    numbers = token_units.numbers(shown, unit)

    found = ["".join(one.text for one, number in zip(shown, numbers, strict=True) if number == n) for n in range(numbers[-1] + 1)]
    assert units == found


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", " b", ".", "\n", "é", "", "<0xC3>", "<0xA9>", "。", " “", "!”"]), min_size=1, max_size=40),
       st.sampled_from(token_units.UNITS))
def test_units_never_go_back_or_skip(texts: list[str], unit: str) -> None:
    """Whatever the pieces: unit numbers start at 0, rise by at most one, and no character is cut in two."""
    shown = token_units.joined(texts)
    numbers = token_units.numbers(shown, unit)

    assert len(texts) == len(shown) == len(numbers)
    assert 0 == numbers[0]
    assert set(np.diff(numbers)) <= {0, 1}
    inside = [at for at, one in enumerate(shown) if one.place]
    assert unit == "token" or all(numbers[at] == numbers[at - 1] for at in inside)


def test_pieces_of_a_character_are_joined_and_keep_their_tokens() -> None:
    """The empty pieces before a character, and byte tokens, show the character once and say which part of it each token is."""
    assert [Shown("ô", 0, 2), Shown("ô", 1, 2)] == token_units.joined(["", "ô"])
    assert [Shown("é", 0, 2), Shown("é", 1, 2), Shown("\n", 0, 1)] == token_units.joined(["<0xC3>", "<0xA9>", "<0x0A>"])
    assert [Shown("<0xC3>", 0, 1), Shown("a", 0, 1)] == token_units.joined(["<0xC3>", "a"])
    assert [Shown("", 0, 1), Shown(" the", 0, 1)] == token_units.joined(["", " the"])


@settings(deadline=None)
@given(st.lists(st.one_of(st.floats(-50, 50), st.just(float("nan"))), min_size=1, max_size=60), st.data())
def test_units_are_summed_up_without_the_absent(values: list[float], data: st.DataObject) -> None:
    """Sum, mean, max and min of a unit are those of its values that are there; a unit of none has none."""
    array = np.array(values)
    cuts = data.draw(st.sets(st.integers(1, max(1, len(values) - 1)), max_size=8))
    starts = np.array(sorted({0, *(cut for cut in cuts if cut < len(values))}))
    parts = [part[np.isfinite(part)] for part in np.split(array, starts[1:])]

    for how, reduce in {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min}.items():
        wanted = [reduce(part) if part.size else np.nan for part in parts]  # type: ignore[operator]  # a table of reductions
        np.testing.assert_allclose(token_units.aggregate(array, starts, how), wanted, atol=1e-9)


# --- Colours ----------------------------------------------------------------------------------------------------------------


def _classes(values: np.ndarray, key: str = "surprisal", **how: Any) -> np.ndarray:
    signal = tokens.BY_KEY[key]
    return token_colours.classify(values, token_colours.scale(values, signal), signal, token_colours.Colouring(**how))


def test_a_flat_series_stays_calm_and_says_so() -> None:
    """Values that hardly differ are not stretched over all colours, on any scale; one that does stand out is still striking."""
    flat = 0.5 + np.linspace(0, 0.01, 200)

    assert token_colours.scale(flat, tokens.BY_KEY["surprisal"]).flat
    assert all(_classes(flat, scale=scale).max() <= 3 for scale in token_colours.SCALES)
    assert 15 == _classes(np.append(flat, 9.0))[-1]
    assert not token_colours.scale(np.linspace(0, 1, 200), tokens.BY_KEY["surprisal"]).flat


def test_time_is_flat_against_its_own_pace() -> None:
    """A steady pace of 20 ms that varies by a tenth is flat; one that doubles is not."""
    signal = tokens.BY_KEY["inter_token_s"]

    assert token_colours.scale(np.linspace(0.019, 0.021, 100), signal).flat
    assert not token_colours.scale(np.linspace(0.02, 0.04, 100), signal).flat


def test_percentiles_share_out_the_colours() -> None:
    """On the percentile scale each class holds a sixteenth of the tokens, whatever their values; equal values share a colour."""
    values = np.random.default_rng(0).permutation(np.geomspace(0.01, 100, 1600))

    counts = np.bincount(_classes(values, scale="percentile"), minlength=16)
    assert counts.min() >= 98
    assert counts.max() <= 102
    assert 1 == len(set(_classes(np.array([0.0, 5, 5, 5, 5, 9]), scale="percentile")[1:5]))


@settings(deadline=None)
@given(st.sampled_from(token_colours.SCALES), st.floats(0.2, 5), st.sampled_from(["surprisal", "margin", "rank"]))
def test_every_scale_keeps_the_order(scale: str, gamma: float, key: str) -> None:
    """More striking is never paler, on any scale with any gamma."""
    values = np.sort(np.random.default_rng(1).gamma(1, 3, 300))

    steps = np.diff(_classes(values, key, scale=scale, gamma=gamma))
    assert (steps <= 0).all() if tokens.BY_KEY[key].reverse else (steps >= 0).all()


def test_a_small_gamma_shows_the_calm() -> None:
    """Below 1, gamma gives calm tokens more of the colours; above, fewer."""
    values = np.linspace(0, 10, 500)

    assert _classes(values, gamma=0.5)[100] > _classes(values)[100] > _classes(values, gamma=2)[100]


# --- Numbers in windows -----------------------------------------------------------------------------------------------------


def test_windows_of_float32_are_those_of_the_twin(client: FlaskClient) -> None:
    """Series come one after another, in the order asked for, over the same tokens."""
    found = _floats(client, f"{CHAT}.f32?series=entropy,rank&start=10&count=7").reshape(2, 7)
    signals = client.get(f"{CHAT}.json").json["sequences"][0]["signals"]

    np.testing.assert_allclose(found, [signals["entropy"][10:17], signals["rank"][10:17]], rtol=1e-6)


def test_a_window_ends_with_its_sequence(client: FlaskClient) -> None:
    """Beyond the end there is nothing; a series that was not recorded is NaN."""
    count = len(world.PIECES)

    assert 3 == _floats(client, f"{CHAT}.f32?series=entropy&start={count - 3}&count=50").size
    assert 0 == _floats(client, f"{CHAT}.f32?series=entropy&start={count + 9}&count=50").size
    assert np.isnan(_floats(client, f"{CHAT}.f32?series=varentropy")).all()


@pytest.mark.parametrize("heads", ["", "1", "all"])
def test_maps_come_as_float32_too(client: FlaskClient, heads: str) -> None:
    """Mean, one head or every head of a window, [token, layer(, head)], as the sender recorded them."""
    found = _floats(client, f"{EVERY}.f32?series=map:sink&start=1&count=3&heads={heads}")
    every, mean = VALUES[c.ATTENTION_SINK_HEADS][1:4], VALUES[c.ATTENTION_SINK][1:4]

    np.testing.assert_allclose(found, np.ravel({"": mean, "1": every[:, :, 1], "all": every}[heads]).astype(np.float32), rtol=1e-6)


def test_the_second_sequence_has_its_own_numbers(client: FlaskClient) -> None:
    """`seq` chooses, and its tokens start at 0."""
    first = STORY.lengths[0]
    found = _floats(client, f"{EVERY}.f32?series=surprisal&seq=1")

    np.testing.assert_allclose(found, VALUES[c.TOKEN_SURPRISAL][first : first + STORY.lengths[1]], rtol=1e-6)


def test_units_can_be_asked_for(client: FlaskClient) -> None:
    """The number of the unit of each token, which lets the script choose a word or a sentence."""
    found = _floats(client, f"{CHAT}.f32?series=unit:word")

    four = world.PIECES.index(" Four")
    assert found[four] == found[four + 1] == found[four + 2] == found[four + 3] - 1


@pytest.mark.parametrize("query", ["", "series=mood", "series=map:mood", "series=unit:page", "series=lane:nobody",
                                   "series=" + "entropy," * 30, "series=entropy&start=x", "series=map:entropy&heads=99"])
def test_wrong_numbers_are_explained(client: FlaskClient, query: str) -> None:
    """A series that is not there, or too many, is refused with what would do."""
    assert 400 == client.get(f"{CHAT}.f32?{query}").status_code


def test_the_lane_of_a_window_is_that_of_the_page(client: FlaskClient) -> None:
    """What the script draws of a later window is what the server would: the same pieces, classes and strip."""
    query = "unit=word&scale=log&threshold=2&strips=rank&start=640"
    page = _page(client, dict(parse_qsl(query)), world.LONG)
    lane = client.get(f"{gen(world.LONG)}/lane.json?{query}").json

    assert page.lanes is not None
    assert [640, 1280] == [lane["start"], lane["stop"]]
    assert [(t.index, t.size, t.css, t.value, [[p.kind, p.text] for p in t.parts]) for t in page.lanes.tokens] == [
        (index, size, css, value, parts) for index, size, css, value, _, parts in lane["tokens"]
    ]
    assert [strip.path for strip in page.lanes.strips] == [strip["path"] for strip in lane["strips"]]


# --- Hesitations, ranges, tables, badges ------------------------------------------------------------------------------------


def test_hesitations_are_counted_without_script(client: FlaskClient) -> None:
    """The form's threshold marks the tokens that reach it; where small values are striking, those below it."""
    signals = client.get(f"{CHAT}.json").json["sequences"][0]["signals"]
    for key, wanted in (("surprisal", np.array(signals["surprisal"]) >= 1), ("margin", np.array(signals["margin"]) <= 1)):
        page = _page(client, {"signal": key, "threshold": "1"})
        assert page.lanes is not None
        assert page.lanes.threshold is not None
        assert page.lanes.threshold.count == wanted.sum()
        assert wanted.tolist() == [" h" in token.css for token in page.lanes.tokens]


def test_a_range_is_summed_up_without_script(client: FlaskClient) -> None:
    """Mean, largest, sum of the signal and the perplexity of the stretch, both ends included."""
    nats = np.array(client.get(f"{CHAT}.json").json["sequences"][0]["signals"]["surprisal"][4:9])
    text = get(client, f"{CHAT}?range=4-8").text

    assert "tokens 4 to 8" in text
    assert all(f"{value:#.3g}" in text for value in (nats.mean(), nats.max(), nats.sum(), np.exp(nats.mean())))


def test_the_map_is_a_table_too(client: FlaskClient) -> None:
    """Without script: a row a token and a column a layer; for every head, a row a layer and a column a head of one token."""
    table = _page(client, {"view": "layers"}).table
    assert table is not None
    matrix = client.get(f"{CHAT}.json").json["sequences"][0]["attention_entropy"]
    assert [world.LAYERS] * len(matrix) == [len(cells) for _, cells in table.rows]
    assert f"{matrix[3][5]:.3g}" == f"{float(table.rows[3][1][5]):.3g}"
    heads = _page(client, {"view": "layers", "heads": "matrix", "tok": "3"}).table
    assert heads is not None
    assert (world.LAYERS, world.HEADS) == (len(heads.rows), len(heads.head))


def test_a_range_of_one_token_is_one_token(client: FlaskClient) -> None:
    """It has no end to name."""
    text = get(client, f"{CHAT}?range=4-4").text

    assert "token 4" in text
    assert "tokens 4 to 4" not in text


def test_the_table_of_the_map_names_tokens_however_the_text_is_read(client: FlaskClient) -> None:
    """Its rows are tokens: read by sentences, each still has its own words."""
    rows = [_page(client, {"view": "layers", "unit": unit}).table for unit in ("token", "sentence")]
    assert rows[0] is not None
    assert rows[1] is not None
    labels = [label for label, _ in rows[1].rows]
    assert labels == [label for label, _ in rows[0].rows]
    assert labels[0] == f"0 {world.PIECES[0]}"


def test_badges_say_what_is_missing(client: FlaskClient) -> None:
    """Sampled layers, recorded choices, means only, a prompt without surprisal: each is said on the page."""
    every, batch = get(client, EVERY).text, get(client, gen(world.BATCH)).text

    assert "attention sampled: layers 0, 4, 8 only" in every
    assert "top 2 choices" in every
    assert "prompt not measured" not in every
    assert "mean over heads only" in batch
    assert "attention truncated" in batch
    assert "exceeds series_bytes_max" in batch
    assert "prompt not measured" in batch


def test_a_call_without_tokens_has_no_recorded_ones() -> None:
    """A recording that held nothing is not called recorded, and why there is nothing is said of a failure and of what is gone."""
    sequence = {"tokens": 0, "layers": {}}

    def said(outputs: str) -> list[tuple[str, str]]:
        attributes = {"cutaway.token.status": "recorded", "cutaway.attention.status": "recorded",
                      "gen_ai.usage.output_tokens": outputs}
        return [(badge.text, badge.detail) for badge in generation_header.badges(
            {"attributes": attributes, "named_layers": ()}, sequence)]

    failed, gone = said("0"), said("12")
    assert ["no tokens", "no attention"] == [text for text, _ in failed] == [text for text, _ in gone]
    assert "before its first token" in failed[0][1]
    assert "not stored" in gone[0][1]


# --- The address ------------------------------------------------------------------------------------------------------------

STATES: dict[str, st.SearchStrategy[str]] = {
    "signal": st.sampled_from([*tokens.BY_KEY]), "view": st.sampled_from([key for key, _ in generation_choice.VIEWS]),
    "unit": st.sampled_from(token_units.UNITS), "agg": st.sampled_from(token_units.AGGREGATES),
    "scale": st.sampled_from(token_colours.SCALES), "gamma": st.sampled_from(["0.5", "1", "2", "3.25"]),
    "strips": st.sampled_from(["", "entropy", "rank,margin"]), "tok": st.integers(0, 121).map(str), "seq": st.just("0"),
    "heads": st.sampled_from(["", "0", "8", "matrix"]), "attention": st.sampled_from([*tokens.MAP_BY_KEY]),
    "range": st.sampled_from(["", "0-0", "3-99"]), "layer": st.integers(0, 29).map(str),
    "threshold": st.sampled_from(["", "0.25", "-1", "1e-05"]),
}


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=STATES))
def test_state_to_address_to_state(state: dict[str, str]) -> None:
    """Every state has one address, and reading the address gives the state back."""
    choice = generation_choice.choose(state)
    address = generation_choice.linker("ab" * 8, choice)()
    again = generation_choice.choose(dict(parse_qsl(urlsplit(address).query)))

    assert {**_plain(choice), "map_asked": None} == {**_plain(again), "map_asked": None}
    assert address == generation_choice.linker("ab" * 8, again)()


def _plain(choice: generation_choice.Choice) -> dict[str, Any]:
    return {name: getattr(choice, name) for name in choice.__dataclass_fields__}


@pytest.mark.parametrize("query", ["unit=page", "agg=median", "scale=cubic", "gamma=9", "gamma=x", "strips=mood", "tok=-1",
                                   "tok=122", "range=9-3", "range=3", "range=0-122", "layer=x", "threshold=nan", "threshold=1e99",
                                   "heads=-1"])
def test_other_states_are_refused_with_a_reason(client: FlaskClient, query: str) -> None:
    """A parameter that cannot be is answered by what could."""
    answer = client.get(f"{CHAT}?{query}")

    assert 400 == answer.status_code
    assert query.split("=")[0] in answer.text
