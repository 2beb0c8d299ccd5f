"""What is asked of a search: the query, the time range, what the rows are, their order and the page.

A noun, without SQL. Not the URL: a page makes one of these from its parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cutaway_collector.errors import QueryError
from cutaway_collector.search import language
from cutaway_collector.search.language import And, Is, Node

VIEWS: Final = ("spans", "traces", "generations")
"""What the rows are: matching spans, the traces they belong to, or those of them in which a model generates."""
COLUMNS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What to search. Times in nanoseconds since 1970, the end excluded, None for open (see `window`).

    sort: a field name, `-field` for descending, "" for newest first. after, before: the `next` or `previous` of another page, if
    any. view: one of VIEWS. columns: fields, attributes and scores that each row is wanted with besides its own.
    """

    q: str = ""
    start_ns: int | None = None
    end_ns: int | None = None
    limit: int = 50
    after: str | None = ""
    sort: str = ""
    view: str = "spans"
    before: str | None = ""
    columns: tuple[str, ...] = ()

    def tree(self) -> Node:
        """The query as a tree, the view's own condition included. Raises QueryError."""
        tree = language.parse(self.q)
        if self.view not in VIEWS:
            raise QueryError(f"a search shows {', '.join(VIEWS)}, not {self.view[:20]!r}", hint="try view=traces")
        return And((tree, Is("generation", 0))) if self.view == "generations" else tree

    @property
    def identity(self) -> str:
        """What a page position belongs to."""
        return f"{self.view}\0{self.q}" if self.view != "spans" else self.q
