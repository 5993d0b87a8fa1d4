"""Attaching this host to a project, and detaching it."""

from __future__ import annotations

import asyncio
import secrets
import shutil

from axiom_client.agent.lock import Lock
from axiom_client.agent.recovery import open_journal, remove_journals
from axiom_client.decide.model import TaskRecord
from axiom_client.errors import (
    AlreadyAttached,
    BundlesNotTrusted,
    HostRefused,
    JournalBroken,
    NotAttached,
    ProjectProblem,
)
from axiom_client.folders import Folders
from axiom_client.host.boot import run_place
from axiom_client.host.cores import probe_cores
from axiom_client.host.facts import probe_facts
from axiom_client.host.gpu.probe import GpuProbe
from axiom_client.host.speed import keep_speed, known_speed, measure_speed
from axiom_client.project.address import check_url
from axiom_client.project.api import Api, Network, trust
from axiom_client.project.identity import Identity, read_identity, write_identity
from axiom_client.project.slim_httpx import httpx
from axiom_protocol.messages import AgentRun, Capacity, EnrolRequest, HostFacts, Report, SyncRequest


def known_identity(folders: Folders) -> Identity:
    """This host's identity in its project. Raises NotAttached."""
    identity = read_identity(folders.identity_file)
    if identity is None:
        raise NotAttached
    return identity


async def attach(
    folders: Folders,
    url: str,
    network: Network,
    *,
    account_key: str = "",
    user: str = "",
    host_name: str = "",
    fingerprint: str | None = None,
) -> Identity:
    """Join a project: check its server, pin its signing root, register this host, save the result.

    Raises AxiomError.
    """
    url = check_url(url)
    if (known := read_identity(folders.identity_file)) is not None:
        raise AlreadyAttached(
            f"already attached to {known.project} at {known.url}; to leave it: axiom-client detach"
        )
    folders.make()
    measuring = asyncio.create_task(_measure(folders))  # at the same time, on another core
    api = Api(url, network)
    try:
        info = await api.project()
        pinned = _pin(folders, url, network, fingerprint)
        gpus = (await GpuProbe().report()).gpus
        facts = probe_facts(host_name, folders.state, gpus, await measuring)
        answer = await api.enrol(EnrolRequest(host=facts, account_key=account_key, user=user))
    finally:
        measuring.cancel()
        await asyncio.gather(measuring, return_exceptions=True)
        await api.close()
    identity = Identity(
        url=url,
        project=info.name,
        host_id=answer.host_id,
        token=answer.token,
        user=answer.user,
        account_key=answer.account_key or account_key,
        root_fingerprint=pinned,
        host_name=host_name,
    )
    write_identity(folders.identity_file, identity)
    return identity


async def _measure(folders: Folders) -> float:
    speed = await measure_speed(probe_cores().processor)
    keep_speed(folders.speed_file, speed)
    return speed.gflops


def _pin(folders: Folders, url: str, network: Network, fingerprint: str | None) -> str:
    """Pin the project's signing root; returns its fingerprint. Raises BundlesNotTrusted."""
    from axiom_client.project.bundles import BundleStore
    from axiom_client.project.refusal import BundleRefused

    shutil.rmtree(folders.bundles, ignore_errors=True)  # left by an attach that failed
    with httpx.Client(verify=trust(url, network.ca_bundle), proxy=network.proxy or None) as client:
        try:
            return BundleStore(folders.bundles, url, client).pin_root(fingerprint)
        except BundleRefused as refused:
            raise BundlesNotTrusted(
                f"the signatures of {url} cannot be trusted: {refused}; ask the project's staff"
            ) from None


async def account_link(folders: Folders, network: Network) -> tuple[str, float]:
    """A link that signs this host's owner in once: its address, and for how many seconds.

    Raises NotAttached, ProjectProblem.
    """
    identity = known_identity(folders)
    api = Api(identity.url, network, identity.token)
    try:
        link = await api.account_link()
    finally:
        await api.close()
    return identity.url.rstrip("/") + link.path, link.expires_seconds


async def detach(folders: Folders, network: Network) -> str:
    """Leave the project: send reports, give tasks back, delete the identity and the journal.

    Returns why the project could not be notified, or an empty string. Raises NotAttached,
    AlreadyRunning.
    """
    identity = known_identity(folders)
    lock = Lock(folders.lock_file)
    try:
        problem = await _send_last_request(folders, identity, network)
        for folder in (folders.tasks, folders.bundles):
            shutil.rmtree(folder, ignore_errors=True)
        remove_journals(folders.journal_file)
        folders.identity_file.unlink()
    finally:
        lock.release()
    return problem


async def _send_last_request(folders: Folders, identity: Identity, network: Network) -> str:
    """Send all reports, with unfinished tasks given back. Returns why it failed, if it did."""
    try:
        journal = open_journal(folders.journal_file)
    except JournalBroken as broken:
        return str(broken)
    try:
        contents = journal.contents()
        finished = [unsent.task_id for unsent in contents.reports]
        reports = journal.reports(finished)
        reports += [_given_back(r) for r in contents.tasks if r.grant.task_id not in finished]
    finally:
        journal.close()
    api = Api(identity.url, network, identity.token)
    try:
        answer = await api.sync(
            SyncRequest(
                request_id=f"leaving-{identity.host_id:08d}",
                capacity=Capacity(),
                reports=reports,
                draining="detached",
                run=AgentRun(
                    run=secrets.token_hex(8), place=run_place(folders.state, identity.token),
                    ending=True,
                ),
            )
        )  # fmt: skip
        if answer.identity:
            return "another agent uses this host's identity, so it keeps the host and its tasks"
        await api.detach()
    except HostRefused:
        return ""  # the project has removed this host, and its tasks with it
    except ProjectProblem as problem:
        return str(problem)
    finally:
        await api.close()
    return ""


def _given_back(record: TaskRecord) -> Report:
    return Report(
        task_id=record.grant.task_id,
        outcome="cancelled",
        elapsed_seconds=record.elapsed_seconds,
        cpu_seconds=record.cpu_seconds,
        message="given back: detached",
        attempts=record.attempts,
    )


def facts_without_gpus(host_name: str, folders: Folders) -> HostFacts:
    """The host's facts without its GPUs, to show while no agent runs."""
    speed = known_speed(folders.speed_file, probe_cores().processor)
    return probe_facts(host_name, folders.state, [], speed)
