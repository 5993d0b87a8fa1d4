"""Epochs of a project's database: each restored backup begins one.

After a restore, the database does not know the task numbers that were given out since the backup.
They are never given out again: an epoch's first number lies above all that can have been used.
"""

from __future__ import annotations

from dataclasses import dataclass

TASKS_PER_SECOND_MAX = 10_000  # upper bound of tasks granted, on average between two restores
SINCE = 1_767_225_600.0  # 2026-01-01, seconds since 1970
RECOVERY_SECONDS = 30 * 86400.0  # results of the epoch before are accepted for this long
GRANTED_BEFORE_SECONDS = 7 * 86400.0  # assumed age of the backup where it is not known
#: A sync is answered within this time, so a result that was acknowledged this long before a backup
#: began was committed and is in the backup.
COMMIT_SECONDS = 180.0
#: Results of the epoch before that an account may still report, for each task that it may hold.
#: They are checked like any other, but the server cannot know whether it granted their tasks.
RECOVERED_PER_TASK = 20
SEEDS_AHEAD_MAX = 100_000  # above the last seed in the database; no more are deployed in a day

UNKNOWN_VERSION = "{} was published after the backup from which the server was restored"
TOO_MANY = "more results from before the server was restored than this account may report"
IMPOSSIBLE = "no task like this can have been granted"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The current epoch. Times are seconds since 1970; None: not known, or there was none.

    last_task_id    the largest task number in the database when the epoch began
    first_task_id   the first task number given out in the epoch
    restored_from   when the restored backup began; None also in a project that was never restored
    backed_up_at    when the newest complete backup began
    """

    epoch: str
    began_at: float
    last_task_id: int
    first_task_id: int
    restored_from: float | None = None
    backed_up_at: float | None = None

    @property
    def surely_restored(self) -> float:
        """Results acknowledged before this are in the database; 0: not known."""
        return max(0.0, (self.restored_from or 0.0) - COMMIT_SECONDS)

    @property
    def surely_backed_up(self) -> float:
        """Results acknowledged before this are in a backup; 0: none is known."""
        return max(0.0, (self.backed_up_at or 0.0) - COMMIT_SECONDS)

    @property
    def granted_after(self) -> float:
        """Tasks that are not in the backup were granted after this."""
        return self.restored_from or self.began_at - GRANTED_BEFORE_SECONDS

    def may_recover(self, task_id: int, now: float) -> bool:
        """Whether a task of this number may have been granted between the backup and its restore.

        False for every number in a project that was never restored.
        """
        recent = now - self.began_at < RECOVERY_SECONDS
        return self.last_task_id < task_id < self.first_task_id and recent


def first_task_id(now: float, last_given: int) -> int:
    """The first task number of an epoch that begins now, above all that were given out before."""
    return max(last_given + 1, int((now - SINCE) * TASKS_PER_SECOND_MAX))


def recoverable_results(tasks_allowed: int | None, recovered: int) -> int | None:
    """How many more results of the epoch before an account may report; None: no limit.

    tasks_allowed   tasks that its standing lets it hold; None: no limit
    recovered       results of the epoch before that it has reported
    """
    if tasks_allowed is None:
        return None
    return max(0, RECOVERED_PER_TASK * max(1, tasks_allowed) - recovered)
