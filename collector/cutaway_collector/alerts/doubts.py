"""What is right by the language and most likely a slip: a name that no field has is an attribute of that name, and a rule over
`perplexty` is judged for ever and never fires. Refuses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cutaway_collector.alerts.rules import Rule
from cutaway_collector.search import fields, language, sql
from cutaway_collector.search.tree import Has, Term, walk

_LIKE: Final = 0.8
"""One letter of five: nearer than the search page asks for, which shows what it found."""


def doubts(rule: Rule) -> list[str]:
    """A sentence a name that is nearly a field's: what it is taken for, what may be meant, and how to say that it is right."""
    found = []
    for name in dict.fromkeys(_names(rule)):
        near = fields.nearest(name, fields.NAMES, like=_LIKE)
        if near and isinstance(sql.resolve(name, ""), sql.Key):
            found.append(f"rule {rule.name}: no field is called {name[:60]}, so it is taken for an attribute: did you mean "
                         f"{near}? If the attribute is meant, write span.{name[:60]}")
    return found


def _names(rule: Rule) -> Iterator[str]:
    """Names without a scope that the rule asks of spans."""
    if rule.source == "windows":
        return
    for text in (rule.query, rule.of):
        yield from (node.field for node in walk(language.parse(text)) if isinstance(node, Term | Has) and not node.scope)
    said = (rule.field, *(rule.group_by if rule.source == "spans" else ()))
    yield from (name for scope, name in map(language.split_scope, filter(None, said)) if not scope)
