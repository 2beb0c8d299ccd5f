"""What a rule may ask of window scores: which there are, whose they are, and a query over those names as SQL. Not the judging.

Window scores belong to no span, so a query about spans cannot find them: it compares what they are kept by, with exact values.
"""

from __future__ import annotations

import difflib
from typing import Final

from cutaway_collector import windows
from cutaway_collector.errors import QueryError
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.tree import And, Has, Listing, Literal, Node, Not, Or, Term
from cutaway_collector.search.windows import FILTERS

NAMES: Final = tuple(kind.name for kind in windows.KINDS)
GROUPS: Final = tuple(FILTERS)
"""What a window score is of: a rule that does not say how to group watches each of them by itself."""


def check_name(name: str) -> None:
    """Raises QueryError for a window score that there is not."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        raise QueryError(f"there is no window score {name[:40]!r}",
                         hint=f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}")


def group(name: str) -> str:
    """The column of a name that window scores are kept by. Raises QueryError for another."""
    if name not in FILTERS:
        raise QueryError(f"window scores are grouped by {', '.join(FILTERS)}, not by {name[:40]!r}")
    return FILTERS[name]


def condition(node: Node, parameters: Parameters) -> str:
    """A query as one SQL condition over gen_ai_window_scores. Raises QueryError for what they do not hold."""
    if isinstance(node, And | Or):
        joined = (" AND " if isinstance(node, And) else " OR ").join(condition(part, parameters) for part in node.parts)
        return f"({joined})" if node.parts else "1"
    if isinstance(node, Not):
        return f"(NOT {condition(node.part, parameters)})"
    if isinstance(node, Has) and not node.scope and node.field in FILTERS:
        return f"({FILTERS[node.field]} != '')"
    if isinstance(node, Term) and not node.scope and node.field in FILTERS and node.operator in ("=", "!="):
        wanted = node.value.items if isinstance(node.value, Listing) else (node.value,)
        texts = [one.text for one in wanted if isinstance(one, Literal) and (one.quoted or "*" not in one.text)]
        if len(texts) == len(wanted):
            among = ", ".join(parameters.text(text) for text in texts)
            return f"({FILTERS[node.field]} {'NOT IN' if node.operator == '!=' else 'IN'} ({among}))"
    raise QueryError(f"a query over window scores compares {', '.join(FILTERS)} with exact values", column=getattr(node, "at", 0),
                     hint="try service:chat -route:/classify")
