"""`make bench`: measurements side by side, alternating in one run; prints a line a figure and writes build/bench.json.

Each figure has a baseline measured in the same run, right beside it; the ratio is the median of the paired ratios, the spread their
interquartile range. Absolute numbers belong to the machine they ran on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench import (
    alerts,
    collector,
    collector_peers,
    collector_steady,
    detectors,
    healthy,
    judging,
    scoring,
    sdk,
    sdk_cuda,
    search_peers,
    search_scale,
    windows,
)

OUT = Path(__file__).parent.parent.parent / "build" / "bench.json"


@dataclass(frozen=True)
class Figure:
    """One line: median value, its unit, median ratio to the baseline, interquartile range of the ratio."""

    name: str
    value: float
    unit: str
    baseline: str
    ratio: float
    spread: tuple[float, float]
    rounds: int


def compare(name: str, unit: str, baseline: str, pairs: Iterable[tuple[float, float]]) -> Figure:
    """pairs: (measured, baseline) of each round, taken next to each other."""
    taken = list(pairs)
    ratios = sorted(measured / base for measured, base in taken)
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return Figure(name, statistics.median(measured for measured, _ in taken), unit, baseline, statistics.median(ratios),
                  (low, high), len(taken))


def main() -> int:
    """Runs the suites named on the command line, all without one.

    Programs of their own: `peers` (collector_peers.py), `ack` and `soak` (collector_steady.py), `search` (search_scale.py),
    `search-peers` (search_peers.py).
    """
    if sys.argv[1:2] == ["peers"]:
        return collector_peers.main(sys.argv[2:])
    if sys.argv[1:2] == ["search"]:
        return search_scale.main(sys.argv[2:])
    if sys.argv[1:2] == ["search-peers"]:
        return search_peers.main(sys.argv[2:])
    if sys.argv[1:2] in (["ack"], ["soak"]):
        return collector_steady.main(sys.argv[1], sys.argv[2:])
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("suite", nargs="*", help="which to run (default: all)",
                        choices=[[], "sdk", "collector", "scoring", "judging", "windows", "detectors", "healthy", "alerts",
                                 "sdk_cuda"])
    parser.add_argument("--rounds", type=int, default=9, help="pairs a figure")
    arguments = parser.parse_args()
    suites: dict[str, Callable[..., Iterable[tuple[str, str, str, list[tuple[float, float]]]]]] = {
        "collector": collector.figures, "sdk": sdk.figures, "scoring": scoring.figures,
        "judging": judging.figures, "windows": windows.figures,
        "detectors": detectors.figures,
        "healthy": healthy.figures,
        "alerts": alerts.figures,
        "sdk_cuda": sdk_cuda.figures,
    }
    figures = []
    for suite in arguments.suite or suites:
        for name, unit, baseline, pairs in suites[suite](arguments.rounds):
            figure = compare(name, unit, baseline, pairs)
            low, high = figure.spread
            print(f"{figure.name:<44} {figure.value:>14,.4g} {figure.unit:<16} {figure.ratio:>9.3f} x {figure.baseline:<34} "
                  f"[{low:.3f}, {high:.3f}] of {figure.rounds}", flush=True)
            figures.append(asdict(figure))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
