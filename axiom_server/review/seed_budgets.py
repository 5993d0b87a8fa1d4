"""Spend seed budgets: issue the seeds that are expected to decide most findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import structlog

from axiom_protocol.manifest import Finding, Parameters
from axiom_protocol.text import counted
from axiom_protocol.verdicts.findings import DECIDED_LOG_E
from axiom_server.decide.seeds import OpenFinding, Question, SeedDecision, decide_seeds
from axiom_server.review.judging import judge_all
from axiom_server.review.log import FindingLine
from axiom_server.store import experiments, seed_budgets, workunits
from axiom_server.store.database import Connection
from axiom_server.store.experiments import VersionRow
from axiom_server.store.seed_budgets import BudgetRow
from axiom_server.store.workunits import NewWorkunits

UNDECIDED = ("insufficient", "preliminary")

log = structlog.get_logger()


async def spend(connection: Connection) -> None:
    """Take the next step of every open budget whose issued workunits have all returned."""
    budgets = await seed_budgets.open_budgets(connection)
    if not budgets:
        return
    lines = await judge_all(connection)
    for budget in budgets:
        await _step(connection, budget, lines)


async def _step(connection: Connection, budget: BudgetRow, lines: Sequence[FindingLine]) -> None:
    every = await experiments.versions_by_id(connection, budget.versions)
    versions = {v.version_id: v for v in every if v.state == "active"}
    sets: dict[int, Parameters] = {}
    questions: list[Question] = []
    for version in versions.values():
        mine = {line.name: line for line in lines if line.experiment == version.name}
        questions += await _questions(connection, version, mine, len(lines), sets)
    decision = decide_seeds(questions, budget.left)
    if decision.question is None:
        await seed_budgets.set_reason(
            connection, budget.budget_id, decision.reason, close=decision.close
        )
        return
    await _issue(connection, budget, versions[decision.question.version_id], decision, sets)


async def _questions(
    connection: Connection, version: VersionRow, lines: Mapping[str, FindingLine], together: int,
    sets: dict[int, Parameters],
) -> list[Question]:  # fmt: skip
    """The version's undecided findings, by parameter set; the sets are added to ``sets``."""
    grouped: dict[int, list[Finding]] = {}
    for finding in version.manifest.findings:
        found = await experiments.parameters_id(
            connection, version.version_id, finding.where, version.manifest.expected_seconds
        )
        sets[found] = finding.where
        grouped.setdefault(found, []).append(finding)
    return [
        Question(
            version_id=version.version_id, parameters=parameters,
            findings=[
                _open(lines[f.name]) for f in findings if _is_open(lines.get(f.name), together)
            ],
            out=max((lines[f.name].out for f in findings if f.name in lines), default=0),
            pending=max((lines[f.name].pending for f in findings if f.name in lines), default=0),
        )
        for parameters, findings in grouped.items()
    ]  # fmt: skip


def _is_open(line: FindingLine | None, together: int) -> bool:
    """Whether more seeds may decide the finding.

    Among ``together`` findings, evidence of ``enough`` decides each. A finding with that much
    evidence and no verdict is held back by another condition, which seeds do not change.
    """
    enough = DECIDED_LOG_E + math.log(max(1, together))
    return line is not None and line.verdict in UNDECIDED and _open(line).log_e < enough


def _open(line: FindingLine) -> OpenFinding:
    leading = max(line.log_e_for or 0.0, line.log_e_against or 0.0)
    missing = sum((line.missing or {}).values())
    return OpenFinding(name=line.name, seeds=line.seeds + missing, log_e=leading)


async def _issue(
    connection: Connection, budget: BudgetRow, version: VersionRow, decision: SeedDecision,
    sets: Mapping[int, Parameters],
) -> None:  # fmt: skip
    assert decision.question is not None
    wanted = NewWorkunits(
        version_id=version.version_id, parameters_id=decision.question.parameters,
        device="gpu" if version.manifest.resources.gpus else "cpu", host_id=None,
        count=decision.seeds,
    )  # fmt: skip
    new = await experiments.mark_used(connection, [version.experiment_id])
    line = {
        "name": version.name, "version": version.version, "version_id": version.version_id,
        "title": version.manifest.title, "workunits": decision.seeds, "new": bool(new),
    }  # fmt: skip
    record = {
        "experiments": [line], "hosts": [], "pool": decision.seeds,
        "parameters": [sets[decision.question.parameters]], "budget": budget.budget_id,
    }  # fmt: skip
    deployment_id = await workunits.deploy(connection, "pool", [wanted], 0.0, record)
    await seed_budgets.add_batch(
        connection, budget.budget_id, deployment_id, version.version_id, decision.seeds,
        decision.findings,
    )  # fmt: skip
    log.info("seeds issued", experiment=version.name, seeds=decision.seeds,
             findings=decision.findings)  # fmt: skip


async def descriptions(connection: Connection) -> list[str]:
    """One line for each budget, for the session log: seeds issued and saved."""
    return [_describe(budget) for budget in await seed_budgets.listing(connection)]


def _describe(budget: BudgetRow) -> str:
    text = (
        f"{', '.join(budget.names)}: {budget.issued:,} of {counted(budget.seeds, 'seed')} issued "
        f"in {counted(budget.batches, 'batch', 'batches')}"
    )
    if budget.state == "closed":
        return f"{text}; {budget.reason}; {budget.left:,} saved"
    return f"{text}; {budget.reason}" if budget.reason else f"{text}; being computed"
