"""The commands that ``step`` returns: what to do, one class for each. Those for the journal are
performed first."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from axiom_client.decide.model import KeptResult, SyncPlan, TaskRecord
from axiom_client.decide.task_run import Environment, TaskSpec
from axiom_protocol.messages import GpuFacts, Report

ValueKey = Literal[
    "pause",
    "gpu_pauses",
    "drain",
    "durations",
    "credit",
    "credit_day",
    "incident",
    "epoch",
    "account",
    "mode",
    "modes",
]


class _Command(Struct, frozen=True, kw_only=True, tag=True):
    pass


# --- written to the journal before any effect below -----------------------------------------------


class SaveTask(_Command, frozen=True, kw_only=True):
    """Write a new or changed task to the journal."""

    record: TaskRecord


class SaveReport(_Command, frozen=True, kw_only=True):
    """Write a report to the journal; it stays until the server acknowledges it."""

    report: Report


class ForgetTask(_Command, frozen=True, kw_only=True):
    """Delete a task and its report from the journal: the server has the report."""

    task_id: int


class KeepResult(_Command, frozen=True, kw_only=True):
    """Move a task and its acknowledged report to the journal's kept results."""

    kept: KeptResult


class DropResults(_Command, frozen=True, kw_only=True):
    """Delete kept results from the journal."""

    task_ids: list[int]


class ReportAgain(_Command, frozen=True, kw_only=True):
    """Turn kept results into tasks in hand again, with their reports."""

    task_ids: list[int]


class SaveRequest(_Command, frozen=True, kw_only=True):
    """Write the next request to the journal before it is sent; None: it was answered, delete it."""

    plan: SyncPlan | None


class SaveValue(_Command, frozen=True, kw_only=True):
    """Write one named value to the journal; None deletes it."""

    key: ValueKey
    value: Any


# --- effects --------------------------------------------------------------------------------------


class ReloadTasks(_Command, frozen=True, kw_only=True):
    """Read these tasks and their reports from the journal, and send TasksReloaded."""

    task_ids: list[int]


class ProbeHost(_Command, frozen=True, kw_only=True):
    """Probe the host for its facts: processor, memory, disk, GPUs, environments."""


class MeasureLoad(_Command, frozen=True, kw_only=True):
    """Measure what else happens on the host. Only what a limit depends on is measured.

    others      how many cores other programs keep busy
    presence    whether somebody uses the host, and whether it runs on battery
    heat        the processor's temperature
    programs    whether one of these programs runs
    space       how much memory and disk space is free
    """

    others: bool = False
    presence: bool = False
    heat: bool = False
    programs: list[str] = []
    space: bool = False


class FetchBundle(_Command, frozen=True, kw_only=True):
    """Fetch a published experiment and verify its signatures.

    accepted   the bundle was verified here earlier, so its stored copy may be used while offline
    """

    experiment: str
    version: str
    sha256: str
    accepted: bool = False


class Prewarm(_Command, frozen=True, kw_only=True):
    """Start the zygote of an environment, since a task is expected."""

    environment: Environment


class ReleaseIdle(_Command, frozen=True, kw_only=True):
    """End the zygotes: nothing has run for a while."""


class AllowStandby(_Command, frozen=True, kw_only=True):
    """Let at most so many processes wait, with libraries loaded, for tasks to come.

    Only where the system has no zygotes (Windows, macOS).
    """

    processes: int


class StartTask(_Command, frozen=True, kw_only=True):
    """Run a task in the sandbox, on the given GPUs, or on cores if none are given."""

    spec: TaskSpec
    gpus: list[GpuFacts] = []

    @property
    def task_id(self) -> int:
        """The task's number."""
        return self.spec.task_id


class PauseTask(_Command, frozen=True, kw_only=True):
    """Suspend a task's process; it keeps its memory."""

    task_id: int


class ResumeTask(_Command, frozen=True, kw_only=True):
    """Continue a paused task."""

    task_id: int


class StopTask(_Command, frozen=True, kw_only=True):
    """End a task. It has ``grace_seconds`` to write a checkpoint before it is killed."""

    task_id: int
    grace_seconds: float


class ClearFolder(_Command, frozen=True, kw_only=True):
    """Delete the task's own folder, since it will not run again."""

    task_id: int


class Sync(_Command, frozen=True, kw_only=True):
    """Send the request to the server, with the reports it names."""

    plan: SyncPlan


class WakeAt(_Command, frozen=True, kw_only=True):
    """Send TimerFired at that time (monotonic seconds); replaces any earlier WakeAt."""

    at: float


class LogLine(_Command, frozen=True, kw_only=True):
    """One line of the agent's log, for people."""

    text: str
    level: Literal["info", "warning", "error"] = "info"


class Exit(_Command, frozen=True, kw_only=True):
    """End the agent.

    fault   refused: the project does not accept this host
            unreachable: the server may have more work, but does not answer
            copied: another agent uses this identity; join as a new host, without the tasks
            restored: the server's database is older than this host; join again, with the tasks
            update: a release is staged, and the launcher starts it
    """

    reason: str
    fault: Literal["", "refused", "unreachable", "copied", "restored", "update"] = ""


Command = (
    SaveTask | SaveReport | ForgetTask | KeepResult | DropResults | ReportAgain | SaveRequest
    | SaveValue
    | ReloadTasks | ProbeHost | MeasureLoad | FetchBundle | Prewarm | ReleaseIdle | AllowStandby
    | StartTask | PauseTask | ResumeTask | StopTask | ClearFolder | Sync | WakeAt | LogLine | Exit
)  # fmt: skip
Persistent = (
    SaveTask | SaveReport | ForgetTask | KeepResult | DropResults | ReportAgain | SaveRequest
    | SaveValue
)  # fmt: skip
