"""The agent's state from its journal, to show while no agent runs."""

from __future__ import annotations

import time
from contextlib import closing

from axiom_client.agent.attach import facts_without_gpus, known_identity
from axiom_client.agent.journal import Journal, JournalContents
from axiom_client.agent.recovery import visible_damage
from axiom_client.cli.shared import load
from axiom_client.config.schema import Config
from axiom_client.control.server import request_snapshot
from axiom_client.control.snapshot import Membership, Snapshot, snapshot
from axiom_client.decide import events as e
from axiom_client.decide.agent import step
from axiom_client.decide.model import AgentState, Incident
from axiom_client.decide.update import describe
from axiom_client.errors import JournalDamaged, NotRunning
from axiom_client.folders import Folders
from axiom_client.host.clock import utc_offset_seconds
from axiom_client.releases.folder import ReleaseFolder


def offline_snapshot(folders: Folders, config: Config) -> Snapshot:
    """A snapshot of the tasks and reports in the journal. Raises NotAttached."""
    identity = known_identity(folders)
    contents, damage = _contents(folders)
    now = time.monotonic()
    started = e.AgentStarted(
        now=now,
        wall=time.time(),
        utc_offset_seconds=utc_offset_seconds(),
        instance="offline",
        limits=config.limits(),
        control=config.account_control(),
        account=contents.account,
        mode=contents.mode,
        modes=contents.modes,
        tasks=contents.tasks,
        reports=contents.reports,
        pause=contents.pause,
        gpu_pauses=contents.gpu_pauses,
        credit=contents.credit,
        credit_day=contents.credit_day,
        incident=Incident(text=damage, wall=time.time()) if damage else contents.incident,
    )
    state, _ = step(AgentState(), started)
    state.facts = facts_without_gpus(config["host.name"] or identity.host_name, folders)
    who = Membership(
        project=identity.project,
        url=identity.url,
        host_id=identity.host_id,
        user=identity.user,
    )
    updates = describe(ReleaseFolder(folders.releases).record(), "")
    return snapshot(state, who, now, running=False, updates=updates)


def _contents(folders: Folders) -> tuple[JournalContents, str]:
    """The journal's contents, and what is wrong with it; an agent repairs it when it starts."""
    path = folders.journal_file
    try:
        if problem := visible_damage(path):
            raise JournalDamaged(path, problem)
        if not path.exists():
            return JournalContents(), ""
        with closing(Journal(path)) as journal:
            return journal.contents(), ""
    except JournalDamaged as damage:
        return JournalContents(), str(damage)


def known_snapshot(folders: Folders) -> Snapshot:
    """The running agent's snapshot, else one from its journal. Raises NotAttached."""
    try:
        return request_snapshot(folders.control_socket)
    except NotRunning:
        return offline_snapshot(folders, load(folders))
