"""The command line: flags from the settings table, one sub-command a file under commands/. Does no work itself."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

from cutaway_collector import settings
from cutaway_collector.errors import CutawayError, SettingsError

STORE_SETTINGS = ("data", "clickhouse", "database", "retention_days", "tokens_retention_days", "scores_retention_days")
"""What `schema` needs of the settings; `serve` and `doctor` take them all."""
KEYS_SETTINGS = ("data", "keys")
ALERTS_SETTINGS = (*STORE_SETTINGS, "ui", "alerts_lateness_seconds", "alerts_rules_max")
CORPUS_SETTINGS = ("data", "spool")
BASELINES_SETTINGS = (*STORE_SETTINGS, "ui", "drift_interval_minutes")
BACKFILL_SETTINGS = (*STORE_SETTINGS, "ui", "score_device", "backfill_rows_s_max", "judge", "judge_batch_rows_max",
                     "judge_embedding_model", "judge_reference_model", "judge_memory_bytes_max")


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """The whole command line, or with the arguments of one command `only`: what the others import takes a second and more.

    Raises ModuleNotFoundError where a package of the collector is missing.
    """
    top = argparse.ArgumentParser(prog="cutaway", description="Tracing that sees inside a generative model.")
    top.add_argument("--version", action="version", version=f"cutaway {version('cutaway')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, fill) in _COMMANDS.items():
        one = commands.add_parser(name, help=text)
        if only in (None, name):
            fill(one)
    return top


def _serve(one: argparse.ArgumentParser) -> None:
    from cutaway_collector.commands import serve

    one.description = serve.__doc__
    _add_settings(one)
    one.set_defaults(run=lambda arguments: serve.run(_settings(arguments)))


def _demo(one: argparse.ArgumentParser) -> None:
    one.description = "Trace a real model end to end."
    one.add_argument("--once", action="store_true", help="exit 0 as soon as search has found the traces (for machines)")
    one.add_argument("--data", help="directory of the demo's store (default: a folder of the user's state directory)")
    one.add_argument("--ui", default="127.0.0.1:8088", help="host:port of the UI; a free port is taken when it is busy")
    one.set_defaults(run=_run_demo)


def _run_demo(arguments: argparse.Namespace) -> int:
    from cutaway_collector import demo  # needs torch and transformers, which the collector does not

    return demo.run(once=arguments.once, data=arguments.data, ui=arguments.ui)


def _load(one: argparse.ArgumentParser) -> None:
    from cutaway_collector.commands import load

    one.description = load.__doc__
    load.add_arguments(one)
    one.set_defaults(run=load.run)


def _schema(one: argparse.ArgumentParser) -> None:
    from cutaway_collector.commands import schema

    one.description = schema.__doc__
    one.add_argument("action", choices=("print", "check", "migrate"))
    _add_settings(one, STORE_SETTINGS)
    one.set_defaults(run=lambda arguments: schema.run(arguments.action, _settings(arguments)))


def _doctor(one: argparse.ArgumentParser) -> None:
    from cutaway_collector.commands import doctor

    one.description = doctor.__doc__
    one.add_argument("--json", action="store_true", help="one JSON object instead of a line a finding")
    _add_settings(one)
    one.set_defaults(run=lambda arguments: doctor.run(lambda: _settings(arguments), as_json=arguments.json))


def _backfill(one: argparse.ArgumentParser) -> None:
    from cutaway_collector.commands import backfill

    one.description = backfill.__doc__
    backfill.add_arguments(one)
    _add_settings(one, BACKFILL_SETTINGS)
    one.set_defaults(run=lambda arguments: backfill.run(arguments, _settings(arguments)))


def _baselines(one: argparse.ArgumentParser) -> None:
    from cutaway_collector.commands import baselines

    one.description = baselines.__doc__
    baselines.add_arguments(one, lambda action: _add_settings(action, BASELINES_SETTINGS))
    one.set_defaults(run=lambda arguments: baselines.run(arguments, _settings(arguments)))


def _alerts(one: argparse.ArgumentParser) -> None:
    from cutaway_collector.commands import alerts

    one.description = alerts.__doc__
    alerts.add_arguments(one, lambda action: _add_settings(action, ALERTS_SETTINGS))
    one.set_defaults(run=lambda arguments: alerts.run(arguments, lambda: _settings(arguments)))


def _keys(one: argparse.ArgumentParser) -> None:
    from cutaway_collector.commands import keys

    one.description = keys.__doc__
    keys.add_arguments(one, lambda action: _add_settings(action, KEYS_SETTINGS))
    one.set_defaults(run=lambda arguments: keys.run(arguments, _settings(arguments)))


def _corpus(one: argparse.ArgumentParser) -> None:
    from cutaway_collector.commands import corpus

    one.description = corpus.__doc__
    corpus.add_arguments(one, lambda action: _add_settings(action, CORPUS_SETTINGS))
    one.set_defaults(run=lambda arguments: corpus.run(arguments, _settings(arguments)))


def _query(one: argparse.ArgumentParser) -> None:
    from cutaway_collector.commands import query

    one.description = query.__doc__
    query.add_arguments(one)
    one.set_defaults(run=query.run)


_COMMANDS: Final[dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]]] = {
    "serve": ("run the collector: OTLP in, store, UI", _serve),
    "demo": ("trace a real model end to end", _demo),
    "load": ("send generated spans to any OTLP endpoint", _load),
    "schema": ("print, check or migrate the ClickHouse schema", _schema),
    "doctor": ("say what is wrong and how to put it right", _doctor),
    "backfill": ("score stored sequences again", _backfill),
    "baselines": ("pin what is normal, and compare windows with it", _baselines),
    "alerts": ("apply, list, mute and back-test alert rules", _alerts),
    "keys": ("add, list and remove API keys", _keys),
    "corpus": ("register texts that answers must not repeat", _corpus),
    "query": ("search a running collector", _query),
}
"""What each is for, and what gives its parser its description, its arguments and what it runs."""


def main(argv: list[str] | None = None) -> int:
    """Parses and runs; errors made on purpose become one line on stderr."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("numba").setLevel(logging.WARNING)  # on a GPU it tells of every buffer that is freed
    words = _with_times(sys.argv[1:] if argv is None else argv)
    try:
        commands = parser(next((word for word in words if not word.startswith("-")), ""))
    except ModuleNotFoundError as error:
        print(f"cutaway: this needs the package {error.name}: pip install 'cutaway[collector]'", file=sys.stderr)
        return 2
    arguments = commands.parse_args(words)
    try:
        return int(arguments.run(arguments))
    except CutawayError as error:
        print(f"cutaway: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    except KeyboardInterrupt:
        return 130


def _with_times(argv: list[str]) -> list[str]:
    """`--from -1h` as `--from=-1h`: argparse would take the time for a flag."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in ("--from", "--to", "--since", "--until") and re.fullmatch(r"-[0-9]+[a-z]", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _add_settings(to: argparse.ArgumentParser, names: tuple[str, ...] | None = None) -> None:
    for row in settings.table():
        if names is not None and row.name not in names:
            continue
        text = f"{row.help} (default: {row.default!r}; {row.env})".replace("%", "%%")
        if isinstance(row.default, bool):
            to.add_argument(row.flag, dest=row.name, action="store_const", const=True, default=None, help=text)
        else:
            to.add_argument(row.flag, dest=row.name, default=None, metavar=row.name.rsplit("_", 1)[-1].upper(), help=text)


def _settings(arguments: argparse.Namespace) -> settings.Settings:
    flags = {}
    for row in settings.table():
        value = getattr(arguments, row.name, None)
        flags[row.name] = settings.parse(row, value, row.flag) if isinstance(value, str) else value
    return settings.load(flags)
