"""Chaos tests: run real servers and agents under injected faults, then check their state.

    python -m tests.chaos --minutes 20 --seed 1 --json chaos.json
    python -m tests.chaos --minutes 2 --servers 2 --without restore_backup,clone_agent

The seed determines the order of faults; the state in which they occur depends on the machine.
Exits with 1 on any finding.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos import disk, logs, outside
from tests.chaos.director import Director
from tests.chaos.faults import FAULTS
from tests.chaos.site import Site, site

SETTLE_SECONDS = 600.0  # for everything that waits to end, on a busy machine
#: Exit codes of programs that were killed, stopped by a signal, or had no disk space or database.
AGENT_EXITS = frozenset({0, -9, 20, 21})
SERVER_EXITS = frozenset({0, -9, -15, 5, 10})  # -15: before it has taken up signals


def main(words: Sequence[str]) -> int:
    """Run, print the record; returns the exit code."""
    given = _arguments(words)
    disk.enter_namespace(list(words))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    counts = [1, 2] if given.servers == "both" else [int(given.servers)]
    records = [one_run(given, servers, given.minutes / len(counts)) for servers in counts]
    if given.json:
        given.json.write_text(json.dumps(records, indent=2) + "\n")
    return int(any(record["findings"] for record in records))


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="of faults, in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--servers", choices=["1", "2", "both"], default="both",
                        help="serve processes; two share an operator's PostgreSQL")  # fmt: skip
    parser.add_argument("--without", type=_kinds, default=(), help="kinds of faults, with commas")
    parser.add_argument("--only", type=_kinds, default=(), help="no other kinds than these")
    parser.add_argument("--json", type=Path, help="write the figures and findings here")
    parser.add_argument("--settle", type=float, default=SETTLE_SECONDS, help="seconds to end in")
    parser.add_argument(
        "--vouched",
        action="store_true",
        help="staff vouch for the accounts: none waits minutes after lost tasks",
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder of the run")
    given = parser.parse_args(words)
    if given.only:
        given.without = (*given.without, *(set(FAULTS) - set(given.only)))
    return given


def _kinds(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    if unknown := [name for name in names if name not in FAULTS]:
        raise argparse.ArgumentTypeError(f"no fault {unknown[0]!r}: {', '.join(sorted(FAULTS))}")
    return names


def one_run(given: argparse.Namespace, servers: int, minutes: float) -> dict[str, Any]:
    """Faults on one site, and what is found afterwards."""
    print(f"== {minutes:g} minutes on {servers} serve process(es), seed {given.seed}", flush=True)
    with site(given.seed, servers, given.agents, keep=given.keep, vouched=given.vouched) as made:
        director = Director(made, given.seed, given.without)
        director.direct(minutes * 60)
        director.heal()
        found = list(_judge(made, director, given.settle))
        record = _record(made, director, given.seed, servers, minutes, found)
    _print(record)
    return record


def _judge(made: Site, director: Director, seconds: float) -> list[str]:
    began = time.monotonic()
    found = [] if director.settle(seconds) else ["not everything ends"]
    print(f"settled after {time.monotonic() - began:.0f} s", flush=True)
    _let_sweep(made)
    found += _end_agents(made)
    made.staff_does("review", "--json")
    made.staff_does("review", "--json")
    made.publish("brief_walk")  # the next signature removes what killed signers left
    found += [*director.run.breaches, *made.traffic.breaches, *outside.findings(made)]
    made.stop_servers()
    if made.owns_postgres:
        made.postgres.close()
    found += [*logs.unknown(made), *outside.leftovers(made)]
    found += [
        f"a server ended with {code}; its log then ended: {' / '.join(last)}"
        for code, last in made.server_exits
        if code not in SERVER_EXITS
    ]
    return found


def _let_sweep(made: Site) -> None:
    """Check that an agent which starts much later removes temporary files of killed agents."""
    for folder in (made.root / "tmp").glob("axiom-trial-*"):
        os.utime(folder, (0, 0))
    made.ask(made.agents[0].program, "doctor")


def _end_agents(made: Site) -> list[str]:
    """Stop the agents by SIGTERM; all exit codes must be 0, and earlier ones must be known."""
    found = []
    for agent in made.agents:
        agent.wanted = False
        code = agent.program.stop()
        if code:
            found.append(f"{agent.name} ended with {code}")
        found += [f"{agent.name} ended with {c}" for c in agent.exits if c not in AGENT_EXITS]
    return found


def _record(
    made: Site, director: Director, seed: int, servers: int, minutes: float, found: list[str]
) -> dict[str, Any]:
    return {
        "seed": seed,
        "servers": servers,
        "minutes": minutes,
        "faults": sum(director.counts.values()),
        "by_kind": dict(sorted(director.counts.items())),
        "requests_troubled": dict(sorted(made.proxy.troubles.items())),
        "syncs": made.traffic.syncs,
        "answers_by_status": dict(sorted(made.traffic.statuses.items())),
        "acknowledged": len(made.traffic.acknowledged),
        "findings": found,
    }


def _print(record: dict[str, Any]) -> None:
    print(
        f"seed {record['seed']}, {record['servers']} serve process(es): {record['faults']} faults, "
        f"{record['syncs']} syncs, {record['acknowledged']} results acknowledged"
    )
    for name, times in record["by_kind"].items():
        print(f"  {times:4d} {name}")
    print(f"findings: {len(record['findings'])}")
    for line in record["findings"]:
        print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
