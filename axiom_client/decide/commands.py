"""What is to be done, in the imperative. Performed in order; the journal's share comes first."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from axiom_client.decide.model import SyncPlan, TaskRecord
from axiom_client.decide.task_run import Environment, TaskSpec
from axiom_protocol.messages import GpuFacts, Report

ValueKey = Literal["pause", "gpu_pauses", "drain", "durations", "credit", "credit_day"]


class _Command(Struct, frozen=True, kw_only=True, tag=True):
    pass


# --- what the journal must hold before anything below is done -------------------------------------


class SaveTask(_Command, frozen=True, kw_only=True):
    """Keep a task, new or changed."""

    record: TaskRecord


class SaveReport(_Command, frozen=True, kw_only=True):
    """Keep a report until the server acknowledges it."""

    report: Report


class ForgetTask(_Command, frozen=True, kw_only=True):
    """The server has this task's report: nothing of it is needed any more."""

    task_id: int


class SaveRequest(_Command, frozen=True, kw_only=True):
    """Keep the request that is about to be sent; None: its answer has come."""

    plan: SyncPlan | None


class SaveValue(_Command, frozen=True, kw_only=True):
    """Keep one small thing by name; None forgets it."""

    key: ValueKey
    value: Any


# --- effects --------------------------------------------------------------------------------------


class ProbeHost(_Command, frozen=True, kw_only=True):
    """Find out what the host is."""


class MeasureLoad(_Command, frozen=True, kw_only=True):
    """Find out what else happens on the host: no more than some limit depends on.

    others      how many cores other programs keep busy
    presence    whether somebody uses it
    heat        how hot the processor is
    programs    whether one of these runs
    space       how much memory and disk is free
    """

    others: bool = False
    presence: bool = False
    heat: bool = False
    programs: list[str] = []
    space: bool = False


class FetchBundle(_Command, frozen=True, kw_only=True):
    """Bring a published experiment here and verify it.

    accepted   it was verified here before: the copy on the disk will do while the network is away
    """

    experiment: str
    version: str
    sha256: str
    accepted: bool = False


class Prewarm(_Command, frozen=True, kw_only=True):
    """Work is expected: start the warm parent of an environment."""

    environment: Environment


class ReleaseIdle(_Command, frozen=True, kw_only=True):
    """Nothing has run for a while: let the warm parents go."""


class StartTask(_Command, frozen=True, kw_only=True):
    """Run a task in the sandbox, on these GPUs or else on cores."""

    spec: TaskSpec
    gpus: list[GpuFacts] = []

    @property
    def task_id(self) -> int:
        """The task's number."""
        return self.spec.task_id


class PauseTask(_Command, frozen=True, kw_only=True):
    """Suspend it where it stands; it keeps its memory."""

    task_id: int


class ResumeTask(_Command, frozen=True, kw_only=True):
    """Let a paused task go on."""

    task_id: int


class StopTask(_Command, frozen=True, kw_only=True):
    """End it: politely first, so that it may keep a checkpoint."""

    task_id: int
    grace_seconds: float


class ClearFolder(_Command, frozen=True, kw_only=True):
    """Delete the task's own folder: it will not run again."""

    task_id: int


class Sync(_Command, frozen=True, kw_only=True):
    """Send the request, with the reports it names."""

    plan: SyncPlan


class WakeAt(_Command, frozen=True, kw_only=True):
    """Send TimerFired then; replaces the time asked for before."""

    at: float


class LogLine(_Command, frozen=True, kw_only=True):
    """One line of the agent's log, for people."""

    text: str
    level: Literal["info", "warning", "error"] = "info"


class Exit(_Command, frozen=True, kw_only=True):
    """The agent is done.

    fault   refused: the project does not accept this host; unreachable: work would have been to
            come, and nobody answers
    """

    reason: str
    fault: Literal["", "refused", "unreachable"] = ""


Command = (
    SaveTask | SaveReport | ForgetTask | SaveRequest | SaveValue
    | ProbeHost | MeasureLoad | FetchBundle | Prewarm | ReleaseIdle | StartTask | PauseTask
    | ResumeTask | StopTask | ClearFolder | Sync | WakeAt | LogLine | Exit
)  # fmt: skip
Persistent = SaveTask | SaveReport | ForgetTask | SaveRequest | SaveValue
