"""Feature learning: when does a network learn features, and when only a linear read-out of them?

    axiom-client try experiments/feature_learning_phase.py --seed 1 --plot feature_phase.png

Chizat, Oyallon & Bach 2019 (NeurIPS) multiply a network's centred output by alpha:

    F(x) = alpha (f(w, x) - f(w0, x)).

With a large alpha any target is reached after a tiny movement of the weights, so the network stays
on its tangent plane: the lazy phase, a kernel machine whose kernel was drawn at random. With a
small alpha the weights must move far, and the kernel turns towards the target: the rich phase, in
which features are learnt. Geiger, Spigler, Jacot & Wyart 2020 (J. Stat. Mech.) drew the phases over
width h and alpha, with the border along alpha ~ h^-1/2. In the lazy phase the weights move by |w -
w0| / |w0| ~ 1 / (alpha sqrt(h)), which gives two slopes to test: -1 in alpha and -1/2 in width. In
the rich phase of a net of two layers the weights themselves set the scale of the output, |w|^2 ~ 1
/ alpha: the slope is -1/2.

The task is y = x1 x2 on a sphere: no linear function of the inputs helps, and a net that finds the
two relevant directions does better than a kernel that uses all six. Every net is trained by
gradient flow (small adaptive Euler steps) to the same loss, so that cells of the map differ only by
alpha and width. One run repeats the map for several tasks and initial weights.

The extremes are the controls: the laziest cell must keep its kernel and follow the linearised
network, the richest must not. The map does not show that rich is better everywhere: it is better
here because the target has low rank (Atanasov, Bordelon & Pehlevan 2022, ICLR).
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]  # torch on GPUs only
#
# [tool.axiom]
# name = "feature_learning_phase"
# version = "1.2.0"
# title = "Lazy and rich phases over width and output scale"
# question = "At which width and output scale does training change the features of a network?"
# rationale = [
#   "Shows when networks learn features, as the rank and simplicity findings presume.",
#   "The lazy phase has exponents known from theory, so the measurement tests itself.",
#   "Training to a fixed loss removes the confound of training time from every comparison.",
#   "Small nets by manual gradients: a map of 54 cells costs seconds on one core.",
# ]
# references = [
#   "Chizat, Oyallon & Bach 2019, NeurIPS: on lazy training in differentiable programming",
#   "Geiger, Spigler, Jacot & Wyart 2020, J. Stat. Mech. 113301: feature and lazy training",
#   "Atanasov, Bordelon & Pehlevan 2022, ICLR: neural networks as kernel learners",
# ]
# resources = { cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 10_000_000 }
# expected_seconds = 32
#
# [tool.axiom.parameters.samples]
# default = 128
# min = 16
# max = 1024
# about = "training samples; above the 21 quadratic monomials of six inputs"
#
# [tool.axiom.parameters.target_loss]
# default = 0.05
# min = 1e-4
# max = 0.5
# about = "mean squared error, relative to the variance of the targets, at which training stops"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "all cells reached the loss, beat chance; extremes differ" }
# configs_done = { kind = "integer", min = 1, about = "trials: a task and a whole map" }
# overlap = { kind = "integer", min = 0, about = "test samples that are training samples" }
# alignment_gain = { min = 0, max = 4, rtol = 1e-5, about = "alignment_rich / alignment_initial" }
# test_ratio = { min = 0, max = 3, rtol = 1e-5, about = "test_loss_rich / test_loss_lazy" }
# alignment_shift = { min = 0, max = 10, atol = 1e-8, about = "when a constant joins a kernel" }
# lazy_slope_alpha.about = "d log movement / d log alpha in the lazy corner"
# lazy_slope_alpha.min = -2
# lazy_slope_alpha.max = 0
# lazy_slope_alpha.rtol = 1e-5
# lazy_slope_width.about = "d log movement / d log width in the lazy corner"
# lazy_slope_width.min = -1
# lazy_slope_width.max = 0
# lazy_slope_width.rtol = 1e-5
# rich_slope_alpha.about = "d log movement / d log alpha in the rich corner"
# rich_slope_alpha.min = -1
# rich_slope_alpha.max = 0
# rich_slope_alpha.rtol = 1e-5
# boundary_slope.about = "d log alpha / d log width of the border"
# boundary_slope.min = -1
# boundary_slope.max = 0
# boundary_slope.rtol = 1e-5
# alignment_rich = { min = -1, max = 1, rtol = 1e-5, about = "last kernel and target, low alpha" }
# alignment_lazy = { min = -1, max = 1, rtol = 1e-5, about = "the same at the largest alpha" }
# alignment_initial = { min = -1, max = 1, rtol = 1e-5, about = "the same before training" }
# alignment_monotony = { min = -1, max = 1, rtol = 1e-4, about = "fall / total variation in alpha" }
# test_loss_rich = { min = 0, rtol = 1e-5, about = "relative, at the least alpha, widest net" }
# test_loss_lazy = { min = 0, rtol = 1e-5, about = "the same at the largest alpha" }
# linear_gap_lazy = { min = 0, rtol = 1e-4, about = "from the linearised net, laziest cell" }
# kernel_change_lazy = { min = 0, rtol = 1e-4, about = "relative, laziest cell" }
# kernel_change_rich = { min = 0, rtol = 1e-4, about = "relative, richest cell" }
#
# [tool.axiom.result.cells]
# kind = "records"
# max_items = 200
# about = "one per width and alpha, mean of trials (geometric where a ratio)"
# [tool.axiom.result.cells.fields]
# width = { kind = "integer", min = 1 }
# alpha = { min = 0, rtol = 1e-12 }
# movement = { min = 0, rtol = 1e-5, about = "|w - w0| / |w0|" }
# kernel_change = { min = 0, rtol = 1e-4, about = "|K - K0| / |K0|" }
# log_kernel_change = { atol = 1e-4, about = "its base-10 logarithm" }
# alignment = { min = -1, max = 1, rtol = 1e-4 }
# test_loss = { min = 0, rtol = 1e-4 }
# linear_gap = { min = 0, rtol = 1e-3 }
# steps = { min = 0, atol = 0.3, unit = "step" }
#
# [tool.axiom.result.rows]
# kind = "records"
# max_items = 20
# about = "the same by width, as lines over alpha"
# [tool.axiom.result.rows.fields]
# width = { kind = "integer", min = 1 }
# alpha = { dims = 1, min = 0, rtol = 1e-12 }
# movement = { dims = 1, min = 0, rtol = 1e-5 }
# alignment = { dims = 1, min = -1, max = 1, rtol = 1e-4 }
# test_loss = { dims = 1, min = 0, rtol = 1e-4 }
#
# [[tool.axiom.findings]]
# name = "lazy_in_alpha"
# claim = "In the lazy phase weight movement scales as alpha^-1 (±0.1)."
# field = "lazy_slope_alpha"
# criterion = { above = -1.1, below = -0.9 }
#
# [[tool.axiom.findings]]
# name = "lazy_in_width"
# claim = "In the lazy phase weight movement scales as width^-1/2 (±0.1)."
# field = "lazy_slope_width"
# criterion = { above = -0.6, below = -0.4 }
#
# [[tool.axiom.findings]]
# name = "rich_in_alpha"
# claim = "In the rich phase weight movement scales as alpha^-1/2 (±0.1): the lazy law fails there."
# field = "rich_slope_alpha"
# criterion = { above = -0.6, below = -0.4 }
#
# [[tool.axiom.findings]]
# name = "boundary"
# claim = "The border between the phases runs as alpha ~ width^-1/2 (±0.1)."
# field = "boundary_slope"
# criterion = { above = -0.6, below = -0.4 }
#
# [[tool.axiom.findings]]
# name = "alignment_monotone"
# claim = "The smaller alpha, the more the final kernel aligns with the target, without exception."
# field = "alignment_monotony"
# criterion = { above = 0.9 }
#
# [[tool.axiom.findings]]
# name = "rich_kernel_aligns"
# claim = "The rich phase turns the kernel towards the target: alignment grows by a quarter."
# field = "alignment_gain"
# criterion = { above = 1.25 }
#
# [[tool.axiom.findings]]
# name = "rich_tests_better"
# claim = "On this low-rank task the rich phase has the lower test loss at equal training loss."
# field = "test_ratio"
# criterion = { below = 1.0 }
#
# [[tool.axiom.figures]]
# name = "phases"
# title = "Lazy and rich: how much training changes the kernel"
# kind = "map"
# x = "cells.width"
# y = ["cells.alpha"]
# z = "cells.log_kernel_change"
# x_label = "width"
# y_label = "output scale alpha"
# z_label = "log10 |K - K0| / |K0|"
# x_scale = "log"
# y_scale = "log"
#
# [[tool.axiom.figures]]
# name = "movement"
# title = "Weight movement: slope -1 when lazy, -1/2 when rich"
# x = "rows.alpha"
# y = ["rows.movement"]
# label = "width {width}"
# x_label = "output scale alpha"
# y_label = "|w - w0| / |w0|"
# x_scale = "log"
# y_scale = "log"
#
# [[tool.axiom.figures]]
# name = "alignment"
# title = "The kernel turns towards the target where alpha is small"
# x = "rows.alpha"
# y = ["rows.alignment"]
# label = "width {width}"
# x_label = "output scale alpha"
# y_label = "alignment of the final kernel with the target"
# x_scale = "log"
# ///

import math

import numpy as np

INPUTS = 6  # directions that a kernel must cover; the target uses two
TEST_SAMPLES = 1000

WIDTHS = (32, 64, 128, 256, 512, 1024)
ALPHAS = tuple(2.0**power for power in range(-10, 7, 2))  # both phases at every width

# The corners in which exponents are fitted: two octaves or more beyond the border at every width.
LAZY_ALPHAS = (4.0, 16.0, 64.0)
LAZY_WIDTHS = WIDTHS[1:]  # at 32 the quadratic directions are too few and too random
RICH_ALPHAS = ALPHAS[:3]
HALF_CHANGED = 0.5  # relative kernel change that defines the border

STEP_FRACTION = 0.5  # of 1 / curvature: a quarter of the stability limit, so Euler follows the flow
MOVE_FRACTION = 0.02  # largest relative movement of a step: for small alpha the flow is curved
CURVATURE_EVERY = 10  # steps; the curvature changes by a few percent meanwhile
STEPS_MAX = 4000  # a cell that needs more counts as not trained; typical are 50 to 300

PROBE = 1_000_000  # random stream; trials have the first ones
TRIALS_MAX = 8  # tasks and initial weights averaged in one run
TRIAL_SECONDS = 4.0  # nominal, on one core


# --- arrays: numpy's on a CPU, torch's on a GPU; the code below uses what both share -------------


def place(array, device):
    """A copy of a numpy array on the task's device: numpy's on a CPU, torch's on a GPU."""
    if device == "cpu" or device.startswith("mps"):  # Apple's GPUs have no float64
        return np.array(array)
    import torch

    torch.set_default_dtype(torch.float64)  # numpy's default, for which the tolerances are declared
    return torch.tensor(array, device=device)


def library(array):
    """The library of this array: numpy or torch."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


# --- the task -------------------------------------------------------------------------------------


def product_task(rng, count):
    """Inputs (count, INPUTS) on the unit sphere, targets x1 x2 (count,), scaled to order 1."""
    inputs = rng.standard_normal((count, INPUTS))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    return inputs, INPUTS * inputs[:, 0] * inputs[:, 1]


# --- the network: f(x) = a . relu(W x) / sqrt(h), all weights of order 1 --------------------------


def shared_samples(inputs, test_inputs):
    """How many test samples are also training samples; the test is meaningful only if none are."""
    seen = {row.tobytes() for row in inputs}
    return sum(row.tobytes() in seen for row in test_inputs)


def initial_weights(rng, width):
    """W (h, INPUTS) and a (h,), standard normal: the parameterisation of the tangent kernel."""
    return rng.standard_normal((width, INPUTS)), rng.standard_normal(width)


def forward(inputs, hidden, output):
    """Activity (samples, h) and f (samples,)."""
    active = (inputs @ hidden.T).clip(0.0)
    return active, active @ output / math.sqrt(len(output))


def gradient(inputs, active, output, slope):
    """d(loss)/dW and d(loss)/da from d(loss)/df, ``slope`` (samples,)."""
    slope = slope / math.sqrt(len(output))
    back = (active > 0) * output
    return (back * slope[:, None]).T @ inputs, active.T @ slope


def tangent_kernel(inputs, active, output):
    """K(x, x') = grad f(x) . grad f(x'), (samples, samples)."""
    gates = (active > 0) * output
    return (active @ active.T + (inputs @ inputs.T) * (gates @ gates.T)) / len(output)


def alignment(kernel, targets):
    """Cosine between the centred kernel and the centred y y' (Cortes et al. 2012, JMLR 13)."""
    centred = kernel - kernel.mean(0)
    centred = centred - centred.mean(1)[:, None]
    y = targets - targets.mean()
    return float(y @ centred @ y / (norm(centred) * (y @ y)))


def alignment_shift(rng):
    """How much a constant added to a kernel changes its alignment: 0, since kernels are centred."""
    factor, targets = rng.standard_normal((20, 5)), rng.standard_normal(20)
    kernel = factor @ factor.T
    return abs(alignment(kernel + 10.0, targets) - alignment(kernel, targets))


def norm(*parts):
    """The Euclidean norm of all numbers of these arrays together."""
    return math.sqrt(sum(float(part.ravel() @ part.ravel()) for part in parts))


def relative_loss(residual, targets):
    return float(residual @ residual / (targets @ targets))


# --- gradient flow to a fixed loss ----------------------------------------------------------------


def flow(data, hidden, output, alpha, target_loss):
    """Train one net until its relative loss is below ``target_loss``; returns weights and a log.

    The loss is mean((F - y)^2) / 2. The log has the steps, whether the loss was reached, and the
    relative distance of F from the output of the net linearised at its start after those steps.
    """
    inputs, targets = data
    count, eigvalsh = len(targets), library(targets).linalg.eigvalsh
    active, start = forward(inputs, hidden, output)
    first_kernel = tangent_kernel(inputs, active, output)
    linear = -targets  # residual of the linearised net
    for step in range(STEPS_MAX + 1):
        active, now = forward(inputs, hidden, output)
        residual = alpha * (now - start) - targets
        reached = relative_loss(residual, targets) < target_loss
        if reached or step == STEPS_MAX:
            break
        if step % CURVATURE_EVERY == 0:
            curvature = float(eigvalsh(tangent_kernel(inputs, active, output))[-1]) / count
        d_hidden, d_output = gradient(inputs, active, output, alpha * residual / count)
        rate = min(
            STEP_FRACTION / (alpha**2 * curvature),
            MOVE_FRACTION * norm(hidden, output) / norm(d_hidden, d_output),
        )
        linear = linear - rate * alpha**2 / count * (first_kernel @ linear)
        hidden = hidden - rate * d_hidden
        output = output - rate * d_output
    return hidden, output, (step, reached, norm(residual - linear) / norm(targets))


CELL_NUMBERS = (
    *("movement", "kernel_change", "alignment", "first_alignment"),
    *("test_loss", "linear_gap", "steps", "reached"),
)


def cell(data, test, weights, alpha, target_loss):
    """Train one net of the map; the numbers of CELL_NUMBERS, in order."""
    (inputs, targets), (test_inputs, test_targets) = data, test
    test_start = forward(test_inputs, *weights)[1]
    first = tangent_kernel(inputs, forward(inputs, *weights)[0], weights[1])
    hidden, output, (steps, reached, gap) = flow(data, *weights, alpha, target_loss)
    last = tangent_kernel(inputs, forward(inputs, hidden, output)[0], output)
    test_residual = alpha * (forward(test_inputs, hidden, output)[1] - test_start) - test_targets
    moved = norm(hidden - weights[0], output - weights[1]) / norm(*weights)
    return (
        moved,
        norm(last - first) / norm(first),
        alignment(last, targets),
        alignment(first, targets),
        relative_loss(test_residual, test_targets),
        gap,
        steps,
        reached,
    )


def trial(rng, parameters, device):
    """One task and one draw of weights for each width: (widths, alphas, numbers); overlap."""

    def here(arrays):
        return [place(array, device) for array in arrays]

    train, held_out = (product_task(rng, n) for n in (parameters["samples"], TEST_SAMPLES))
    data, test = here(train), here(held_out)
    drawn = [here(initial_weights(rng, width)) for width in WIDTHS]
    table = np.array(
        [
            [cell(data, test, weights, alpha, parameters["target_loss"]) for alpha in ALPHAS]
            for weights in drawn
        ],
        dtype=float,
    )
    return table, shared_samples(train[0], held_out[0])


# --- the numbers of the map -----------------------------------------------------------------------


def slope(x, y):
    """Least-squares d log y / d log x; y may have several columns, whose slopes are averaged."""
    x = np.log(x) - np.mean(np.log(x))
    y = np.log(y)
    return float(np.mean(x @ y / (x @ x)))


def pick(values, wanted):
    return [values.index(value) for value in wanted]


def boundary(kernel_change):
    """alpha at which each width's kernel has half changed, by interpolation in logarithms."""
    logs = np.log(kernel_change[:, ::-1])  # rises from lazy to rich
    return np.array(
        [
            np.exp(np.interp(np.log(HALF_CHANGED), row, np.log(ALPHAS[::-1])))
            for row in np.maximum.accumulate(logs, axis=1)
        ]
    )


def monotony(values):
    """(first - last) / total variation: 1 when the values fall without exception."""
    return float((values[0] - values[-1]) / np.abs(np.diff(values)).sum())


def averaged(outcomes):
    """Each number of CELL_NUMBERS as an array (widths, alphas); ratios average in logarithms."""
    tables = dict(zip(CELL_NUMBERS, np.moveaxis(np.array(outcomes), -1, 0), strict=True))
    geometric = ("movement", "kernel_change")
    return {
        name: np.exp(np.log(table).mean(axis=0)) if name in geometric else table.mean(axis=0)
        for name, table in tables.items()
    }


def sane(table):
    """Whether all nets reached the loss and generalise, and the extremes are lazy and rich."""
    return (
        table["reached"].min() == 1
        and table["test_loss"][-1].max() < 0.5  # chance is 1: the test data are of the task
        and table["kernel_change"][-1, -1] < 0.05
        and table["linear_gap"][-1, -1] < 0.02
        and table["kernel_change"][0, 0] > 1.0
    )


def cells(table):
    return [
        {
            "width": width,
            "alpha": alpha,
            "log_kernel_change": float(np.log10(table["kernel_change"][i, j])),
            **{
                name: float(table[name][i, j])
                for name in CELL_NUMBERS
                if name not in ("first_alignment", "reached")
            },
        }
        for i, width in enumerate(WIDTHS)
        for j, alpha in enumerate(ALPHAS)
    ]


def rows(table):
    names = ("movement", "alignment", "test_loss")
    return [
        {"width": width, "alpha": list(ALPHAS), **{name: table[name][i].tolist() for name in names}}
        for i, width in enumerate(WIDTHS)
    ]


def summary(outcomes, overlap, shift):
    table = averaged(outcomes)
    lazy, rich = pick(ALPHAS, LAZY_ALPHAS), pick(ALPHAS, RICH_ALPHAS)
    wide = pick(WIDTHS, LAZY_WIDTHS)
    movement = table["movement"]
    turned = table["alignment"][wide].mean(axis=0)
    return {
        "valid": int(overlap == 0 and shift < 1e-6 and sane(table)),
        "configs_done": len(outcomes),
        "overlap": overlap,
        "alignment_shift": shift,
        "lazy_slope_alpha": slope(LAZY_ALPHAS, movement[np.ix_(wide, lazy)].T),
        "lazy_slope_width": slope(LAZY_WIDTHS, movement[np.ix_(wide, lazy)]),
        "rich_slope_alpha": slope(RICH_ALPHAS, movement[:, rich].T),
        "boundary_slope": slope(LAZY_WIDTHS, boundary(table["kernel_change"])[wide][:, None]),
        "alignment_rich": float(turned[0]),
        "alignment_lazy": float(turned[-1]),
        "alignment_initial": float(table["first_alignment"][wide, 0].mean()),
        "alignment_monotony": monotony(turned),
        "test_loss_rich": float(table["test_loss"][-1, 0]),
        "test_loss_lazy": float(table["test_loss"][-1, -1]),
        "linear_gap_lazy": float(table["linear_gap"][-1, -1]),
        "kernel_change_lazy": float(table["kernel_change"][-1, -1]),
        "kernel_change_rich": float(table["kernel_change"][0, 0]),
        "cells": cells(table),
        "rows": rows(table),
    }


def trials_within(budget_seconds):
    """How many whole trials the budget allows, by their nominal cost; at least one."""
    return int(np.clip(budget_seconds // TRIAL_SECONDS, 1, TRIALS_MAX))


#: Numbers that findings use are clipped to these bounds: with bounds a mean is decided sooner.
CUT = {
    "lazy_slope_alpha": (-2, 0),
    "lazy_slope_width": (-1, 0),
    "rich_slope_alpha": (-1, 0),
    "boundary_slope": (-1, 0),
    "alignment_gain": (0, 4),
    "test_ratio": (0, 3),
}


def cut(result):
    """The result with its comparisons added and every number in CUT clipped to its bounds."""
    result["alignment_gain"] = (
        result["alignment_rich"] / result["alignment_initial"]
        if result["alignment_initial"]
        else 0.0
    )
    result["test_ratio"] = (
        result["test_loss_rich"] / result["test_loss_lazy"] if result["test_loss_lazy"] else 0.0
    )
    bounded = {name: min(max(result[name], low), high) for name, (low, high) in CUT.items()}
    return result | bounded


def run(task):
    count = trials_within(task.budget_seconds)
    state = task.restore() or {"outcomes": [], "overlap": 0}
    outcomes = state["outcomes"]
    while len(outcomes) < count:
        outcome, overlap = trial(task.rng(len(outcomes)), task.parameters, task.device)
        outcomes.append(outcome)
        state["overlap"] += overlap
        task.checkpoint(state)
        task.progress(len(outcomes) / count)
    return cut(summary(outcomes, state["overlap"], alignment_shift(task.rng(PROBE))))
