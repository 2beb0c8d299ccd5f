"""The command line itself: what a command loads, and what is said where a package is missing."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from typing import cast

import pytest

from cutaway_collector import cli

HEAVY = ("clickhouse_connect", "chdb", "flask", "grpc", "numba", "numpy", "torch")


def _commands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    (found,) = (action for action in parser._actions if action.dest == "command")
    return cast("Mapping[str, argparse.ArgumentParser]", found.choices)


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["query", "--help"], ["demo", "--help"]], ids=" ".join)
def test_a_light_command_loads_nothing_heavy(words: list[str]) -> None:
    """Help and a question to a running collector do not wait for engines and compilers."""
    program = ("import sys\nfrom cutaway_collector import cli\ntry:\n    cli.main(sys.argv[1:])\nfinally:\n"
               f"    print('loaded', [name for name in {HEAVY} if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60)
    assert 0 == done.returncode, done.stderr
    assert done.stdout.endswith("loaded []\n")


@pytest.mark.parametrize("name", _commands(cli.parser()))
def test_a_command_alone_has_the_arguments_it_has_among_all(name: str) -> None:
    """And the others keep their names, so that help and a misspelt command are answered as ever."""
    whole, alone = _commands(cli.parser()), _commands(cli.parser(name))
    assert whole[name].format_help() == alone[name].format_help()
    assert list(whole) == list(alone)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the SDK alone is installed, one line says what to install."""
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "cutaway_collector.commands.load", raising=False)
    monkeypatch.delattr("cutaway_collector.commands.load", raising=False)
    assert 2 == cli.main(["load", "http://127.0.0.1:4318"])
    assert "cutaway: this needs the package grpc: pip install 'cutaway[collector]'\n" == capsys.readouterr().err
