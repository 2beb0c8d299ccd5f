"""Around the pages: failures, readiness, metrics, headers, hosts, themes, attacks by text, and the promises of the templates."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from jinja2 import nodes
from prometheus_client import CollectorRegistry, Counter
from werkzeug.test import TestResponse

import web_helpers as world
from cutaway_collector import web
from cutaway_collector.contracts import Result
from cutaway_collector.errors import QueryTooLarge, StoreError
from cutaway_collector.search import FIELDS
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore
from cutaway_collector.web import create_app, errors
from cutaway_collector.web.pages import generation, guide, search, trace
from web_helpers import TRACE, Page, gen, get

TEMPLATES = Path(web.__file__).parent / "templates"

ALL_PAGES = [
    "/search",
    "/search?q=nothing-like-this",
    TRACE,
    gen(world.CHAT),
    gen(world.CHAT) + "?view=table",
    gen(world.CHAT) + "?view=numbers",
    gen(world.BARE),
    gen(world.FAILED),
    "/help",
    "/nowhere",
    "/search?q=ttft:>foo",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseStore]:
    with world.stored(tmp_path_factory.mktemp("web") / "data", *world.hostile_world()) as open_store:
        yield open_store


@pytest.fixture
def client(store: ClickHouseStore) -> FlaskClient:
    return create_app(store, Settings(data="unused"), now_ns=lambda: world.NOW_NS).test_client()


class _Lost:
    """A store that cannot be reached."""

    database = "otel"

    def query(self, sql: str, parameters: Any = None, **limits: float) -> Result:
        raise StoreError("ClickHouse at 10.0.0.1 did not answer", retryable=True)


@pytest.mark.parametrize("path", ["/search", TRACE, gen(world.CHAT)])
def test_a_lost_store_is_a_503(path: str) -> None:
    """When the store is away, pages and twins say so and that trying again can help; liveness stays."""
    lost = create_app(_Lost(), Settings(data="unused")).test_client()  # type: ignore[arg-type]

    assert 503 == lost.get(path).status_code
    assert "did not answer" in lost.get(path + ".json").json["error"]["message"]
    assert 200 == lost.get("/healthz").status_code


class _Careful(_Lost):
    """A store whose limits stop every query."""

    def query(self, sql: str, parameters: Any = None, **limits: float) -> Result:
        raise QueryTooLarge("the query read more rows than query_rows_read_max allows: narrow the time range or the filter")


def test_a_query_that_meets_a_limit_is_the_askers_to_mend() -> None:
    """A query stopped by its own limits is a 400 with the limit's name and the remedy: nothing suggests a sick store."""
    careful = create_app(_Careful(), Settings(data="unused")).test_client()  # type: ignore[arg-type]
    answer = careful.get(TRACE)

    assert 400 == answer.status_code
    assert "narrow the time range or the filter" in answer.text
    assert "did not answer" not in answer.text
    assert "query_rows_read_max" in careful.get(TRACE + ".json").json["error"]["message"]


@pytest.mark.parametrize(("ready", "code"), [(True, 200), (False, 503)])
def test_readiness_asks_the_pipeline(store: ClickHouseStore, ready: bool, code: int) -> None:
    """/readyz answers 200 or 503 as the given status says, with its details."""
    app = create_app(store, Settings(data="unused"), status=lambda: (ready, {"writer": "running"}))
    answer = app.test_client().get("/readyz")

    assert (code, {"ready": ready, "writer": "running"}) == (answer.status_code, answer.json)


def test_metrics_are_those_of_the_registry(store: ClickHouseStore) -> None:
    """/metrics prints the given registry in the Prometheus text format."""
    registry = CollectorRegistry()
    Counter("spans", "Spans.", registry=registry).inc(3)

    answer = create_app(store, Settings(data="unused"), registry=registry).test_client().get("/metrics")

    assert "spans_total 3.0" in answer.text
    assert answer.content_type.startswith("text/plain")


@pytest.mark.parametrize("path", [
    "/gen/ffffffffffffffff.f32", "/gen/x.f32", "/search.json?q=(", "/favicon.ico", "/export.csv", "/static/none.js",
    "/trace/x/skeleton.json",
    "/export?format=csv&q=(", "/live/events?q=(", "/admin/none",
])
def test_addresses_of_data_fail_as_data(client: FlaskClient, path: str) -> None:
    """A program that reads numbers, files or events never meets a page: the failure is JSON with a status that says so."""
    answer = client.get(path)

    assert 400 <= answer.status_code < 500
    assert "application/json" == answer.content_type
    assert json.loads(answer.text)["error"]["message"]


def test_a_person_whose_export_fails_is_told_by_a_page(client: FlaskClient) -> None:
    """The same address in a browser says what is wrong in words, with the search box to put it right."""
    answer = client.get("/export?format=csv&q=(", headers={"Accept": "text/html,*/*;q=0.8"})

    assert (400, "text/html; charset=utf-8") == (answer.status_code, answer.content_type)


def test_help_names_every_field(client: FlaskClient) -> None:
    """The language page is the registry: each field is listed under its name, and each example runs."""
    text = get(client, "/help").text

    assert all(field.name in text for field in FIELDS)
    for query, _ in guide.EXAMPLES:
        assert 200 == client.get("/search.json", query_string={"q": query}).status_code


@pytest.mark.parametrize("path", [*ALL_PAGES, "/search.json", "/healthz", "/metrics", "/static/cutaway.css"])
def test_every_answer_is_sealed(client: FlaskClient, path: str) -> None:
    """The strict policy and its companions are on every answer, errors included; nothing private is cached."""
    headers = client.get(path).headers

    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert ("nosniff", "same-origin") == (headers["X-Content-Type-Options"], headers["Referrer-Policy"])
    assert headers["Cache-Control"] in ("no-store", "no-cache")


def test_static_files_are_kept_for_ever_under_their_hash(client: FlaskClient) -> None:
    """A file asked for with its content's hash may be cached for ever; with any other it may not."""
    href = next(
        str(attrs["href"]) for tag, attrs in get(client, "/help").tags if tag == "link" and attrs.get("rel") == "stylesheet"
    )

    assert "immutable" in client.get(href).headers["Cache-Control"]
    assert "immutable" not in client.get("/static/cutaway.css?v=other").headers["Cache-Control"]


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8088", 200), ("127.0.0.1", 200), ("[::1]:8088", 200), ("evil.example", 421), ("127.0.0.1.evil.example:8088", 421)]
    + [(host, 421) for host in ("127.0.0.1:80:80", "[::1", "[::1]x", "[::1]:80:80", "127.0.0.1:x", "localhost..:80", "::1")],
)
def test_a_name_that_is_not_loopback_is_refused(client: FlaskClient, host: str, status: int) -> None:
    """DNS rebinding: a page of another origin that points its name at loopback gets nothing."""
    assert status == client.get("/search.json", headers={"Host": host}).status_code


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/search", "GET, HEAD, OPTIONS"), ("/search.json", "GET, HEAD, OPTIONS"), ("/theme", "OPTIONS, POST")],
)
def test_a_wrong_method_is_told_the_right_ones(client: FlaskClient, path: str, allowed: str) -> None:
    """405 carries Allow, as HTTP requires, on pages and twins alike."""
    answer = client.delete(path)

    assert (405, allowed) == (answer.status_code, answer.headers["Allow"])


def test_behind_an_open_address_any_host_is_served(store: ClickHouseStore) -> None:
    """Where the operator opened the UI to the network, its names are the operator's business."""
    app = create_app(store, Settings(data="unused", ui="0.0.0.0:8088", insecure_bind=True))

    assert 200 == app.test_client().get("/healthz", headers={"Host": "traces.example"}).status_code


def test_the_theme_is_remembered_without_script(client: FlaskClient) -> None:
    """The theme button sets a cookie and leads back; the next page is rendered in that theme, so nothing flashes."""
    answer = world.with_token(client).post("/theme", data={"theme": "dark", "back": "/help"})

    assert (303, "/help") == (answer.status_code, answer.location)
    assert ("html", {"lang": "en", "data-theme": "dark"}) in get(client, "/help").tags


@pytest.mark.parametrize("back", ["https://evil.example", "//evil.example", "/\\evil.example"])
def test_the_theme_button_leads_nowhere_else(client: FlaskClient, back: str) -> None:
    """No open redirect: the way back is a path of this host or the start page."""
    assert "/" == world.with_token(client).post("/theme", data={"theme": "dark", "back": back}).location


ALLOWED_TAGS = {
    "html",
    "head",
    "meta",
    "title",
    "link",
    "script",
    "body",
    "a",
    "header",
    "footer",
    "main",
    "nav",
    "section",
    "article",
    "aside",
    "form",
    "input",
    "button",
    "label",
    "div",
    "span",
    "p",
    "small",
    "b",
    "strong",
    "em",
    "i",
    "h1",
    "h2",
    "h3",
    "ul",
    "ol",
    "li",
    "dl",
    "dt",
    "dd",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "figure",
    "figcaption",
    "details",
    "summary",
    "pre",
    "code",
    "kbd",
    "mark",
    "time",
    "bdi",
    "wbr",
    "br",
    "output",
    "noscript",
    "canvas",
    "svg",
    "g",
    "path",
    "rect",
    "circle",
    "line",
    "text",
    "copy-text",
    "table-keys",
    "plot-brush",
    "result-rows",
    "later-part",
    "fieldset",
    "legend",
    "defs",
    "pattern",
    "token-view",
    "heat-grid",
    "h4", "template", "del", "ins", "select", "option", "datalist", "progress", "dialog", "polyline",
    "polygon", "optgroup", "hr", "tfoot", "textarea", "use",
}
OWN_TAGS = {name for script in (Path(web.__file__).parent / "static").glob("*.js")
            for name in re.findall(r'customElements\.define\("([a-z-]+)"', script.read_text())}
"""Custom elements that our scripts define."""

def _stays_text(answer: TestResponse) -> None:
    """Only our own tags, no handlers, no addresses elsewhere."""
    assert answer.status_code in (200, 400, 404)
    page = Page(answer.text)
    assert {tag for tag, _ in page.tags} <= ALLOWED_TAGS | OWN_TAGS
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]
    sources = [str(attrs.get(name)) for _, attrs in page.tags for name in ("href", "src", "action") if name in attrs]
    assert all(source.startswith(("/", "#")) and not source.startswith("//") for source in sources)


@pytest.mark.parametrize("text", world.XSS)
def test_no_text_breaks_out_of_its_place(client: FlaskClient, text: str) -> None:
    """Names, services, models, messages, attributes, events, tokens and queries made to break out stay text."""
    span_id = f"{9000 + world.XSS.index(text):016x}"
    opened, *others = (client.get(path) for path in (
        f"/trace/{9000:032x}?span={span_id}", f"/gen/{span_id}", f"/gen/{span_id}?view=table", f"/trace/{9000:032x}/span/{span_id}",
        f"/search/row/{9000:032x}/{span_id}"))

    for answer in (opened, *others, client.get("/search", query_string={"q": text}), client.get("/" + text.replace("?", ""))):
        _stays_text(answer)
    assert "&lt;script&gt;" in opened.text or "<script>" not in text


@pytest.mark.parametrize("path", [
    "/search?q=trace:" + f"{9000:032x}", f"/compare?a=trace:{9000:032x}&b=",
    "/search?view=traces&cols=service,status.message,error&from=all", "/search?plot=duration&from=all&keys=service,model",
    "/map?of=signals&color=model&from=all", "/live", "/export?from=all", "/?from=all", "/?from=-7d&changes=now",
])
def test_no_text_breaks_out_of_a_page_of_many(client: FlaskClient, path: str) -> None:
    """All of them at once, on the pages that show many spans."""
    _stays_text(client.get(path))


def test_directional_marks_in_tokens_are_printed(client: FlaskClient) -> None:
    """A token that would reverse the line is shown by its code point."""
    assert "U+202E" in get(client, f"/gen/{9000:016x}").text


@pytest.mark.parametrize(
    "expression",
    [
        "row.service", "row.model", "row.status_message", "span.name", "span.service", "page.name", "page.model", "page.service",
        "badge.text", "entry.value", "item.value", "score.name", "score.label", "event.name", "model", "service",
    ],
)
def test_user_text_stands_in_an_element_of_its_own(expression: str) -> None:
    """Names, badges, attributes and cells from a sender are printed in <bdi>, which the stylesheet isolates."""
    sources = [path.read_text() for path in TEMPLATES.glob("*.html")]

    assert any(re.search(rf"<bdi[^>]*>\{{\{{ \(?{re.escape(expression)}\b", source) for source in sources)
    assert "unicode-bidi: isolate" in (TEMPLATES.parent / "static" / "cutaway.css").read_text()


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_templates_hold_no_inline_code(path: Path) -> None:
    """Templates have no inline style, handler, script or outside address, and never switch escaping off."""
    source = path.read_text()

    assert not re.search(r"""\sstyle=|\son\w+=|javascript:|\|\s*safe\b|autoescape|https?://(?!\{\{)""", source)
    assert not re.search(r"<script(?![^>]*\ssrc=)", source)


CONTEXTS = {
    "search.html": search.SearchPage,
    "trace.html": trace.TracePage,
    "generation.html": generation.GenerationPage,
    "help.html": guide.GuidePage,
    "error.html": errors.Failure,
}


@pytest.mark.parametrize("name", sorted(CONTEXTS))
def test_a_page_uses_its_documented_context_and_all_of_it(client: FlaskClient, name: str) -> None:
    """The dataclass of a page is its contract: the templates use its fields, every one, and nothing else."""
    environment = client.application.jinja_env
    used: set[str] = set()
    todo, seen = [name], set()
    while todo:
        template = todo.pop()
        if template in seen or template == "base.html":
            continue
        seen.add(template)
        tree = environment.parse((TEMPLATES / template).read_text())
        used |= {
            node.attr for node in tree.find_all(nodes.Getattr) if isinstance(node.node, nodes.Name) and node.node.name == "page"
        }
        todo += [
            node.template.value
            for node in tree.find_all((nodes.Include, nodes.FromImport))
            if isinstance(node.template, nodes.Const)
        ]

    assert {field.name for field in dataclasses.fields(CONTEXTS[name])} == used
