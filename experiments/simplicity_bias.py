"""Simplicity bias: given two features that predict alike, does a net use only the simpler one?

Shah, Tamuly, Raghunathan, Jain & Netrapalli 2020, "The pitfalls of simplicity bias in neural
networks" (arXiv:2006.07710).

    axiom-client try experiments/simplicity_bias.py --seed 1 --plot simplicity_bias.png

Two classes can be told apart by either of two coordinates. The *linear* one has the sign of the
class: one threshold. The *slab* one has one class in the middle and the other on both sides: two
thresholds. Either is enough for 100 %, and an ideal classifier would use both. Which one a trained
net uses is tested by shuffling: a coordinate is permuted over the test samples, which keeps its
distribution and removes its information about the class. An accuracy of 0.5 means that the net used
nothing else; unchanged accuracy means that it did not use that coordinate.

Controls: the slab as the only predictive coordinate, to show that the same net can learn it; the
linear one as the only one; and two linear coordinates, of which a net uses both, to show that
shuffling does not always find a bias for one.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]  # torch on GPUs only
#
# [tool.axiom]
# name = "simplicity_bias"
# version = "1.0.0"
# title = "Simplicity bias"
# question = "Of two coordinates that predict the class alike, does a net use only the simpler?"
# rationale = [
#   "An earlier session log confirmed it; here a control shows that the net can learn both.",
#   "Shuffling one coordinate is a test of use that needs no assumption about the net.",
#   "Relevant to rank compression: a simple feature is one direction.",
# ]
# references = [
#   "Shah et al. 2020, The pitfalls of simplicity bias in neural networks, arXiv:2006.07710",
#   "Arpit et al. 2017, A closer look at memorization in deep networks, arXiv:1706.05394",
# ]
# resources = { cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 10_000_000 }
# expected_seconds = 2
#
# [tool.axiom.parameters.margin]
# default = 0.1
# min = 0.01
# max = 0.9
# about = "half the gap between the classes in the linear coordinate, whose values end at 1"
#
# [tool.axiom.parameters.slab_margin]
# default = 0.1
# min = 0.01
# max = 0.4
# about = "half the gap at each of the two thresholds of the slab coordinate"
#
# [tool.axiom.parameters.steps]
# default = 1500
# min = 10
# max = 100000
# about = "of SGD with momentum, for every net"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "every net fits and generalises; shuffling all leaves chance" }
# configs_done = { kind = "integer", min = 1, about = "nets: both, slab, linear, two linear" }
# overlap = { kind = "integer", min = 0, about = "test samples that are training samples" }
# accuracy = { min = 0, max = 1, atol = 1e-9, about = "both predictive, nothing shuffled" }
# slab_shuffled = { min = 0, max = 1, atol = 1e-9, about = "of the same net" }
# linear_shuffled = { min = 0, max = 1, atol = 1e-9 }
# all_shuffled = { min = 0, max = 1, atol = 1e-9, about = "both: chance" }
# slab_alone = { min = 0, max = 1, atol = 1e-9, about = "trained where the linear one is noise" }
# linear_alone = { min = 0, max = 1, atol = 1e-9, about = "trained where the slab is noise" }
# twin_shuffled = { min = 0, max = 1, atol = 1e-9, about = "two linear, one of them shuffled" }
# train_accuracy = { min = 0, max = 1, atol = 1e-9, about = "least of all nets" }
#
# [tool.axiom.result.configs]
# kind = "records"
# max_items = 4
# [tool.axiom.result.configs.fields]
# net = { kind = "integer", about = "0 both, 1 slab alone, 2 linear alone, 3 two linear" }
# whole = { min = 0, max = 1, atol = 1e-9, about = "test accuracy" }
# first_shuffled = { min = 0, max = 1, atol = 1e-9, about = "the linear coordinate" }
# second_shuffled = { min = 0, max = 1, atol = 1e-9, about = "the slab, or second linear one" }
#
# [[tool.axiom.findings]]
# name = "without_linear_nothing_is_left"
# claim = "With the linear coordinate shuffled accuracy is at chance: below 0.55."
# field = "linear_shuffled"
# criterion = { below = 0.55 }
#
# [[tool.axiom.findings]]
# name = "slab_is_not_missed"
# claim = "With the slab coordinate shuffled accuracy stays above 0.97."
# field = "slab_shuffled"
# criterion = { above = 0.97 }
#
# [[tool.axiom.findings]]
# name = "slab_can_be_learnt"
# claim = "Where the slab alone predicts, the same net learns it: above 0.9."
# field = "slab_alone"
# criterion = { above = 0.9 }
#
# [[tool.axiom.findings]]
# name = "equals_are_both_used"
# claim = "Of two linear coordinates both are used: with one shuffled 0.1 more accuracy is left."
# field = "twin_shuffled"
# control = "linear_shuffled"
# statistic = "difference"
# criterion = { above = 0.1 }
#
# [[tool.axiom.figures]]
# name = "shuffled"
# title = "What is left when a coordinate is shuffled"
# kind = "points"
# x = "configs.net"
# y = ["configs.whole", "configs.first_shuffled", "configs.second_shuffled"]
# legend = ["nothing shuffled", "linear shuffled", "slab (or second linear) shuffled"]
# x_label = "0 both, 1 slab alone, 2 linear alone, 3 two linear"
# y_label = "test accuracy"
# y_mark = [0.5]
# ///

from __future__ import annotations

import numpy as np

INPUTS = 20  # two that may predict, the rest standard normal
SAMPLES, TEST_SAMPLES = 2000, 10_000
WIDTH = 100  # of one hidden layer
BATCH = 50
RATE, MOMENTUM = 0.1, 0.9
BOTH, SLAB, LINEAR, TWINS = range(4)
NETS = (BOTH, SLAB, LINEAR, TWINS)
NET_SECONDS = 0.5  # nominal, of 1500 steps on one core


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


# --- the task -------------------------------------------------------------------------------------


def linear_feature(rng, classes, margin):
    """Class 1 in [margin, 1], class 0 in [-1, -margin]."""
    return (2 * classes - 1) * rng.uniform(margin, 1, len(classes))


def slab_feature(rng, classes, margin):
    """Class 1 in the middle, |x| < 1/2 - margin; class 0 on both sides, |x| from 1/2 + margin to 1.

    A line through it gets 3/4 right at most: one side and the middle.
    """
    inside = rng.uniform(margin - 0.5, 0.5 - margin, len(classes))
    outside = rng.uniform(0.5 + margin, 1, len(classes)) * rng.choice([-1, 1], len(classes))
    return np.where(classes == 1, inside, outside)


def draw(rng, count, net, parameters):
    """Inputs (count, INPUTS) and classes (count,); ``net`` selects which coordinates predict them.

    A coordinate that must not predict is drawn for other, random classes, so that its distribution
    stays the same.
    """
    classes, other = rng.integers(0, 2, (2, count))
    second = linear_feature if net == TWINS else slab_feature
    margin = parameters["margin" if net == TWINS else "slab_margin"]
    inputs = rng.standard_normal((count, INPUTS))
    inputs[:, 0] = linear_feature(rng, other if net == SLAB else classes, parameters["margin"])
    inputs[:, 1] = second(rng, other if net == LINEAR else classes, margin)
    return inputs, classes


def shared_samples(inputs, test_inputs):
    """How many test samples are also training samples; the test is meaningful only if none are."""
    seen = {row.tobytes() for row in inputs}
    return sum(row.tobytes() in seen for row in test_inputs)


def shuffled(rng, inputs, columns):
    """The inputs with each of these columns permuted over the samples."""
    changed = inputs.copy()
    for column in columns:
        changed[:, column] = rng.permutation(changed[:, column])
    return changed


# --- the net: f(x) = relu(x A + a) . b + c, logistic loss -----------------------------------------


def initial(rng):
    """He's Gaussian weights; biases 0."""
    first = rng.standard_normal((INPUTS, WIDTH)) * np.sqrt(2.0 / INPUTS)
    second = rng.standard_normal(WIDTH) / np.sqrt(WIDTH)
    return [first, np.zeros(WIDTH), second, np.zeros(1)]


def forward(net, inputs):
    """Activities (n, WIDTH) and outputs (n,)."""
    A, a, b, c = net
    active = (inputs @ A + a).clip(0.0)
    return active, active @ b + c


def gradients(net, inputs, classes):
    """Of the mean logistic loss, by each part of the net."""
    active, outputs = forward(net, inputs)
    pull = (1 / (1 + library(outputs).exp(-outputs)) - classes) / len(inputs)
    back = (pull[:, None] * net[2]) * (active > 0)
    return [inputs.T @ back, back.sum(0), active.T @ pull, pull.sum()[None]]


def train(net, inputs, classes, batches):
    """SGD with momentum, in place."""
    speed = [0.0 * part for part in net]
    for batch in batches:
        for part, moving, slope in zip(
            net, speed, gradients(net, inputs[batch], classes[batch]), strict=True
        ):
            moving *= MOMENTUM
            moving -= RATE * slope
            part += moving


def accuracy(net, inputs, classes):
    return float(((forward(net, inputs)[1] > 0) == (classes > 0)).sum()) / len(classes)


# --- the run --------------------------------------------------------------------------------------


def run_net(task, kind):
    """Train one net and test which coordinates it uses. Nets share initial weights and batches."""
    data = task.rng(10 + kind)
    inputs, classes = draw(data, SAMPLES, kind, task.parameters)
    test, truth = draw(data, TEST_SAMPLES, kind, task.parameters)
    rng = task.rng(0)
    net = [place(part, task.device) for part in initial(rng)]
    batches = rng.integers(0, SAMPLES, (task.parameters["steps"], BATCH))
    placed = [place(part, task.device) for part in (inputs, classes, batches)]
    train(net, *placed)

    def score(*columns):
        asked = place(shuffled(data, test, columns), task.device)
        return accuracy(net, asked, place(truth, task.device))

    return {
        "net": kind, "overlap": shared_samples(inputs, test),
        "train": accuracy(net, *placed[:2]), "whole": score(),
        "first_shuffled": score(0), "second_shuffled": score(1), "all_shuffled": score(0, 1),
    }  # fmt: skip


def run(task):
    price = NET_SECONDS * task.parameters["steps"] / 1500
    count = int(np.clip(task.budget_seconds // price, 1, len(NETS)))
    done = (task.restore() or {"done": []})["done"]
    for kind in NETS[len(done) : count]:
        done.append(run_net(task, kind))
        task.checkpoint({"done": done})
        task.progress(len(done) / count)
    return report(done)


def report(done):
    """The result. A net that did not run counts as 0, and the run is not valid."""
    ran = len(done) == len(NETS)
    both, slab, linear, twins = done if ran else [done[0]] * 4
    overlap = sum(net["overlap"] for net in done)
    sane = (
        ran
        and overlap == 0
        and min(net["train"] for net in done) > 0.95
        and min(both["whole"], linear["whole"], twins["whole"]) > 0.9
        and slab["whole"] > 0.8
        and max(abs(net["all_shuffled"] - 0.5) for net in done) < 0.035  # of 10,000 samples: 7 sd
    )
    shown = ("net", "whole", "first_shuffled", "second_shuffled")
    return {
        "valid": int(sane),
        "configs_done": len(done),
        "overlap": overlap,
        "accuracy": both["whole"],
        "slab_shuffled": both["second_shuffled"],
        "linear_shuffled": both["first_shuffled"],
        "all_shuffled": both["all_shuffled"],
        "slab_alone": slab["whole"] if ran else 0.0,
        "linear_alone": linear["whole"] if ran else 0.0,
        "twin_shuffled": twins["second_shuffled"] if ran else 0.0,
        "train_accuracy": min(net["train"] for net in done),
        "configs": [{key: net[key] for key in shown} for net in done],
    }
