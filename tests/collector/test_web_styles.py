"""Stylesheets and scripts: nothing is sent to a browser that no page uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway_collector import web

WEB = Path(web.__file__).parent
STATIC = WEB / "static"
STYLES = sorted(STATIC.glob("*.css"))
_STRING = re.compile(r'"((?:\\.|[^"\\\n])*)"|\'((?:\\.|[^\'\\\n])*)\'|`((?:\\.|[^`\\])*)`', re.DOTALL)
_CLASS_ATTRIBUTE = re.compile(r'class="((?:\{\{.*?\}\}|\{%.*?%\}|[^"])*)"', re.DOTALL)


def _rules(path: Path) -> Iterator[str]:
    """The selectors of a stylesheet, without what stands in braces, comments and strings."""
    text = re.sub(r'/\*.*?\*/|"[^"]*"', "", path.read_text(), flags=re.DOTALL)
    yield from re.findall(r"([^{};]+)\{", text)


def _classes(path: Path) -> set[str]:
    return {name for rule in _rules(path) if not rule.strip().startswith("@") for name in re.findall(r"\.([a-zA-Z][\w-]*)", rule)}


def _spelled() -> set[str]:
    """What may become a class: words of class attributes in templates, of strings in the pages' modules and scripts. A word that is
    continued by a value (`q{{ heat }}`, `s${index}`) stands with `*` in its place."""
    texts: list[str] = []
    for path in (WEB / "templates").glob("*.html"):
        source = path.read_text()
        texts += [re.sub(r"\{%.*?%\}", " ", text, flags=re.DOTALL) for text in _CLASS_ATTRIBUTE.findall(source)]
        texts += [text for part in re.findall(r"\{[{%].*?[%}]\}", source, re.DOTALL) for text in _strings(part)]
    for path in (*WEB.rglob("*.py"), *STATIC.glob("*.js")):
        texts += _strings(path.read_text())
    joined = " ".join(re.sub(r"(?:\{\{.*?\}\}|\$?\{[^{}]*\})", "*", text) for text in texts)
    return set(re.findall(r"[a-zA-Z][\w-]*\*?", joined))


def _strings(source: str) -> list[str]:
    return ["".join(parts) for parts in _STRING.findall(source)]


@pytest.mark.parametrize("path", STYLES, ids=lambda path: path.name)
def test_every_class_of_a_stylesheet_is_given_to_something(path: Path) -> None:
    """A rule for a class that no template, module or script spells is dead weight; one that is made of a number is spelled `q*`."""
    spelled = _spelled()
    unused = {name for name in _classes(path) if name not in spelled and re.sub(r"\d+$", "*", name) not in spelled}

    assert set() == unused


def test_every_static_file_is_asked_for() -> None:
    """By a template, a script that imports it, or a stylesheet."""
    sources = [*(WEB / "templates").glob("*.html"), *STATIC.glob("*.js"), *STATIC.glob("*.css"), *WEB.rglob("*.py")]
    told = "\n".join(path.read_text() for path in sources)

    files = [path.name for path in STATIC.iterdir() if path.is_file()]
    assert [] == [name for name in files if not re.search(rf"[\"'/]{re.escape(name)}", told)]
