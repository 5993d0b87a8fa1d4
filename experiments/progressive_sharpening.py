"""Progressive sharpening: does curvature rise until lr * sharpness = 2, and stay there?

Cohen, Kaur, Li, Kolter & Talwalkar 2021, "Gradient descent on neural networks typically occurs at
the edge of stability" (arXiv:2103.00065).

    axiom-client try experiments/progressive_sharpening.py --seed 1 --plot sharpening.png

Sharpness is the largest eigenvalue of the Hessian of the training loss. On a quadratic, gradient
descent at rate lr is unstable if lr * sharpness > 2. A net differs from a quadratic in two ways:
its sharpness rises as it learns, and when it reaches 2/lr (the edge) it stays there, while the loss
goes on falling, no longer at every step but over many.

Control: a rate five to ten times smaller, trained to the same loss. It is almost gradient flow: it
shows how far the sharpness would have risen, and never reaches its own edge. So the sharpness of
the other nets is limited by the rate and not by the task.

Control of the first claim: the same net on a task that should not sharpen it, a small linear one,
which it can learn almost without moving its weights.

Replication: at the edge training is chaotic, so that a difference between processors in the last
digit leads to another path. Therefore the weights are rounded to float32 after every step, and
everything in between is float64. Processors differ by about 1e-17, and the rounding removes this
difference except in about one run in a thousand. So replicas agree step by step.

Not settled: whether training at the edge improves generalisation. In first trials the test loss at
the edge was a tenth lower than the control's with targets of scale 1, and a tenth higher with scale
2. At the scale used, between the two, it is lower in some seeds and higher in others.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]  # torch on GPUs only
#
# [tool.axiom]
# name = "progressive_sharpening"
# version = "1.2.0"
# title = "Progressive sharpening"
# question = "Does sharpness rise to 2/lr and stay there while the loss still falls?"
# rationale = [
#   "Cross-validates sharpening and the edge of stability over hosts and seeds.",
#   "Complements loss-landscape curvature: the rate, not the task, sets the curvature of the end.",
#   "Full batch, float64 and squared error: nothing but the step size can cause what is seen.",
# ]
# references = [
#   "Cohen et al. 2021, Gradient descent ... at the edge of stability, arXiv:2103.00065",
#   "Pearlmutter 1994, Fast exact multiplication by the Hessian, Neural Computation 6(1)",
#   "Lanczos 1950, An iteration method for the solution of the eigenvalue problem",
# ]
# expected_seconds = 45
# resources = { cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 10_000_000 }
#
# [tool.axiom.parameters.rates]
# default = [0.02, 0.2, 0.15, 0.1, 0.3]
# min = 0.005
# max = 1.0
# max_items = 20
# about = "learning rates in the order in which they run; the smallest is the control"
#
# [tool.axiom.parameters.widths]
# default = [64, 32]
# min = 4
# max = 1024
# max_items = 10
# about = "units in each of the two hidden layers; findings are read from the first"
#
# [tool.axiom.parameters.steps_max]
# default = 12000
# min = 100
# max = 200000
# about = "most steps of a run, which ends sooner if the loss falls to 1e-6"
#
# # No field is chaotic: weights are rounded after each step (see above). What findings read is
# # cut off at its bounds, since a mean is sooner decided where numbers have some.
# [tool.axiom.result]
# valid = { kind = "flag", about = "the controls ran, fit and generalise; an edge rate ran" }
# configs_done = { kind = "integer", min = 1, about = "pairs of width and rate" }
# overlap = { kind = "integer", min = 0, about = "test samples that are training samples" }
# upward_gain = { min = -0.5, max = 0.5, atol = 1e-6, about = "upward - control_upward" }
# sharpness0 = { min = 0, rtol = 1e-6, about = "before training, first width" }
# hessian_error = { min = 0, max = 1e9, atol = 1e-8, about = "of the eigenpair, by differences" }
# control_rise = { min = 0, max = 20, rtol = 1e-6, about = "most of the control over its first" }
# control_edge = { min = 0, max = 2, rtol = 1e-6, about = "most lr * sharpness / 2 of it" }
# control_sharpness = { min = 0, rtol = 1e-6, about = "late median of the control" }
# control_upward = { min = 0, max = 1, atol = 1e-6, about = "share of steps where its loss rose" }
# linear_rise = { min = 0, max = 4, rtol = 1e-6, about = "most over its first, linear task" }
# linear_loss = { min = 0, rtol = 1e-6, about = "last loss over its first, linear task" }
# edge_gap = { min = 0, max = 1, atol = 1e-6, about = "median |late edge - 1|, rates 0.1 to 0.2" }
# edge_low = { min = 0, atol = 1e-6, about = "smallest late edge there" }
# edge_high = { min = 0, atol = 1e-6, about = "largest late edge there" }
# thrown_off = { min = 0, max = 1, about = "share of them that diverged" }
# loss_fall = { min = 0, max = 1, rtol = 1e-6, about = "median of last loss / loss on arrival" }
# upward = { min = 0, max = 1, atol = 1e-6, about = "median share of upward steps" }
# held_down = { min = 0, max = 10, rtol = 1e-6, about = "control's late sharpness / median there" }
# most_at_edge = { kind = "flag", about = "of them, by the detector" }
# control_at_edge = { kind = "flag", about = "the detector's false alarm on the control" }
# test_gain = { min = -1, max = 1, atol = 1e-6, about = "1 - test loss there / of control" }
# control_test = { min = 0, rtol = 1e-6, about = "test loss of the control over that of guessing" }
#
# [tool.axiom.result.configs]
# kind = "records"
# max_items = 200
# [tool.axiom.result.configs.fields]
# width = { kind = "integer" }
# rate = { rtol = 1e-9 }
# steps = { kind = "integer" }
# arrival_step = { kind = "integer", unit = "step", about = "first at 0.95; -1: never" }
# late_sharpness = { rtol = 1e-6, about = "median over the late half" }
# late_edge = { rtol = 1e-6, about = "lr * late sharpness / 2" }
# max_edge = { rtol = 1e-6 }
# final_loss = { min = 0, rtol = 1e-6 }
# loss_fall = { min = 0, max = 1e3, rtol = 1e-6 }
# upward = { min = 0, max = 1, atol = 1e-6 }
# test_loss = { min = 0, rtol = 1e-6 }
# diverged = { kind = "flag" }
# at_edge = { kind = "flag", about = "by the detector" }
#
# [tool.axiom.result.curves]
# kind = "records"
# max_items = 20
# about = "the first width, thinned"
# [tool.axiom.result.curves.fields]
# rate = { rtol = 1e-9 }
# time = { dims = 1, rtol = 1e-9, unit = "lr * step" }
# loss = { dims = 1, rtol = 1e-6 }
# sharpness = { dims = 1, rtol = 1e-6 }
# edge = { dims = 1, rtol = 1e-6, about = "lr * sharpness / 2" }
#
# [[tool.axiom.findings]]
# name = "progressive_sharpening"
# claim = "At a rate of 0.02 the sharpness more than doubles during training."
# field = "control_rise"
# criterion = { above = 2 }
#
# [[tool.axiom.findings]]
# name = "no_sharpening_of_a_linear_task"
# claim = """\
#   On a small linear task, learnt to a fiftieth of its loss, the sharpness rises by less than a \
#   half."""
# about = "The same net. Linear targets of the size of the others' raise it by 2 to 3 times."
# field = "linear_rise"
# criterion = { below = 1.5 }
#
# [[tool.axiom.findings]]
# name = "edge_of_stability"
# claim = "The median net of rates 0.1 to 0.2 ends within 5 % of lr * sharpness / 2 = 1."
# about = "The median of the three: now and then a net is thrown too far at one, and diverges."
# field = "edge_gap"
# criterion = { below = 0.05 }
#
# [[tool.axiom.findings]]
# name = "loss_still_falls"
# claim = "At the edge the loss falls to less than a tenth of what it was on arrival."
# field = "loss_fall"
# criterion = { below = 0.1 }
#
# [[tool.axiom.findings]]
# name = "not_at_every_step"
# claim = "At the edge the loss rises on more than 1 % of the steps."
# field = "upward_gain"
# criterion = { above = 0.01 }
#
# [[tool.axiom.findings]]
# name = "small_rate_stays_below"
# claim = "The control never comes to 0.95 of its own edge."
# field = "control_edge"
# criterion = { below = 0.95 }
#
# [[tool.axiom.findings]]
# name = "held_down_by_the_rate"
# claim = "Trained to the same loss, the control is sharper than the median net at the edge."
# field = "held_down"
# criterion = { above = 1.2 }
#
# [[tool.axiom.findings]]
# name = "flatter_generalises"
# claim = "Nets at the edge have a lower test loss than the sharper control."
# about = "Not expected to hold: in first trials its sign turned on the scale of the targets."
# field = "test_gain"
# criterion = { above = 0 }
#
# [[tool.axiom.figures]]
# name = "edge"
# title = "Sharpness rises past 2/lr, is thrown back, and settles there"
# x = "curves.time"
# y = ["curves.edge"]
# label = "lr {rate:g}"
# x_label = "lr * step"
# y_label = "lr * sharpness / 2"
# x_scale = "log"
# y_mark = [1.0]
#
# [[tool.axiom.figures]]
# name = "sharpness"
# title = "The smaller the rate, the sharper the net"
# x = "curves.time"
# y = ["curves.sharpness"]
# label = "lr {rate:g}"
# x_label = "lr * step"
# y_label = "sharpness"
# x_scale = "log"
#
# [[tool.axiom.figures]]
# name = "loss"
# title = "At the edge the loss still falls, but not at every step"
# x = "curves.time"
# y = ["curves.loss"]
# label = "lr {rate:g}"
# x_label = "lr * step"
# y_label = "training loss"
# x_scale = "log"
# y_scale = "log"
#
# [[tool.axiom.figures]]
# name = "late"
# kind = "points"
# title = "Every rate but the control's settles at 2/lr, whatever the width"
# x = "configs.rate"
# y = ["configs.late_edge"]
# label = "width {width}"
# x_label = "learning rate"
# y_label = "late lr * sharpness / 2"
# x_scale = "log"
# y_mark = [1.0]
# ///

from __future__ import annotations

import math

import numpy as np

SAMPLES = 100  # few enough to fit to a millionth: a natural end of the run
INPUTS = 10
TEST_SAMPLES = 1000
TARGET_SCALE = 1.4  # larger targets sharpen more: enough to reach the edge at every rate
LINEAR_SCALE = 0.5  # of the linear task: about the size of an untrained net's outputs
LINEAR_RATE, LINEAR_STEPS = 0.1, 2000  # far below its edge; to less than a hundredth of the loss
LINEAR_LEARNT = 0.02  # of the first loss
GAIN = 0.7  # of the initial weights; below 1 the net starts flat, so that sharpness can rise
FITTED = 1e-6  # of the first loss: after that there is nothing to learn, and nothing changes
DIVERGED = 1e3  # times the first loss
EARLY_STEPS, EARLY_EVERY = 100, 5  # looks at the sharpness while it rises to the edge
LATE_EVERY = 15  # steps between looks later; odd, since at the edge things alternate step by step
EDGE_RATES = (0.1, 0.2)  # of the findings; at 0.3 one seed in ten diverges
ARRIVED = 0.95  # of the edge
CURVE_POINTS = 120
LANCZOS_MAX = 60  # more than it ever takes from a warm start
LANCZOS_RTOL = 1e-4  # residual; the eigenvalue's own error is about its square
DIFFERENCE = 1e-4  # step of differences: their error is about its square
HESSIAN_ERROR_MAX = 1e-2  # a hundred times the residual at which Lanczos stops
SECONDS_PER_STEP = (3e-4, 1e-5)  # nominal: fixed, and per unit of width; on one 2.4 GHz core
STEPS_NOMINAL = 2500  # of a run at the edge; the control takes about three times as many


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


# The net: f(x) = tanh(tanh(x A + a) B + b) c + d, and its loss (1/2n) sum (f - y)^2. All parameters
# lie in one vector, of which `unpack` gives the six parts as views.


def rounded(theta):
    """Rounded to float32, which removes differences of processors in the last digits of float64.

    A weight is close enough to the middle of two float32 numbers to differ about once in 1e10.
    """
    if isinstance(theta, np.ndarray):
        return theta.astype(np.float32).astype(np.float64)
    return theta.float().double()


def unpack(theta, width):
    """(A, a, B, b, c, d) as views of theta, which has ``size_of(width)`` numbers."""
    shapes = ((INPUTS, width), (width,), (width, width), (width,), (width,), (1,))
    parts, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        parts.append(theta[start : start + size].reshape(shape))
        start += size
    return parts


def size_of(width):
    return (INPUTS + width + 3) * width + 1


def initial(rng, width):
    """Normal weights of variance GAIN^2 / fan-in, biases 0."""
    theta = np.zeros(size_of(width))
    for part in unpack(theta, width)[::2]:
        part[...] = rng.standard_normal(part.shape) * GAIN / math.sqrt(part.shape[0])
    return theta


def predict(theta, inputs, width):
    A, a, B, b, c, d = unpack(theta, width)
    tanh = library(theta).tanh
    return tanh(tanh(inputs @ A + a) @ B + b) @ c + d


def half_mean_square(error):
    return 0.5 * float(error @ error) / len(error)


def loss_and_gradient(theta, data, width):
    """The loss, its gradient of theta's shape, and the intermediate values that `hvp` needs."""
    A, a, B, b, c, d = unpack(theta, width)
    x, tanh = data["inputs"], library(theta).tanh
    first = tanh(x @ A + a)
    second = tanh(first @ B + b)
    error = second @ c + d - data["targets"]
    pull = error / len(error)
    slope1, slope2 = 1 - first * first, 1 - second * second
    back2 = pull[:, None] * c
    delta2 = back2 * slope2
    back1 = delta2 @ B.T
    delta1 = back1 * slope1
    gradient = pack(x, first, second, delta1, delta2, pull)
    seen = (first, second, slope1, slope2, pull, back1, back2, delta2)
    return half_mean_square(error), gradient, seen


def pack(x, first, second, delta1, delta2, pull):
    return library(x).concat([
        (x.T @ delta1).ravel(), delta1.sum(0), (first.T @ delta2).ravel(), delta2.sum(0),
        second.T @ pull, pull.sum()[None],
    ])  # fmt: skip


def hvp(theta, direction, data, width, seen):
    """Hessian times direction: the gradient's derivative along it (Pearlmutter 1994), exact."""
    _, _, B, _, c, _ = unpack(theta, width)
    dA, da, dB, db, dc, dd = unpack(direction, width)
    first, second, slope1, slope2, pull, back1, back2, delta2 = seen
    x = data["inputs"]
    d_first = (x @ dA + da) * slope1
    d_second = (d_first @ B + first @ dB + db) * slope2
    d_pull = (d_second @ c + second @ dc + dd) / len(x)
    d_back2 = d_pull[:, None] * c + pull[:, None] * dc
    d_delta2 = d_back2 * slope2 - 2 * back2 * second * d_second
    d_back1 = d_delta2 @ B.T + delta2 @ dB.T
    d_delta1 = d_back1 * slope1 - 2 * back1 * first * d_first
    return library(x).concat([
        (x.T @ d_delta1).ravel(), d_delta1.sum(0),
        (d_first.T @ delta2 + first.T @ d_delta2).ravel(), d_delta2.sum(0),
        d_second.T @ pull + second.T @ d_pull, d_pull.sum()[None],
    ])  # fmt: skip


def lanczos(product, start):
    """Largest eigenvalue and its vector of a symmetric operator, from a start vector.

    Full reorthogonalisation: without it the method finds eigenvalues again that it already has.
    """
    xp = library(start)
    basis = xp.stack([start / xp.linalg.norm(start)] * LANCZOS_MAX)  # row 0; the others follow
    diagonal, beside = [], []
    for k in range(LANCZOS_MAX):
        image = product(basis[k])
        diagonal.append(float(basis[k] @ image))
        for _ in range(2):  # twice is enough (Kahan)
            image -= basis[: k + 1].T @ (basis[: k + 1] @ image)
        beside.append(float(xp.linalg.norm(image)))
        off = np.diag(beside[:k], 1)
        values, vectors = np.linalg.eigh(np.diag(diagonal) + off + off.T)
        residual = beside[k] * abs(vectors[-1, -1])
        if residual <= LANCZOS_RTOL * abs(values[-1]) or k + 1 == LANCZOS_MAX:
            break
        basis[k + 1] = image / beside[k]
    return float(values[-1]), sum(
        share * row for share, row in zip(vectors[:, -1].tolist(), basis, strict=False)
    )


def sharpness(theta, data, width, seen, start):
    """Top Hessian eigenvalue and its vector; ``start`` is the vector of the last look."""
    return lanczos(lambda direction: hvp(theta, direction, data, width, seen), start)


def eigenpair_error(theta, data, width, value, vector):
    """|H v - value v| / value with H v from differences of the gradient instead of ``hvp``.

    At the start of training, where residuals are large: a Gauss-Newton or Fisher matrix agrees with
    the Hessian only where they vanish.
    """
    xp = library(vector)
    unit = vector / xp.linalg.norm(vector)
    ahead, behind = (
        loss_and_gradient(theta + sign * DIFFERENCE * unit, data, width)[1] for sign in (1, -1)
    )
    return float(xp.linalg.norm((ahead - behind) / (2 * DIFFERENCE) - value * unit)) / abs(value)


def reaches_edge(ratios):
    """Whether lr * sharpness / 2 rises to 1 and stays; to rise past 1 or to cross it is not enough.

    They start below 0.9, and four times as far below the late level as late values scatter; the
    median of the late half is within 5 % of 1; and they settle: 9 of 10 late values are within 15 %
    of 1, and the medians of the third and fourth quarter within 3 % of each other.
    """
    ratios = np.asarray(ratios)
    if len(ratios) < 8:
        return False
    late = ratios[len(ratios) // 2 :]
    level = np.median(late)
    scatter = 1.48 * np.median(np.abs(late - level))  # the standard deviation, if it were normal
    third, fourth = np.median(late[: len(late) // 2]), np.median(late[len(late) // 2 :])
    return bool(
        ratios[0] < min(0.9, level - 4 * scatter)
        and abs(level - 1) <= 0.05
        and np.mean(np.abs(late - 1) <= 0.15) >= 0.9
        and abs(third - fourth) <= 0.03
    )


def make_data(rng):
    """Normal inputs; targets from three directions of them, one linear and two in a product."""
    directions = rng.standard_normal((INPUTS, 3))
    directions /= np.linalg.norm(directions, axis=0)
    inputs = rng.standard_normal((SAMPLES + TEST_SAMPLES, INPUTS))
    z = inputs @ directions
    targets = TARGET_SCALE * (z[:, 0] + z[:, 1] * z[:, 2])
    return {
        "inputs": inputs[:SAMPLES], "targets": targets[:SAMPLES],
        "linear": LINEAR_SCALE * z[:SAMPLES, 0],
        "test_inputs": inputs[SAMPLES:], "test_targets": targets[SAMPLES:],
    }  # fmt: skip


def is_look(step):
    return step % (EARLY_EVERY if step <= EARLY_STEPS else LATE_EVERY) == 0


def descend(data, theta, start, rate, width, steps_max):
    """Full-batch gradient descent until fitted, diverged or ``steps_max``, with the sharpness."""
    losses, at, sharp = [], [], []
    for step in range(steps_max + 1):
        loss, gradient, seen = loss_and_gradient(theta, data, width)
        losses.append(loss)
        diverged = not loss < DIVERGED * losses[0]
        if diverged or loss < FITTED * losses[0]:
            break
        if is_look(step):
            value, start = sharpness(theta, data, width, seen, start)
            at.append(step)
            sharp.append(value)
        theta = rounded(theta - rate * gradient)
    test_error = predict(theta, data["test_inputs"], width) - data["test_targets"]
    return {
        "losses": np.array(losses), "at": np.array(at), "sharp": np.array(sharp),
        "diverged": diverged, "test_loss": half_mean_square(test_error),
    }  # fmt: skip


def run_config(task, data, width, rate):
    """One net; every rate starts from the same weights."""
    rng = task.rng(width)
    theta = rounded(place(initial(rng, width), task.device))
    start = place(rng.standard_normal(size_of(width)), task.device)
    first = sharpness(theta, data, width, loss_and_gradient(theta, data, width)[2], start)
    error = eigenpair_error(theta, data, width, *first)
    path = descend(data, theta, start, rate, width, task.parameters["steps_max"])
    return summarise(path, width, rate) | {"hessian_error": min(error, 1e9)}


def linear_task(task, data, width):
    """How much sharper the untrained net of `run_config` becomes at the linear task, and its loss.

    Both over their first values.
    """
    rng = task.rng(width)
    theta = rounded(place(initial(rng, width), task.device))
    start = place(rng.standard_normal(size_of(width)), task.device)
    steps = min(LINEAR_STEPS, task.parameters["steps_max"])
    linear = data | {"targets": data["linear"]}
    path = descend(linear, theta, start, LINEAR_RATE, width, steps)
    return {
        "linear_rise": min(float(path["sharp"].max() / path["sharp"][0]), 4.0),
        "linear_loss": float(path["losses"][-1] / path["losses"][0]),
    }


def summarise(path, width, rate):
    losses, at, ratios = path["losses"], path["at"], path["sharp"] * rate / 2
    late = float(np.median(path["sharp"][len(at) // 2 :]))
    arrived = np.flatnonzero(ratios >= ARRIVED)
    arrival = int(at[arrived[0]]) if len(arrived) else -1
    since = losses[max(arrival, 0) :]
    few = np.unique(np.linspace(0, len(at) - 1, CURVE_POINTS).astype(int))
    return {
        "width": width,
        "rate": rate,
        "steps": len(losses) - 1,
        "arrival_step": arrival,
        "late_sharpness": late,
        "late_edge": late * rate / 2,
        "max_edge": float(ratios.max()),
        "final_loss": float(min(losses[-1], DIVERGED * losses[0])),
        "loss_fall": float(min(since[-1] / since[0], DIVERGED)),
        "upward": float(np.mean(np.diff(since) > 0)) if len(since) > 1 else 0.0,
        "test_loss": min(path["test_loss"], 1e9),
        "diverged": int(path["diverged"]),
        "at_edge": int(not path["diverged"] and reaches_edge(ratios)),
        "sharpness0": float(path["sharp"][0]),
        "rise": float(path["sharp"].max() / path["sharp"][0]),
        "curve": {
            "rate": rate,
            "time": (at[few] * rate).tolist(),
            "loss": losses[at[few]].tolist(),
            "sharpness": path["sharp"][few].tolist(),
            "edge": ratios[few].tolist(),
        },
    }


def plan(parameters, budget_seconds):
    """The pairs (width, rate) that the budget allows, in their fixed order; at least one."""
    pairs, spent = [], 0.0
    fixed, per_unit = SECONDS_PER_STEP
    for width in parameters["widths"]:
        for rate in parameters["rates"]:
            steps = STEPS_NOMINAL * (3 if rate == min(parameters["rates"]) else 1)
            spent += min(parameters["steps_max"], steps) * (fixed + per_unit * width)
            if pairs and spent > budget_seconds:
                return pairs
            pairs.append((width, rate))
    return pairs


def shared_samples(inputs, test_inputs):
    """How many test samples are also training samples; the test is meaningful only if none are."""
    seen = {row.tobytes() for row in inputs}
    return sum(row.tobytes() in seen for row in test_inputs)


#: Numbers that findings use are clipped to these bounds: with bounds a mean is decided sooner.
CUT = {
    "loss_fall": (0, 1),
    "upward_gain": (-0.5, 0.5),
}


def cut(result):
    """The result with its comparisons added and every number in CUT clipped to its bounds."""
    result["upward_gain"] = result["upward"] - result["control_upward"]
    bounded = {name: min(max(result[name], low), high) for name, (low, high) in CUT.items()}
    return result | bounded


def run(task):
    drawn = make_data(task.rng(0))
    overlap = shared_samples(drawn["inputs"], drawn["test_inputs"])
    data = {name: place(part, task.device) for name, part in drawn.items()}
    pairs = plan(task.parameters, task.budget_seconds)
    done = (task.restore() or {"done": []})["done"]
    for width, rate in pairs[len(done) :]:
        done.append(run_config(task, data, width, rate))
        task.checkpoint({"done": done})
        task.progress(len(done) / len(pairs))
    guessing = half_mean_square(data["test_targets"] - data["targets"].mean())
    linear = linear_task(task, data, task.parameters["widths"][0])
    return cut(report(done, min(task.parameters["rates"]), guessing, overlap, linear))


def report(done, control_rate, guessing, overlap, linear):
    """Headline numbers and curves of the first width, and a record for each pair.

    A number whose rates did not run is 0, and then the run is not valid: an edge without the
    control, or the control alone, is no evidence. ``guessing`` is the test loss of the mean target.
    """
    main = [c for c in done if c["width"] == done[0]["width"]]
    control = next((c for c in main if c["rate"] == control_rate), None)
    edge = [c for c in main if EDGE_RATES[0] <= c["rate"] <= EDGE_RATES[1]]
    error = max(c["hessian_error"] for c in done)
    sane = (
        control is not None
        and bool(edge)
        and overlap == 0
        and error < HESSIAN_ERROR_MAX
        and linear["linear_loss"] < LINEAR_LEARNT
        and control["final_loss"] < 1e-3 * control["curve"]["loss"][0]
        and control["test_loss"] < 0.9 * guessing  # shuffled labels: above 2
    )
    tables = sorted(done, key=lambda c: (c["width"], c["rate"]))
    inner = ("sharpness0", "rise", "curve", "hessian_error")
    return {
        "valid": int(sane),
        "configs_done": len(done),
        "overlap": overlap,
        "hessian_error": error,
        "sharpness0": done[0]["sharpness0"],
        **control_numbers(control, guessing),
        **linear,
        **edge_numbers(edge),
        **compared(control, edge),
        "configs": [{k: v for k, v in c.items() if k not in inner} for c in tables],
        "curves": [c["curve"] for c in tables if c["width"] == done[0]["width"]],
    }


def control_numbers(control, guessing):
    c = control or {}
    return {
        "control_rise": min(c.get("rise", 0.0), 20.0),
        "control_edge": min(c.get("max_edge", 0.0), 2.0),
        "control_sharpness": c.get("late_sharpness", 0.0),
        "control_upward": c.get("upward", 0.0),
        "control_at_edge": c.get("at_edge", 0),
        "control_test": c.get("test_loss", 0.0) / guessing,
    }


def edge_numbers(edge):
    """Medians over the edge rates; diverged nets are counted in `thrown_off`."""
    late = [c["late_edge"] for c in edge]
    return {
        "edge_gap": min(middle(abs(value - 1) for value in late), 1.0),
        "edge_low": min(late, default=0.0),
        "edge_high": max(late, default=0.0),
        "thrown_off": sum(c["diverged"] for c in edge) / max(1, len(edge)),
        "loss_fall": middle(c["loss_fall"] for c in edge),
        "upward": middle(c["upward"] for c in edge),
        "most_at_edge": int(2 * sum(c["at_edge"] for c in edge) > len(edge)),
    }


def middle(values):
    """The median, or 0 of nothing."""
    values = list(values)
    return float(np.median(values)) if values else 0.0


def compared(control, edge):
    if control is None or not edge:
        return {"held_down": 0.0, "test_gain": 0.0}
    return {
        "held_down": min(
            control["late_sharpness"] / middle(c["late_sharpness"] for c in edge), 10.0
        ),
        "test_gain": max(1 - middle(c["test_loss"] for c in edge) / control["test_loss"], -1.0),
    }
