"""Edits the text of a query the way a person would: one `field:value` term added, negated or taken away.

Not a parser: it splits at blanks outside quotes and brackets, which is enough to find terms that it wrote itself.
"""

from __future__ import annotations

import re
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z_@][A-Za-z0-9_./@-]*")
"""Words without a meaning of their own as a value: no glob, no regular expression, no number (7 would also find 7.0)."""
_BARE_KEY: Final = re.compile(r"[A-Za-z][\w.@$/-]*")
_FLAGS: Final = frozenset({"has", "is"})
_KEYWORDS: Final = frozenset({"AND", "OR", "NOT", "TO"})
_TERM: Final = re.compile(r'(?:"(?:\\.|[^"\\])*"|\([^()]*\)|\[[^\[\]]*\]|[^\s"])+')


def quoted(value: str) -> str:
    """A value as the language reads it back unchanged: bare when it is a plain word, else in double quotes."""
    if _PLAIN.fullmatch(value) and value not in _KEYWORDS:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def field_name(key: str) -> str:
    """An attribute key as the language takes it on the left of a colon: quoted where a bare one would be read otherwise."""
    if _BARE_KEY.fullmatch(key) and key not in _FLAGS and not key.startswith(("span.", "resource.")):
        return key
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def terms(query: str) -> list[str]:
    """The blank-separated terms, quotes and brackets kept whole."""
    return _TERM.findall(query)


def has(query: str, term: str) -> bool:
    """True when the term stands in the query as written here."""
    return term in terms(query)


def without(query: str, term: str) -> str:
    """The query with that term taken away wherever it stands."""
    return " ".join(part for part in terms(query) if part != term) if has(query, term) else query


def toggled(query: str, term: str) -> str:
    """The term removed where it stands, else added; its opposite (`-term`) leaves, since both together match nothing."""
    if has(query, term):
        return without(query, term)
    opposite = term[1:] if term.startswith("-") else "-" + term
    rest = without(query, opposite).strip()
    # An OR at top level would swallow the new term's AND: keep what was there together.
    if "OR" in terms(rest):
        rest = f"({rest})"
    return f"{rest} {term}".strip()
