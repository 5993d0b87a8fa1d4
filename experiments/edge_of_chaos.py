"""Edge of chaos: does a very deep net train only where signals neither die out nor explode?

Poole et al. 2016 (arXiv:1606.05340); Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, "Deep
information propagation" (arXiv:1611.01232).

    axiom-client try experiments/edge_of_chaos.py --seed 1 --plot edge_of_chaos.png

In a wide random tanh net with weights of variance sigma_w^2 / width and biases of variance
sigma_b^2, a gradient grows from layer to layer by the factor

    chi = sigma_w^2 E tanh'(sqrt(q) z)^2,   q = sigma_w^2 E tanh(sqrt(q) z)^2 + sigma_b^2,

z standard normal. Below chi = 1 different inputs become alike and gradients vanish; above it
similar inputs diverge and gradients explode. The critical sigma_w of the theory is compared with
that at which the gradients of finite random nets neither grow nor shrink. Then nets of forty layers
are trained on both sides of it and at it.

Controls: the same sigma_w in a net of three layers, which does learn, so depth is what makes the
deep one fail; and the same measurement on a linear net, whose critical sigma_w is 1 for any biases,
to show that the measurement finds another value where the true one is different.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]  # torch on GPUs only
#
# [tool.axiom]
# name = "edge_of_chaos"
# version = "1.2.0"
# title = "The edge of chaos"
# question = "Is a net of forty layers trainable only near the sigma_w where chi = 1?"
# rationale = [
#   "An earlier session log confirmed it; here theory predicts the scale before it is measured.",
#   "Shallow nets with the same weights separate the effect of depth from that of scale.",
#   "Every sigma_w has the same draw of weights, biases and batches, so that arms are paired.",
# ]
# references = [
#   "Poole et al. 2016, Exponential expressivity through transient chaos, arXiv:1606.05340",
#   "Schoenholz et al. 2017, Deep information propagation, arXiv:1611.01232",
# ]
# resources = { cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 10_000_000 }
# expected_seconds = 40
#
# [tool.axiom.parameters.depth]
# default = 40
# min = 4
# max = 200
# about = "hidden layers of the deep nets"
#
# [tool.axiom.parameters.sigmas]
# default = [1.327, 0.6, 3.0, 1.0, 2.0]
# min = 0.1
# max = 10.0
# max_items = 30
# about = "sigma_w of trained nets; findings read the first (critical), second and third"
#
# [tool.axiom.parameters.sigma_b_squared]
# default = 0.05
# min = 0.0
# max = 1.0
#
# [tool.axiom.parameters.steps]
# default = 400
# min = 10
# max = 20000
# about = "of SGD with momentum"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "the shallow nets and the critical one learn the task" }
# configs_done = { kind = "integer", min = 1, about = "sigmas trained" }
# overlap = { kind = "integer", min = 0, about = "test samples that are training samples" }
# edge_moved = { min = 0, max = 1, rtol = 1e-6, about = "critical_measured - linear_measured" }
# critical_theory = { min = 0, rtol = 1e-9, unit = "sigma_w" }
# critical_measured = { min = 0, rtol = 1e-6, unit = "sigma_w", about = "growth 0" }
# critical_gap = { min = 0, max = 0.2, atol = 1e-6, about = "|measured - theory|" }
# linear_measured = { min = 0, rtol = 1e-6, unit = "sigma_w", about = "of a net without tanh" }
# critical_accuracy = { min = 0, max = 1, atol = 8e-4, about = "deep, at the first sigma" }
# ordered_accuracy = { min = 0, max = 1, atol = 1e-4, about = "deep, at the second" }
# chaotic_accuracy = { min = 0, max = 1, chaotic = true, about = "deep, at the third" }
# fails_in_chaos = { kind = "flag", about = "it is 0.4 below the worst shallow net" }
# worst_shallow = { min = 0, max = 1, atol = 1e-4, about = "least accuracy of the shallow nets" }
# growth_rmse = { min = 0, rtol = 1e-5, about = "of growth against theory" }
#
# [tool.axiom.result.growth]
# kind = "records"
# max_items = 60
# [tool.axiom.result.growth.fields]
# sigma = { rtol = 1e-9 }
# measured = { rtol = 1e-5, atol = 1e-6, about = "mean log growth of squared gradients per layer" }
# theory = { rtol = 1e-6, atol = 1e-8, about = "log chi" }
#
# [tool.axiom.result.configs]
# kind = "records"
# max_items = 30
# [tool.axiom.result.configs.fields]
# sigma = { rtol = 1e-9 }
# deep = { min = 0, max = 1, chaotic = true, about = "test accuracy" }
# shallow = { min = 0, max = 1, atol = 1e-4 }
#
# [[tool.axiom.findings]]
# name = "critical_where_theory_says"
# claim = "Gradients keep their size within 0.05 of the sigma_w where chi = 1."
# field = "critical_gap"
# criterion = { below = 0.05 }
#
# [[tool.axiom.findings]]
# name = "trainable_at_the_edge"
# claim = "At the critical sigma_w a net of forty layers learns the task: test accuracy above 0.9."
# field = "critical_accuracy"
# criterion = { above = 0.9 }
#
# [[tool.axiom.findings]]
# name = "not_in_order"
# claim = "At sigma_w = 0.6 the deep net learns nothing: 0.5 below the worst of three layers."
# field = "ordered_accuracy"
# control = "worst_shallow"
# statistic = "difference"
# criterion = { below = -0.5 }
#
# [[tool.axiom.findings]]
# name = "not_in_chaos"
# claim = "At sigma_w = 3 the deep net learns less: 0.4 below the worst of three layers."
# about = "A flag, since forty chaotic layers amplify the last digits in which processors differ."
# field = "fails_in_chaos"
# statistic = "share"
# criterion = { above = 0.9 }
#
# [[tool.axiom.findings]]
# name = "tanh_moves_the_edge"
# claim = "Without tanh gradients keep their size near sigma_w = 1, at least 0.2 lower than with."
# field = "edge_moved"
# criterion = { above = 0.2 }
#
# [[tool.axiom.figures]]
# name = "trained"
# title = "Forty layers train only near the critical scale; three train anywhere"
# kind = "points"
# x = "configs.sigma"
# y = ["configs.deep", "configs.shallow"]
# legend = ["40 layers", "3 layers"]
# x_label = "sigma_w"
# y_label = "test accuracy"
# x_mark = [1.327]
#
# [[tool.axiom.figures]]
# name = "growth"
# title = "How gradients grow from layer to layer: finite nets and theory"
# kind = "points"
# x = "growth.sigma"
# y = ["growth.measured", "growth.theory"]
# legend = ["measured", "theory"]
# x_label = "sigma_w"
# y_label = "log growth of squared gradients per layer"
# x_mark = [1.327]
# y_mark = [0.0]
# ///

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

INPUTS, CLASSES = 20, 5
FAILS_BY = 0.4  # accuracy below the worst shallow net
SAMPLES, TEST_SAMPLES = 500, 1000
SEPARATION = 1.0  # of class centres, in units of the deviation within a class
WIDTH = 100  # of trained nets
SHALLOW = 3  # hidden layers
BATCH = 50
RATE, MOMENTUM = 0.003, 0.9  # at ten times the rate nets of forty layers diverge at any scale
PROBE_WIDTH, PROBE_NETS, PROBE_INPUTS = 300, 4, 8
PROBE_DEPTH, SETTLED = 40, 10  # growth is measured after the layers in which q converges
GRID = np.linspace(0.8, 2.0, 13)  # sigma_w at which growth is measured; the edge is interpolated
QUADRATURE = np.polynomial.hermite_e.hermegauss(101)  # more nodes change the tenth digit
SECONDS_PER_LAYER_STEP = 4e-4  # nominal, on one core


# Arrays are numpy's on a CPU and torch's on a GPU; the code below uses what both libraries share.


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


# --- the theory -----------------------------------------------------------------------------------


def normal_mean(function):
    """E function(z) for a standard normal z."""
    nodes, weights = QUADRATURE
    return float(weights @ function(nodes)) / math.sqrt(2 * math.pi)


def length(sigma, bias):
    """The fixed point q of the squared length of a unit's sum; ``bias`` is sigma_b^2."""
    q = 1.0
    for _ in range(200):  # converges by a factor below one even at the edge, where sigma_b > 0
        root = math.sqrt(q)
        q = sigma**2 * normal_mean(lambda z, root=root: np.tanh(root * z) ** 2) + bias
    return q


def log_chi(sigma, bias):
    """Log of the growth of squared gradients from layer to layer."""
    root = math.sqrt(length(sigma, bias))
    return math.log(sigma**2 * normal_mean(lambda z: np.cosh(root * z) ** -4.0))


def crossing(sigmas, growths):
    """Where growth, piecewise linear in sigma, first reaches 0; the last sigma if nowhere."""
    for i in range(1, len(sigmas)):
        low, high = growths[i - 1], growths[i]
        if low < 0 <= high:
            return float(sigmas[i - 1] + (sigmas[i] - sigmas[i - 1]) * low / (low - high))
    return float(sigmas[-1])


def critical_sigma(bias):
    """The sigma_w where chi = 1, by bisection."""
    low, high = 0.5, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if log_chi(middle, bias) < 0 else (low, middle)
    return (low + high) / 2


# --- the growth of gradients in finite random nets ------------------------------------------------


def measured_growth(weights, biases, inputs, sigma, linear=False):
    """Mean log growth of the squared gradient per layer, of random nets (nets, depth, n, n)."""
    state, slopes = inputs, []
    for layer in range(weights.shape[1]):
        total = sigma * (state @ weights[:, layer]) + biases[:, layer, None]
        state = total if linear else library(total).tanh(total)
        slopes.append(1.0 if linear else 1 - state * state)
    back, sizes = state, []  # any vector; the last state is as good as a random one
    for layer in reversed(range(SETTLED, weights.shape[1])):
        back = sigma * ((back * slopes[layer]) @ weights[:, layer].swapaxes(-1, -2))
        sizes.append((back * back).sum(-1))
    logs = library(sizes[0]).log(library(sizes[0]).stack(sizes))
    return float((logs[-1] - logs[0]).mean()) / (len(sizes) - 1)


def probe(rng, bias, device):
    """Growth over GRID: (measured, of linear nets). All sigmas scale the same random nets."""
    shape = (PROBE_NETS, PROBE_DEPTH, PROBE_WIDTH, PROBE_WIDTH)
    weights = place(rng.standard_normal(shape) / math.sqrt(PROBE_WIDTH), device)
    biases = place(rng.standard_normal(shape[:3]) * math.sqrt(bias), device)
    inputs = place(rng.standard_normal((PROBE_NETS, PROBE_INPUTS, PROBE_WIDTH)), device)
    measured = [measured_growth(weights, biases, inputs, s) for s in GRID.tolist()]
    linear = [measured_growth(weights, biases, inputs, s, linear=True) for s in GRID.tolist()]
    return measured, linear


# --- the task and the nets that learn it ----------------------------------------------------------


def blobs(rng, centres, count):
    """``count`` samples around the centres: inputs (count, INPUTS), classes (count,)."""
    classes = rng.integers(0, CLASSES, count)
    inputs = centres[classes] + rng.standard_normal((count, INPUTS))
    return inputs, classes


def draw_task(rng):
    """Training and test samples of one task."""
    centres = SEPARATION * rng.standard_normal((CLASSES, INPUTS))
    return blobs(rng, centres, SAMPLES), blobs(rng, centres, TEST_SAMPLES)


def shared_samples(inputs, test_inputs):
    """How many test samples are also training samples; the test is meaningful only if none are."""
    seen = {row.tobytes() for row in inputs}
    return sum(row.tobytes() in seen for row in test_inputs)


def initial(rng, depth, bias):
    """[W, b] of each layer, of variance 1 / fan-in and ``bias``; sigma_w multiplies W later."""
    sizes = [INPUTS, *[WIDTH] * depth, CLASSES]
    return [
        [rng.standard_normal((a, b)) / math.sqrt(a), rng.standard_normal(b) * math.sqrt(bias)]
        for a, b in pairwise(sizes)
    ]


def forward(net, inputs):
    """States of all layers, from the inputs to the logits."""
    states = [inputs]
    for weight, bias in net[:-1]:
        states.append(library(weight).tanh(states[-1] @ weight + bias))
    return [*states, states[-1] @ net[-1][0] + net[-1][1]]


def softmax(logits):
    xp = library(logits)
    odds = xp.exp(logits - xp.amax(logits, axis=-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def gradients(net, inputs, targets):
    """Of the mean cross-entropy: [by W, by b] of each layer."""
    states, found = forward(net, inputs), []
    back = (softmax(states[-1]) - targets) / len(inputs)
    for layer in reversed(range(len(net))):
        found.append([states[layer].T @ back, back.sum(0)])
        back = (back @ net[layer][0].T) * (1 - states[layer] ** 2)
    return found[::-1]


def rounded(array):
    """Rounded to float32, which removes differences between processors before they grow."""
    if isinstance(array, np.ndarray):
        return array.astype(np.float32).astype(np.float64)
    return array.float().double()


def train(net, inputs, targets, batches):
    """SGD with momentum, in place."""
    speed = [[0.0 * part for part in layer] for layer in net]
    for batch in batches:
        slopes = gradients(net, inputs[batch], targets[batch])
        for layer, moving, slope in zip(net, speed, slopes, strict=True):
            for k in range(2):
                moving[k] = rounded(MOMENTUM * moving[k] - RATE * slope[k])
                layer[k] = rounded(layer[k] + moving[k])


def accuracy(net, inputs, classes):
    return float((forward(net, inputs)[-1].argmax(-1) == classes).sum()) / len(classes)


def learnt(task, depth, sigma):
    """(test accuracy, training accuracy less it, overlap).

    Data, draws and batches are the same at every sigma.
    """
    rng, device = task.rng(1), task.device
    (inputs, classes), test = draw_task(rng)
    batches = rng.integers(0, SAMPLES, (task.parameters["steps"], BATCH))
    net = initial(task.rng(1000 + depth), depth, task.parameters["sigma_b_squared"])
    net = [[place(sigma * weight, device), place(bias, device)] for weight, bias in net]
    targets = np.eye(CLASSES)[classes]
    train(net, place(inputs, device), place(targets, device), place(batches, device))
    found, known = (
        accuracy(net, *(place(part, device) for part in data)) for data in (test, (inputs, classes))
    )
    return found, known - found, shared_samples(inputs, test[0])


# --- the run --------------------------------------------------------------------------------------


def plan(parameters, budget_seconds):
    """The sigmas that the budget pays for, in their order; at least one."""
    price = SECONDS_PER_LAYER_STEP * parameters["steps"] * (parameters["depth"] + SHALLOW)
    count = max(1, int(budget_seconds // price))
    return parameters["sigmas"][:count]


#: Numbers that findings use are clipped to these bounds: with bounds a mean is decided sooner.
CUT = {
    "critical_gap": (0, 0.2),
    "edge_moved": (0, 1),
}


def cut(result):
    """The result with its comparisons added and every number in CUT clipped to its bounds."""
    result["edge_moved"] = result["critical_measured"] - result["linear_measured"]
    bounded = {name: min(max(result[name], low), high) for name, (low, high) in CUT.items()}
    return result | bounded


def run(task):
    sigmas = plan(task.parameters, task.budget_seconds)
    state = task.restore() or {"growth": None, "done": [], "overlap": 0, "gaps": []}
    if state["growth"] is None:
        state["growth"] = probe(task.rng(0), task.parameters["sigma_b_squared"], task.device)
        task.checkpoint(state)
    for sigma in sigmas[len(state["done"]) :]:
        (deep, deep_gap, here), (shallow, gap, there) = (
            learnt(task, depth, sigma) for depth in (task.parameters["depth"], SHALLOW)
        )
        state["done"].append({"sigma": sigma, "deep": deep, "shallow": shallow})
        state["gaps"] += [deep_gap, gap]
        state["overlap"] += here + there
        task.checkpoint(state)
        task.progress(len(state["done"]) / len(sigmas))
    return cut(report(state, task.parameters["sigma_b_squared"]))


def report(state, bias):
    """The result. An arm that did not run counts as 0, and the run is not valid."""
    done, (measured, linear) = state["done"], state["growth"]
    theory = [log_chi(s, bias) for s in GRID.tolist()]
    predicted, found = critical_sigma(bias), crossing(GRID, measured)
    deep = [*(c["deep"] for c in done), 0.0, 0.0, 0.0]
    shallow = [c["shallow"] for c in done]
    sane = (
        len(done) >= 3
        and state["overlap"] == 0
        and min(shallow) > 0.8  # chance is 0.2
        and deep[0] > 0.6
        and any(state["gaps"])  # if all are 0, what is called test data are training data
    )
    return {
        "valid": int(sane),
        "configs_done": len(done),
        "overlap": state["overlap"],
        "critical_theory": predicted,
        "critical_measured": found,
        "critical_gap": abs(found - predicted),
        "linear_measured": crossing(GRID, linear),
        "critical_accuracy": deep[0],
        "ordered_accuracy": deep[1],
        "chaotic_accuracy": deep[2],
        "fails_in_chaos": int(deep[2] < min(shallow) - FAILS_BY),
        "worst_shallow": min(shallow),
        "growth_rmse": float(np.sqrt(np.mean((np.array(measured) - theory) ** 2))),
        "growth": [
            {"sigma": s, "measured": m, "theory": t}
            for s, m, t in zip(GRID.tolist(), measured, theory, strict=True)
        ],
        "configs": sorted(done, key=lambda c: c["sigma"]),
    }
