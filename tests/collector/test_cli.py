"""The command line as a user meets it: one line and an exit code for every mistake, never a traceback.

And no command waits for what another one needs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from cutaway_collector import __main__, cli
from cutaway_collector.columns import TABLES
from cutaway_collector.commands import doctor
from cutaway_collector.settings import Settings

HEAVY = ("clickhouse_connect", "chdb", "flask", "grpc", "numba", "numpy", "torch")


@pytest.mark.parametrize("arguments", [
    ["serve"],
    ["serve", "--data", "x", "--clickhouse", "http://127.0.0.1:1"],
    ["serve", "--data", "x", "--ui", "127.0.0.1:²"],
    ["serve", "--data", "x", "--receiver-threads", "0"],
    ["serve", "--data", "x", "--retention-days", "99999999999999999999999"],
    ["serve", "--data", "x", "--ui", "0.0.0.0:0"],
    ["serve", "--clickhouse", "ftp://x"],
    ["schema", "check"],
    ["backfill", "--data", "x"],
    ["backfill", "--data", "x", "--from", "yesterday-ish"],
    ["backfill", "--data", "x", "--from", "-1h"],
    ["backfill", "--url", "ftp://x", "--resume"],
    ["backfill", "--url", "http://127.0.0.1:1", "--from", "-1h"],
    ["backfill", "--url", "https://127.0.0.1:1", "--ca", "nowhere.pem", "--resume"],
    ["query", "x", "--from", "-1h", "--url", "http://127.0.0.1:1"],
    ["query", "x", "--url", "http://a b/"],
    ["query", "x", "--url", "http://127.0.0.1:bad"],
    ["query", "x", "--url", "file:///etc/passwd"],
    ["query", "\udcff", "--url", "http://127.0.0.1:1"],
    ["load", "--rate", "1e-300"],
    ["load", "--rate", "nan"],
    ["load", "--batch", "0"],
    ["load", "--endpoint", ""],
])
def test_a_mistake_is_one_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
                                   tmp_path: Path) -> None:
    """Exit code 1 or 2 and a line that begins with the program's name."""
    monkeypatch.chdir(tmp_path)
    code = __main__.main(arguments)
    said = capsys.readouterr()
    assert code in (1, 2)
    assert said.err.strip().splitlines()[-1].startswith("cutaway: ")
    assert said.out == ""


def test_schema_print_needs_no_store(capsys: pytest.CaptureFixture[str]) -> None:
    """The DDL of every table and the view, ready to be piped into a client."""
    assert __main__.main(["schema", "print", "--retention-days", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("CREATE TABLE IF NOT EXISTS") == len(TABLES)
    assert printed.count("CREATE MATERIALIZED VIEW IF NOT EXISTS") == 1
    assert "3 * 86400" in printed


def test_the_doctor_finds_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file where a directory should be is BAD with a remedy, and the exit code says so."""
    file = tmp_path / "file"
    file.write_text("")
    assert doctor.run(Settings(data=str(file), otlp_grpc="127.0.0.1:0", otlp_http="127.0.0.1:0", ui="127.0.0.1:0")) == 1
    assert "is a file: choose a directory" in capsys.readouterr().out


def test_the_doctor_is_content_with_a_fresh_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nothing there yet is nothing wrong."""
    settings = Settings(data=str(tmp_path / "new"), otlp_grpc="127.0.0.1:0", otlp_http="127.0.0.1:0", ui="127.0.0.1:0")
    assert doctor.run(settings) == 0
    assert "BAD" not in capsys.readouterr().out


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
