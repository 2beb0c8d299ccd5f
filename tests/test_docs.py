"""The documentation says what the code does: tables are generated, commands exist, nothing of the workshop shows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from cutaway_collector import cli
from generated_docs import READMES, TABLES, rendered

ROOT = Path(__file__).parent.parent
WORKSHOP = re.compile(rf"({re.escape(str(ROOT))}/|{re.escape(str(Path.home()))}/|\b(?:TODO|FIXME|XXX)\b)")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_are_current(readme: Path) -> None:
    """A README's tables equal the code's: run `make docs`."""
    assert readme.read_text() == rendered(readme.read_text())


def test_every_table_is_somewhere() -> None:
    """Attributes, settings and columns are documented in at least one README."""
    text = "".join(readme.read_text() for readme in READMES)
    assert [name for name in TABLES if f"<!-- {name} -->" not in text] == []


def test_every_command_is_in_the_readme() -> None:
    """A sub-command nobody documents is a sub-command nobody finds."""
    text = (ROOT / "README.md").read_text()
    actions = [action for action in cli.parser()._actions if action.dest == "command"]
    commands = list(actions[0].choices or ())
    assert commands
    assert [name for name in commands if f"cutaway {name}" not in text] == []


def test_every_make_target_is_explained() -> None:
    """The head of the Makefile explains each public target."""
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (.*)$", text, re.M)[0].split()
    assert [t for t in targets if t not in ("docs", "clean") and f"# make {t}" not in text] == []


def test_readme_links_point_at_files() -> None:
    """Relative links of the READMEs exist."""
    dead = [
        f"{readme.relative_to(ROOT)}: {target}"
        for readme in READMES
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", readme.read_text())
        if not (readme.parent / target).exists()
    ]
    assert dead == []


def test_nothing_of_the_workshop_shows() -> None:
    """No machine paths and no unfinished marks in what is tracked."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    kinds = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".html", ".css", ".js"}
    texts = [ROOT / name for name in tracked if Path(name).suffix in kinds]
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts if path.exists() and path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1) if WORKSHOP.search(line)
    ]
    assert found == []
