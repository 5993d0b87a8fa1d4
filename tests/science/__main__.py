"""Make every run that the science tests read, side by side: python -m tests.science"""

from __future__ import annotations

import sys

from tests.science.plan import everything
from tests.science.runs import is_kept, make


def main() -> int:
    wanted = everything()
    missing = sum(not is_kept(asked) for asked in wanted)
    print(f"== {len(wanted)} runs, {len(wanted) - missing} kept, {missing} to make", flush=True)
    failures = make(wanted, lambda line: print(line, flush=True))
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
