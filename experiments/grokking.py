"""Grokking: does a net that has memorised its training set learn the rule long afterwards?

Power et al. 2022 (arXiv:2201.02177); Gromov 2023, "Grokking modular arithmetic" (arXiv:2301.02679).

    axiom-client try experiments/grokking.py --seed 1 --plot grokking.png

The task is a + b mod 23. Half of the 529 pairs are the training set, all others the test set: no
pair is in both. Gromov's net, one hidden layer of squared units, is trained on the full batch by
AdamW. After a few dozen steps it has memorised its training set, and its test accuracy is at
chance; many hundred steps later the test accuracy rises to one. Its weights then show what it has
learnt: a sum modulo p is a product of waves, and hidden units become waves over the digits.

Controls, all from the same pairs and initial weights:

    random     the training labels permuted: there is no rule, so it can only memorise
    undecayed  no weight decay: it memorises as fast, and does not generalise
    plentiful  nine tenths of the pairs: the rule is simpler than the list of pairs, so there is
               little delay. It is also a gate: if this arm does not learn the rule, the run is not
               valid

The null of "periodic" is the untrained net: of 23 independent numbers, the strongest of eleven
frequencies has about a quarter of the power by chance.

Replication: nets that only memorise decide some test pairs by the last digits of their weights, in
which processors would differ. Therefore errors and gradients are rounded at each step to what the
matrix products of any processor agree on, and replicas come to the same bits.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]  # torch on GPUs only
#
# [tool.axiom]
# name = "grokking"
# version = "1.3.0"
# title = "Grokking modular addition"
# question = "Does test accuracy rise long after training accuracy, and does weight decay cause it?"
# rationale = [
#   "An earlier session log confirmed it; here controls separate learning late from learning.",
#   "The smallest task that groks: 529 pairs, one hidden layer, gradients by hand.",
#   "The weights themselves show what was learnt; accuracy alone would not.",
# ]
# references = [
#   "Power et al. 2022, Grokking: generalization beyond overfitting, arXiv:2201.02177",
#   "Gromov 2023, Grokking modular arithmetic, arXiv:2301.02679",
#   "Nanda et al. 2023, Progress measures for grokking, arXiv:2301.05217",
#   "Loshchilov & Hutter 2019, Decoupled weight decay regularization, arXiv:1711.05101",
# ]
# resources = { cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 10_000_000 }
# expected_seconds = 20
#
# [tool.axiom.parameters.decay]
# default = 0.6
# min = 0.0
# max = 10.0
# about = "AdamW's weight decay, of every arm but `undecayed`"
#
# [tool.axiom.parameters.share]
# default = 0.5
# min = 0.1
# max = 0.9
# about = "of the pairs, in the training set"
#
# [tool.axiom.parameters.steps]
# default = 2000
# min = 50
# max = 100000
# about = "AdamW steps of each arm"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "memorised; plentiful generalises; no test pair is trained on" }
# configs_done = { kind = "integer", min = 1, about = "arms: rule, random, undecayed, plentiful" }
# overlap = { kind = "integer", min = 0, about = "test pairs trained on, all arms" }
# delay_ratio = { min = 0, max = 2, rtol = 1e-6, about = "plentiful_delay / delay" }
# memorised_at = { min = 0, atol = 0, unit = "step", about = "training accuracy 0.99; 0: never" }
# generalised_at = { min = 0, atol = 0.5, unit = "step", about = "test accuracy 0.95; 0: never" }
# delay = { min = 0, rtol = 1e-6, about = "generalised_at / memorised_at" }
# test_at_memorised = { min = 0, max = 1, atol = 1e-6, about = "test accuracy at memorised_at" }
# test_accuracy = { min = 0, max = 1, atol = 1e-6, about = "at the end" }
# random_accuracy = { min = 0, max = 1, atol = 1e-6, about = "test accuracy, random labels" }
# undecayed_accuracy = { min = 0, max = 1, atol = 1e-6, about = "test accuracy without decay" }
# plentiful_delay = { min = 0, rtol = 1e-6, about = "delay of nine tenths of the pairs" }
# periodic = { min = 0, max = 1, rtol = 1e-5, about = "mean share of a unit's strongest frequency" }
# periodic_start = { min = 0, max = 1, rtol = 1e-6, about = "of the untrained net" }
# periodic_random = { min = 0, max = 1, rtol = 1e-5, about = "after memorising random labels" }
# loss_left = { min = 0, rtol = 1e-4, about = "last training loss / first" }
#
# [tool.axiom.result.curves]
# kind = "records"
# max_items = 4
# [tool.axiom.result.curves.fields]
# arm = { kind = "integer", about = "0 rule, 1 random, 2 undecayed, 3 plentiful" }
# step = { kind = "integer", dims = 1, unit = "step" }
# train = { dims = 1, min = 0, max = 1, atol = 1e-6 }
# test = { dims = 1, min = 0, max = 1, atol = 1e-6 }
#
# [[tool.axiom.findings]]
# name = "generalises_late"
# claim = "Test accuracy comes to 0.95 after more than five times the steps of memorising."
# field = "delay"
# criterion = { above = 5 }
#
# [[tool.axiom.findings]]
# name = "memorising_is_not_knowing"
# claim = "When the training set is known by heart, test accuracy is below 0.2."
# field = "test_at_memorised"
# criterion = { below = 0.2 }
#
# [[tool.axiom.findings]]
# name = "the_rule_is_learnt"
# claim = "In the end the rule holds on more than 95 % of the pairs never seen."
# field = "test_accuracy"
# criterion = { above = 0.95 }
#
# [[tool.axiom.findings]]
# name = "random_labels_never"
# claim = "With permuted training labels test accuracy never comes above 0.15."
# field = "random_accuracy"
# criterion = { below = 0.15 }
#
# [[tool.axiom.findings]]
# name = "decay_causes_it"
# claim = "Without weight decay test accuracy ends at less than half, after as many steps."
# field = "undecayed_accuracy"
# criterion = { below = 0.5 }
#
# [[tool.axiom.findings]]
# name = "more_pairs_less_delay"
# claim = "With nine tenths of the pairs the delay is less than half of that with a half."
# field = "delay_ratio"
# criterion = { above = 0.0, below = 0.5 }
#
# [[tool.axiom.findings]]
# name = "units_become_waves"
# claim = "A unit's strongest frequency holds 0.3 more of its power than after random labels."
# field = "periodic"
# control = "periodic_random"
# statistic = "difference"
# criterion = { above = 0.3 }
#
# [[tool.axiom.figures]]
# name = "test"
# title = "Known by heart at step 20, understood at step 700"
# x = "curves.step"
# y = ["curves.test"]
# label = "arm {arm}"
# x_label = "step; arms: 0 rule, 1 random, 2 undecayed, 3 plentiful"
# y_label = "test accuracy"
# x_scale = "log"
#
# [[tool.axiom.figures]]
# name = "train"
# title = "Every arm memorises its training set at once"
# x = "curves.step"
# y = ["curves.train"]
# label = "arm {arm}"
# x_label = "step"
# y_label = "training accuracy"
# x_scale = "log"
# ///

from __future__ import annotations

import math

import numpy as np

DIGITS = 23  # prime, so that every frequency can be used; 529 pairs take a second an arm
WIDTH = 200
PLENTIFUL = 0.9  # of the pairs
RATE = 0.01
BETA1, BETA2, EPSILON = 0.9, 0.98, 1e-8  # Adam's; 0.98 as in Power et al.
MEMORISED, GENERALISED = 0.99, 0.95
GRADIENT_BITS = 14
ERROR_STEP = 2.0**-16  # no output is more exact than this
LOOK_EVERY = 10  # steps between looks: the delay is known to about a fifth of `memorised_at`
RULE, RANDOM, UNDECAYED, PLENTY = range(4)
ARMS = (RULE, RANDOM, UNDECAYED, PLENTY)
ARM_SECONDS = 4.0  # nominal, of 2000 steps on one core


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


def fetch(array):
    """The array as a numpy array."""
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


# --- the task -------------------------------------------------------------------------------------


def all_pairs():
    """Every pair (a, b), (529, 2), and its class, a + b mod DIGITS."""
    pairs = np.stack(np.divmod(np.arange(DIGITS**2), DIGITS), axis=1)
    return pairs, pairs.sum(axis=1) % DIGITS


def one_hot(pairs):
    """(n, 2 DIGITS): the digits one after the other, so that weights are tables by digit."""
    eye = np.eye(DIGITS)
    return np.concatenate([eye[pairs[:, 0]], eye[pairs[:, 1]]], axis=1)


def as_data(pairs, classes, device):
    arrays = {"inputs": one_hot(pairs), "classes": classes, "targets": np.eye(DIGITS)[classes]}
    return {name: place(array, device) for name, array in arrays.items()}


def split(order, share):
    """Row numbers of the training and the test pairs, from one order: smaller shares are nested."""
    count = round(share * len(order))
    return order[:count], order[count:]


def draw_arm(arm, rng, parameters):
    """(training, test) of one arm, each pairs and classes. Arms share the order of the pairs."""
    pairs, classes = all_pairs()
    order = rng.permutation(len(pairs))
    here, there = split(order, PLENTIFUL if arm == PLENTY else parameters["share"])
    labels = classes[here]
    if arm == RANDOM:
        labels = rng.permutation(labels)
    return (pairs[here], labels), (pairs[there], classes[there])


def shared_pairs(training, test):
    """How many test pairs were trained on; the test is meaningful only if none were."""
    return len({tuple(p) for p in training[0].tolist()} & {tuple(p) for p in test[0].tolist()})


# --- the net: f(x) = (x A)^2 B, with squared error against one-hot classes ------------------------


def initial(rng):
    """Normal weights of variance 1 / fan-in."""
    shapes = (2 * DIGITS, WIDTH), (WIDTH, DIGITS)
    return [rng.standard_normal(shape) / np.sqrt(shape[0]) for shape in shapes]


def forward(weights, inputs):
    """Sums of the hidden units (n, WIDTH) and outputs (n, DIGITS)."""
    total = inputs @ weights[0]
    return total, (total * total) @ weights[1]


def loss_and_gradients(weights, inputs, targets):
    """Mean over samples of the squared error, and its gradient by each layer."""
    total, outputs = forward(weights, inputs)
    error = rounded(outputs - targets, ERROR_STEP)
    pull = (2.0 / len(inputs)) * error
    back = (pull @ weights[1].T) * (2.0 * total)
    loss = float((error * error).sum()) / len(inputs)
    return loss, [rounded_gradient(g) for g in (inputs.T @ back, (total * total).T @ pull)]


def accuracy(weights, data):
    right = forward(weights, data["inputs"])[1].argmax(-1) == data["classes"]
    return float(right.sum()) / len(right)


def rounded(array, step):
    """The array in multiples of ``step``, a power of two.

    Matrix products differ between processors in their last digits, by 1e-15 of the largest number;
    everything else here is one operation a number, which all of them round alike. Rounding each
    product removes the difference, except in about one run in a hundred.
    """
    return library(array).round(array / step) * step


def rounded_gradient(array):
    """In steps of 1/16,384 of the power of two above its largest number."""
    return rounded(array, 2.0 ** (math.frexp(float(abs(array).max()))[1] - GRADIENT_BITS))


def adamw_step(weights, gradients, moments, step, decay):
    """One step in place; ``moments`` are the running means of gradients and of their squares."""
    xp = library(weights[0])
    for weight, slope, mean, square in zip(weights, gradients, *moments, strict=True):
        mean += (1 - BETA1) * (slope - mean)
        square += (1 - BETA2) * (slope * slope - square)
        size = xp.sqrt(square / (1 - BETA2**step)) + EPSILON
        weight *= 1 - RATE * decay
        weight -= RATE / (1 - BETA1**step) * mean / size


def train(weights, training, test, decay, steps):
    """Full-batch AdamW in place: looks as rows (step, training, test accuracy), and losses."""
    moments = [[library(w).zeros_like(w) for w in weights] for _ in range(2)]
    looks, losses = [], []
    for step in range(steps + 1):
        if step % LOOK_EVERY == 0:
            looks.append((step, accuracy(weights, training), accuracy(weights, test)))
        loss, gradients = loss_and_gradients(weights, training["inputs"], training["targets"])
        losses.append(loss)
        adamw_step(weights, gradients, moments, step + 1, decay)
    return np.array(looks), losses


# --- measurements ---------------------------------------------------------------------------------


def first_at(looks, column, level):
    """The step of the first look at which a column has reached ``level``; 0: never."""
    there = np.flatnonzero(looks[:, column] >= level)
    return int(looks[there[0], 0]) if len(there) else 0


def periodicity(first):
    """Mean over units of the share of power, over the first digit, in the strongest frequency.

    ``first`` is (2 DIGITS, WIDTH). The constant is left out, since it does not depend on the digit.
    """
    power = np.abs(np.fft.rfft(first[:DIGITS], axis=0))[1:] ** 2
    return float(np.mean(power.max(axis=0) / power.sum(axis=0)))


def run_arm(task, arm):
    weights = [place(w, task.device) for w in initial(task.rng(0))]
    training, test = draw_arm(arm, task.rng(1), task.parameters)
    start = periodicity(fetch(weights[0]))
    decay = 0.0 if arm == UNDECAYED else task.parameters["decay"]
    data = [as_data(*part, task.device) for part in (training, test)]
    looks, losses = train(weights, *data, decay, task.parameters["steps"])
    return {
        "looks": looks,
        "overlap": shared_pairs(training, test),
        "loss_left": losses[-1] / losses[0],
        "periodic_start": start,
        "periodic": periodicity(fetch(weights[0])),
    }


#: Numbers that findings use are clipped to these bounds: with bounds a mean is decided sooner.
CUT = {
    "delay_ratio": (0, 2),
}


def cut(result):
    """The result with its comparisons added and every number in CUT clipped to its bounds."""
    result["delay_ratio"] = result["plentiful_delay"] / result["delay"] if result["delay"] else 0.0
    bounded = {name: min(max(result[name], low), high) for name, (low, high) in CUT.items()}
    return result | bounded


def run(task):
    count = int(np.clip(task.budget_seconds // price(task.parameters["steps"]), 1, len(ARMS)))
    done = (task.restore() or {"done": []})["done"]
    for arm in ARMS[len(done) : count]:
        done.append(run_arm(task, arm))
        task.checkpoint({"done": done})
        task.progress(len(done) / count)
    return cut(report(done))


def price(steps):
    return ARM_SECONDS * steps / 2000


def times(arm):
    """(memorised at, generalised at, test accuracy when memorised)."""
    known = first_at(arm["looks"], 1, MEMORISED)
    then = arm["looks"][known // LOOK_EVERY, 2] if known else 0.0
    return known, first_at(arm["looks"], 2, GENERALISED), float(then)


def delay(arm):
    known, understood, _ = times(arm)
    return understood / known if known else 0.0


def report(done):
    """The result. An arm that did not run counts as 0, and the run is not valid."""
    rule = done[RULE]
    known, understood, then = times(rule)
    last = [float(arm["looks"][-1, 2]) for arm in done] + [0.0] * len(ARMS)
    overlap = sum(arm["overlap"] for arm in done)
    ran = len(done) == len(ARMS)
    memorised = all(times(arm)[0] for arm in done)
    sane = ran and overlap == 0 and memorised and last[PLENTY] >= GENERALISED
    return {
        "valid": int(sane),
        "configs_done": len(done),
        "overlap": overlap,
        "memorised_at": known,
        "generalised_at": understood,
        "delay": delay(rule),
        "test_at_memorised": then,
        "test_accuracy": last[RULE],
        "random_accuracy": last[RANDOM] if ran else 0.0,
        "undecayed_accuracy": last[UNDECAYED] if ran else 0.0,
        "plentiful_delay": delay(done[PLENTY]) if ran else 0.0,
        "periodic": rule["periodic"],
        "periodic_start": rule["periodic_start"],
        "periodic_random": done[RANDOM]["periodic"] if ran else 0.0,
        "loss_left": rule["loss_left"],
        "curves": [curve(arm, of) for arm, of in enumerate(done)],
    }


def curve(arm, of):
    """Looks thinned to about forty, evenly on a log axis; step 0 cannot be drawn on one."""
    rows = np.unique(np.geomspace(1, len(of["looks"]) - 1, 40).astype(int))
    step, train_accuracy, test_accuracy = of["looks"][rows].T
    return {
        "arm": arm,
        "step": step.astype(int).tolist(),
        "train": train_accuracy.tolist(),
        "test": test_accuracy.tolist(),
    }
