"""Depth against width: how many linear pieces does a ReLU net really have?

Hanin & Rolnick 2019, "Complexity of linear regions in deep networks" (arXiv:1901.09021);
Montufar et al. 2014 (arXiv:1402.1869); Telgarsky 2016 (arXiv:1602.04485).

    axiom-client try experiments/depth_and_width.py --seed 1 --plot depth_and_width.png

A ReLU net is piecewise linear. A deep one *can* have exponentially many pieces: a sawtooth net
doubles them with every layer. Hanin and Rolnick show that a net as it is initialised does not:
along a line the number of pieces grows with the number of units, however they are arranged. Here
the pieces along a line are counted exactly: a layer's sums are linear between the breaks of the
layers before, so that each zero between two breaks is one new break.

Controls: the sawtooth net, counted by the same function, to show that the count would detect
exponential growth; and nets trained on a task, because what holds for untrained nets need not hold
after training.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy"]
#
# [tool.axiom]
# name = "depth_and_width"
# version = "1.2.0"
# title = "Depth against width: linear pieces along a line"
# question = "Does the number of linear pieces grow with units, or exponentially with depth?"
# rationale = [
#   "An earlier session log confirmed it; here theory predicts a number, the count of pieces.",
#   "Pieces are counted exactly, without a grid of points or a threshold on a slope.",
#   "The sawtooth net shows what the count would be if depth did multiply pieces.",
# ]
# references = [
#   "Hanin & Rolnick 2019, Complexity of linear regions in deep networks, arXiv:1901.09021",
#   "Telgarsky 2016, Benefits of depth in neural networks, arXiv:1602.04485",
#   "Montufar et al. 2014, On the number of linear regions of deep networks, arXiv:1402.1869",
# ]
# resources = { cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 10_000_000 }
# expected_seconds = 8
#
# [tool.axiom.parameters.units]
# default = [64, 128, 256, 512]
# min = 16
# max = 4096
# max_items = 10
# about = "hidden units of a net, over all its layers"
#
# [tool.axiom.parameters.depths]
# default = [1, 2, 4, 8]
# min = 1
# max = 16
# max_items = 10
# about = "hidden layers that share the units evenly"
#
# [tool.axiom.parameters.bias]
# default = 0.5
# min = 0.0
# max = 10.0
# about = "standard deviation of biases; without them a line through the origin has two pieces"
#
# [tool.axiom.parameters.steps]
# default = 300
# min = 0
# max = 100000
# about = "Adam steps of the trained nets"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "sawtooth counted exactly; trained nets learn; all sizes ran" }
# configs_done = { kind = "integer", min = 1, about = "pairs of units and depth" }
# overlap = { kind = "integer", min = 0, about = "test samples that are training samples" }
# units_slope = { min = 0, max = 2, rtol = 1e-6, about = "of log pieces on log units, depth held" }
# depth_slope.about = "of log pieces on log depth, units held"
# depth_slope.min = -1
# depth_slope.max = 1
# depth_slope.rtol = 1e-6
# depth_slope.atol = 1e-6
# sawtooth_slope = { rtol = 1e-9, about = "of log2 pieces on depth, of the sawtooth net: 1" }
# doubling_slope.about = "of log2 pieces on depth, of these nets"
# doubling_slope.min = -0.5
# doubling_slope.max = 0.5
# doubling_slope.rtol = 1e-6
# doubling_slope.atol = 1e-6
# pieces_per_unit = { min = 0, rtol = 1e-6, about = "mean over all pairs" }
# trained_units_slope = { min = 0, max = 2, rtol = 1e-6, about = "units_slope after training" }
# trained_ratio.about = "pieces after training / before, largest depth"
# trained_ratio.min = 0
# trained_ratio.max = 4
# trained_ratio.rtol = 1e-6
# trained_error = { min = 0, rtol = 1e-6, about = "their median test error, in units of guessing" }
# mean_gap = { rtol = 1e-6, atol = 1e-6, about = "mean test error less mean training error" }
#
# [tool.axiom.result.configs]
# kind = "records"
# max_items = 100
# [tool.axiom.result.configs.fields]
# units = { kind = "integer" }
# depth = { kind = "integer" }
# pieces = { min = 0, rtol = 1e-6, about = "mean over nets and lines" }
# trained = { min = 0, rtol = 1e-6, about = "mean pieces after training" }
#
# [[tool.axiom.findings]]
# name = "pieces_grow_with_units"
# claim = "At equal depth the number of pieces is proportional to the units: power 1 within 0.1."
# field = "units_slope"
# criterion = { above = 0.9, below = 1.1 }
#
# [[tool.axiom.findings]]
# name = "depth_hardly_matters"
# claim = "At equal units the number of pieces changes as depth to a power within 0.2 of 0."
# field = "depth_slope"
# criterion = { above = -0.2, below = 0.2 }
#
# [[tool.axiom.findings]]
# name = "depth_does_not_double"
# claim = "A layer more adds at most a tenth of the doubling that a sawtooth net has."
# about = "The sawtooth net has 1, by a gate."
# field = "doubling_slope"
# criterion = { below = 0.1 }
#
# [[tool.axiom.findings]]
# name = "training_keeps_the_law"
# claim = "After training pieces still grow as the units to the power 1, within 0.3."
# field = "trained_units_slope"
# criterion = { above = 0.7, below = 1.3 }
#
# [[tool.axiom.findings]]
# name = "training_does_not_multiply"
# claim = "Training changes the number of pieces of the deepest nets by less than a factor of two."
# field = "trained_ratio"
# criterion = { above = 0.5, below = 2.0 }
#
# [[tool.axiom.figures]]
# name = "pieces"
# title = "Pieces along a line over depth, at 64 to 512 units"
# kind = "points"
# x = "configs.depth"
# y = ["configs.pieces"]
# label = "{units} units"
# x_label = "hidden layers"
# y_label = "linear pieces"
# y_scale = "log"
# ///

from __future__ import annotations

from itertools import pairwise

import numpy as np

INPUTS = 10
NETS = 24  # averaged: they are draws from one distribution
TRAINED_NETS = 2
LINE = 2.0  # the lines run from minus to plus this many standard deviations of an input
SAMPLES, TEST_SAMPLES = 500, 500
GAP_MIN = 0.01  # of errors: what was trained on is known better, or the test is no test
BATCH = 50
RATE, BETA1, BETA2, EPSILON = 0.002, 0.9, 0.999, 1e-8  # Adam's
SAWTOOTH_DEPTHS = range(1, 9)
PAIR_SECONDS = 0.5  # nominal, on one core


# --- nets: lists of [W, b], the last layer without ReLU -------------------------------------------


def initial(rng, units, depth, bias):
    """He's Gaussian weights, normal biases of deviation ``bias``; one output."""
    sizes = [INPUTS, *[units // depth] * depth, 1]
    return [
        [rng.standard_normal((a, b)) * np.sqrt(2.0 / a), rng.standard_normal(b) * bias]
        for a, b in pairwise(sizes)
    ]


def sawtooth(depth):
    """A net of one input whose output has 2^depth pieces on [0, 1]: the tent map, iterated.

    tent(x) = 2 relu(x) - 4 relu(x - 1/2); the next layer's sums take it from two units.
    """
    into, mix = np.ones((1, 2)), np.array([[2.0, 2.0], [-4.0, -4.0]])
    biases = np.array([0.0, -0.5])
    net = [[into, biases], *[[mix, biases] for _ in range(depth - 1)]]
    return [*net, [mix[:, :1], np.zeros(1)]]


# --- counting -------------------------------------------------------------------------------------


def breaks(net, start, end):
    """Positions on the segment, 0 to 1, where some unit of the net switches; sorted."""
    at = np.array([0.0, 1.0])
    state = np.stack([start, end])
    for weight, bias in net[:-1]:
        total = state @ weight + bias
        at, total = with_zeros(at, total)
        state = total.clip(0.0)
    return at[1:-1]


def with_zeros(at, total):
    """Knots with the zeros of each unit's piecewise linear sum (knots, units) added."""
    low, high = total[:-1], total[1:]
    piece, unit = np.nonzero(low * high < 0)
    share = low[piece, unit] / (low[piece, unit] - high[piece, unit])
    found = at[piece] + share * (at[piece + 1] - at[piece])
    rows = low[piece] + share[:, None] * (high[piece] - low[piece])
    rows[np.arange(len(rows)), unit] = 0.0  # exactly: a rounded zero would be crossed again
    order = np.argsort(np.concatenate([at, found]), kind="stable")
    return np.concatenate([at, found])[order], np.concatenate([total, rows])[order]


def pieces(net, start, end):
    """Linear pieces of the units' activity on the segment."""
    return len(breaks(net, start, end)) + 1


def line(rng):
    """A segment through the cloud of inputs, off the origin."""
    middle, direction = rng.standard_normal((2, INPUTS))
    direction *= LINE * np.sqrt(INPUTS) / np.linalg.norm(direction)
    return middle - direction, middle + direction


# --- training -------------------------------------------------------------------------------------


def draw_task(rng):
    """Training and test samples of y = one direction plus the size of another."""
    directions = rng.standard_normal((INPUTS, 2)) / np.sqrt(INPUTS)
    inputs = rng.standard_normal((SAMPLES + TEST_SAMPLES, INPUTS))
    z = inputs @ directions
    targets = z[:, :1] + np.abs(z[:, 1:])
    targets = targets - targets[:SAMPLES].mean()
    return (inputs[:SAMPLES], targets[:SAMPLES]), (inputs[SAMPLES:], targets[SAMPLES:])


def shared_samples(inputs, test_inputs):
    """How many test samples are also training samples; the test is meaningful only if none are."""
    seen = {row.tobytes() for row in inputs}
    return sum(row.tobytes() in seen for row in test_inputs)


def forward(net, inputs):
    """States of all layers, from the inputs to the output (n, 1)."""
    states = [inputs]
    for weight, bias in net[:-1]:
        states.append((states[-1] @ weight + bias).clip(0.0))
    return [*states, states[-1] @ net[-1][0] + net[-1][1]]


def gradients(net, inputs, targets):
    """Of the mean squared error: [by W, by b] of each layer."""
    states, found = forward(net, inputs), []
    back = (states[-1] - targets) * (2.0 / len(inputs))
    for layer in reversed(range(len(net))):
        found.append([states[layer].T @ back, back.sum(0)])
        if layer:
            back = (back @ net[layer][0].T) * (states[layer] > 0)
    return found[::-1]


def train(net, data, batches):
    """Adam; the trained net."""
    parts = [part.copy() for layer in net for part in layer]
    moments = [[np.zeros_like(p) for p in parts] for _ in range(2)]
    net = [parts[i : i + 2] for i in range(0, len(parts), 2)]
    for step, batch in enumerate(batches, start=1):
        slopes = [s for layer in gradients(net, *(d[batch] for d in data)) for s in layer]
        for part, slope, mean, square in zip(parts, slopes, *moments, strict=True):
            mean += (1 - BETA1) * (slope - mean)
            square += (1 - BETA2) * (slope * slope - square)
            size = np.sqrt(square / (1 - BETA2**step)) + EPSILON
            part -= RATE / (1 - BETA1**step) * mean / size
    return net


def test_error(net, test):
    """Mean squared error in units of that of guessing the mean."""
    inputs, targets = test
    return float(np.mean((forward(net, inputs)[-1] - targets) ** 2) / np.var(targets))


# --- the run --------------------------------------------------------------------------------------


def run_pair(task, units, depth):
    """Mean pieces of NETS nets, one line each, and of TRAINED_NETS of them after training."""
    rng = task.rng(1000 * depth + units)
    nets = [initial(rng, units, depth, task.parameters["bias"]) for _ in range(NETS)]
    lines = [line(rng) for _ in nets]
    counts = [pieces(net, *of) for net, of in zip(nets, lines, strict=True)]
    data, test = draw_task(task.rng(0))
    batches = rng.integers(0, SAMPLES, (task.parameters["steps"], BATCH))
    trained = [train(net, data, batches) for net in nets[:TRAINED_NETS]]
    after = [pieces(net, *of) for net, of in zip(trained, lines[:TRAINED_NETS], strict=True)]
    return {
        "units": units, "depth": depth, "pieces": float(np.mean(counts)),
        "trained": float(np.mean(after)), "before": float(np.mean(counts[:TRAINED_NETS])),
        "overlap": shared_samples(data[0], test[0]),
        "error": max(test_error(net, test) for net in trained),
        "gap": float(np.mean([test_error(n, test) - test_error(n, data) for n in trained])),
    }  # fmt: skip


def plan(parameters, budget_seconds):
    """The pairs that the budget pays for, smallest first; at least one."""
    pairs = [(units, depth) for units in parameters["units"] for depth in parameters["depths"]]
    return pairs[: max(1, int(budget_seconds // PAIR_SECONDS))]


#: Numbers that findings use are clipped to these bounds: with bounds a mean is decided sooner.
CUT = {
    "units_slope": (0, 2),
    "depth_slope": (-1, 1),
    "doubling_slope": (-0.5, 0.5),
    "trained_units_slope": (0, 2),
    "trained_ratio": (0, 4),
}


def cut(result):
    """The result with every number in CUT clipped to its bounds."""
    bounded = {name: min(max(result[name], low), high) for name, (low, high) in CUT.items()}
    return result | bounded


def run(task):
    pairs = plan(task.parameters, task.budget_seconds)
    done = (task.restore() or {"done": []})["done"]
    for units, depth in pairs[len(done) :]:
        done.append(run_pair(task, units, depth))
        task.checkpoint({"done": done})
        task.progress(len(done) / len(pairs))
    return cut(report(done))


def slopes(done, key):
    """Least-squares powers of units and of depth in the number of pieces; 0, 0 if too few ran."""
    table = np.log([[c["units"], c["depth"], c[key]] for c in done])
    if len(np.unique(table[:, 0])) < 2 or len(np.unique(table[:, 1])) < 2:
        return 0.0, 0.0
    columns = np.column_stack([table[:, :2], np.ones(len(table))])
    found = np.linalg.lstsq(columns, table[:, 2], rcond=None)[0]
    return float(found[0]), float(found[1])


def doubling(done):
    """Slope of log2 pieces on depth, units held: 1 if every layer doubled them."""
    by_units = {}
    for c in done:
        by_units.setdefault(c["units"], []).append((c["depth"], np.log2(c["pieces"])))
    fits = [np.polyfit(*zip(*rows, strict=True), 1)[0] for rows in by_units.values() if rows[1:]]
    return float(np.mean(fits)) if fits else 0.0


def sawtooth_counts():
    return [pieces(sawtooth(d), np.array([0.0]), np.array([1.0])) for d in SAWTOOTH_DEPTHS]


def report(done):
    """The result. Without at least two sizes and two depths the run is not valid."""
    units_slope, depth_slope = slopes(done, "pieces")
    teeth = sawtooth_counts()
    deepest = [c for c in done if c["depth"] == max(d["depth"] for d in done)]
    error = float(np.median([c["error"] for c in done]))  # occasionally one of many nets fails
    overlap = sum(c["overlap"] for c in done)
    gap = float(np.mean([c["gap"] for c in done]))
    sane = (
        overlap == 0
        and units_slope != 0
        and teeth == [2**d for d in SAWTOOTH_DEPTHS]
        and error < 0.9
        and gap > GAP_MIN
    )
    shown = ("units", "depth", "pieces", "trained")
    return {
        "valid": int(sane),
        "configs_done": len(done),
        "overlap": overlap,
        "units_slope": units_slope,
        "depth_slope": depth_slope,
        "sawtooth_slope": float(np.polyfit(list(SAWTOOTH_DEPTHS), np.log2(teeth), 1)[0]),
        "doubling_slope": doubling(done),
        "pieces_per_unit": float(np.mean([c["pieces"] / c["units"] for c in done])),
        "trained_units_slope": slopes(done, "trained")[0],
        "trained_ratio": sum(c["trained"] for c in deepest) / sum(c["before"] for c in deepest),
        "trained_error": error,
        "mean_gap": gap,
        "configs": [{key: c[key] for key in shown} for c in done],
    }
