"""Static files: compressed for whoever takes that, the very same file for everybody, and pages never."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

import web_helpers as world
from cutaway_collector import web
from cutaway_collector.settings import Settings
from cutaway_collector.web import create_app

STATIC = Path(web.__file__).parent / "static"
FILES = sorted(path.name for path in STATIC.iterdir())
GZIP = {"Accept-Encoding": "gzip, deflate, br"}
WEIGHT_BYTES_MAX = 200_000
MODULES = [name for name in FILES if name.endswith(".js")]
ADDRESS = re.compile(rb'"\./([\w.]+)\?v=[0-9a-f]+"')


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    spans, blocks = world.world()
    with world.stored(tmp_path_factory.mktemp("static") / "data", spans, blocks) as store:
        yield create_app(store, Settings()).test_client()


@pytest.mark.parametrize("name", FILES)
def test_a_compressed_file_is_the_file(client: FlaskClient, name: str) -> None:
    """What a browser unpacks is what is on disk but for the addresses of imports, with the type of the file, and caches know that
    there are two forms."""
    answer = client.get(f"/static/{name}", headers=GZIP)
    plain = client.get(f"/static/{name}")
    packed = answer.headers.get("Content-Encoding") == "gzip"
    content = gzip.decompress(answer.data) if packed else answer.data

    assert content == plain.data
    assert ADDRESS.sub(b'"./\\1"', content) == (STATIC / name).read_bytes()
    assert "Content-Encoding" not in plain.headers
    assert answer.content_type == plain.content_type
    assert int(answer.headers["Content-Length"]) == len(answer.data) <= len(content)
    assert ("Accept-Encoding" in answer.vary) is ("Accept-Encoding" in plain.vary) is packed


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0", "gzip;q=0, *"])
def test_whoever_does_not_take_it_is_not_given_it(client: FlaskClient, accepted: str) -> None:
    """Without gzip in Accept-Encoding, or with it refused, the file comes as it is."""
    answer = client.get("/static/cutaway.css", headers={"Accept-Encoding": accepted})

    assert "Content-Encoding" not in answer.headers
    assert answer.data == (STATIC / "cutaway.css").read_bytes()


def test_a_file_that_is_known_is_not_sent_again(client: FlaskClient) -> None:
    """The tag of either form is answered by 304 and no body."""
    for headers in ({}, GZIP):
        tag = client.get("/static/cutaway.css", headers=headers).headers["ETag"]
        again = client.get("/static/cutaway.css", headers={**headers, "If-None-Match": tag})

        assert (again.status_code, again.data) == (304, b"")


def test_a_part_of_a_file_is_a_part_of_the_file(client: FlaskClient) -> None:
    """A range counts bytes of the file itself."""
    answer = client.get("/static/cutaway.css", headers={**GZIP, "Range": "bytes=5-14"})

    assert (answer.status_code, answer.data) == (206, (STATIC / "cutaway.css").read_bytes()[5:15])
    assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_imports_is_kept_by_browsers(client: FlaskClient, name: str) -> None:
    """Modules are imported by the address of their content, which never changes: no page view asks for them again."""
    for headers in ({}, GZIP):
        answer = client.get(f"/static/{name}", headers=headers)
        text = (gzip.decompress(answer.data) if "Content-Encoding" in answer.headers else answer.data).decode()
        imported = re.findall(r'from "\./([^"]+)"', text)

        assert len(imported) == len(re.findall(r'from "\./', (STATIC / name).read_text()))
        for address in imported:
            assert "immutable" in client.get(f"/static/{address}").headers["Cache-Control"], address


def test_a_page_names_all_its_modules_at_once(client: FlaskClient) -> None:
    """Whatever a module of the page imports stands in its head, under the very address by which it is imported."""
    for path in ("/search?from=all", f"/gen/{world.CHAT:016x}", f"/trace/{world.RAG_TRACE:032x}", "/"):
        page = client.get(path).text
        named = set(re.findall(r'src="(/static/[\w.]+\.js\?v=[0-9a-f]+)"', page))

        assert {address.split("/")[-1].split("?")[0] for address in named} == {name for name in _used(page) if name.endswith(".js")}
        for address in named:
            imported = re.findall(r'from "\./([^"]+)"', client.get(address).text)
            assert {f"/static/{each}" for each in imported} <= named


def test_a_part_of_a_module_is_a_part_of_what_is_sent(client: FlaskClient) -> None:
    """A range of a module counts bytes of the file with the addresses of its imports."""
    whole = client.get("/static/search.js").data
    answer = client.get("/static/search.js", headers={"Range": f"bytes=0-{len(whole) - 2}"})

    assert b"?v=" in whole
    assert (answer.status_code, answer.data) == (206, whole[:-1])


def test_pages_are_not_compressed(client: FlaskClient) -> None:
    """A page holds what the visitor sent beside what he may not know: its size must not tell how alike they are."""
    for path in ("/search?q=lyon", "/search.json?q=lyon", f"/trace/{world.RAG_TRACE:032x}", "/saved", "/help"):
        assert "Content-Encoding" not in client.get(path, headers=GZIP).headers, path


def _used(page: str) -> set[str]:
    """Files that a page asks for, with the modules that its modules import."""
    wanted, found = set(re.findall(r"/static/([\w.]+)", page)), set()
    while wanted:
        name = wanted.pop()
        found.add(name)
        if name.endswith(".js"):
            wanted |= set(re.findall(r'from "\./([\w.]+)', (STATIC / name).read_text())) - found
    return found


@pytest.mark.parametrize("path", [
    "/search?from=all", "/search?from=all&plot=duration", "/search?from=all&plot=perplexity", "/", f"/gen/{world.CHAT:016x}",
    f"/trace/{world.RAG_TRACE:032x}", "/help", "/live", "/map", "/drift",
])
def test_a_page_is_light(client: FlaskClient, path: str) -> None:
    """A page with its stylesheets and modules weighs less than 200 kB on the wire."""
    page = client.get(path, headers=GZIP)
    files = _used(page.text)

    assert page.status_code == 200
    assert "cutaway.css" in files
    assert len(page.data) + sum(len(client.get(f"/static/{name}", headers=GZIP).data) for name in files) < WEIGHT_BYTES_MAX
