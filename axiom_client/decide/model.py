"""The agent's state. Times named ``_at`` are monotonic seconds, ``_wall`` seconds since 1970."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from axiom_client.decide.schedule import Span
from axiom_protocol.manifest import Manifest
from axiom_protocol.messages import (
    AccountSettings,
    Capacity,
    Credit,
    Grant,
    HostFacts,
    HostSettings,
    HostStatus,
    InHand,
    Outcome,
)

Phase = Literal["granted", "queued", "running", "paused", "stopping", "ended"]
AfterDrain = Literal["stay", "exit", "pause"]

NEVER = float("inf")  # as a time: later than any other


class Limits(Struct, frozen=True, kw_only=True):
    """The volunteer's limits: the part of the configuration that decisions need."""

    cpu_share: float = 1.0  # of the cores this process may use
    cpu_cores: int = 0  # largest number of cores; 0: no limit other than cpu_share
    memory_share: float = 0.75  # of the host's memory, for all tasks together
    memory_keep_free: float = 0.0  # for other programs: bytes, or below 1 a share of the memory
    disk_bytes: int = 10_000_000_000  # for all tasks together
    disk_keep_free: float = 0.0  # on the disk: bytes, or below 1 a share of the disk
    gpus: bool = True
    gpus_max: int | None = None  # largest number of GPUs; None: no limit
    gpus_excluded: list[str] = []  # numbers, UUIDs or parts of names
    gpu_tasks: dict[str, int] = {}  # largest number of tasks by GPU number; "": all others
    other_load_share: float = 0.0  # pause while other programs use a larger share; 0: never
    temperature_max: float = 0.0  # degrees Celsius of the processor; 0: no limit
    while_in_use: bool = True  # run while somebody uses the host
    on_battery: bool = False
    schedule: list[Span] = []  # hours of the week; empty: always
    exclusive: list[str] = []  # programs; no task runs while one of them does
    buffer_seconds: float = 300.0  # duration of the tasks kept waiting for each slot
    origins: dict[str, str] = {}  # who set a limit that is not the config's, by its key

    def memory_kept_bytes(self, total_bytes: int) -> float:
        """Memory to leave free for other programs, in bytes, on a host with ``total_bytes``."""
        return _kept(self.memory_keep_free, total_bytes)

    def disk_kept_bytes(self, total_bytes: int) -> float:
        """Disk space to leave free, in bytes, on a disk of ``total_bytes``."""
        return _kept(self.disk_keep_free, total_bytes)


def _kept(keep: float, total_bytes: int) -> float:
    return keep * total_bytes if keep < 1 else keep


class AccountControl(Struct, frozen=True, kw_only=True):
    """How far the account may lower this host's limits: the config's section ``account``."""

    enabled: bool = True
    kept: list[str] = []  # keys of the config that the account does not change


class Load(Struct, frozen=True, kw_only=True):
    """What else happens on the host, as last measured. None: not measured or not known."""

    other_cores: float = 0.0  # cores kept busy by other programs
    in_use: bool = False
    has_battery: bool = False
    on_battery: bool = False
    temperature: float | None = None  # of the processor's hottest part, degrees Celsius
    exclusive: str = ""  # the program of ``Limits.exclusive`` that runs, if any
    memory_available_bytes: int | None = None
    disk_free_bytes: int | None = None
    disk_total_bytes: int = 0


class Slot(Struct, frozen=True, kw_only=True):
    """One CPU core or one GPU. ``reason``: why it may not be used; empty when it may."""

    kind: Literal["cpu", "gpu"]
    index: int
    uuid: str = ""
    reason: str = ""
    tasks: int = 1  # largest number at a time
    memory_bytes: int = 0  # of a GPU
    backend: str = ""  # of a GPU: how torch uses it

    @property
    def name(self) -> str:
        """The name shown to people, such as "core 3"."""
        return f"core {self.index}" if self.kind == "cpu" else f"GPU {self.index}"


class Bundle(Struct, frozen=True, kw_only=True):
    """A published experiment on this host. ``path`` is empty until it is fetched and verified."""

    experiment: str
    version: str
    sha256: str
    fetching: bool = False
    path: str = ""
    manifest: Manifest | None = None
    verified_at: float | None = None  # None: it must be verified before a new task may run it
    attempts: int = 0
    retry_at: float = 0.0
    problem: str = ""

    @property
    def ref(self) -> str:
        """The bundle's name, such as ``rank_dynamics@1.0.0``."""
        return f"{self.experiment}@{self.version}"


class TaskRecord(Struct, frozen=True, kw_only=True):
    """A task as the journal stores it: enough to go on after a crash."""

    grant: Grant
    order: int  # of arrival; tasks start in this order
    lease_until_wall: float
    accepted: bool = False  # its bundle was verified here, so it may run without a network
    attempts: int = 0
    elapsed_seconds: float = 0.0  # of earlier runs that the agent stopped
    cpu_seconds: float = 0.0
    epoch: str = ""  # of the server, when it granted the task
    cohort_most: int = 0  # tasks that may share its next process; 0: as many as its bundle allows


class KeptResult(Struct, frozen=True, kw_only=True):
    """A result in the journal that the server has acknowledged, at its own ``acknowledged_at``."""

    task_id: int
    acknowledged_at: float
    kept_wall: float
    size_bytes: int


class TaskState(Struct, frozen=True, kw_only=True):
    """One task of this host, from its grant until the server has its report."""

    record: TaskRecord
    phase: Phase = "granted"
    gpus: list[int] = []  # indices of the GPUs it holds; -1 for one that is gone
    progress: float = 0.0
    running_since: float = 0.0  # when it started or was last resumed
    ran_seconds: float = 0.0  # of this run until its last pause
    retry_at: float = 0.0
    keep: bool = False  # while stopping: run it again later, do not report it
    message: str = ""  # while stopping: what its report will say
    outcome: Outcome | None = None
    report_bytes: int = 0
    cohort: int = 0  # ID of its first task, which also identifies the process; 0: no cohort
    cohort_size: int = 1

    @property
    def task_id(self) -> int:
        """The task's number, given by the server."""
        return self.record.grant.task_id

    @property
    def process_id(self) -> int:
        """The number that names its process: that of the cohort's first task, or its own."""
        return self.cohort or self.task_id

    @property
    def ref(self) -> str:
        """The name of its bundle, such as ``rank_dynamics@1.0.0``."""
        return f"{self.record.grant.experiment}@{self.record.grant.version}"


class SyncPlan(Struct, frozen=True, kw_only=True):
    """A request to the server. Its reports are read from the journal when it is sent.

    It is written to the journal before it is sent, so that it can be sent again unchanged if its
    answer is lost.
    """

    request_id: str
    capacity: Capacity
    in_hand: list[InHand] = []
    report_ids: list[int] = []
    host: HostFacts | None = None
    draining: str = ""
    ending: bool = False  # the agent stops
    epoch: str = ""  # of the server, as its last answer said
    status: HostStatus | None = None


class SyncState(Struct, kw_only=True):
    """What the agent knows of its contact with the server."""

    in_flight: SyncPlan | None = None
    unanswered: SyncPlan | None = None  # sent, or about to be, and not answered
    number: int = 0
    failures: int = 0  # in a row
    not_before: float = 0.0
    next_at: float = 0.0  # as the server asked; 0 until its first answer
    wanted_now: bool = False  # a person asks for contact, or the host changed
    facts_known_to_server: HostFacts | None = None
    out_of_work: bool = False  # the server had no work when last asked; ask at next_at
    answered_at: float = -NEVER
    problem: str = ""
    no_work_reason: str = ""
    notices: list[str] = []
    credit: Credit | None = None


class Pause(Struct, frozen=True, kw_only=True):
    """A pause asked for by a person; ``until_wall`` None: until resumed."""

    reason: str
    until_wall: float | None = None


class Drain(Struct, frozen=True, kw_only=True):
    """The agent finishes the tasks in hand and takes none.

    then            what the agent does when no task is in hand any more: stay, exit or pause
    deadline_wall   when tasks that still run are stopped and given back; None: no deadline
    """

    reason: str
    then: AfterDrain = "stay"
    deadline_wall: float | None = None


class Blocked(Struct, frozen=True, kw_only=True):
    """The kind of reason why no task may run, and since when it holds."""

    kind: str
    since_wall: float


class CreditDay(Struct, frozen=True, kw_only=True):
    """This host's credit when ``day`` began (local days since 1970)."""

    day: int
    host_total: float


class Incident(Struct, frozen=True, kw_only=True):
    """What went wrong on this host, to be shown to its volunteer for some days."""

    text: str
    wall: float


class Stop(Struct, frozen=True, kw_only=True):
    """The agent is stopping; what is open at ``give_up_at`` waits for the next start.

    update   to be started again as another version
    """

    reason: str
    give_up_at: float
    update: bool = False


class UpdateWait(Struct, frozen=True, kw_only=True):
    """A staged release waits for the running tasks; those that run at ``stop_at`` are stopped."""

    version: str
    stop_at: float


class AgentState(Struct, kw_only=True):
    """The agent's whole state. ``step`` works on a copy of it."""

    now: float = 0.0
    wall_offset: float = 0.0  # wall clock minus ``now``
    utc_offset_seconds: int = 0  # local time minus UTC
    instance: str = ""  # random; makes request ids of this run unique
    limits: Limits = Limits()  # in force: the config's, lowered by the account and the mode
    own_limits: Limits = Limits()  # the config's
    control: AccountControl = AccountControl()
    account: AccountSettings | None = None  # as last received; in force if ``control`` says so
    mode: str = ""  # chosen on this host
    modes: dict[str, HostSettings] = field(default_factory=dict)  # defined on this host
    facts: HostFacts | None = None
    gpus_known: bool = False  # the first search for GPUs has ended
    gpu_problems: list[str] = []  # why GPUs that seem to be there cannot be used
    load: Load = Load()
    tasks: dict[int, TaskState] = field(default_factory=dict)
    bundles: dict[str, Bundle] = field(default_factory=dict)  # by sha256
    durations: dict[str, float] = field(default_factory=dict)  # seconds a bundle takes here
    sync: SyncState = field(default_factory=SyncState)
    kept: dict[int, KeptResult] = field(default_factory=dict)
    epoch: str = ""  # of the server; empty: not known
    reports_since: float = NEVER  # since when the oldest unsent report waits
    next_order: int = 0
    pause: Pause | None = None
    gpu_pauses: dict[str, Pause] = field(default_factory=dict)  # by UUID
    drain: Drain | None = None
    blocked: Blocked | None = None
    credit_day: CreditDay | None = None
    incident: Incident | None = None
    stop: Stop | None = None
    update: UpdateWait | None = None
    until_idle: bool = False
    stop_at: float = NEVER  # end of a run with --seconds
    measured_at: float = -NEVER
    probed_at: float = 0.0
    idle_since: float = NEVER  # when the last task ended; NEVER while one runs or waits
    warm: bool = False  # a zygote may be running
    standby: int = 0  # processes that may wait with loaded libraries, where there are no zygotes
    wake_at: float = NEVER
    exited: bool = False

    @property
    def wall(self) -> float:
        """Wall-clock time of the last event, seconds since 1970."""
        return self.now + self.wall_offset

    @property
    def local(self) -> float:
        """The same in local time."""
        return self.wall + self.utc_offset_seconds
