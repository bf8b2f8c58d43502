"""`make bench`: every benchmark, or those named on the command line."""

from __future__ import annotations

import sys
from importlib import import_module

BENCHMARKS = ("machinery", "rois", "chaos", "fit", "planted", "clinical", "pathology", "radiomics", "explain")


def main(names: list[str]) -> None:
    """Run the benchmarks of that name, or all."""
    for name in names or BENCHMARKS:
        import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
