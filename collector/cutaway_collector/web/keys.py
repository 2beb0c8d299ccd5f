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
SHORTCUTS: Final[tuple[Shortcut, ...]] = (
    Shortcut(EVERYWHERE, ("/",), "/", "go to the search box", "page.js"),
    Shortcut(EVERYWHERE, ("k",), "Ctrl K", "go to a page, a saved search or a trace seen lately (⌘ K on a Mac)", "commands.js"),
    Shortcut(EVERYWHERE, ("?",), "?", "show this sheet", "commands.js"),
    Shortcut(EVERYWHERE, ("Escape",), "Esc", "close what is open", "page.js"),
    Shortcut("Search box", ("ArrowDown", "ArrowUp"), "↓  ↑", "through the suggestions", "query_box.js"),
    Shortcut("Search box", ("Tab",), "Tab", "take a suggestion: the one chosen, else the first", "query_box.js"),
    Shortcut("Search box", ("Enter",), "Enter", "search for what stands there, or take the suggestion chosen", "query_box.js"),
    Shortcut("Search box", ("Escape",), "Esc", "close the suggestions; once more leaves the box", "query_box.js"),
    *(Shortcut("Trace", keys, shown, meaning, "trace.js") for keys, shown, meaning in (
        (("ArrowDown", "ArrowUp"), "↓  ↑", "row below, row above, once the rows have the focus"),
        (("j", "k"), "j  k", "row below, row above, from anywhere on the page"),
        (("ArrowRight", "ArrowLeft"), "→  ←", "open a row or go into it; close it or go to what it stands under"),
        (("Home", "End"), "Home  End", "first, last row"),
        (("PageUp", "PageDown"), "PgUp  PgDn", "a screen of rows up, down"),
        (("Enter",), "Enter", "show the span beside the rows; once more goes to it"),
        (("f",), "f", "go to the filter of the trace"),
        (("n", "N"), "n  N", "next, previous match of the filter; without one, span that failed"),
        (("p", "P"), "p  P", "next, previous span of the same name"),
        (("s", "S"), "s  S", "next, previous span under the same parent"),
        (("[", "]"), "[  ]", "previous, next trace of the search that led here"),
        (("+", "=", "-", "0"), "+  −  0", "zoom in, out, to the whole of the trace's time"),
        ((",", "."), ",  .", "the stretch of time before, after the one shown"),
    )),
    Shortcut("Results", ("j", "k"), "j  k", "next, previous row; Enter opens it", "page.js"),
)
"""In the order of the sheet."""
