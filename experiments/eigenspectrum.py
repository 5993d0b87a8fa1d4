"""Eigenspectrum: does learning show as outliers of the weights' spectrum, as theory predicts?

Ba, Erdogdu, Suzuki, Wang, Wu & Yang 2022, "High-dimensional asymptotics of feature learning: how
one gradient step improves the representation" (arXiv:2205.01445); Benaych-Georges & Nadakuditi
2012 (arXiv:1103.2221); Martin & Mahoney 2021 (arXiv:1810.01075).

    axiom-client try experiments/eigenspectrum.py --seed 1 --plot eigenspectrum.png

The singular values of a random weight matrix fill the bulk of Marchenko and Pastur and end sharply
at an edge. The gradient of the first layer by a target that depends on r directions of the input is
nearly of rank r. One step of gradient descent therefore adds r spikes to a random matrix. According
to random matrix theory, a spike of size theta below a threshold vanishes in the bulk and leaves its
largest singular value unchanged; above the threshold it causes one outlier, whose position and
overlap with the target's direction are functions of theta alone. With c = units / inputs and
entries of variance 1 / inputs:

    edge 1 + sqrt(c);  threshold c^(1/4);  outlier sqrt((1 + theta^2)(c + theta^2)) / theta
    overlap^2 with the input direction  1 - (c + theta^2) / (theta^2 (1 + theta^2))

Step sizes here are set in units of the threshold: the largest singular value of the step is k
thresholds. What the step has learnt is measured by a ridge regression on the hidden units, before
and after it.

Controls: permuted targets at the same learning rate; the untrained net; steps below the threshold.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy"]
#
# [tool.axiom]
# name = "eigenspectrum"
# version = "1.1.0"
# title = "The eigenspectrum of weights after one gradient step"
# question = "Does what a step learns show as outliers, as many and where random matrices say?"
# rationale = [
#   "An earlier session log named it confirmed, but two direct counts of outliers found none.",
#   "Theory covers one step from a random matrix, so it predicts numbers that can be refuted.",
#   "Complements rank dynamics: what compresses rank begins as a spike outside the bulk.",
# ]
# references = [
#   "Ba et al. 2022, High-dimensional asymptotics of feature learning, arXiv:2205.01445",
#   "Benaych-Georges & Nadakuditi 2012, Singular values of perturbations, arXiv:1103.2221",
#   "Martin & Mahoney 2021, Implicit self-regularization in deep networks, arXiv:1810.01075",
# ]
# resources = { cpu_cores = 1, memory_bytes = 700_000_000, disk_bytes = 10_000_000 }
# expected_seconds = 8
#
# [tool.axiom.parameters.directions]
# default = [1, 2, 4]
# min = 1
# max = 16
# max_items = 10
# about = "input directions that the target depends on, one output for each"
#
# [tool.axiom.parameters.steps]
# default = [0.5, 2.0, 0.25, 1.0, 1.5, 3.0]
# min = 0.0
# max = 20.0
# max_items = 30
# about = "sizes of the step in thresholds; findings read the first (below) and second (above)"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "the features predict the target; theory's bulk fits untrained" }
# configs_done = { kind = "integer", min = 1, about = "numbers of directions" }
# shared = { kind = "integer", min = 0, about = "test samples that are training samples" }
# error_ratio = { min = 0, max = 2, rtol = 1e-6, about = "error_after / error_before" }
# all_counted = { kind = "flag", about = "above: as many outliers as directions, every time" }
# outliers_below.about = "below the threshold, over all directions"
# outliers_below.min = 0
# outliers_below.max = 3
# outliers_below.kind = "integer"
# outliers_untrained = { kind = "integer", min = 0, about = "before the step" }
# outliers_permuted = { min = 0, max = 3, kind = "integer", about = "same rate, permuted targets" }
# place_gap = { min = 0, max = 0.2, atol = 1e-7, about = "mean |outlier / theory - 1|, above" }
# overlap = { min = 0, max = 1, rtol = 1e-6, about = "mean squared, with the target's plane" }
# overlap_theory = { min = 0, max = 1, rtol = 1e-6 }
# overlap_below = { min = 0, max = 1, rtol = 1e-6, about = "of the largest r vectors, below" }
# overlap_permuted = { min = 0, max = 1, rtol = 1e-6 }
# error_after = { min = 0, rtol = 1e-6, about = "ridge test error over guessing, after, above" }
# error_before = { min = 0, rtol = 1e-6, about = "on untrained features" }
# error_permuted = { min = 0, rtol = 1e-6, about = "true targets on the permuted arm's features" }
#
# [tool.axiom.result.configs]
# kind = "records"
# max_items = 300
# [tool.axiom.result.configs.fields]
# directions = { kind = "integer" }
# step = { rtol = 1e-9, about = "largest singular value of the step, in thresholds" }
# largest = { min = 0, rtol = 1e-7, about = "singular value of the weights, in units of the edge" }
# theory = { min = 0, rtol = 1e-6 }
# overlap = { min = 0, max = 1, rtol = 1e-6, atol = 1e-9 }
# overlap_theory = { min = 0, max = 1, rtol = 1e-6, atol = 1e-9 }
# outliers = { kind = "integer", min = 0 }
#
# [[tool.axiom.findings]]
# name = "one_outlier_a_direction"
# claim = "A step of two thresholds brings as many outliers as the target has directions."
# field = "all_counted"
# statistic = "share"
# criterion = { above = 0.7 }
#
# [[tool.axiom.findings]]
# name = "none_below_the_threshold"
# claim = "A step of half a threshold brings no outlier."
# field = "outliers_below"
# criterion = { below = 0.5 }
#
# [[tool.axiom.findings]]
# name = "none_from_noise"
# claim = "Permuted targets bring no outlier at the same rate."
# field = "outliers_permuted"
# criterion = { below = 0.5 }
#
# [[tool.axiom.findings]]
# name = "where_theory_says"
# claim = "Outliers lie within 5 % of where random matrix theory puts them."
# field = "place_gap"
# criterion = { below = 0.05 }
#
# [[tool.axiom.findings]]
# name = "along_the_target"
# claim = "Outliers overlap with the target's directions as theory says, to 0.1."
# field = "overlap"
# control = "overlap_theory"
# statistic = "difference"
# criterion = { above = -0.1, below = 0.1 }
#
# [[tool.axiom.findings]]
# name = "features_improve"
# claim = "After the step a ridge regression on hidden units errs less than 0.95 of before."
# field = "error_ratio"
# criterion = { below = 0.95 }
#
# [[tool.axiom.figures]]
# name = "outliers"
# title = "The largest singular value leaves the bulk where theory says"
# kind = "points"
# x = "configs.step"
# y = ["configs.largest", "configs.theory"]
# legend = ["measured", "theory"]
# x_label = "size of the step, thresholds"
# y_label = "largest singular value / edge"
# x_mark = [1.0]
# y_mark = [1.0]
#
# [[tool.axiom.figures]]
# name = "overlap"
# title = "and then points along the target"
# kind = "points"
# x = "configs.step"
# y = ["configs.overlap", "configs.overlap_theory"]
# legend = ["measured", "theory"]
# x_label = "size of the step, thresholds"
# y_label = "squared overlap with the target's directions"
# x_mark = [1.0]
# ///

from __future__ import annotations

import numpy as np

INPUTS, UNITS = 100, 200
ASPECT = UNITS / INPUTS  # c of the theory
EDGE, THRESHOLD = 1 + ASPECT**0.5, ASPECT**0.25
SAMPLES, TEST_SAMPLES = 30_000, 4000  # so many that a gradient's noise hardly widens the bulk
MARGIN = 1.04  # of the edge: an untrained matrix of this size reaches 1.02 about once in a hundred
RIDGE = 1e-3  # of the mean square of a hidden unit
FIT_SAMPLES = 4000  # of the training set, for the ridge regression
BELOW, ABOVE = 0, 1  # positions in the parameter `steps`
CONFIG_SECONDS = 2.0  # nominal, on one core


# --- random matrix theory (Benaych-Georges & Nadakuditi 2012, section 3.1) ------------------------


def outlier(theta):
    """Largest singular value for a spike of this size; the edge below the threshold."""
    t = np.maximum(theta, THRESHOLD) ** 2
    return np.sqrt((1 + t) * (ASPECT + t) / t)


def overlap(theta):
    """Squared overlap of its vector on the input side with the spike's; 0 below the threshold."""
    t = np.maximum(theta, THRESHOLD) ** 2
    return np.maximum(0.0, 1 - (ASPECT + t) / (t * (1 + t)))


# --- the task and the net: f(x) = tanh(x W) A -----------------------------------------------------


def draw_task(rng, count):
    """Directions (INPUTS, count), orthonormal; training and test samples, targets +1 and -1."""
    directions = np.linalg.qr(rng.standard_normal((INPUTS, count)))[0]
    inputs = rng.standard_normal((SAMPLES + TEST_SAMPLES, INPUTS))
    targets = np.sign(inputs @ directions)
    train, test = slice(0, SAMPLES), slice(SAMPLES, None)
    return directions, (inputs[train], targets[train]), (inputs[test], targets[test])


def shared_samples(inputs, test_inputs):
    """How many test samples are also training samples; the test is meaningful only if none are."""
    seen = {row.tobytes() for row in inputs}
    return sum(row.tobytes() in seen for row in test_inputs)


def initial(rng, outputs):
    """Entries of variance 1 / fan-in."""
    first = rng.standard_normal((INPUTS, UNITS)) / np.sqrt(INPUTS)
    return first, rng.standard_normal((UNITS, outputs)) / np.sqrt(UNITS)


def first_gradient(first, second, inputs, targets):
    """Of half the mean squared error, by the first layer, at an output of zero.

    The untrained net's own output is left out: it is noise as large as the targets and unrelated to
    them (Ba et al. make the read-out small for the same reason).
    """
    hidden = np.tanh(inputs @ first)
    pull = -targets / len(inputs)
    return inputs.T @ ((pull @ second.T) * (1 - hidden * hidden))


def ridge_error(first, data, test):
    """Test error of a ridge regression on the hidden units, over that of guessing the mean."""
    hidden, targets = np.tanh(data[0][:FIT_SAMPLES] @ first), data[1][:FIT_SAMPLES]
    gram = hidden.T @ hidden
    gram[np.diag_indices(UNITS)] += RIDGE * len(hidden)
    read = np.linalg.solve(gram, hidden.T @ targets)
    error = np.tanh(test[0] @ first) @ read - test[1]
    return float(np.mean(error**2) / np.var(test[1]))


# --- the spectrum ---------------------------------------------------------------------------------


def spectrum(first, directions):
    """Singular values in units of the edge, and squared overlap of the top r vectors' plane."""
    left, values, _ = np.linalg.svd(first, full_matrices=False)
    top = left[:, : directions.shape[1]]
    return values / EDGE, float(np.sum((top.T @ directions) ** 2) / directions.shape[1])


def outliers(values):
    return int(np.sum(values > MARGIN))


def look(first, step, spikes, directions, size):
    """The spectrum after a step, and the theory's prediction for the step's spikes."""
    values, aligned = spectrum(first + step, directions)
    count = directions.shape[1]
    expected = outlier(spikes) / EDGE
    return {
        "directions": count, "step": size,
        "largest": float(values[0]), "theory": float(expected[0]),
        "gap": float(np.mean(np.abs(values[:count] / expected - 1))),
        "overlap": aligned, "overlap_theory": float(np.mean(overlap(spikes))),
        "outliers": outliers(values),
    }  # fmt: skip


def run_config(task, count):
    """One target with ``count`` directions: every step size from one gradient, and the controls."""
    rng = task.rng(count)
    directions, data, test = draw_task(rng, count)
    first, second = initial(rng, count)
    slope = first_gradient(first, second, *data)
    noise = first_gradient(first, second, data[0], rng.permutation(data[1]))
    sizes = np.linalg.svd(slope, compute_uv=False)[:count]
    rates = [size * THRESHOLD / sizes[0] for size in task.parameters["steps"]]
    looks = [
        look(first, -rate * slope, rate * sizes, directions, size)
        for rate, size in zip(rates, task.parameters["steps"], strict=True)
    ]
    rate = rates[min(ABOVE, len(rates) - 1)]
    nets = first, first - rate * slope, first - rate * noise
    permuted = look(first, -rate * noise, rate * sizes, directions, 0.0)
    return {
        "looks": looks, "permuted": permuted,
        "overlap": shared_samples(data[0], test[0]),
        "untrained": outliers(spectrum(first, directions)[0]),
        "errors": [ridge_error(w, data, test) for w in nets],
    }  # fmt: skip


# --- the run --------------------------------------------------------------------------------------


#: Numbers that findings use are clipped to these bounds: with bounds a mean is decided sooner.
CUT = {
    "outliers_below": (0, 3),
    "outliers_permuted": (0, 3),
    "place_gap": (0, 0.2),
    "error_ratio": (0, 2),
}


def cut(result):
    """The result with its comparisons added and every number in CUT clipped to its bounds."""
    result["error_ratio"] = (
        result["error_after"] / result["error_before"] if result["error_before"] else 0.0
    )
    bounded = {name: min(max(result[name], low), high) for name, (low, high) in CUT.items()}
    return result | bounded


def run(task):
    wanted = task.parameters["directions"]
    wanted = wanted[: max(1, int(task.budget_seconds // CONFIG_SECONDS))]
    done = (task.restore() or {"done": []})["done"]
    for count in wanted[len(done) :]:
        done.append(run_config(task, count))
        task.checkpoint({"done": done})
        task.progress(len(done) / len(wanted))
    return cut(report(done))


def mean(values):
    return float(np.mean(list(values)))


def report(done):
    """The result, over the numbers of directions that ran. One step size alone is not valid."""
    above = [c["looks"][min(ABOVE, len(c["looks"]) - 1)] for c in done]
    below = [c["looks"][BELOW] for c in done]
    before, after, permuted = np.mean([c["errors"] for c in done], axis=0).tolist()
    untrained = sum(c["untrained"] for c in done)
    shared = sum(c["overlap"] for c in done)
    sane = shared == 0 and len(done[0]["looks"]) > 1 and untrained == 0 and after < 0.8
    shown = ("directions", "step", "largest", "theory", "overlap", "overlap_theory", "outliers")
    return {
        "valid": int(sane),
        "configs_done": len(done),
        "shared": shared,
        "all_counted": int(all(c["outliers"] == c["directions"] for c in above)),
        "outliers_below": sum(c["outliers"] for c in below),
        "outliers_untrained": untrained,
        "outliers_permuted": sum(c["permuted"]["outliers"] for c in done),
        "place_gap": mean(c["gap"] for c in above),
        "overlap": mean(c["overlap"] for c in above),
        "overlap_theory": mean(c["overlap_theory"] for c in above),
        "overlap_below": mean(c["overlap"] for c in below),
        "overlap_permuted": mean(c["permuted"]["overlap"] for c in done),
        "error_after": after,
        "error_before": before,
        "error_permuted": permuted,
        "configs": [{key: one[key] for key in shown} for c in done for one in c["looks"]],
    }
