"""What is asked of a search: the query, the time range, what the rows are, their order and the page.

A noun, without SQL. Not the URL: a page makes one of these from its parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cutaway_collector.errors import QueryError
from cutaway_collector.search import language, order
from cutaway_collector.search.language import And, Is, Node

VIEWS: Final = ("spans", "traces", "generations")
"""What the rows are: matching spans, the traces they belong to, or those of them in which a model generates."""
COLUMNS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What to search. Times in nanoseconds since 1970, the end excluded, None for open (see `window`).

    sort: a field name, `-field` for descending, "" for newest first. after, before: the `next` or `previous` of another page, if
    any. view: one of VIEWS. columns: fields, attributes and scores that each row is wanted with besides its own.
    only: the rows of this page are all that are wanted, no others follow.
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
    only: bool = False

    def staged(self) -> SearchRequest:
        """The request with the order and the number of rows that `| sort` and `| limit` of its query ask for. Raises QueryError."""
        found = language.read(self.q)
        request = self
        if found.sort is not None:
            try:
                order.of(found.sort.text)
            except QueryError as error:
                raise QueryError(str(error), column=found.sort.key_at, hint=error.hint) from None
            request = replace(request, sort=found.sort.text)
        return replace(request, limit=found.limit.count, only=True) if found.limit is not None else request

    def tree(self) -> Node:
        """The query as a tree, the view's own condition included. Raises QueryError, also where the query asks for no rows."""
        found = language.read(self.q)
        for stage in (found.stats, found.compare):
            if stage is not None:
                raise QueryError(f"`| {type(stage).__name__.lower()}` makes no rows of spans, which are asked for here",
                                 column=stage.at, hint="leave the stage out")
        tree = found.where
        if self.view not in VIEWS:
            raise QueryError(f"a search shows {', '.join(VIEWS)}, not {self.view[:20]!r}", hint="try view=traces")
        return And((tree, Is("generation", 0))) if self.view == "generations" else tree

    @property
    def identity(self) -> str:
        """What a page position belongs to."""
        return f"{self.view}\0{self.q}" if self.view != "spans" else self.q
