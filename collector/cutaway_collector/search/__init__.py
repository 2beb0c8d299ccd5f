"""Search: from a query in words to rows, traces and generations as the JSON twins answer them.

    fields (the registry) <- language (text to tree) <- sql (tree to bound SQL), english (tree to a sentence)
                          <- find, trace, generation (the page queries)

Not the pages, and not the store: a `contracts.Store` is passed in, and its limits bound every query.
"""

from __future__ import annotations

from cutaway_collector.messages import messages
from cutaway_collector.search.english import explain
from cutaway_collector.search.fields import FIELDS, FLAGS
from cutaway_collector.search.find import SearchRequest, facets, find, histogram
from cutaway_collector.search.generation import generation
from cutaway_collector.search.language import parse
from cutaway_collector.search.trace import locate, trace

__all__ = ["FIELDS", "FLAGS", "SearchRequest", "explain", "facets", "find", "generation", "histogram", "locate", "messages",
           "parse", "trace"]
