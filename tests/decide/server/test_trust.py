"""Replication, comparison, retries and the watchdog."""

from __future__ import annotations

from dataclasses import replace

import pytest

from axiom_protocol.manifest import Field, Manifest
from axiom_server.decide import replicate, retry, validate, watchdog
from axiom_server.decide.replicate import Need, Opinion, ReplicationPolicy
from axiom_server.decide.watchdog import Ended, Twin

POLICY = ReplicationPolicy()
MANIFEST = Manifest(
    name="known", version="1.0.0", title="Known", question="Is it?", expected_seconds=1.0,
    result={
        "valid": Field(kind="flag"), "configs_done": Field(kind="integer"),
        "x": Field(rtol=1e-6), "huge": Field(rtol=1e-6), "noise": Field(chaotic=True),
    },
)  # fmt: skip
NEED = Need(workunit_id=1, device="cpu", environment="numpy", memory_bytes=1, users=frozenset({1}))
HOST = Opinion(
    host_id=10, user_id=2, slots=4, gpus=0, memory_bytes=8, trusted=False,
    environments=frozenset({"numpy"}),
)  # fmt: skip


def opinion(task_id: int, x: float, noise: float = 0.0) -> validate.Opinion:
    result = {"valid": 1, "configs_done": 1, "x": x, "huge": 1e12, "noise": noise}
    return validate.Opinion(task_id=task_id, host_id=task_id, result=result)


def test_new_hosts_are_checked_always_trusted_ones_in_one_of_fifty() -> None:
    assert all(replicate.wants_replica(POLICY, 9, draw / 1000) for draw in range(1000))
    checked = sum(replicate.wants_replica(POLICY, 10, draw / 1000) for draw in range(1000))
    assert checked == 20


def test_a_replica_goes_to_another_user_and_the_least_loaded_host() -> None:
    mine = replace(HOST, host_id=9, user_id=1)
    busy = replace(HOST, host_id=11, asked=8)
    placed, nowhere = replicate.place([NEED], [mine, busy, HOST])
    assert (placed, nowhere) == ([(NEED, 10)], [])


@pytest.mark.parametrize(
    "host",
    [
        replace(HOST, user_id=1),
        replace(HOST, user_id=None),
        replace(HOST, memory_bytes=0),
        replace(HOST, environments=frozenset({"torch"})),
    ],
)
def test_where_nobody_fits_a_result_stands_alone(host: Opinion) -> None:
    assert replicate.place([NEED], [host]) == ([], [NEED])
    gpu = replace(NEED, device="gpu")
    assert replicate.place([gpu], [HOST]) == ([], [gpu])


def test_a_wrong_seed_is_seen_beside_a_large_entry() -> None:
    """A cosine over the whole vector would call these equal."""
    decision = validate.compare(MANIFEST, [opinion(1, 0.5), opinion(2, 0.6)])
    assert decision.verdict == "disputed"
    assert decision.note.startswith("x:")


def test_last_digits_and_chaotic_fields_may_differ() -> None:
    pair = [opinion(1, 0.5, noise=1.0), opinion(2, 0.5 + 1e-9, noise=9.0)]
    assert validate.compare(MANIFEST, pair).agreeing == (1, 2)


def test_a_third_opinion_finds_the_outlier() -> None:
    decision = validate.compare(MANIFEST, [opinion(1, 0.9), opinion(2, 0.5), opinion(3, 0.5)])
    assert decision.agreeing == (2, 3)
    assert [task for task, _ in decision.outliers] == [1]


def test_when_no_two_of_three_agree_nobody_is_blamed() -> None:
    decision = validate.compare(MANIFEST, [opinion(1, 0.9), opinion(2, 0.5), opinion(3, 0.1)])
    assert (decision.verdict, decision.outliers) == ("unsettled", ())


@pytest.mark.parametrize(
    ("outcome", "refused", "attempt", "again", "next_attempt"),
    [
        ("success", False, 1, False, 1),
        ("success", True, 1, True, 2),
        ("failed", False, 1, True, 2),
        ("failed", False, 6, False, 7),
        ("lost", False, 6, True, 6),
        ("cancelled", False, 3, True, 3),
    ],
)
def test_what_becomes_of_a_workunit(
    outcome: str, refused: bool, attempt: int, again: bool, next_attempt: int
) -> None:
    decision = retry.after(outcome, refused, attempt)  # type: ignore[arg-type]
    assert (decision.again, decision.attempt) == (again, next_attempt)


def test_failures_count_until_a_success_and_not_while_spared() -> None:
    assert retry.failing_after(2, "failed", False, spared=False) == 3
    assert retry.failing_after(2, "failed", False, spared=True) == 2
    assert retry.failing_after(2, "cancelled", False, spared=False) == 2
    assert retry.failing_after(2, "success", False, spared=False) == 0
    assert retry.failing_after(0, "success", True, spared=False) == 1


def ended(faults: int, successes: int, hosts: int = 3, ratio: float = 1.0) -> list[Ended]:
    tasks = [Ended(host_id=i % hosts, fault=True, ratio=0.0) for i in range(faults)]
    return tasks + [Ended(host_id=i % hosts, fault=False, ratio=ratio) for i in range(successes)]


@pytest.mark.parametrize(
    ("recent", "kind"),
    [
        (ended(2, 8), "error_rate"), (ended(1, 9), None), (ended(5, 4), None),
        (ended(0, 10, ratio=11.0), "runtime"), (ended(0, 10, ratio=0.0005), "runtime"),
        (ended(0, 10, ratio=5.0), None), (ended(10, 0, hosts=1), "error_rate"),
    ],
)  # fmt: skip
def test_the_watchdog(recent: list[Ended], kind: str | None) -> None:
    alarm = watchdog.watch(recent)
    assert (alarm.kind if alarm else None) == kind


def test_one_bad_host_does_not_stop_an_experiment() -> None:
    recent = [Ended(host_id=1, fault=True, ratio=0.0)] * 5
    recent += [Ended(host_id=2, fault=False, ratio=1.0)] * 20
    assert watchdog.watch(recent) is None


def twin(seeds: set[int], hosts: set[int]) -> Twin:
    return Twin(seeds=frozenset(seeds), hosts=frozenset(hosts), users=frozenset(hosts))


def test_same_numbers_for_different_seeds() -> None:
    assert watchdog.same_results([], 3) == ([], None)
    assert watchdog.same_results([twin({1, 2}, {7})], 3) == ([7], None)
    suspects, alarm = watchdog.same_results([twin({1, 2}, {7, 8})], 3)
    assert alarm is not None
    assert (suspects, alarm.kind) == ([], "same_result")
    assert watchdog.same_results([twin({1, 2}, {7})], 1)[1] is not None
