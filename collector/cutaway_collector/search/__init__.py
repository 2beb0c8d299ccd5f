"""Search: from a query in words to rows, traces and generations as the JSON twins answer them.

    fields (the registry) <- language (text to tree) <- sql (tree to bound SQL), english (tree to a sentence)
                          <- find, traces, counts, facets, heat, details (the results page), trace, generation

Not the pages, and not the store: a `contracts.Store` is passed in, and its limits bound every query.
"""

from __future__ import annotations

from cutaway_collector.messages import messages
from cutaway_collector.search.counts import Extent, extent, histogram
from cutaway_collector.search.details import glance, sparklines
from cutaway_collector.search.english import explain
from cutaway_collector.search.facets import facet, facets
from cutaway_collector.search.fields import FIELDS, FLAGS
from cutaway_collector.search.find import find
from cutaway_collector.search.generation import generation
from cutaway_collector.search.heat import heat
from cutaway_collector.search.language import parse
from cutaway_collector.search.request import SearchRequest
from cutaway_collector.search.stats import stats
from cutaway_collector.search.trace import locate, trace

__all__ = ["FIELDS", "FLAGS", "Extent", "SearchRequest", "explain", "extent", "facet", "facets", "find", "generation", "glance",
           "heat", "histogram", "locate", "messages", "parse", "sparklines", "stats", "trace"]
