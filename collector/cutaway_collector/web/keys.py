"""THE table of keys: what each does and where, for the keyboard sheet, the help page and the test that reads the pages' scripts.

Not the handlers, which are the scripts' own: a key that a script listens to stands here, or the tests say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Shortcut:
    """One line of the sheet. where: the page or part of it; keys: as `KeyboardEvent.key` calls them; shown: as people do.

    script: the file in static/ that listens.
    """

    where: str
    keys: tuple[str, ...]
    shown: str
    meaning: str
    script: str


EVERYWHERE: Final = "Everywhere"
_ARROWS: Final = ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown")
SHORTCUTS: Final[tuple[Shortcut, ...]] = (
    Shortcut(EVERYWHERE, ("/",), "/", "go to the search box", "page.js"),
    Shortcut(EVERYWHERE, ("k",), "Ctrl K", "go to a page, a saved search or a trace seen lately (⌘ K on a Mac)", "commands.js"),
    Shortcut(EVERYWHERE, ("?",), "?", "show this sheet", "commands.js"),
    Shortcut(EVERYWHERE, ("ArrowDown", "ArrowUp", "Enter"), "↓  ↑", "through what Ctrl K offers; Enter goes there", "commands.js"),
    Shortcut("Search box", ("ArrowDown", "ArrowUp"), "↓  ↑", "through the suggestions", "query_box.js"),
    Shortcut("Search box", ("Tab",), "Tab", "take a suggestion: the one chosen, else the first", "query_box.js"),
    Shortcut("Search box", ("Enter",), "Enter", "search for what stands there, or take the suggestion chosen", "query_box.js"),
    Shortcut("Search box", ("Escape",), "Esc", "close the suggestions", "query_box.js"),
    Shortcut("Search box", ("Escape",), "Esc", "leave the box, once they are closed", "page.js"),
    Shortcut("Results", ("j", "k"), "j  k", "next, previous row; Enter opens it", "page.js"),
    Shortcut("Results", ("x",), "x", "select the row for a comparison", "search.js"),
    Shortcut("Results", ("c",), "c", "compare the rows selected", "search.js"),
    Shortcut("Results", ("e",), "e", "show more of the row", "search.js"),
    Shortcut("Results", _ARROWS, "←  →  ↑  ↓", "through the cells of the picture; with Shift they select", "search.js"),
    Shortcut("Results", ("Enter",), "Enter", "search within the cells selected", "search.js"),
    Shortcut("Results", ("Escape",), "Esc", "select no cells", "search.js"),
    Shortcut("Trace", ("j", "k"), "j  k", "next, previous span", "trace.js"),
    Shortcut("Trace", ("ArrowDown", "ArrowUp"), "↓  ↑", "the same, in the tree", "trace.js"),
    Shortcut("Trace", ("ArrowRight", "ArrowLeft"), "→  ←", "open a span's children, or close them; go in, go out", "trace.js"),
    Shortcut("Trace", ("PageDown", "PageUp"), "Page ↓ ↑", "by screens", "trace.js"),
    Shortcut("Trace", ("Home", "End"), "Home  End", "first, last span", "trace.js"),
    Shortcut("Trace", ("Enter",), "Enter", "show the span", "trace.js"),
    Shortcut("Trace", ("n", "N"), "n  N", "next, previous match of the filter, else error", "trace.js"),
    Shortcut("Trace", ("p", "P"), "p  P", "next, previous span of the same name", "trace.js"),
    Shortcut("Trace", ("s", "S"), "s  S", "next, previous sibling", "trace.js"),
    Shortcut("Trace", ("f",), "f", "go to the filter", "trace.js"),
    Shortcut("Trace", ("[", "]"), "[  ]", "previous, next trace", "trace.js"),
    Shortcut("Trace", ("+", "=", "-", "0"), "+  -  0", "look closer, from further away, at all of it", "trace.js"),
    Shortcut("Trace", (",", "."), ",  .", "move in time", "trace.js"),
    Shortcut("Generation", ("ArrowLeft", "ArrowRight"), "←  →", "previous, next token; with Shift they select", "generation.js"),
    Shortcut("Generation", ("PageDown", "PageUp"), "Page ↓ ↑", "by screens", "generation.js"),
    Shortcut("Generation", ("Home", "End"), "Home  End", "first, last token", "generation.js"),
    Shortcut("Generation", ("ArrowUp", "ArrowDown"), "↑  ↓", "layer of the map, in the matrix with ← → the head", "generation.js"),
    Shortcut("Generation", ("g", "G"), "g  G", "next, previous hesitation, from anywhere on the page", "generation.js"),
    Shortcut("Generation", ("v",), "v", "next view", "generation.js"),
    Shortcut("Generation", ("Enter",), "Enter", "pin the token", "generation.js"),
    Shortcut("Generation", ("Escape",), "Esc", "let go of the selection", "generation.js"),
    Shortcut("Live", (" ",), "Space", "pause, go on", "live.js"),
    Shortcut("Map", _ARROWS, "←  →  ↑  ↓", "to the next point in that direction", "map.js"),
    Shortcut("Map", ("Enter",), "Enter", "open the point", "map.js"),
    Shortcut("Map", ("Escape",), "Esc", "drop the selection", "map.js"),
    Shortcut("Comparison", _ARROWS, "←  →  ↑  ↓", "through layers and heads", "compare.js"),
)
"""In the order of the sheet."""


def sheet() -> tuple[tuple[str, tuple[Shortcut, ...]], ...]:
    """(where, its lines) in the order of the sheet."""
    places = dict.fromkeys(line.where for line in SHORTCUTS)
    return tuple((where, tuple(line for line in SHORTCUTS if line.where == where)) for where in places)
