"""What the agent knows. Times named ``_at`` are monotonic seconds, ``_wall`` seconds since 1970."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from axiom_client.decide.schedule import Span
from axiom_protocol.manifest import Manifest
from axiom_protocol.messages import Capacity, Credit, Grant, HostFacts, InHand, Outcome

Phase = Literal["granted", "queued", "running", "paused", "stopping", "ended"]
Then = Literal["stay", "exit", "pause"]

NEVER = float("inf")  # a deadline that does not come


class Limits(Struct, frozen=True, kw_only=True):
    """What the volunteer allows; the slice of the configuration that decisions need."""

    cpu_share: float = 1.0  # of the cores this process may use
    cpu_cores: int = 0  # at most so many; 0: no further limit
    memory_share: float = 0.75  # of the host's memory, promised to tasks in all
    memory_keep_free: float = 0.0  # left to other programs: bytes, or a share of it all below 1
    disk_bytes: int = 10_000_000_000  # promised to tasks in all
    disk_keep_free: float = 0.0  # left free on the disk: bytes, or a share of it all below 1
    gpus: bool = True
    gpus_excluded: list[str] = []  # numbers, UUIDs or parts of names
    gpu_tasks: dict[str, int] = {}  # most tasks on a GPU, by its number; "" for all others
    other_load_share: float = 0.0  # rest while other programs use more of the processor; 0: never
    temperature_max: float = 0.0  # degrees Celsius of the processor; 0: no limit
    while_in_use: bool = True  # run while somebody uses the host
    on_battery: bool = False
    schedule: list[Span] = []  # hours of the week; none: always
    exclusive: list[str] = []  # names of programs that want the host for themselves
    buffer_seconds: float = 300.0  # work kept waiting for each slot

    def memory_kept_bytes(self, total_bytes: int) -> float:
        """What other programs must find free of so much memory."""
        return _kept(self.memory_keep_free, total_bytes)

    def disk_kept_bytes(self, total_bytes: int) -> float:
        """What must stay free of a disk of this size."""
        return _kept(self.disk_keep_free, total_bytes)


def _kept(keep: float, total_bytes: int) -> float:
    return keep * total_bytes if keep < 1 else keep


class Load(Struct, frozen=True, kw_only=True):
    """What else happens on the host, as last measured. None: not looked at, or not known."""

    other_cores: float = 0.0  # cores kept busy by programs that are not ours
    in_use: bool = False
    has_battery: bool = False
    on_battery: bool = False
    temperature: float | None = None  # of the processor's hottest part, degrees Celsius
    exclusive: str = ""  # a program of ``Limits.exclusive`` that runs
    memory_available_bytes: int | None = None
    disk_free_bytes: int | None = None
    disk_total_bytes: int = 0


class Slot(Struct, frozen=True, kw_only=True):
    """One CPU core or one GPU. ``reason`` says why it may not be used; empty when it may."""

    kind: Literal["cpu", "gpu"]
    index: int
    uuid: str = ""
    reason: str = ""
    tasks: int = 1  # at most so many at a time
    memory_bytes: int = 0  # a GPU's own

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"core {self.index}" if self.kind == "cpu" else f"GPU {self.index}"


class Bundle(Struct, frozen=True, kw_only=True):
    """A published experiment as this host has it. ``path`` is empty until it is verified here."""

    experiment: str
    version: str
    sha256: str
    fetching: bool = False
    path: str = ""
    manifest: Manifest | None = None
    verified_at: float | None = None  # None: to be verified before a new task may have it
    attempts: int = 0
    retry_at: float = 0.0
    problem: str = ""

    @property
    def ref(self) -> str:
        """The bundle's name, such as ``rank_dynamics@1.0.0``."""
        return f"{self.experiment}@{self.version}"


class TaskRecord(Struct, frozen=True, kw_only=True):
    """What the journal keeps of a task, enough to go on after a crash."""

    grant: Grant
    order: int  # of arrival: first come, first run
    lease_until_wall: float
    accepted: bool = False  # its bundle was verified here once, so that it may run offline
    attempts: int = 0
    elapsed_seconds: float = 0.0  # of earlier runs that were stopped by us
    cpu_seconds: float = 0.0


class TaskState(Struct, frozen=True, kw_only=True):
    """One task of this host, from its grant until the server has its report."""

    record: TaskRecord
    phase: Phase = "granted"
    gpus: list[int] = []  # indices of the GPU slots it holds; -1 for one that vanished
    progress: float = 0.0
    running_since: float = 0.0  # start of the present uninterrupted stretch
    ran_seconds: float = 0.0  # of this run before that stretch
    retry_at: float = 0.0
    keep: bool = False  # while stopping: run it again later instead of reporting it
    message: str = ""  # while stopping: what its report will say
    outcome: Outcome | None = None
    report_bytes: int = 0

    @property
    def task_id(self) -> int:
        """The server's key for it."""
        return self.record.grant.task_id

    @property
    def ref(self) -> str:
        """The bundle it runs."""
        return f"{self.record.grant.experiment}@{self.record.grant.version}"


class SyncPlan(Struct, frozen=True, kw_only=True):
    """A request as decided; the reports themselves are read from the journal when it is sent.

    It is journalled before it goes out, so that it can be sent again if its answer is lost.
    """

    request_id: str
    capacity: Capacity
    in_hand: list[InHand] = []
    report_ids: list[int] = []
    host: HostFacts | None = None
    draining: str = ""


class SyncState(Struct, kw_only=True):
    """The dealings with the server."""

    in_flight: SyncPlan | None = None
    unanswered: SyncPlan | None = None  # sent or about to be, its answer never seen
    number: int = 0
    failures: int = 0  # in a row
    not_before: float = 0.0
    next_at: float = 0.0  # the server's own wish, 0 until it has answered once
    wanted_now: bool = False  # by a person, or because the host changed
    facts_known_to_server: HostFacts | None = None
    out_of_work: bool = False  # the server had nothing when last asked; do not ask before next_at
    answered_at: float = -NEVER
    problem: str = ""
    no_work_reason: str = ""
    notices: list[str] = []
    credit: Credit | None = None


class Pause(Struct, frozen=True, kw_only=True):
    """Asked for by a person; ``until_wall`` None: until resumed."""

    reason: str
    until_wall: float | None = None


class Drain(Struct, frozen=True, kw_only=True):
    """Finish what is in hand, take nothing new.

    then            what follows when nothing is in hand any more: stay, exit or pause
    deadline_wall   what still runs then is ended and given back; None: however long it takes
    """

    reason: str
    then: Then = "stay"
    deadline_wall: float | None = None


class Blocked(Struct, frozen=True, kw_only=True):
    """Why nothing runs for now, and since when."""

    kind: str
    since_wall: float


class CreditDay(Struct, frozen=True, kw_only=True):
    """What the ledger held for this host when ``day`` began here (local days since 1970)."""

    day: int
    host_total: float


class Stop(Struct, frozen=True, kw_only=True):
    """The agent is going down; what is not settled by ``give_up_at`` waits for the next start."""

    reason: str
    give_up_at: float


class AgentState(Struct, kw_only=True):
    """The whole agent. ``step`` copies it before changing anything."""

    now: float = 0.0
    wall_offset: float = 0.0  # wall clock less ``now``
    utc_offset_seconds: int = 0  # local time less UTC
    instance: str = ""  # distinguishes this run's request ids from any other run's
    limits: Limits = Limits()
    facts: HostFacts | None = None
    gpus_known: bool = False  # the first probe of them has ended
    gpu_problems: list[str] = []  # why GPUs that seem to be there cannot be used
    load: Load = Load()
    tasks: dict[int, TaskState] = field(default_factory=dict)
    bundles: dict[str, Bundle] = field(default_factory=dict)  # by sha256
    durations: dict[str, float] = field(default_factory=dict)  # seconds a bundle takes here
    sync: SyncState = field(default_factory=SyncState)
    reports_since: float = NEVER  # when the oldest report that waits to be sent was made
    next_order: int = 0
    pause: Pause | None = None
    gpu_pauses: dict[str, Pause] = field(default_factory=dict)  # by UUID
    drain: Drain | None = None
    blocked: Blocked | None = None
    credit_day: CreditDay | None = None
    stop: Stop | None = None
    until_idle: bool = False
    stop_at: float = NEVER  # the end of a run of limited length
    measured_at: float = -NEVER
    probed_at: float = 0.0
    busy_at: float = 0.0  # last time a task ran or waited
    warm: bool = False  # a zygote may be up
    wake_at: float = NEVER
    exited: bool = False

    @property
    def wall(self) -> float:
        """The time of day at the last event."""
        return self.now + self.wall_offset

    @property
    def local(self) -> float:
        """The same in local time, as its clocks show it."""
        return self.wall + self.utc_offset_seconds
