"""A file of definitions as plain JSON values: YAML read without its traps, and the limits that JSON from a stranger is held to too.

Refused are what only looks harmless: aliases that unfold to gigabytes, nesting without end, a key given twice (YAML would keep the
last and lose a rule), text that is no Unicode. Not what the definitions mean: see `desk.read_document`.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, Final

import yaml

from cutaway_collector.alerts.fields import RuleError

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
VALUES_MAX: Final = 200_000
"""Values of a document, aliases unfolded: more than a hundred a rule at the most rules that are usual."""
DEPTH_MAX: Final = 20
_INTEGER_MAX: Final = 2**63
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(path: Path) -> Any:
    """The YAML of a file as plain values. Raises RuleError naming the file and the place in it."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise RuleError(f"{path} is larger than {FILE_BYTES_MAX} bytes: divide it")
        text = path.read_text()
        _check(text, path)
        document = yaml.load(text, Loader=_LOADER)  # noqa: S506  # one of the two safe ones
    except OSError as error:
        raise RuleError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise RuleError(f"{path} is no YAML{where}: {getattr(error, 'problem', None) or type(error).__name__}") from None
    except ValueError:  # a date with a thirteenth month, a number of ten thousand digits
        raise RuleError(f"{path} holds a number or a date that there is not: put texts in quotes") from None
    return plain(document)


def plain(value: Any, *, depth: int = 0) -> Any:
    """A copy in JSON's own types, times as texts. Raises RuleError for text that is no Unicode and huge numbers."""
    if depth > DEPTH_MAX:
        raise RuleError(f"definitions are nested at most {DEPTH_MAX} deep")
    if isinstance(value, dict):
        return {_text(key if isinstance(key, str) else str(key)): plain(one, depth=depth + 1) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one, depth=depth + 1) for one in value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    if value is None or isinstance(value, float | bool):
        return value
    if isinstance(value, int) and abs(value) < _INTEGER_MAX:
        return value
    if isinstance(value, int):
        raise RuleError("a number of a definition has 64 bits at most")
    raise RuleError(f"a value of a definition is a text, a number, a list or a mapping, not {type(value).__name__}")


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RuleError(f"a text of a definition is no Unicode at character {error.start + 1}: {text[: error.start][-40:]!r} "
                        "comes before it") from None
    return text


class _Open:
    """A list or mapping that is being read. keys: of a mapping, else None; size: values in it so far, aliases unfolded."""

    def __init__(self, anchor: str | None, *, mapping: bool) -> None:
        self.anchor = anchor
        self.keys: set[str] | None = set() if mapping else None
        self.children = 0
        self.size = 1


def _check(text: str, path: Path) -> None:
    """Walks the events, which costs no more than the text is long. Raises RuleError, YAMLError."""
    sizes: dict[str, int] = {}
    stack = [_Open(None, mapping=False)]
    for event in yaml.parse(text, Loader=_LOADER):
        where = f"{path}, line {event.start_mark.line + 1 if event.start_mark else '?'}"
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(stack) > DEPTH_MAX:
                raise RuleError(f"{where}: definitions are nested at most {DEPTH_MAX} deep")
            stack.append(_Open(event.anchor, mapping=isinstance(event, yaml.MappingStartEvent)))
            continue
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            done = stack.pop()
            size = done.size
            if done.anchor:
                sizes[done.anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if any(one.anchor == event.anchor for one in stack):
                raise RuleError(f"{where}: *{event.anchor} stands within itself")
            size = sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if event.anchor:
                sizes[event.anchor] = 1
            _key(stack[-1], event.value, where)
        else:
            continue
        stack[-1].children += 1
        stack[-1].size += size
        if stack[-1].size > VALUES_MAX:
            raise RuleError(f"{where}: a file holds at most {VALUES_MAX} values, aliases unfolded: divide it")


def _key(within: _Open, text: str, where: str) -> None:
    if within.keys is None or within.children % 2:
        return
    if text in within.keys and text != "<<":
        raise RuleError(f"{where}: {text[:60]!r} stands twice in one mapping: the first would be lost")
    within.keys.add(text)
