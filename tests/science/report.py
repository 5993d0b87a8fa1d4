"""The tables of docs/findings.md, from the seeds of fresh_seeds.json.

    python -m tests.science.report                      prints the tables
    python -m tests.science.report --write              puts them into docs/findings.md
    python -m tests.science.report --collect 6001..6044 [NAME ...]
                                                        first takes the numbers of these seeds' runs
                                                        (those that are not kept are made)
    python -m tests.science.report --collect kept       or of all runs that are kept, from the first
                                                        fresh seed to the first that is not there
    python -m tests.science.report --pictures FOLDER    and draws a picture of each experiment

In the page, a table is between two comments, ``<!-- table of NAME: ... -->`` and
``<!-- end of table of NAME -->``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path

from axiom_client.cli.try_seeds import read_seeds
from axiom_protocol.figure import draw
from tests.science import fresh
from tests.science.harness import experiment
from tests.science.plan import FRESH, JUDGED, round_robin, whole
from tests.science.runs import is_kept, make, result
from tests.science.tables import of_findings, of_numbers, of_signatures, summary

PAGE = Path(__file__).parents[2] / "docs" / "findings.md"


def main() -> int:
    parser = argparse.ArgumentParser(description="tables of findings.md, and its pictures")
    parser.add_argument("names", nargs="*", default=JUDGED, metavar="NAME")
    parser.add_argument("--collect", metavar="SEEDS", help='as in 6001..6044; or "kept"')
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.collect and not collect(given.names, given.collect):
        return 1
    if given.write:
        PAGE.write_text(with_tables(PAGE.read_text(), tables()))
    else:
        print(*(f"\n### {name}\n\n{text}" for name, text in tables().items()), sep="\n")
    if given.pictures:
        for name in given.names:
            draw_one(name, given.pictures)
    return 0


def collect(names: Sequence[str], given: str) -> bool:
    """Take the numbers of these runs into fresh_seeds.json; False, with the reasons on stderr,
    where a run fails.
    """
    seeds = {name: kept_seeds(name) if given == "kept" else read_seeds(given) for name in names}
    wanted = [asked for name in names for asked in round_robin([name], seeds[name])]
    failures = make(wanted, lambda line: print(line, file=sys.stderr, flush=True))
    print(*failures, sep="\n", end="", file=sys.stderr)
    if failures:
        return False
    before = fresh.kept() if fresh.NUMBERS.exists() else {}
    fresh.write(before | {name: fresh.collect(name, seeds[name]) for name in names})
    return True


def kept_seeds(name: str) -> list[int]:
    """The fresh seeds whose runs are kept, up to the first that is not: none is left out."""
    return list(takewhile(lambda seed: is_kept(whole(name, seed)), count(FRESH[0])))


def tables() -> dict[str, str]:
    """The tables by experiment, and those of all experiments together."""
    found = {name: "\n".join(table(name)) for name in fresh.kept()}
    of_all = {"everything": summary(), "signatures": of_signatures()}
    return found | {name: "\n".join(lines) for name, lines in of_all.items()}


def table(name: str) -> list[str]:
    """The table of an experiment: all numbers from its seeds that the page shows."""
    told = of_numbers(name)
    return [*of_findings(name), *(["", *told] if told else [])]


def with_tables(page: str, tables: dict[str, str]) -> str:
    """The page with these tables. Raises ValueError if it has no place for one of them."""
    for name, text in tables.items():
        mark = f"table of {name}"
        between = rf"(<!-- {mark}: [^\n]*-->\n).*?(<!-- end of {mark} -->)"
        page, count = re.subn(
            between, lambda m, text=text: f"{m[1]}\n{text}\n\n{m[2]}", page, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"the page has {count} places for the {mark}, not one")
    return page


def draw_one(name: str, folder: Path) -> None:
    manifest, _ = experiment(name)
    seed = FRESH[0]
    draw(manifest, [result(name, seed)], folder / f"{name}.png", manifest.figures[0].name)


if __name__ == "__main__":
    sys.exit(main())
