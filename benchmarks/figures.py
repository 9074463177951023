"""The figures of Sutton and Barto's book (second edition), run again and drawn.

    python -m benchmarks.figures               all of them, into docs/images/book; some minutes
    python -m benchmarks.figures 6.5 8.2       some
    python -m benchmarks.figures --list

Each function of `figures_bandits`, `figures_tables` and `figures_features` runs one experiment and
returns its picture; `share` below 1 takes that share of its runs. Values that are known are written
into the pictures; `benchmarks.book`, `book_linear` and `book_bandit` check them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import figures_bandits, figures_features, figures_tables
from jaxrl import cache, palette

PLACE = Path(__file__).parents[1] / "docs" / "images" / "book"
DPI = 80

FIGURES: dict[str, Callable[[float], Any]] = {
    **figures_bandits.FIGURES,
    **figures_tables.FIGURES,
    **figures_features.FIGURES,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("figures", nargs="*", help="all by default")
    parser.add_argument("--share", type=float, default=1.0, help="of the runs")
    parser.add_argument("--place", type=Path, default=PLACE)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    unknown = set(options.figures) - set(FIGURES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    if options.list:
        for name, function in FIGURES.items():
            print(f"{name:12s} {(function.__doc__ or '').splitlines()[0]}")
        return
    cache.enable()
    options.place.mkdir(parents=True, exist_ok=True)
    for name in options.figures or FIGURES:
        began = time.perf_counter()
        ax = FIGURES[name](options.share)
        ax.figure.savefig(options.place / f"{name}.png", dpi=DPI, facecolor=palette.PAPER)
        print(f"figure {name}: {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
