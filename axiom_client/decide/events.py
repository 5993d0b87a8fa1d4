"""The events of the agent: what happened, one class for each. ``now`` is monotonic seconds.

Events are plain data and encode to JSON, so that a recorded log replays to the same commands.
"""

from __future__ import annotations

from msgspec import Struct

from axiom_client.decide.model import (
    AccountControl,
    AfterDrain,
    CreditDay,
    Drain,
    Incident,
    KeptResult,
    Limits,
    Load,
    Pause,
    SyncPlan,
    TaskRecord,
)
from axiom_client.decide.task_run import TaskFinished
from axiom_protocol.manifest import Manifest
from axiom_protocol.messages import (
    AccountSettings,
    Credit,
    HostFacts,
    HostSettings,
    Outcome,
    SyncAnswer,
)


class _Event(Struct, frozen=True, kw_only=True, tag=True):
    now: float


class WaitingReport(Struct, frozen=True, kw_only=True):
    """A report in the journal that the server has not acknowledged."""

    task_id: int
    outcome: Outcome
    size_bytes: int


class AgentStarted(_Event, frozen=True, kw_only=True):
    """The agent has started; this is what its journal contained."""

    wall: float
    utc_offset_seconds: int = 0
    instance: str
    limits: Limits
    control: AccountControl = AccountControl()
    account: AccountSettings | None = None
    mode: str = ""
    modes: dict[str, HostSettings] = {}
    tasks: list[TaskRecord] = []
    reports: list[WaitingReport] = []
    unanswered: SyncPlan | None = None
    pause: Pause | None = None
    gpu_pauses: dict[str, Pause] = {}
    drain: Drain | None = None
    credit_day: CreditDay | None = None
    incident: Incident | None = None
    durations: dict[str, float] = {}
    credit: Credit | None = None
    kept: list[KeptResult] = []
    epoch: str = ""
    until_idle: bool = False
    seconds: float | None = None  # stop after this many seconds; None: run on


class ClockChanged(_Event, frozen=True, kw_only=True):
    """The time of day jumped: the host slept, its clock was set, or summer time began or ended."""

    wall: float
    utc_offset_seconds: int


class FactsProbed(_Event, frozen=True, kw_only=True):
    """The facts of the host were found.

    gpus_known     false while the first search for GPUs still goes on
    gpu_problems   why GPUs that seem to be there cannot be used
    """

    facts: HostFacts
    gpus_known: bool = True
    gpu_problems: list[str] = []


class LoadMeasured(_Event, frozen=True, kw_only=True):
    """The load of the host by other programs and people was measured."""

    load: Load


class TimerFired(_Event, frozen=True, kw_only=True):
    """The time of the last WakeAt command has come."""


class SyncAnswered(_Event, frozen=True, kw_only=True):
    """The server answered the request in flight."""

    answer: SyncAnswer


class SyncFailed(_Event, frozen=True, kw_only=True):
    """The request had no answer, or was refused.

    again      true: the request may have arrived, so send it again unchanged; false: make a new one
    fatal      the project does not accept this host, so the agent ends
    restored   the server's database is older than this host, so the agent joins again
    jitter     0 to 1, spreads the retries of many hosts
    """

    problem: str
    again: bool = True
    fatal: bool = False
    restored: bool = False
    jitter: float
    retry_after_seconds: float = 0.0


class TasksReloaded(_Event, frozen=True, kw_only=True):
    """Kept results have become tasks in hand again, to be reported once more."""

    tasks: list[TaskRecord]
    reports: list[WaitingReport]


class BundleFetched(_Event, frozen=True, kw_only=True):
    """A bundle is on the disk, its signatures and hash verified."""

    sha256: str
    path: str
    manifest: Manifest


class BundleRefused(_Event, frozen=True, kw_only=True):
    """A bundle is not what staff signed, so no task may run it."""

    sha256: str
    problem: str


class BundleFailed(_Event, frozen=True, kw_only=True):
    """A bundle could not be fetched for now."""

    sha256: str
    problem: str
    jitter: float


class TaskStarted(_Event, frozen=True, kw_only=True):
    """The task's process runs the experiment."""

    task_id: int
    pid: int


class TaskProgressed(_Event, frozen=True, kw_only=True):
    """The experiment reported its progress, 0 to 1."""

    task_id: int
    fraction: float


class TaskEnded(_Event, frozen=True, kw_only=True):
    """The task's process has ended. ``jitter``, 0 to 1, spreads retries."""

    finished: TaskFinished
    jitter: float = 0.5


class PauseRequested(_Event, frozen=True, kw_only=True):
    """A person pauses the host, or one GPU; ``for_seconds`` None: until resumed."""

    for_seconds: float | None = None
    reason: str = "paused by you"
    gpu: int | None = None


class ResumeRequested(_Event, frozen=True, kw_only=True):
    """A person ends every pause and drain, or the pause of one GPU."""

    gpu: int | None = None


class DrainRequested(_Event, frozen=True, kw_only=True):
    """A person wants running tasks finished, waiting ones given back and no new ones."""

    reason: str
    then: AfterDrain = "stay"
    deadline_seconds: float | None = None


class SyncRequested(_Event, frozen=True, kw_only=True):
    """A person wants the server contacted now."""


class AbortRequested(_Event, frozen=True, kw_only=True):
    """A person wants one task cancelled."""

    task_id: int


class StopRequested(_Event, frozen=True, kw_only=True):
    """The agent must end: in an orderly way, or at once (``hurry``), as on a second request."""

    reason: str
    hurry: bool = False


class ConfigChanged(_Event, frozen=True, kw_only=True):
    """The volunteer changed the limits."""

    limits: Limits
    control: AccountControl = AccountControl()


class ModeChosen(_Event, frozen=True, kw_only=True):
    """A person switches this host into a mode. ``settings`` define a new mode or change one.

    mode   empty: end the mode
    """

    mode: str
    settings: HostSettings | None = None


class UpdateStaged(_Event, frozen=True, kw_only=True):
    """A newer release of the agent is complete on the disk, to be started between tasks."""

    version: str


Event = (
    AgentStarted | ClockChanged | FactsProbed | LoadMeasured | TimerFired
    | SyncAnswered | SyncFailed | TasksReloaded | BundleFetched | BundleRefused | BundleFailed
    | TaskStarted | TaskProgressed | TaskEnded
    | PauseRequested | ResumeRequested | DrainRequested | SyncRequested | AbortRequested
    | StopRequested | ConfigChanged | ModeChosen | UpdateStaged
)  # fmt: skip
