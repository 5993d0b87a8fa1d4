"""Make runs and keep them, several at a time.

    python -m tests.science                         all that the science tests read
    python -m tests.science --seeds 6001..6044      those of the findings page
    python -m tests.science --seeds 6001 --workers 1 NAME ...   of some experiments, one at a time

Runs that are kept already are not made again, so repeating an interrupted command continues it.
"""

from __future__ import annotations

import argparse
import sys

from axiom_client.cli.try_seeds import read_seeds
from tests.science.plan import JUDGED, everything, round_robin
from tests.science.runs import is_kept, make


def main() -> int:
    parser = argparse.ArgumentParser(description="make the runs that science tests read")
    parser.add_argument("names", nargs="*", choices=[*JUDGED, []], metavar="NAME")
    parser.add_argument("--seeds", type=read_seeds, help="default runs of these, as in 6001..6044")
    parser.add_argument("--workers", type=int, help="processes at a time; else one a core")
    given = parser.parse_args()
    names = given.names or JUDGED
    wanted = everything() if given.seeds is None else round_robin(names, given.seeds)
    missing = sum(not is_kept(spec) for spec in wanted)
    print(f"== {len(wanted)} runs, {len(wanted) - missing} kept, {missing} to make", flush=True)
    failures = make(wanted, lambda line: print(line, flush=True), workers=given.workers)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
