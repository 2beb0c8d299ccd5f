"""Writes the tables of the READMEs from the tables of the code; `make docs`. test_docs.py fails when a README is behind."""

from __future__ import annotations

from pathlib import Path

from cutaway import conventions
from cutaway import settings as sdk_settings
from cutaway_collector import columns, dialects, windows
from cutaway_collector import settings as collector_settings
from cutaway_collector.score import catalogue

ROOT = Path(__file__).parent.parent
MIB = 1024 * 1024


def attributes() -> str:
    """Every span attribute we emit."""
    rows = ["| attribute | type | unit | present | what it says |", "|---|---|---|---|---|"]
    rows += [f"| `{a.name}` | {a.type} | {a.unit} | {a.level} | {a.help} |" for a in conventions.ATTRIBUTES]
    return "\n".join(rows)


def settings_of_the_collector() -> str:
    """Every collector setting."""
    rows = ["| flag | environment | default | what it does | why this default |", "|---|---|---|---|---|"]
    rows += [
        f"| `{r.flag}` | `{r.env}` | {_shown(r.name, r.default)} | {r.help} | {r.reason} |" for r in collector_settings.table()
    ]
    return "\n".join(rows)


def settings_of_the_sdk() -> str:
    """Every SDK setting."""
    rows = ["| `configure(...)` | environment | default | what it does | why this default |", "|---|---|---|---|---|"]
    rows += [f"| `{r.name}` | `{r.env}` | {_shown(r.name, r.default)} | {r.help} | {r.reason} |" for r in sdk_settings.table()]
    return "\n".join(rows)


def stored_columns() -> str:
    """Every stored column, table by table."""
    parts = []
    for table in columns.TABLES:
        parts += [f"\n**`{table.name}`**: {table.reason}\n", "| column | type | what it is for |", "|---|---|---|"]
        parts += [f"| `{c.name}` | `{c.type}` | {c.reason} |" for c in table.columns]
    return "\n".join(parts)


def foreign_attributes() -> str:
    """What the attributes of other tools become, in the order in which they are asked."""
    rows = ["| column | attribute | written by | what becomes of its value |", "|---|---|---|---|"]
    rows += [
        f"| `{column.name}` | `{source.name}` | {source.dialect or _own(source.name)} | {_becomes(column, source)} |"
        for column in columns.LIFTED if column.foreign for source in column.sources
    ]
    return "\n".join(rows)


def scores() -> str:
    """Every score of ours."""
    rows = ["| score | scorer | unit | what it says | formula |", "|---|---|---|---|---|"]
    rows += [f"| `{s.name}` | `{s.scorer}` | {s.unit} | {s.meaning} | {s.source} |" for s in catalogue.SCORES]
    return "\n".join(rows)


def _own(name: str) -> str:
    return "cutaway" if name.startswith("cutaway.") else "OpenTelemetry, cutaway"


def _becomes(column: columns.Column, source: dialects.Source) -> str:
    if column.type.startswith("Nullable("):
        return "" if source.divisor == 1 else f"divided by {source.divisor:g}"
    words = [f"`{word}` → `{meaning}`" for word, meaning in source.words if word != meaning or source.rest == ""]
    if source.rest:
        return f"there at all → `{source.rest}`"
    return ", ".join(words) + ("; others count for nothing" if source.rest == "" else "")


def _shown(name: str, default: object) -> str:
    if default in ("", None):
        return ""
    if name.endswith(("bytes_max", "memory_max")) and isinstance(default, int) and default % MIB == 0:
        return f"`{default}` ({default // MIB} MiB)"
    return f"`{default}`"


def window_scores() -> str:
    """Every window score."""
    rows = ["| score | unit | bad when | label | what it says |", "|---|---|---|---|---|"]
    rows += [f"| `{k.name}` | {k.unit} | {k.worse} | {f'`{k.label}`' if k.label else ''} | {k.help} |" for k in windows.KINDS]
    return "\n".join(rows)


TABLES = {
    "attributes": attributes,
    "settings": settings_of_the_sdk,
    "collector-settings": settings_of_the_collector,
    "columns": stored_columns,
    "dialects": foreign_attributes,
    "scores": scores,
    "window-scores": window_scores,
}
"""Marker name -> what stands between `<!-- name -->` and `<!-- /name -->`."""

READMES = (ROOT / "README.md", ROOT / "sdk" / "README.md", ROOT / "collector" / "README.md")


def rendered(text: str) -> str:
    """A README with every marked table brought up to date."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin in text:
            head, _, rest = text.partition(begin)
            _, _, tail = rest.partition(end)
            text = f"{head}{begin}\n{make().replace(chr(124) * 2, '| |')}\n{end}{tail}"
    return text


if __name__ == "__main__":
    for readme in READMES:
        readme.write_text(rendered(readme.read_text()))
