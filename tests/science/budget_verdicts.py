"""How often verdicts are false when a budget chooses which seeds are issued and when to stop.

A project has QUESTIONS experiments of four findings each, some true, some on their border, some
false. After each batch all findings are decided together, as the server does it, and the server's
``decide_seeds`` decides which experiment gets how many seeds next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from axiom_protocol.verdicts.evidence import NOTHING, Evidence, weigh
from axiom_protocol.verdicts.findings import SEEDS_MIN, Decision, decide
from axiom_protocol.verdicts.fixed_rule import fixed_verdict
from axiom_server.decide.seeds import OpenFinding, Question, decide_seeds
from tests.science.verdicts import AGAINST, CONFIRMED, DECIDED, Row, beta, meeting, normal, skewed

QUESTIONS = 5
BUDGET = 600  # seeds
SEED = 20_261_128

#: Two findings on their border, one that fails by little, and one that is true.
FINDINGS = (
    Row(name="mean on the criterion", draw=beta(2, 2), above=0.5, bounds=(0, 1), min_share=0,
        false=AGAINST | CONFIRMED),
    Row(name="mean on the criterion, 90 % of seeds meet", draw=skewed(), above=0, bounds=(-1, 1),
        false=AGAINST | CONFIRMED),
    Row(name="85 % of seeds meet, 90 claimed", draw=meeting(0.85), above=0, bounds=(-1, 2),
        false=DECIDED),
    Row(name="true", draw=normal(5), above=0, false=AGAINST),
)  # fmt: skip


@dataclass
class Project:
    """Its seeds by experiment, drawn as they are issued."""

    rng: np.random.Generator
    left: int = BUDGET
    values: list[list[np.ndarray]] = field(
        default_factory=lambda: [[np.empty(0) for _ in FINDINGS] for _ in range(QUESTIONS)]
    )

    def evidence(self) -> list[Evidence]:
        return [
            weigh(*row.claim(), values, 0) if len(values) >= SEEDS_MIN else NOTHING
            for of_one in self.values
            for row, values in zip(FINDINGS, of_one, strict=True)
        ]

    def issue(self, question: int, seeds: int) -> None:
        self.left -= seeds
        self.values[question] = [
            np.concatenate([old, row.draw(self.rng, seeds)])
            for row, old in zip(FINDINGS, self.values[question], strict=True)
        ]


def questions(project: Project, found: list[Evidence], decided: list[Decision]) -> list[Question]:
    """The undecided findings, as the server passes them to ``decide_seeds``."""
    size = len(FINDINGS)
    return [
        Question(
            version_id=i, parameters=0,
            findings=[
                OpenFinding(
                    name=str(k), seeds=len(project.values[i][k]),
                    log_e=max(found[i * size + k].confirming, found[i * size + k].refuting, 0.0),
                )
                for k in range(size) if decided[i * size + k] == "open"
            ],
        )
        for i in range(QUESTIONS)
    ]  # fmt: skip


def spent(project: Project) -> Iterator[list[Decision]]:
    """The decisions after each batch, until the budget is closed."""
    while True:
        found = project.evidence()
        decided = decide(found)
        yield decided
        step = decide_seeds(questions(project, found, decided), project.left)
        if step.question is None:
            return
        project.issue(step.question.version_id, step.seeds)


def budget_rates(paths: int) -> tuple[float, float, float]:
    """Shares: of projects that the old rule and the new ever decide anything falsely in, by the
    same seeds; and on average of what the new rule decided in the end, of what is false.
    """
    old = new = 0
    shares = []
    for path in range(paths):
        project = Project(np.random.default_rng([SEED, path]))
        ever_old = ever_new = False
        decided: list[Decision] = []
        for decided in spent(project):
            ever_new |= any(_false(decided))
            ever_old |= _old_is_false(project)
        old, new = old + ever_old, new + ever_new
        shares.append(sum(_false(decided)) / max(1, sum(d != "open" for d in decided)))
    return old / paths, new / paths, float(np.mean(shares))


def _false(decided: list[Decision]) -> list[bool]:
    rows = [row for _ in range(QUESTIONS) for row in FINDINGS]
    return [decision in row.false for row, decision in zip(rows, decided, strict=True)]


def _old_is_false(project: Project) -> bool:
    return any(
        fixed_verdict(row.claim()[1], values.tolist()) in row.false
        for of_one in project.values
        for row, values in zip(FINDINGS, of_one, strict=True)
    )
