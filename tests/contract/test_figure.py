"""Figures: every declared kind is drawn from one result and from many, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axiom_protocol.figure import FigureError, draw, series_of
from axiom_protocol.manifest import Manifest, manifest_from_table
from axiom_protocol.result import Result, gate

pytest.importorskip("matplotlib")

PNG = b"\x89PNG\r\n\x1a\n"
NUMBER: dict[str, Any] = {"kind": "number"}
CURVE: dict[str, Any] = {"kind": "number", "dims": 1}

FIGURES: list[dict[str, Any]] = [
    {"name": "curves", "x": "runs.step", "y": ["runs.loss"], "label": "lr {rate:g}"},
    {"name": "arms", "x": "step", "y": ["runs.loss", "runs.other"], "legend": ["a", "b"]},
    {"name": "fields", "x": "step", "y": ["mean", "floor"], "y_scale": "log", "x_mark": [1.0]},
    {"name": "dots", "kind": "points", "x": "runs.rate", "y": ["runs.peak"]},
    {"name": "rows", "kind": "bars", "x": "runs.rate", "y": ["runs.peak", "runs.width"]},
    {"name": "singles", "kind": "bars", "x": "valid", "y": ["valid", "configs_done"]},
    {"name": "plane", "kind": "map", "x": "runs.rate", "y": ["runs.width"], "z": "runs.peak"},
]


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    figures = [{"title": f"costs $5 and_more: {f['name']}", **f} for f in FIGURES]
    record = dict.fromkeys(("rate", "width", "peak"), NUMBER)
    record |= dict.fromkeys(("step", "loss", "other"), CURVE)
    return manifest_from_table(
        {
            "name": "drawn",
            "version": "1.0.0",
            "title": "Drawn",
            "question": "Is it drawn?",
            "expected_seconds": 1,
            "result": {
                "valid": {"kind": "flag"},
                "configs_done": {"kind": "integer"},
                "step": CURVE,
                "mean": CURVE,
                "floor": CURVE,
                "runs": {"kind": "records", "fields": record},
            },
            "figures": figures,
        },
        ["numpy"],
    )


def result(manifest: Manifest, seed: int, runs: int = 6, valid: int = 1) -> Result:
    rng = np.random.default_rng(seed)
    step = [0.0, 1.0, 2.0, 3.0]
    rows = [
        {
            "rate": 0.1 * (1 + i % 3),
            "width": float(2 ** (4 + i // 3)),
            "peak": float(rng.uniform(1, 5)),
            "step": step,
            "loss": [float(v) for v in rng.uniform(0, 1, 4)],
            "other": [float(v) for v in rng.uniform(1, 2, 4)],
        }
        for i in range(runs)
    ]
    fields = {"mean": [1.0, 0.5, 0.1, 0.01], "floor": [1.0, 0.0, 0.0, -1.0], "step": step}
    return gate(manifest, {"valid": valid, "configs_done": runs, "runs": rows, **fields})


@pytest.mark.parametrize("name", [f["name"] for f in FIGURES])
@pytest.mark.parametrize("count", [1, 3])
def test_each_kind_is_drawn(manifest: Manifest, tmp_path: Path, name: str, count: int) -> None:
    path = tmp_path / "out.png"
    draw(manifest, [result(manifest, seed) for seed in range(count)], path, name)
    picture = path.read_bytes()
    assert picture.startswith(PNG)
    assert int.from_bytes(picture[16:20], "big") >= 900  # pixels wide


def test_all_figures_go_into_one_file_with_a_panel_each(manifest: Manifest, tmp_path: Path) -> None:
    draw(manifest, [result(manifest, 1)], tmp_path / "one.png", "curves")
    draw(manifest, [result(manifest, 1)], tmp_path / "all.png")
    heights = [
        int.from_bytes((tmp_path / f).read_bytes()[20:24], "big") for f in ("one.png", "all.png")
    ]
    assert heights[1] == pytest.approx(len(FIGURES) * heights[0], rel=0.01)


def test_the_ending_chooses_the_format(manifest: Manifest, tmp_path: Path) -> None:
    draw(manifest, [result(manifest, 1)], tmp_path / "out.svg", "curves")
    assert "<svg" in (tmp_path / "out.svg").read_text()


def test_results_that_ran_fewer_configurations_are_drawn_with_the_others(
    manifest: Manifest, tmp_path: Path
) -> None:
    draw(manifest, [result(manifest, 1), result(manifest, 2, runs=2)], tmp_path / "out.png")


def test_a_failed_run_is_left_out_while_another_passed(manifest: Manifest, tmp_path: Path) -> None:
    passed, failed = result(manifest, 1), result(manifest, 2, valid=0)
    draw(manifest, [passed], tmp_path / "alone.png")
    draw(manifest, [passed, failed], tmp_path / "both.png")
    draw(manifest, [failed], tmp_path / "failed.png")
    alone, both, only = ((tmp_path / f"{n}.png").read_bytes() for n in ("alone", "both", "failed"))
    assert alone == both
    assert alone != only


def test_a_line_for_each_record(manifest: Manifest) -> None:
    series = series_of(manifest.figures[0], result(manifest, 1))
    assert [s.label for s in series][:3] == ["lr 0.1", "lr 0.2", "lr 0.3"]
    assert [len(s.y) for s in series] == [4] * 6


def test_records_of_one_number_become_one_line_in_order_of_x(manifest: Manifest) -> None:
    (series,) = series_of(manifest.figures[3], result(manifest, 1))
    assert list(series.x) == sorted(series.x)
    assert len(series.x) == 6


def test_an_unknown_figure_is_refused_by_name(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(FigureError, match="no figure 'plot'; it has: curves, arms"):
        draw(manifest, [result(manifest, 1)], tmp_path / "out.png", "plot")


@pytest.mark.parametrize("name", ["curves", "dots", "rows", "plane"])
def test_results_with_empty_lists_are_refused(
    manifest: Manifest, tmp_path: Path, name: str
) -> None:
    with pytest.raises(FigureError, match=f"figure '{name}' has nothing to draw"):
        draw(manifest, [result(manifest, 1, runs=0)], tmp_path / "out.png", name)


def test_no_result_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(FigureError, match="no result"):
        draw(manifest, [], tmp_path / "out.png")
