"""Imports what a scorer needs and an installation may lack. Not a list of dependencies: those stand in pyproject.toml."""

from __future__ import annotations

import importlib
from typing import Any, Final

from cutaway_collector.errors import MissingExtra

INSTALL: Final = "pip install 'cutaway[judge]'"


def need(module: str, scorer: str, install: str = INSTALL) -> Any:
    """The imported module. Raises MissingExtra that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"the scorer {scorer} needs the module {error.name or module}, which is not "
                           f"there: {install}") from error
