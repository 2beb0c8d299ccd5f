"""`cutaway` and `python -m cutaway_collector`: parse, run, and turn what went wrong on purpose into one line and an exit code."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0 done, 1 the command says no, 2 the command line is wrong."""
    try:
        from cutaway_collector import cli
    except ModuleNotFoundError as error:
        print(f"cutaway: the collector needs the package {error.name}: pip install 'cutaway[collector]'", file=sys.stderr)
        return 2
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())
