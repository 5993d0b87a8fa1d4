"""How much credit a result earns, by the policy in project.toml (default: tiers)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta, Struct

SECONDS_PER_DAY = 86400.0
COBBLESTONES_PER_GFLOPS_DAY = 200.0  # BOINC's definition of a credit
HALF_LIFE_DAYS = 7.0  # BOINC's, of recent average credit
SMALLEST_AMOUNT = Decimal("0.001")  # of the ledger


class Tier(Struct, frozen=True, forbid_unknown_fields=True):
    """Results of at least this many elapsed seconds earn this much."""

    min_elapsed_seconds: Annotated[float, Meta(ge=0)]
    credit: Annotated[float, Meta(ge=0)]


DEFAULT_TIERS = (Tier(0, 2), Tier(100, 5), Tier(1_000, 10), Tier(10_000, 15))


class CreditPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much credit a result earns.

    kind                  tiers: by elapsed seconds; flops: 200 credits per GFLOPS-day of a slot;
                          workunit: the same for every result
    tiers                 ascending; the first starts at 0
    gflops_per_slot       assumed speed of a slot, for kind flops
    credit_per_workunit   for kind workunit
    cap_per_user          the most that one user earns in one review; 0: no cap
    """

    kind: Literal["tiers", "flops", "workunit"] = "tiers"
    tiers: tuple[Tier, ...] = DEFAULT_TIERS
    gflops_per_slot: Annotated[float, Meta(gt=0)] = 4.0
    credit_per_workunit: Annotated[float, Meta(ge=0)] = 5.0
    cap_per_user: Annotated[float, Meta(ge=0)] = 0.0

    def refusal(self) -> str | None:
        """Why this policy is not valid, or None when it is."""
        starts = [tier.min_elapsed_seconds for tier in self.tiers]
        if self.kind == "tiers" and (not starts or starts[0] != 0):
            return "the first tier must start at 0 seconds"
        if starts != sorted(set(starts)):
            return "tiers must ascend in min_elapsed_seconds"
        return None


@dataclass(frozen=True, kw_only=True)
class Earning:
    """One accepted result. ``cpu_seconds`` is None where it is not known (imports)."""

    task_id: int
    user_id: int | None
    host_id: int
    elapsed_seconds: float
    cpu_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class CreditDecision:
    """The credit of one task, and in ``note`` why it is less than the policy's amount."""

    task_id: int
    amount: Decimal
    note: str = ""


def tier_of(policy: CreditPolicy, elapsed_seconds: float) -> int:
    """The index of the tier that an elapsed time falls into."""
    return max(
        i for i, tier in enumerate(policy.tiers) if tier.min_elapsed_seconds <= elapsed_seconds
    )


def amount(policy: CreditPolicy, elapsed_seconds: float) -> Decimal:
    """The policy's credit for an elapsed time, before any cap."""
    if policy.kind == "tiers":
        paid = policy.tiers[tier_of(policy, elapsed_seconds)].credit
    elif policy.kind == "flops":
        days = elapsed_seconds / SECONDS_PER_DAY
        paid = COBBLESTONES_PER_GFLOPS_DAY * policy.gflops_per_slot * days
    else:
        paid = policy.credit_per_workunit
    return Decimal(repr(paid)).quantize(SMALLEST_AMOUNT)


def decide(policy: CreditPolicy, earnings: Sequence[Earning]) -> list[CreditDecision]:
    """Decide the credit of each result, in order of task id, so that the cap cuts the latest."""
    cap = Decimal(repr(policy.cap_per_user))
    so_far: dict[int | None, Decimal] = {}
    made = []
    for earning in sorted(earnings, key=lambda e: e.task_id):
        note = ""
        paid = Decimal(0)
        if earning.elapsed_seconds <= 0 or earning.cpu_seconds == 0:
            note = "no work: it took no time"
        else:
            paid = amount(policy, earning.elapsed_seconds)
            if cap and (left := cap - so_far.get(earning.user_id, Decimal(0))) < paid:
                paid, note = max(left, Decimal(0)), "the cap of this review is reached"
        so_far[earning.user_id] = so_far.get(earning.user_id, Decimal(0)) + paid
        made.append(CreditDecision(task_id=earning.task_id, amount=paid, note=note))
    return made


def decayed(average: float, seconds: float) -> float:
    """Recent average credit per day, ``seconds`` after it was last updated."""
    return average * math.exp(-math.log(2) * max(0.0, seconds) / (HALF_LIFE_DAYS * SECONDS_PER_DAY))


def averaged(average: float, seconds: float, earned: float) -> float:
    """Recent average credit per day after ``earned`` more over the last ``seconds``.

    BOINC's update_average (lib/util.cpp): exponential, with its limit when no time has passed.
    """
    if seconds <= 0:
        return average + math.log(2) * earned / HALF_LIFE_DAYS
    days = seconds / SECONDS_PER_DAY
    exponent = -math.log(2) * days / HALF_LIFE_DAYS
    return average * math.exp(exponent) - math.expm1(exponent) * earned / days
