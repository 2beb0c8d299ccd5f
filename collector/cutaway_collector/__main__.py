"""`cutaway` and `python -m cutaway_collector`: see cli.py."""

from __future__ import annotations

import sys

from cutaway_collector.cli import main

if __name__ == "__main__":
    sys.exit(main())
