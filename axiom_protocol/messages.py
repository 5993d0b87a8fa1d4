"""The messages between agent and server: versioned JSON, by msgspec.

Unknown fields are ignored, so that either side may be newer. The meaning of a field never changes
within a protocol version.

The main call is ``POST /api/v1/sync``. It is idempotent: a report is identified by its task, a
request by ``request_id``, so that a request can be repeated safely when its answer was lost.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, structs

PROTOCOL_VERSION = 1
BODY_BYTES_MAX = (
    32 * 1024 * 1024
)  # decompressed; enough for 500 reports with the library's largest result
REPORTS_MAX = 500  # in one request; more wait for the next one
GRANTS_MAX = 2_000  # in one answer; a 240-core host with a buffer asks for fewer

Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 60)]
Seconds = Annotated[float, Meta(ge=0, le=10 * 366 * 86400)]
Timestamp = Annotated[float, Meta(ge=0, le=1e11)]
ShortText = Annotated[str, Meta(max_length=200)]
TaskId = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]  # PostgreSQL's bigint
Device = Literal["cpu", "gpu"]

#: How a task ended; the same words are used by both sides, in logs and on pages.
Outcome = Literal[
    "success", "failed", "timed_out", "over_memory", "over_disk", "cancelled", "lost"
]  # fmt: skip


BACKENDS = ("cuda", "rocm", "mps", "other")


class GpuFacts(Struct, frozen=True, kw_only=True):
    """One GPU as detected. ``uuid`` is its name for CUDA_VISIBLE_DEVICES.

    backend   how torch uses it, one of ``BACKENDS``; a name from a newer version becomes "other"
    pci       its PCI address, such as 0000:65:00.0
    mig       it is a part of a partitioned GPU (NVIDIA's Multi-Instance GPU)
    """

    uuid: ShortText
    name: ShortText
    memory_bytes: Bytes
    backend: ShortText = "cuda"
    driver: ShortText = ""
    compute_capability: ShortText = ""
    pci: ShortText = ""
    mig: bool = False

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            structs.force_setattr(self, "backend", "other")


class HostFacts(Struct, frozen=True, kw_only=True):
    """The hardware and software of a host; sent when it changed.

    cpu_cores           whole cores that the agent may use, by CPU affinity and quota
    benchmark_gflops    float32 matrix products on one core, measured once; 0: unknown
    gpu_cohort          most tasks of one experiment that one of its GPUs runs in one process; 0 or
                        1: one at a time
    """

    name: ShortText
    os: ShortText
    architecture: ShortText
    processor: ShortText = ""
    cpu_cores: Annotated[int, Meta(ge=1, le=65536)]
    cpu_cores_physical: Annotated[int, Meta(ge=1, le=65536)] = 1
    benchmark_gflops: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    memory_bytes: Bytes
    disk_free_bytes: Bytes
    gpus: Annotated[list[GpuFacts], Meta(max_length=64)] = []
    environments: Annotated[list[ShortText], Meta(max_length=8)] = []
    client_version: ShortText = ""
    gpu_cohort: Annotated[int, Meta(ge=0, le=65536)] = 0


class Capacity(Struct, frozen=True, kw_only=True):
    """What the host can take now: its usable slots, less the tasks that it has.

    buffer_seconds  further work wanted for each usable slot, beyond what runs
    """

    cpu_slots_free: Count = 0
    gpu_slots_free: Count = 0
    cpu_slots: Count = 0  # usable now, free or not
    gpu_slots: Count = 0
    memory_free_bytes: Bytes = 0
    disk_free_bytes: Bytes = 0
    buffer_seconds: Seconds = 0.0


class InHand(Struct, frozen=True, kw_only=True):
    """A task that the host has and has not reported yet."""

    task_id: TaskId
    state: Literal["queued", "running", "paused", "ended"]
    progress: Annotated[float, Meta(ge=0, le=1)] = 0.0


class Work(Struct, frozen=True, kw_only=True):
    """What a task computes. It identifies a result whose task number is not known any more."""

    experiment: ShortText
    version: ShortText
    parameters: dict[str, Any]
    seed: Annotated[int, Meta(ge=0, le=2**53)]
    budget_seconds: Seconds
    device: Device = "cpu"


class Report(Struct, frozen=True, kw_only=True):
    """How a task ended. Both sides check ``result`` against the experiment's schema.

    elapsed_seconds   monotonic time, without pauses by the agent and the host's sleep
    cpu_seconds       user and system time of the task's process, from wait4
    work              of a task that was granted in an earlier epoch of the server
    """

    task_id: TaskId
    outcome: Outcome
    elapsed_seconds: Seconds
    cpu_seconds: Seconds
    peak_memory_bytes: Bytes = 0
    result: Any = None
    message: Annotated[str, Meta(max_length=8_000)] = ""
    attempts: Count = 1
    work: Work | None = None


class AgentRun(Struct, frozen=True, kw_only=True):
    """Which run of which copy of the agent sends a request: the server recognises copies by it.

    run      random, made at each start of the agent
    place    keyed hash of the running system and the agent's folder: the same only for runs that
             cannot be alive at the same time; empty: not known
    ending   the run stops and takes no more work
    """

    run: ShortText
    place: ShortText = ""
    ending: bool = False


#: Values of ``SyncAnswer.identity``, about the identity that a request used.
IDENTITY_UNCLEAR = "unclear"  # another run may be using it: nothing is granted or taken back yet
IDENTITY_COPIED = "copied"  # another run is using it: join as a host of your own


Span = tuple[Annotated[int, Meta(ge=0, lt=10_080)], Annotated[int, Meta(gt=0, le=11_520)]]


class HostSettings(Struct, frozen=True, kw_only=True):
    """Limits set by the owner of an account. Each can only lower what a host may do.

    cpu_share    largest share of the host's cores; None: as the host's own config says, as below
    cpu_cores    largest number of cores
    gpus         largest number of GPUs
    on_battery   False: no tasks on battery power; True lifts nothing
    schedule     hours in which tasks may run, as minutes since Monday 00:00, local time
    """

    paused: bool = False
    draining: bool = False
    cpu_share: Annotated[float, Meta(ge=0, le=1)] | None = None
    cpu_cores: Count | None = None
    gpus: Annotated[int, Meta(ge=0, le=1024)] | None = None
    on_battery: bool | None = None
    schedule: Annotated[list[Span], Meta(max_length=64)] = []


class AccountSettings(Struct, frozen=True, kw_only=True):
    """What the owner of this host's account has set for it on the project's pages.

    revision   changes with the settings; the host sends it back as ``HostStatus.revision``
    set_at     when, seconds since 1970
    settings   of the host, its group and its mode: all of them hold together
    mode       name of the mode that the owner chose there; empty: none
    modes      the modes of the account by name, for the owner to switch on the host itself
    """

    revision: ShortText
    set_at: Annotated[float, Meta(ge=0, le=1e11)] = 0.0
    settings: Annotated[list[HostSettings], Meta(max_length=3)] = []
    mode: ShortText = ""
    modes: Annotated[dict[ShortText, HostSettings], Meta(max_length=20)] = {}


class IdleSlots(Struct, frozen=True, kw_only=True):
    """How many cores or GPUs are idle for one reason."""

    slots: Count
    reason: ShortText


class HostStatus(Struct, frozen=True, kw_only=True):
    """What the account's pages show of a host.

    state      running, paused, draining or stopping
    revision   of the account's settings that are in force here
    refuses    this host's config (account.control) keeps the account's settings out
    mode       the mode that was switched on the host itself
    """

    state: ShortText = ""
    reason: ShortText = ""
    idle: Annotated[list[IdleSlots], Meta(max_length=16)] = []
    revision: ShortText = ""
    refuses: bool = False
    mode: ShortText = ""


class SyncRequest(Struct, frozen=True, kw_only=True):
    """What a host sends in one sync.

    ``in_hand`` must be complete: a task that was leased to this host and is neither in it nor among
    ``reports`` counts as lost, and its workunit is queued again at once.
    """

    request_id: Annotated[str, Meta(min_length=8, max_length=64, pattern=r"^[!-~]*\Z")]
    protocol_version: int = PROTOCOL_VERSION
    host: HostFacts | None = None
    capacity: Capacity
    in_hand: Annotated[list[InHand], Meta(max_length=20_000)] = []
    reports: Annotated[list[Report], Meta(max_length=REPORTS_MAX)] = []
    draining: ShortText = ""  # why no new tasks are taken; empty when they are
    run: AgentRun | None = None
    epoch: ShortText = ""  # of the server, as its last answer said
    status: HostStatus | None = None


class Grant(Struct, frozen=True, kw_only=True):
    """A task leased to the host. Its code and limits come from the signed bundle."""

    task_id: TaskId
    experiment: ShortText
    version: ShortText
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    parameters: dict[str, Any]
    seed: Annotated[int, Meta(ge=0, le=2**53)]
    budget_seconds: Seconds
    device: Device = "cpu"
    lease_seconds: Seconds  # from now on, counted by each side's own clock


class Acknowledgement(Struct, frozen=True, kw_only=True):
    """The server has stored this report. ``refusal`` tells the owner why it earns no credit."""

    task_id: TaskId
    refusal: ShortText = ""


class Credit(Struct, frozen=True, kw_only=True):
    """The credit of this host and its user."""

    host_total: float = 0.0
    user_total: float = 0.0
    user_recent_average: float = 0.0
    pending_results: Count = 0


class SyncAnswer(Struct, frozen=True, kw_only=True):
    """The server's answer to a sync.

    next_sync_seconds   latest time of the next sync
    identity            "", IDENTITY_UNCLEAR or IDENTITY_COPIED
    epoch               random; another one when the database was restored from a backup
    answered_at         time of this answer. Like the next two it is the server's time in seconds
                        since 1970, to be compared with one another only; 0: not known
    restored_from       what was acknowledged before this is in the database of this epoch
    backed_up_at        what was acknowledged before this is in a backup
    """

    request_id: str
    protocol_version: int = PROTOCOL_VERSION
    grants: list[Grant] = []
    acknowledged: list[Acknowledgement] = []
    cancelled: list[int] = []
    next_sync_seconds: Seconds
    no_work_reason: ShortText = ""
    notices: list[ShortText] = []
    credit: Credit | None = None
    identity: ShortText = ""
    epoch: ShortText = ""
    answered_at: Timestamp = 0.0
    restored_from: Timestamp = 0.0
    backed_up_at: Timestamp = 0.0
    account: AccountSettings | None = None  # None: no change since ``HostStatus.revision``


class AccountLink(Struct, frozen=True, kw_only=True):
    """``POST /api/v1/account-links``: a page that signs the owner of this host's account in, once.

    path   to be opened at the project's address; it is a secret
    """

    path: Annotated[str, Meta(pattern=r"^/[A-Za-z0-9/_-]{1,200}\Z")]
    expires_seconds: Seconds


class EnrolRequest(Struct, frozen=True, kw_only=True):
    """``POST /api/v1/hosts``: add a host to an account, or to a new one where allowed."""

    host: HostFacts
    account_key: Annotated[str, Meta(max_length=128)] = ""
    user: Annotated[str, Meta(max_length=100)] = (
        ""  # a name for a new account, when no key is given
    )
    protocol_version: int = PROTOCOL_VERSION


class EnrolAnswer(Struct, frozen=True, kw_only=True):
    """The new host's id and token. The token is sent only now; the server stores its hash."""

    host_id: int
    token: str
    user: str
    account_key: str = ""  # of a new account, with which its owner can add more hosts


class ProjectInfo(Struct, frozen=True, kw_only=True):
    """``GET /api/v1/project``: what an agent reads before it attaches."""

    name: ShortText
    protocol_version: int = PROTOCOL_VERSION
    oldest_protocol_version: int = PROTOCOL_VERSION
    server_version: ShortText = ""
    anonymous_hosts: bool = True
    epoch: ShortText = ""


class Problem(Struct, frozen=True, kw_only=True):
    """The body of every error response (4xx, 5xx): what happened, what to do. After RFC 9457."""

    title: ShortText
    detail: Annotated[str, Meta(max_length=2000)] = ""
    status: int = 400
