"""The table of keys: every key a page's script listens to stands in it, and every key in it is listened to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cutaway_collector.web import keys

STATIC = Path(keys.__file__).parent / "static"
SCRIPTS = sorted(path.name for path in STATIC.glob("*.js"))
_COMPARED = re.compile(r'event\.key(?:\.toLowerCase\(\))?\s*[!=]==\s*"([^"]+)"')
_LOOKED_UP = re.compile(r"\}\[event\.key\]|(?:Object\.hasOwn\((\w+),\s*event\.key\))")
_NAME = re.compile(r'\s*(?:(\w+)|"([^"]+)")\s*:')
_ARROWS = {"ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"}


def _names(body: str) -> set[str]:
    """Names of the properties of an object literal, those of objects within it left out."""
    depth, quoted, start, parts = 0, False, 0, []
    for at, char in enumerate(body):
        quoted ^= char == '"'
        if quoted:
            continue
        depth += (char in "{[(") - (char in "}])")
        if char == "," and depth == 0:
            parts.append(body[start:at])
            start = at + 1
    found = [_NAME.match(part.lstrip(", \n")) for part in [*parts, body[start:]]]
    return {name[1] or name[2] for name in found if name}


def _object_before(text: str, end: int) -> str:
    """The inside of the braces that close at `end`."""
    depth = 0
    for at in range(end, -1, -1):
        depth += (text[at] == "}") - (text[at] == "{")
        if depth == 0:
            return text[at + 1 : end]
    raise AssertionError("braces that never open")


def _object_named(text: str, name: str) -> str:
    """The inside of `const name = {...}`."""
    start = text.index(f"const {name} = {{") + len(f"const {name} = ")
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start + 1 : at]
    raise AssertionError("braces that never close")


def _listened(text: str) -> set[str]:
    """The keys that the text of a script listens to."""
    found = set(_COMPARED.findall(text))
    for match in _LOOKED_UP.finditer(text):
        found |= _names(_object_named(text, match[1]) if match[1] else _object_before(text, match.start()))
    return found | (_ARROWS if 'event.key.startsWith("Arrow")' in text else set())


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_key_stands_in_the_sheet(script: str) -> None:
    """What a script listens to and what the sheet says of it are the same keys."""
    listed = {key for line in keys.SHORTCUTS if line.script == script for key in line.keys}

    assert _listened((STATIC / script).read_text()) == listed


def test_a_handler_is_seen() -> None:
    """The reading of scripts itself: a comparison, a table of steps, a table of functions, a named table."""
    script = """
      if (event.key === "Escape") this.close();
      const step = { j: 1, k: -1 }[event.key];
      const doing = { n: () => found(1, { deep: 2 }), "[": () => click("a, b"), 0: () => this.zoom() }[event.key];
      const moves = { Home: () => 0, End: () => last, };
      if (Object.hasOwn(moves, event.key)) moves[event.key]();
      if (line.keys === "not a key" || line.keyed === "nor this") return;
    """

    assert {"Escape", "j", "k", "n", "[", "0", "Home", "End"} == _listened(script)


def test_no_script_listens_without_a_key_of_its_own() -> None:
    """Whoever adds a listener adds a line to the sheet."""
    listening = {script for script in SCRIPTS if 'addEventListener("keydown"' in (STATIC / script).read_text()}

    assert listening == {line.script for line in keys.SHORTCUTS}


def test_the_sheet_loses_no_line() -> None:
    """Grouped by place, in the order of the table, each line once."""
    assert list(keys.SHORTCUTS) == [line for _, lines in keys.sheet() for line in lines]
    assert len({(line.where, line.keys, line.script) for line in keys.SHORTCUTS}) == len(keys.SHORTCUTS)
