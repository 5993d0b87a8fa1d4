"""Activation functions: why does a deep net of logistic units not learn?

Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks"
(AISTATS); LeCun et al. 1998, "Efficient backprop".

    axiom-client try experiments/activation_functions.py --seed 1 --plot activation_functions.png

Nets of ten hidden layers start from the same Glorot weights, see the same batches and differ in
their activation function alone. With the logistic sigmoid the net learns almost nothing in the
steps that are enough for tanh, softsign and ReLU.

Two explanations are tested. If saturation is the cause, the same curve shifted and scaled,
4 sigmoid(x) - 2, which has slope 1 and value 0 at 0 and saturates as early, should fail too. If the
cause is the sigmoid's slope of 1/4 and mean of 1/2, by which gradients shrink from layer to layer,
the rescaled curve should do as well as tanh, and the sigmoid should do well in a net of two layers.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]  # torch on GPUs only
#
# [tool.axiom]
# name = "activation_functions"
# version = "1.2.0"
# title = "Activation functions in a deep net"
# question = "Does a deep net of sigmoids fail to learn because they saturate, or by their slope?"
# rationale = [
#   "An earlier session log confirmed it; here a control separates the two explanations.",
#   "The same weights, data and batches for every activation: differences are paired.",
#   "The gradient's decay over layers is measured beside accuracy: the mechanism and its effect.",
# ]
# references = [
#   "Glorot & Bengio 2010, Understanding the difficulty of training deep networks, AISTATS",
#   "LeCun et al. 1998, Efficient backprop, Neural networks: tricks of the trade",
#   "Xu, Huang & Li 2016, Revise saturated activation functions, arXiv:1602.05980",
# ]
# resources = { cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 10_000_000 }
# expected_seconds = 20
#
# [tool.axiom.parameters.depth]
# default = 10
# min = 2
# max = 100
# about = "hidden layers of the deep nets"
#
# [tool.axiom.parameters.steps]
# default = 600
# min = 10
# max = 100000
# about = "of SGD with momentum"
#
# [tool.axiom.parameters.separation]
# default = 1.0
# min = 0.1
# max = 10.0
# about = "deviation of class centres, in units of that within a class"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "tanh learns deep, sigmoid with two layers; tests err more" }
# configs_done = { kind = "integer", min = 1, about = "activation functions" }
# overlap = { kind = "integer", min = 0, about = "test samples that are training samples" }
# sigmoid_accuracy = { min = 0, max = 1, atol = 1e-4, about = "deep" }
# tanh_accuracy = { min = 0, max = 1, atol = 1e-4, about = "deep" }
# rescaled_accuracy = { min = 0, max = 1, atol = 1e-4, about = "deep, 4 sigmoid - 2" }
# rescaled_gain = { min = -0.1, max = 0.1, atol = 1e-4, about = "rescaled less tanh, clipped" }
# relu_accuracy = { min = 0, max = 1, atol = 1e-4, about = "deep" }
# softsign_accuracy = { min = 0, max = 1, atol = 1e-4, about = "deep" }
# shallow_sigmoid = { min = 0, max = 1, atol = 1e-4, about = "two hidden layers" }
# others_worst = { min = 0, max = 1, atol = 1e-4, about = "least of tanh, softsign, ReLU" }
# mean_gap = { min = -1, max = 1, atol = 1e-4, about = "training less test accuracy, deep" }
# sigmoid_decay = { rtol = 1e-6, about = "log10 of gradient size, first over last hidden layer" }
# tanh_decay = { rtol = 1e-6, atol = 1e-6 }
# rescaled_decay = { rtol = 1e-6, atol = 1e-6 }
#
# [tool.axiom.result.configs]
# kind = "records"
# max_items = 10
# [tool.axiom.result.configs.fields]
# activation = { kind = "integer", about = "0 sigmoid, 1 tanh, 2 rescaled, 3 ReLU, 4 softsign" }
# deep = { min = 0, max = 1, atol = 1e-4, about = "test accuracy" }
# shallow = { min = 0, max = 1, atol = 1e-4 }
# decay = { rtol = 1e-6, atol = 1e-6 }
#
# [[tool.axiom.findings]]
# name = "deep_sigmoids_fail"
# claim = "Ten layers of sigmoids end below an accuracy of 0.6."
# field = "sigmoid_accuracy"
# criterion = { below = 0.6 }
#
# [[tool.axiom.findings]]
# name = "others_learn"
# claim = "Ten layers of tanh, of softsign and of ReLU end above 0.85, each of them."
# field = "others_worst"
# criterion = { above = 0.85 }
#
# [[tool.axiom.findings]]
# name = "two_layers_learn"
# claim = "Two layers of sigmoids learn: 0.3 more than ten."
# field = "shallow_sigmoid"
# control = "sigmoid_accuracy"
# statistic = "difference"
# criterion = { above = 0.3 }
#
# [[tool.axiom.findings]]
# name = "not_saturation"
# claim = "The sigmoid rescaled to slope 1 and mean 0 is as good as tanh, to 0.03."
# field = "rescaled_gain"
# criterion = { above = -0.03, below = 0.03 }
#
# [[tool.axiom.findings]]
# name = "gradients_vanish"
# claim = "Over ten layers a sigmoid net's gradient shrinks by 1,000 times more than a tanh net's."
# field = "sigmoid_decay"
# control = "tanh_decay"
# statistic = "difference"
# criterion = { below = -3 }
#
# [[tool.axiom.figures]]
# name = "accuracy"
# title = "Sigmoids fail in ten layers, and not because they saturate"
# kind = "points"
# x = "configs.activation"
# y = ["configs.deep", "configs.shallow"]
# legend = ["ten layers", "two layers"]
# x_label = "0 sigmoid, 1 tanh, 2 rescaled sigmoid, 3 ReLU, 4 softsign"
# y_label = "test accuracy"
#
# [[tool.axiom.figures]]
# name = "decay"
# title = "Gradient in the first hidden layer over that in the last, before training"
# kind = "points"
# x = "configs.activation"
# y = ["configs.decay"]
# x_label = "0 sigmoid, 1 tanh, 2 rescaled sigmoid, 3 ReLU, 4 softsign"
# y_label = "log10 of the ratio"
# ///

from __future__ import annotations

from itertools import pairwise

import numpy as np

INPUTS, CLASSES = 20, 5
SAMPLES, TEST_SAMPLES = 1000, 2000
CLIPPED = 0.1  # accuracy; with bounds a mean is decided sooner
GAP_MIN = 0.001  # of accuracy: what was trained on is known better, or the test is no test
WIDTH = 64
SHALLOW = 2  # hidden layers
BATCH = 50
RATE, MOMENTUM = 0.01, 0.9
ACTIVATION_SECONDS = 4.0  # nominal, of a deep and a shallow net for 600 steps on one core


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


# --- activation functions: each gives its value and its slope -------------------------------------


def sigmoid(x):
    value = 1 / (1 + library(x).exp(-x))
    return value, value * (1 - value)


def tanh(x):
    value = library(x).tanh(x)
    return value, 1 - value * value


def rescaled(x):
    value, slope = sigmoid(x)
    return 4 * value - 2, 4 * slope


def relu(x):
    return x.clip(0.0), 1.0 * (x > 0)


def softsign(x):
    below = 1 / (1 + abs(x))
    return x * below, below * below


ACTIVATIONS = (sigmoid, tanh, rescaled, relu, softsign)
SIGMOID, TANH, RESCALED, RELU, SOFTSIGN = range(5)


# --- the task and the net -------------------------------------------------------------------------


def blobs(rng, centres, count):
    """``count`` samples around the centres: inputs (count, INPUTS), classes (count,)."""
    classes = rng.integers(0, CLASSES, count)
    return centres[classes] + rng.standard_normal((count, INPUTS)), classes


def draw_task(rng, separation):
    """Training and test samples of one task."""
    centres = separation * rng.standard_normal((CLASSES, INPUTS))
    return blobs(rng, centres, SAMPLES), blobs(rng, centres, TEST_SAMPLES)


def shared_samples(inputs, test_inputs):
    """How many test samples are also training samples; the test is meaningful only if none are."""
    seen = {row.tobytes() for row in inputs}
    return sum(row.tobytes() in seen for row in test_inputs)


def initial(rng, depth):
    """[W, b] of each layer: Glorot's uniform weights, biases 0."""
    sizes = [INPUTS, *[WIDTH] * depth, CLASSES]
    return [
        [rng.uniform(-1, 1, (a, b)) * np.sqrt(6.0 / (a + b)), np.zeros(b)]
        for a, b in pairwise(sizes)
    ]


def forward(net, inputs, activation):
    """States of all layers, from the inputs to the logits, and the slopes of hidden ones."""
    states, slopes = [inputs], []
    for weight, bias in net[:-1]:
        value, slope = activation(states[-1] @ weight + bias)
        states.append(value)
        slopes.append(slope)
    return [*states, states[-1] @ net[-1][0] + net[-1][1]], slopes


def softmax(logits):
    xp = library(logits)
    odds = xp.exp(logits - xp.amax(logits, axis=-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def backward(net, inputs, targets, activation):
    """Gradients of the mean cross-entropy: [by W, by b] of each layer; by its pre-activations."""
    states, slopes = forward(net, inputs, activation)
    back, found, sums = (softmax(states[-1]) - targets) / len(inputs), [], []
    for layer in reversed(range(len(net))):
        found.append([states[layer].T @ back, back.sum(0)])
        sums.append(back)
        if layer:
            back = (back @ net[layer][0].T) * slopes[layer - 1]
    return found[::-1], sums[::-1]


def gradient_decay(net, inputs, targets, activation):
    """log10 of the gradient at the first hidden layer's pre-activations over that at the last's."""
    sums = backward(net, inputs, targets, activation)[1]
    first, last = (float((s * s).mean()) for s in (sums[0], sums[-2]))
    return 0.5 * float(np.log10(first / last))


def train(net, inputs, targets, batches, activation):
    """SGD with momentum, in place."""
    speed = [[0.0 * part for part in layer] for layer in net]
    for batch in batches:
        slopes, _ = backward(net, inputs[batch], targets[batch], activation)
        for layer, moving, slope in zip(net, speed, slopes, strict=True):
            for k in range(2):
                moving[k] = MOMENTUM * moving[k] - RATE * slope[k]
                layer[k] += moving[k]


def accuracy(net, inputs, classes, activation):
    outputs = forward(net, inputs, activation)[0][-1]
    return float((outputs.argmax(-1) == classes).sum()) / len(classes)


# --- the run --------------------------------------------------------------------------------------


def learnt(task, depth, activation):
    """(test accuracy, training accuracy less it, gradient decay, overlap).

    Draws are the same for every activation.
    """
    rng, device = task.rng(0), task.device
    (inputs, classes), test = draw_task(rng, task.parameters["separation"])
    overlap = shared_samples(inputs, test[0])
    batches = place(rng.integers(0, SAMPLES, (task.parameters["steps"], BATCH)), device)
    net = [[place(part, device) for part in layer] for layer in initial(task.rng(depth), depth)]
    inputs, targets = place(inputs, device), place(np.eye(CLASSES)[classes], device)
    known = inputs, place(classes, device)
    decay = gradient_decay(net, inputs, targets, activation)
    train(net, inputs, targets, batches, activation)
    found = accuracy(net, *(place(part, device) for part in test), activation)
    return found, accuracy(net, *known, activation) - found, decay, overlap


def run_activation(task, index):
    activation = ACTIVATIONS[index]
    deep, gap, decay, here = learnt(task, task.parameters["depth"], activation)
    shallow, _, _, there = learnt(task, SHALLOW, activation)
    return {
        "activation": index, "deep": deep, "shallow": shallow, "decay": decay, "gap": gap,
        "overlap": here + there,
    }  # fmt: skip


def run(task):
    price = ACTIVATION_SECONDS * task.parameters["steps"] / 600
    count = int(np.clip(task.budget_seconds // price, 1, len(ACTIVATIONS)))
    done = (task.restore() or {"done": []})["done"]
    for index in range(len(done), count):
        done.append(run_activation(task, index))
        task.checkpoint({"done": done})
        task.progress(len(done) / count)
    return report(done)


def report(done):
    """The result. An activation that did not run counts as 0, and the run is not valid."""
    missing = {"deep": 0.0, "shallow": 0.0, "decay": 0.0, "gap": 0.0}
    of = done + [missing] * (len(ACTIVATIONS) - len(done))
    ran = len(done) == len(ACTIVATIONS)
    overlap = sum(one["overlap"] for one in done)
    gap = float(np.mean([of[k]["gap"] for k in (TANH, RESCALED, RELU, SOFTSIGN)]))
    sane = (
        ran
        and overlap == 0
        and of[TANH]["deep"] > 0.7  # chance is 0.2
        and of[SIGMOID]["shallow"] > 0.6
        and gap > GAP_MIN
    )
    return {
        "valid": int(sane),
        "configs_done": len(done),
        "overlap": overlap,
        "sigmoid_accuracy": of[SIGMOID]["deep"],
        "tanh_accuracy": of[TANH]["deep"],
        "rescaled_accuracy": of[RESCALED]["deep"],
        "rescaled_gain": float(np.clip(of[RESCALED]["deep"] - of[TANH]["deep"], -CLIPPED, CLIPPED)),
        "relu_accuracy": of[RELU]["deep"],
        "softsign_accuracy": of[SOFTSIGN]["deep"],
        "shallow_sigmoid": of[SIGMOID]["shallow"],
        "others_worst": min(of[k]["deep"] for k in (TANH, SOFTSIGN, RELU)),
        "mean_gap": gap,
        "sigmoid_decay": of[SIGMOID]["decay"],
        "tanh_decay": of[TANH]["decay"],
        "rescaled_decay": of[RESCALED]["decay"],
        "configs": [{k: v for k, v in one.items() if k not in ("overlap", "gap")} for one in done],
    }
