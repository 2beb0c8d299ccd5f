"""Suggestions for the search box, as JSON: what the store knows for one place of the caret, each as the text to put there.

Not the searching for them, which is the search verb's, and not the list on the screen (`static/query_box.js`).
"""

from __future__ import annotations

import re
from typing import Any, Final

from cutaway_collector.search import completion
from cutaway_collector.search.caret import Context
from cutaway_collector.search.completion import Item
from cutaway_collector.search.language import QUERY_CHARACTERS_MAX, split_scope
from cutaway_collector.search.scores import Score
from cutaway_collector.web import query_edit, times
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.site import Arguments, Site

_BARE: Final = re.compile(r"[^\W\d][\w.@$/-]*")
_SCOPES: Final = ("span.", "resource.", "score.")


def twin(site: Site, args: Arguments) -> dict[str, Any]:
    """{"context", "items", "restricted", "cut"} of q and caret (characters before it; the end when left out), from and to.

    An item has `insert`, what takes the place of the characters from `start` to `end` of the context. Raises BadParameter.
    """
    text, now_ns = args.get("q", ""), site.now_ns()
    if len(text) > QUERY_CHARACTERS_MAX:
        raise BadParameter(f"q has at most {QUERY_CHARACTERS_MAX} characters, it has {len(text)}")
    said = args.get("caret", "") or str(len(text))
    if not said.isascii() or not said.isdigit() or len(said) > 6:
        raise BadParameter(f"caret is the number of characters in front of it, it is {said[:20]!r}")
    found = completion.complete(site.store, text, int(said), start_ns=times.parse(args.get("from", ""), now_ns, "from"),
                                end_ns=times.parse(args.get("to", ""), now_ns, "to"))
    place = found.context
    items = [{"insert": insert, "text": item.text, "kind": item.kind, "unit": item.unit, "help": item.help,
              "count": item.count if item.count >= 0 else None}
             for item in found.items if (insert := _insert(item, place))]
    return {
        "context": {"kind": place.kind, "start": place.start, "end": place.end, "prefix": place.prefix, "field": place.field},
        "items": items, "restricted": found.restricted, "cut": found.cut,
    }


def _insert(item: Item, place: Context) -> str:
    """The suggestion as the language reads it back, "" where there is no way to write it at this place."""
    if item.kind == "number":
        return f">{item.text}" if place.operator == ":" and not place.listed else item.text
    if item.kind in ("value", "label"):
        return query_edit.quoted(item.text)
    if item.kind == "score":
        name = Score(item.text).name
        return "" if place.kind == "has" and '"' in name else name
    scope = split_scope(place.prefix)[0]
    bare = bool(_BARE.fullmatch(item.text))
    if scope:
        plain = f"{scope}.{item.text}" if bare else f"{scope}.{_phrase(item.text)}"
        return "" if place.kind == "has" and not bare else plain
    if place.kind == "has":
        return "" if item.text.startswith(_SCOPES) else item.text if bare else _phrase(item.text)
    return _phrase(item.text) if item.text.startswith(_SCOPES) else query_edit.field_name(item.text)


def _phrase(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
