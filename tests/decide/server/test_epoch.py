"""Task numbers of an epoch, and limits on recovered results."""

from __future__ import annotations

from axiom_server.decide.epoch import (
    RECOVERY_SECONDS,
    SINCE,
    Epoch,
    first_task_id,
    recoverable_results,
)

NOW = SINCE + 1e7


def test_the_numbers_of_an_epoch_lie_above_all_that_can_have_been_used() -> None:
    first = first_task_id(NOW, 500)
    assert first > 500 + 1_000_000
    assert first_task_id(NOW + 60, 500) >= first + 60 * 10_000  # of the same backup, once more


def test_a_clock_that_is_wrong_gives_out_no_number_twice() -> None:
    assert first_task_id(0.0, 10**12) == 10**12 + 1


def test_only_numbers_between_backup_and_restore_are_recovered_and_not_for_ever() -> None:
    epoch = Epoch(epoch="e", began_at=NOW, last_task_id=100, first_task_id=1000)
    assert [epoch.may_recover(n, NOW) for n in (100, 101, 999, 1000)] == [False, True, True, False]
    assert not epoch.may_recover(500, NOW + RECOVERY_SECONDS)
    never = Epoch(epoch="e", began_at=NOW, last_task_id=100, first_task_id=101)
    assert not any(never.may_recover(n, NOW) for n in (100, 101, 102))


def test_recoverable_results_grow_with_the_tasks_that_an_account_may_hold() -> None:
    assert recoverable_results(None, 10**6) is None
    assert recoverable_results(8, 0) == 160
    assert recoverable_results(8, 200) == 0
    assert recoverable_results(0, 0) == 20
