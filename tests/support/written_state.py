"""What an agent writes: a journal as a killed agent leaves it, an identity, a configuration.

``python -m tests.support.written_state FOLDER`` writes them; tests read what other systems wrote.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from axiom_client.agent.journal import Journal
from axiom_client.config.file import set_value
from axiom_client.decide import commands as c
from axiom_client.decide.model import SyncPlan, TaskRecord
from axiom_client.project.identity import Identity, write_identity
from axiom_protocol.messages import Capacity, Report
from tests.support.world import WALL, grant

PLAN = SyncPlan(request_id="a-request-id", capacity=Capacity(cpu_slots=2), report_ids=[1])
RECORDS = [
    TaskRecord(grant=grant(number), order=number, lease_until_wall=WALL) for number in (1, 2)
]
REPORT = Report(
    task_id=1, outcome="success", elapsed_seconds=1.5, cpu_seconds=1.0,
    result={"valid": 1, "configs_done": 9, "value": [0.1, 1e-300, 12345678901234567.0]},
    message="Zoë: Größe 30 µm, 深い",
)  # fmt: skip
DURATIONS = {"walk@1.0.0": 61.25}
IDENTITY = Identity(
    url="https://axiom.example/", project="Axiom", user="zoë", host_name="Zoës Rechner",
    host_id=7, token="t" * 43,
)  # fmt: skip
SETTING = ("cpu.cores", "3")


def write(folder: Path) -> None:
    """Write everything; the journal is left open, with its last transactions in the log."""
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "journal.sqlite")
    journal.write([c.SaveTask(record=record) for record in reversed(RECORDS)])
    journal.write([c.SaveReport(report=REPORT), c.SaveRequest(plan=PLAN)])
    journal.write([c.SaveValue(key="durations", value=DURATIONS)])
    write_identity(folder / "identity.json", IDENTITY)
    set_value(folder / "config.toml", *SETTING)
    os._exit(0)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
