"""A query said in plain English, and warnings about names that look like slips.

Not a paraphrase of the text: the sentence is made from the same tree and the same registry as the SQL, so it says what is searched.
"""

from __future__ import annotations

from cutaway_collector.search import fields, sql, values
from cutaway_collector.search.fields import Field
from cutaway_collector.search.language import And, Has, Is, Listing, Literal, Node, Not, Or, Range, Regex, Term, Text, Value, parse
from cutaway_collector.search.scores import Score
from cutaway_collector.search.sql import Target

_COMPARED = {">": "above", ">=": "at least", "<": "below", "<=": "at most"}


def explain(query: str) -> str:
    """One sentence: which spans the query finds. Raises QueryError as `parse` does."""
    tree = parse(query)
    if isinstance(tree, And) and not tree.parts:
        return "All spans."
    return f"Spans {_clause(tree, negated=False, nested=False)}."


def warnings(tree: Node) -> list[str]:
    """One sentence for each part of the query that is searched as written but looks like a slip."""
    found: list[str] = []
    todo: list[Node] = [tree]
    while todo:
        node = todo.pop(0)
        if isinstance(node, And | Or):
            todo[:0] = node.parts
        elif isinstance(node, Not):
            todo.insert(0, node.part)
        elif warning := _warning(node):
            found.append(warning)
    return list(dict.fromkeys(found))


def _warning(node: Node) -> str:
    if isinstance(node, Text) and not node.value.quoted and node.value.text in ("and", "or", "not"):
        word = node.value.text
        return f"`{word}` is searched as a word. The operator is written in capitals: {word.upper()}."
    if not isinstance(node, Term | Has) or node.scope:
        return ""
    field = fields.lookup(node.field)
    if field is None:
        near = fields.nearest(node.field)
        if not near:
            return ""
        return f"`{node.field[:50]}` is no field: it is searched as an attribute. Did you mean `{near}`?"
    value = node.value if isinstance(node, Term) else None
    if field.name == "error" and isinstance(value, Literal) and value.text in ("true", "false"):
        return "`error` is the class of the error. For spans that failed write is:error, for the others -is:error."
    return ""


def _clause(node: Node, *, negated: bool, nested: bool) -> str:
    if isinstance(node, Not):
        return _clause(node.part, negated=not negated, nested=nested)
    if isinstance(node, And | Or):
        # Negation moves inwards: not (a and b) is said as "not a or not b".
        word = " and " if isinstance(node, And) != negated else " or "
        text = word.join(_clause(part, negated=negated, nested=True) for part in node.parts)
        return f"({text})" if nested else text
    if isinstance(node, Is):
        flag = sql.is_flag(node)
        return flag.negated if negated else flag.phrase
    if isinstance(node, Text):
        return f"that {'do not mention' if negated else 'mention'} {_quoted(node.value)}"
    if isinstance(node, Has):
        return f"that {'lack' if negated else 'have'} {_name(sql.resolve(node.field, node.scope))}"
    return _term(node, negated)


def _term(term: Term, negated: bool) -> str:
    target = sql.resolve(term.field, term.scope)
    name = _name(target)
    field = target if isinstance(target, Field) else None
    if term.operator == "!=":
        if negated:
            return f"that lack {name} or whose {name} {_value(term.value, field, negated=False)}"
        return f"that have {name} and whose {name} {_value(term.value, field, negated=True)}"
    if term.operator in _COMPARED:
        number = term.value.text if isinstance(term.value, Literal) else ""
        return f"whose {name} is {'missing or not ' if negated else ''}{_COMPARED[term.operator]} {number}"
    if isinstance(term.value, Literal) and not term.value.quoted and term.value.text == "*":
        return f"that {'lack' if negated else 'have'} {name}"
    return f"whose {name} {'is missing or ' if negated else ''}{_value(term.value, field, negated=negated)}"


def _name(target: Target) -> str:
    if isinstance(target, Field):
        return target.phrase
    if isinstance(target, Score):
        return f"score {target.key}"
    return f"{target.scope + ' ' if target.scope else ''}attribute {target.key}"


def _value(value: Value, field: Field | None, *, negated: bool) -> str:
    """The predicate of a value: "is gpt2", "does not match llama*", "is from 10 to 50"."""
    be, do = ("is not", "does not ") if negated else ("is", "")
    if isinstance(value, Listing):
        return (" and " if negated else " or ").join(_value(item, field, negated=negated) for item in value.items)
    if isinstance(value, Range):
        low, high = ("" if not end.quoted and end.text == "*" else end.text for end in (value.low, value.high))
        if low and high:
            return f"{be} from {low} to {high}"
        return f"{be} at least {low}" if low else f"{be} at most {high}" if high else f"{be} there"
    if isinstance(value, Regex) or values.is_glob(value):
        verb = f"{do}match" if negated else "matches"
        return f"{verb} the regular expression /{value.pattern}/" if isinstance(value, Regex) else f"{verb} {value.text}"
    text = values.spelling(field, values.plain(value)) if field else values.plain(value)
    if field is not None and field.kind == "list":
        return f"{do}contain{'' if negated else 's'} {text}"
    return f"{be} {text}" if text else f"{be} empty"


def _quoted(value: Literal) -> str:
    return f"“{value.text if values.is_glob(value) else values.plain(value)}”"
