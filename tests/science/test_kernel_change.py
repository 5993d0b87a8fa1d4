"""One cell of the lazy-rich map: its two phases, and the gate for a net that is not trained."""

from __future__ import annotations

from tests.science.harness import experiment, run_once

SEEDS = range(9101, 9106)


def test_small_scale_trains_rich_and_large_scale_lazy() -> None:
    for seed in SEEDS:
        rich = run_once("kernel_change", seed, alpha=0.03)
        lazy = run_once("kernel_change", seed, width=512, alpha=10.0)
        assert rich["valid"] == lazy["valid"] == 1
        assert rich["log_kernel_change"] > 0.3
        assert lazy["log_kernel_change"] < -1
        assert lazy["linear_gap"] < 0.1


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert run_once("kernel_change", 9101) == run_once("kernel_change", 9101)
    assert run_once("kernel_change", 9101) != run_once("kernel_change", 9102)


def test_a_net_that_is_not_trained_to_the_loss_is_not_valid() -> None:
    _, run = experiment("kernel_change")
    before = run.__globals__["STEPS_MAX"]  # type: ignore[attr-defined]
    run.__globals__["STEPS_MAX"] = 3  # type: ignore[attr-defined]
    try:
        assert run_once("kernel_change", 9101)["valid"] == 0
    finally:
        run.__globals__["STEPS_MAX"] = before  # type: ignore[attr-defined]
