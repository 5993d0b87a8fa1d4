"""The server and GPUs that run many seeds together: grants, deployments, credit and replicas."""

from __future__ import annotations

import pytest

from axiom_protocol.manifest import Cohort, Resources
from axiom_protocol.messages import GpuFacts, HostFacts
from axiom_server.decide.elapsed import CLOCK_TOLERANCE, GRACE_SECONDS
from axiom_server.store.tasks import GPU_RATIO_MIN, recently_ended
from axiom_server.sync.reports import PACE_WEIGHT
from tests.support.cluster import transaction
from tests.support.server_project import Host, ServerProject

MOST = 16
ON_GPU = Resources(gpus=1, memory_bytes=100_000_000, gpu_memory_bytes=1_000_000)


@pytest.fixture
def cohorts(project: ServerProject) -> ServerProject:
    """A project with an experiment for GPUs that runs up to 16 seeds together."""
    project.publish(name="gpu_walk", resources=ON_GPU, cohort=Cohort(most=MOST))
    return project


def test_one_request_fills_the_gpus_of_a_host_with_cohorts(cohorts: ServerProject) -> None:
    cohorts.deploy("gpu_walk", count=100, gpu=True)
    old = cohorts.host(gpus=2)
    assert len(old.sync(cpu=0).grants) == 2
    new = cohorts.host(gpus=2, gpu_cohort=256)
    assert len(new.sync(cpu=0).grants) == 2 * MOST
    assert len({grant.seed for grant in new.held.values()}) == 2 * MOST


def test_the_request_that_tells_of_a_gpu_already_gets_a_cohort(cohorts: ServerProject) -> None:
    """An agent finds its GPUs after it was attached, and then says so in one request."""
    cohorts.deploy("gpu_walk", count=100, gpu=True)
    host = cohorts.host()
    facts = HostFacts(
        name="late", os="linux", architecture="x86_64", cpu_cores=4, memory_bytes=16 << 30,
        disk_free_bytes=100 << 30, gpus=[GpuFacts(uuid="1", name="gpu", memory_bytes=1 << 30)],
        environments=["numpy", "torch"], gpu_cohort=256,
    )  # fmt: skip
    host.gpus = 1
    assert len(host.sync(cpu=0, host=facts).grants) == MOST


def test_fill_idle_deploys_a_cohort_to_each_gpu_and_its_host_gets_it(
    cohorts: ServerProject,
) -> None:
    small = cohorts.host(gpus=2, gpu_cohort=4)
    large = cohorts.host(gpus=1, gpu_cohort=256)
    old = cohorts.host(gpus=1)
    hosts = (small, large, old)
    for host in hosts:
        host.sync()  # nothing is deployed yet
    deployed = cohorts.deploy("gpu_walk", fill_idle=True, gpu=True)
    assert deployed.hosts == {
        large.host_id: {"cpu": 0, "gpu": MOST},
        small.host_id: {"cpu": 0, "gpu": 8},
        old.host_id: {"cpu": 0, "gpu": 1},
    }
    assert [gpu_tasks(host) for host in hosts] == [8, MOST, 1]
    again = cohorts.deploy("gpu_walk", fill_idle=True, gpu=True)
    assert again.workunits == 0


def gpu_tasks(host: Host) -> int:
    """What a host has in hand after a sync in which it asks for GPUs only."""
    host.sync(cpu=0)
    return len(host.held)


def finish_cohort(project: ServerProject, seconds: float) -> tuple[Host, int]:
    """Report a cohort 320 s after its grant, with so many seconds for each member; all but the last
    succeed. Returns the host and the seed of the last."""
    project.deploy("gpu_walk", count=MOST, gpu=True)
    host = project.host("ann", cores=1, gpus=1, gpu_cohort=MOST)
    host.sync(cpu=0)
    project.later(320)
    *good, bad = host.held.values()
    host.sync([*(host.success(g, seconds) for g in good), host.failure(bad, seconds)], cpu=0)
    project.review()
    return host, bad.seed


def test_members_are_credited_apart_with_their_shares(cohorts: ServerProject) -> None:
    host, failed = finish_cohort(cohorts, 20.0)
    rows = cohorts.rows("SELECT elapsed_seconds, amount FROM credit")
    assert [(seconds, float(amount)) for seconds, amount in rows] == [(20.0, 2.0)] * (MOST - 1)
    assert [grant.seed for grant in host.held.values()] == [failed]  # granted again
    assert not cohorts.rows("SELECT FROM mismatches")


def test_fast_seeds_on_a_gpu_do_not_make_tasks_on_cores_seem_slow(cohorts: ServerProject) -> None:
    """The watchdog would stop an experiment on cores as one that takes too long."""
    host, _ = finish_cohort(cohorts, 0.001)
    pace = "SELECT pace FROM hosts WHERE host_id = %s"
    assert cohorts.value(pace, host.host_id) == 1.0
    cohorts.deploy("short_walk", count=1)
    host.sync()
    [grant] = [grant for grant in host.held.values() if grant.device == "cpu"]
    cohorts.later(60)
    host.sync([host.success(grant, 3.0)], cpu=0)  # one second is declared
    assert cohorts.value(pace, host.host_id) == pytest.approx(1.0 + PACE_WEIGHT * 2.0)


def test_seeds_that_a_gpu_computes_at_once_stop_no_experiment(cohorts: ServerProject) -> None:
    """Each took a thousandth of the declared seconds; an experiment that does nothing does too."""
    finish_cohort(cohorts, 0.0004)  # one second is declared
    version = cohorts.value("SELECT version_id FROM versions WHERE manifest->>'name' = 'gpu_walk'")
    seen = transaction(cohorts.conninfo, lambda c: recently_ended(c, version, known=False))
    assert {task.ratio for task in seen if not task.fault} == {GPU_RATIO_MIN}
    assert cohorts.rows("SELECT DISTINCT state FROM versions") == [("active",)]


def test_members_that_each_claim_the_whole_time_get_only_what_passed(
    cohorts: ServerProject,
) -> None:
    finish_cohort(cohorts, 310.0)
    accepted = cohorts.value("SELECT sum(elapsed_seconds) FROM tasks")
    assert accepted <= 2 * (320.0 * CLOCK_TOLERANCE + GRACE_SECONDS + 1.0)  # a core and a GPU
    assert len(cohorts.rows("SELECT FROM mismatches")) == 1


def test_copies_of_a_gpus_results_are_made_on_gpus(cohorts: ServerProject) -> None:
    cohorts.deploy("gpu_walk", count=MOST, gpu=True)
    first = cohorts.host("ann", gpus=1, gpu_cohort=MOST)
    on_cores, on_gpu = cohorts.host("ben", cores=64), cohorts.host("cai", gpus=1)
    first.sync(cpu=0)
    cohorts.later(60)
    first.succeed_all(cpu=0)
    for host in (on_cores, on_gpu):
        host.sync(cpu=0)  # live
    cohorts.round()
    placed = cohorts.rows("SELECT DISTINCT host_id, device, purpose FROM queue")
    assert placed == [(on_gpu.host_id, "gpu", "replica")]
