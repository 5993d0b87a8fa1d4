"""SAM against SGD: does SAM end flatter, and when is it more accurate?

Foret, Kleiner, Mobahi & Neyshabur 2021, "Sharpness-aware minimization for efficiently improving
generalization" (arXiv:2010.01412).

    axiom-client try experiments/sam_vs_sgd_v2.py --seed 1 --plot sam_vs_sgd.png

SAM takes the gradient not at the weights but a distance rho uphill from them, and so prefers flat
regions. It costs two gradients a step. Both halves of the claim are tested separately: is the net
flatter (largest Hessian eigenvalue of the training loss), and is it better (test accuracy)?

Every arm of a configuration starts from the same weights and sees the same batches in the same
order, so that differences are paired. Controls: SGD of the same number of steps; SGD of the same
number of *gradients*, twice the steps; and that SGD stopped where its validation loss was lowest.

What a fair test does not confirm; these are declared as findings, so that the data decide:
- At rho <= 0.2 SAM is flatter and no more accurate: on clean labels the mean difference is 0.
- Given as many gradients, SGD on clean labels is the *flatter* one at small rho: the logistic loss
  becomes flatter with further training, for which SGD uses the additional gradients. With wrong
  labels, which can only be memorised at high curvature, it is not.
- With 20 % of the labels wrong and rho = 1 there is a gain of some percent, against both SGDs.
  Stopping SGD early gains as much at the cost of a validation set.
- With 32 units instead of 128 or 256, nets do not learn at rho = 1, and there is no gain.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]  # torch on GPUs only
#
# [tool.axiom]
# name = "sam_vs_sgd_v2"
# version = "2.3.0"
# title = "SAM against SGD"
# question = "Does SAM end flatter than SGD, and is it more accurate at the same cost?"
# rationale = [
#   "Second version: fixed seeding. Every arm shares weights and batches, and the seed sets both.",
#   "Cross-validates SAM against SGD over hosts, since the first version has left no data.",
#   "Complements loss-landscape curvature, where flatness is a side effect and not the aim.",
#   "SAM's second gradient is charged for: SGD gets as many gradients.",
# ]
# references = [
#   "Foret et al. 2021, Sharpness-aware minimization, arXiv:2010.01412",
#   "Andriushchenko & Flammarion 2022, Towards understanding SAM, arXiv:2206.06232",
#   "Jacot, Gabriel & Hongler 2018, Neural tangent kernel, arXiv:1806.07572",
# ]
# expected_seconds = 80
# resources = { cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 10_000_000 }
#
# [tool.axiom_cohort]
# most = 256
# seed_memory_bytes = 10_000_000
# seed_gpu_memory_bytes = 150_000_000
#
# [tool.axiom.parameters.rhos]
# default = [0.01, 0.05, 0.1, 0.2, 0.5, 1.0]
# min = 0.001
# max = 10.0
# max_items = 20
# about = "SAM's radius, in units where one step uphill moves the output by about rho |x|"
#
# [tool.axiom.parameters.widths]
# default = [256, 128]
# min = 4
# max = 2048
# max_items = 10
#
# [tool.axiom.parameters.rates]
# default = [1.0, 2.0, 0.5]
# min = 0.01
# max = 10.0
# max_items = 10
# about = "learning rates; in this parameterisation 1 is what 0.01 to 0.05 is in the usual one"
#
# [tool.axiom.parameters.steps]
# default = 3000
# min = 100
# max = 100000
# about = "steps of SAM; SGD takes as many, and twice as many"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "all kinds ran and none diverged; SGD learns; costs are equal" }
# configs_done = { kind = "integer", min = 1, about = "noise x task x width x rate" }
# overlap = { kind = "integer", min = 0, about = "test samples that are training samples" }
# hessian_error = { min = 0, max = 1e9, chaotic = true, about = "by differences: rounding" }
# test_purity = { min = 0, max = 1, atol = 1e-6, about = "test neighbours of one label, least" }
# gradients_sam = { kind = "integer", min = 0, about = "taken by each SAM arm, counted" }
# gradients_equal = { kind = "integer", min = 0, about = "by SGD of equal cost, counted" }
# diverged = { kind = "integer", min = 0, about = "configurations in which an arm diverged" }
# rho = { dims = 1, rtol = 1e-9 }
# lambda_ratio = { dims = 1, rtol = 1e-6, about = "SAM / SGD of equal steps, per rho" }
# clean_lambda_equal = { dims = 1, rtol = 1e-6, about = "SAM / SGD of equal gradients, per rho" }
# noisy_lambda_equal = { dims = 1, rtol = 1e-6, about = "with 20 % label noise; 0: did not run" }
# lambda_equal_loss = { dims = 1, rtol = 1e-6, about = "SAM / SGD at equal loss, per rho" }
# clean_gain = { dims = 1, min = -1, max = 1, atol = 1e-6, about = "over equal steps, per rho" }
# noisy_gain = { dims = 1, min = -1, max = 1, atol = 1e-6, about = "with 20 % label noise" }
# worst_lambda_ratio = { min = 0, max = 2, rtol = 1e-6, about = "largest of lambda_ratio, to 2" }
# clean_lambda_equal_small = { min = 0, max = 4, rtol = 1e-6, about = "mean, rho <= 0.2, to 4" }
# lambda_equal_large = { min = 0, max = 2, rtol = 1e-6, about = "largest rho, worse labels, to 2" }
# lambda_equal_loss_large = { min = 0, max = 2, rtol = 1e-6, about = "largest rho, to 2" }
# noisy_gain_equal_loss = { min = -0.25, max = 0.25, atol = 1e-6, about = "largest rho" }
# unreached_share = { min = 0, max = 1, about = "SAM arms with a loss that SGD did not come to" }
# clean_gain_small = { min = -0.1, max = 0.1, atol = 1e-6, about = "mean over rho up to 0.2" }
# clean_gain_small_equal = { min = -0.1, max = 0.1, atol = 1e-6, about = "over equal gradients" }
# noisy_gain_large = { min = -0.25, max = 0.25, atol = 1e-6, about = "largest rho, noisy labels" }
# noisy_gain_large_equal = { min = -0.25, max = 0.25, atol = 1e-6, about = "over equal gradients" }
# noisy_gain_over_early = { min = -0.25, max = 0.25, atol = 1e-6, about = "over SGD stopped early" }
# clean_accuracy = { min = 0, max = 1, atol = 5e-4, about = "SGD, worst clean config" }
#
# [tool.axiom.result.configs]
# kind = "records"
# max_items = 400
# [tool.axiom.result.configs.fields]
# noise = { atol = 1e-9, about = "share of wrong labels" }
# spiral = { kind = "flag", about = "1 spiral, 0 circles" }
# width = { kind = "integer" }
# rate = { rtol = 1e-9 }
# diverged = { kind = "flag" }
# sam_lambda = { dims = 1, rtol = 1e-5, atol = 1e-9, about = "top Hessian eigenvalue per rho" }
# sgd_lambda = { rtol = 1e-5, atol = 1e-9 }
# sgd_equal_lambda = { rtol = 1e-5, atol = 1e-9 }
# loss_lambda = { dims = 1, rtol = 1e-5, atol = 1e-9, about = "of SGD at each SAM arm's loss" }
# loss_accuracy = { dims = 1, min = 0, max = 1, atol = 5e-4, about = "of the same nets" }
# sam_accuracy = { dims = 1, min = 0, max = 1, atol = 5e-4, about = "on the test set, per rho" }
# sgd_accuracy = { min = 0, max = 1, atol = 5e-4 }
# sgd_equal_accuracy = { min = 0, max = 1, atol = 5e-4 }
# sgd_early_accuracy = { min = 0, max = 1, atol = 5e-4 }
# sam_train_loss = { dims = 1, min = 0, rtol = 1e-5 }
# sgd_train_loss = { min = 0, rtol = 1e-5 }
#
# [[tool.axiom.findings]]
# name = "flatter_at_every_rho"
# claim = "After equal steps the top Hessian eigenvalue is lower with SAM at every rho."
# field = "worst_lambda_ratio"
# criterion = { below = 1 }
#
# [[tool.axiom.findings]]
# name = "flatter_at_equal_cost"
# claim = """\
#   With rho = 1 the top Hessian eigenvalue is less than 0.8 of that of SGD given as many \
#   gradients, on clean labels and on wrong ones."""
# field = "lambda_equal_large"
# criterion = { below = 0.8 }
#
# [[tool.axiom.findings]]
# name = "flatter_at_equal_loss"
# claim = """\
#   With rho = 1 the top Hessian eigenvalue is below that of SGD when SGD first reached the same \
#   training loss."""
# about = "Open when this was declared: SAM fits less, and what is fitted less may be flat by that."
# field = "lambda_equal_loss_large"
# criterion = { below = 1 }
#
# [[tool.axiom.findings]]
# name = "gain_with_label_noise_at_equal_loss"
# claim = "With 20 % wrong labels and rho = 1 SAM is more accurate than SGD at the same loss."
# about = "Open when this was declared."
# field = "noisy_gain_equal_loss"
# criterion = { above = 0 }
#
# [[tool.axiom.findings]]
# name = "small_rho_flatter_at_equal_cost"
# claim = "On clean labels rho <= 0.2 is flatter than SGD given as many gradients."
# about = "Expected to be rejected, and kept to say so."
# field = "clean_lambda_equal_small"
# criterion = { below = 1 }
#
# [[tool.axiom.findings]]
# name = "no_gain_at_small_rho"
# claim = "On clean labels rho <= 0.2 changes the mean test accuracy by less than 0.01."
# field = "clean_gain_small"
# criterion = { above = -0.01, below = 0.01 }
#
# [[tool.axiom.findings]]
# name = "small_rho_gains_at_equal_cost"
# claim = "On clean labels rho <= 0.2 is more accurate than SGD given as many gradients."
# about = "A gain here is what SGD lost by overtraining: without one at equal steps it is no merit."
# field = "clean_gain_small_equal"
# criterion = { above = 0 }
#
# [[tool.axiom.findings]]
# name = "gain_with_label_noise"
# claim = "With 20 % wrong labels and rho = 1 SAM is more accurate than SGD."
# field = "noisy_gain_large"
# criterion = { above = 0 }
#
# [[tool.axiom.findings]]
# name = "gain_with_label_noise_at_equal_cost"
# claim = """\
#   With 20 % wrong labels and rho = 1 SAM is more accurate than SGD given as many gradients."""
# field = "noisy_gain_large_equal"
# criterion = { above = 0 }
#
# [[tool.axiom.findings]]
# name = "better_than_stopping_early"
# claim = """\
#   With 20 % wrong labels and rho = 1 SAM is more accurate than SGD stopped early on a validation \
#   set."""
# about = "Open when this was declared: the cheap alternative that SAM must beat."
# field = "noisy_gain_over_early"
# criterion = { above = 0 }
#
# [[tool.axiom.figures]]
# name = "flatness"
# title = "SAM is flatter; on clean labels, at equal cost, only at a large rho"
# x = "rho"
# y = ["lambda_ratio", "clean_lambda_equal", "noisy_lambda_equal"]
# legend = ["SGD of equal steps", "equal gradients, clean labels", "equal gradients, 20 % wrong"]
# x_label = "rho"
# y_label = "top Hessian eigenvalue, SAM / SGD"
# x_scale = "log"
# y_scale = "log"
# y_mark = [1.0]
#
# [[tool.axiom.figures]]
# name = "accuracy"
# title = "No gain at small rho; some with wrong labels at a large one"
# x = "rho"
# y = ["clean_gain", "noisy_gain"]
# legend = ["clean labels", "20 % wrong"]
# x_label = "rho"
# y_label = "test accuracy, SAM - SGD"
# x_scale = "log"
# y_mark = [0.0]
# ///

from __future__ import annotations

import itertools
import math

import numpy as np

SAMPLES = 100  # few enough for wrong labels to be memorised within the run
VALIDATION = 100  # with the training set's noise: a real one would have it
TEST_SAMPLES = 4000  # accuracy to half a percent
BATCH = 25
DATA_STREAM = 10_000  # random streams above it are data sets; below, weights (by width) and batches
NOISE = 0.2  # share of wrong labels in the noisy configurations
KINDS = (0.0, NOISE, NOISE)  # twice, since results vary with the few labels that are wrong
TURNS, SPREAD = 0.75, 0.1  # of a spiral's arm, and the noise of its points: learnable in the run
RADII, RING_SPREAD = (0.8, 1.5), 0.2  # of the circles: they overlap a little
SMALL_RHO = 0.2
RATIO_MAX = 2.0  # of numbers that findings use: with bounds a mean is decided sooner
LEARNT = 0.8  # test accuracy of SGD on clean labels; chance is 0.5, and both tasks reach 0.9
DIVERGED = 1e3  # loss; guessing has log 2
CHECK_EVERY = 50  # steps between checks of the validation loss
PART_BYTES = 8e9  # of a GPU's memory, for the configurations that are trained there at once
DATA_BYTES = 4e6  # of a configuration's data sets there, and of distances in them
TEST_PART = 500  # test samples at once on a GPU
SQUARINGS = 26  # of Lanczos's small matrix: eigenvalues 1e-7 apart are told apart
LANCZOS_MAX = 80
LANCZOS_RTOL = 1e-4  # residual; the eigenvalue's own error is about its square
DIFFERENCE = 1e-6  # step of differences, small enough to cross hardly any of relu's kinks
HESSIAN_ERROR_MAX = 0.02
PURITY_PART = 25  # points at once on a GPU
PURITY_SAMPLES, PURITY_MIN = 400, 0.8  # true labels: above 0.9; a fifth wrong: 0.68 at most
SECONDS_PER_STEP = (2.4e-4, 1.6e-6)  # nominal: fixed, and per unit of width; on one 2.4 GHz core


PROBES = (
    "spent",
    "overlap",
    "hessian_error",
    "purity",
    "unreached",
)  # of a configuration, for the gates

#: Number of gradients computed, counted in `gradient`, to check that arms had equal cost.
SPENT = {"gradients": 0}


# Arrays are numpy's on a CPU and torch's on a GPU; the code below uses what both libraries share.


def on_host(device):
    """Whether the arrays of this device are numpy's."""
    return device == "cpu" or device.startswith("mps")  # Apple's GPUs have no float64


def place(array, device):
    """A copy of a numpy array on the task's device: numpy's on a CPU, torch's on a GPU."""
    if on_host(device):
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


# The net: f(x) = v . relu(U (x, 1)) * sqrt(2 / width), in NTK parameterisation: |grad f| is then of
# the size of |x| at every width, and one rho means the same everywhere. Logistic loss.
# All arms of a configuration are trained at once: U has shape (arms, 3, width), v (arms, width).
# On a GPU these and the data have a further first axis, for configurations of one or many seeds.


def forward(U, v, x):
    """Relu's slope and the activations, (arms, n, width) each, and the outputs (arms, n)."""
    scale = math.sqrt(2.0 / U.shape[-1])
    active = x @ U
    slope = (active > 0) * scale
    active *= slope
    return slope, active, (active @ v[..., None])[..., 0]


def sigmoid(f):
    return 0.5 * (1 + library(f).tanh(0.5 * f))  # never overflows


def logistic_loss(f, y):
    return (library(f).logaddexp(0 * f, f) - y * f).mean(-1)


def gradient(U, v, x, y):
    """Gradients of the mean logistic loss by U and v, for every arm."""
    SPENT["gradients"] += 1
    slope, active, f = forward(U, v, x)
    pull = (sigmoid(f) - y) / y.shape[-1]
    slope *= v[..., None, :]
    slope *= pull[..., None]
    return x.mT @ slope, (pull[..., None, :] @ active)[..., 0, :]


def uphill(U, v, dU, dv, rho):
    """The point a distance rho (one for each arm) along the gradient (dU, dv)."""
    norm = library(dU).sqrt((dU * dU).sum((-2, -1)) + (dv * dv).sum(-1))
    step = rho / norm.clip(1e-300)  # a fitted arm may have no gradient left
    return U + step[..., None, None] * dU, v + step[..., None] * dv


def train_sam(U, v, x, y, rate, rho, batches):
    """SAM for every arm: descend along the gradient that is found a distance rho uphill."""
    for batch in batches:
        xb, yb = x[batch], y[batch]
        dU, dv = gradient(U, v, xb, yb)
        dU, dv = gradient(*uphill(U, v, dU, dv, rho), xb, yb)
        U, v = U - rate * dU, v - rate * dv
    return U, v


def train_sgd(U, v, x, y, rate, batches, held_out):
    """SGD of one arm: its weights half way, at the end, and where the held-out loss was lowest.

    Also its path: (training loss, weights) at every check.
    """
    halfway, best, least, path = None, (U, v), math.inf, []
    for step, batch in enumerate(batches):
        if step == len(batches) // 2:
            halfway = U, v
        if step % CHECK_EVERY == 0:
            loss = float(logistic_loss(forward(U, v, held_out[0])[2], held_out[1])[0])
            if loss < least:
                best, least = (U, v), loss
            path.append((float(logistic_loss(forward(U, v, x)[2], y)[0]), (U, v)))
        dU, dv = gradient(U, v, x[batch], y[batch])
        U, v = U - rate * dU, v - rate * dv
    return (halfway, (U, v), best), path


def at_loss(path, loss):
    """SGD's weights at its first check with at most this training loss, and whether there is one.

    If there is none, those of its lowest loss.
    """
    reached = next((weights for told, weights in path if told <= loss), None)
    return reached or min(path, key=lambda look: look[0])[1], reached is not None


def hvp(U, v, x, y):
    """The function direction -> Hessian times direction for one arm; exact but on relu's kinks."""
    slope, active, f = (part[0] for part in forward(U[None], v[None], x))
    p = sigmoid(f)
    pull, bend = (p - y) / len(y), p * (1 - p) / len(y)
    split, concat = math.prod(U.shape), library(U).concat

    def product(direction):
        dU, dv = direction[:split].reshape(U.shape), direction[split:]
        d_active = (x @ dU) * slope
        d_pull = bend * (d_active @ v + active @ dv)
        hU = x.T @ (slope * (d_pull[:, None] * v + pull[:, None] * dv))
        return concat([hU.ravel(), active.T @ d_pull + d_active.T @ pull])

    return product


def hessian_error(U, v, x, y, direction):
    """Relative error of `hvp` along a direction, against differences of the gradient.

    For untrained weights (1, 3, width): while residuals are large, a Fisher or Gauss-Newton matrix
    differs from the Hessian.
    """
    xp, split = library(U), math.prod(U.shape)
    unit = direction / xp.linalg.norm(direction)
    told = hvp(U[0], v[0], x, y)(unit)
    dU, dv = unit[:split].reshape(U.shape), unit[split:].reshape(v.shape)
    ahead, behind = (
        xp.concat([part.ravel() for part in gradient(U + step * dU, v + step * dv, x, y)])
        for step in (DIFFERENCE, -DIFFERENCE)
    )
    seen = (ahead - behind) / (2 * DIFFERENCE)
    return float(xp.linalg.norm(told - seen) / xp.linalg.norm(seen))


def purity(points, labels):
    """Share of points whose nearest neighbour has their label; wrong labels lower it.

    Measured on PURITY_SAMPLES points, with neighbours among all points.
    """
    few = points[:PURITY_SAMPLES]
    distances = ((few[:, None] - points[None]) ** 2).sum(axis=-1)
    distances[np.arange(len(few)), np.arange(len(few))] = np.inf
    return float(np.mean(labels[distances.argmin(axis=1)] == labels[: len(few)]))


def top_eigenvalue(product, start):
    """Largest eigenvalue of a symmetric operator by Lanczos with full reorthogonalisation."""
    xp, most = library(start), min(LANCZOS_MAX, len(start))
    basis = xp.stack([start / xp.linalg.norm(start)] * most)  # row 0; the others follow
    diagonal, beside = [], []
    for k in range(most):
        image = product(basis[k])
        diagonal.append(float(basis[k] @ image))
        for _ in range(2):  # twice is enough (Kahan)
            image -= basis[: k + 1].T @ (basis[: k + 1] @ image)
        beside.append(float(xp.linalg.norm(image)))
        off = np.diag(beside[:k], 1)
        values, vectors = np.linalg.eigh(np.diag(diagonal) + off + off.T)
        if beside[k] * abs(vectors[-1, -1]) <= LANCZOS_RTOL * abs(values[-1]) or k + 1 == most:
            break
        basis[k + 1] = image / beside[k]
    return float(values[-1])


def spiral(rng, n):
    """Two arms of TURNS turns, of radius 0 to 2; labels 0 and 1."""
    label = rng.integers(0, 2, n)
    along = np.sqrt(rng.random(n))  # as many points for each length of the arm
    angle = 2 * np.pi * TURNS * along
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * (2 * along * (1 - 2 * label))[:, None]
    return points + SPREAD * rng.standard_normal((n, 2)), label


def circles(rng, n):
    """Two rings about the origin; labels 0 and 1."""
    label = rng.integers(0, 2, n)
    angle = 2 * np.pi * rng.random(n)
    radius = np.where(label == 1, RADII[1], RADII[0])[:, None]
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * radius
    return points + RING_SPREAD * rng.standard_normal((n, 2)), label


def make_data(rng, task_is_spiral, noise):
    """Training, validation and test sets of one task; wrong labels in the first two alone."""
    points, label = (spiral if task_is_spiral else circles)(
        rng, SAMPLES + VALIDATION + TEST_SAMPLES
    )
    x = np.concatenate([points, np.ones((len(points), 1))], axis=1)  # the 1 is for the bias
    seen = SAMPLES + VALIDATION
    wrong = rng.random(seen) < noise
    y = label.astype(float)
    y[:seen] = np.where(wrong, 1 - y[:seen], y[:seen])
    cuts = (slice(0, SAMPLES), slice(SAMPLES, seen), slice(seen, None))
    return [(x[cut], y[cut]) for cut in cuts]


def shared_samples(inputs, test_inputs):
    """How many test samples are also training samples; the test is meaningful only if none are."""
    seen = {row.tobytes() for row in inputs}
    return sum(row.tobytes() in seen for row in test_inputs)


def accuracies(U, v, test):
    right = (forward(U, v, test[0])[2] > 0) == test[1]
    return fetch(right).mean(axis=-1).tolist()


def run_config(task, noise, task_is_spiral, width, rate, stream):
    """All arms of one configuration, from the same weights and over the same batches."""

    def here(array):
        return place(array, task.device)

    steps, rhos = task.parameters["steps"], np.array(task.parameters["rhos"])
    sets = make_data(task.rng(stream), task_is_spiral, noise)
    train, held_out, test = ([here(part) for part in one] for one in sets)
    rng = task.rng(width)
    U, v = here(rng.standard_normal((1, 3, width))), here(rng.standard_normal((1, width)))
    batches = here(task.rng(3).integers(0, SAMPLES, (2 * steps, BATCH)))
    xp = library(U)
    error = hessian_error(U, v, *train, here(task.rng(4).standard_normal(4 * width)))
    same = xp.concat([U] * len(rhos)), xp.concat([v] * len(rhos))
    with np.errstate(over="ignore", invalid="ignore"):  # divergence is a flag, found in `measure`
        spent = [SPENT["gradients"]]
        sams = train_sam(*same, *train, rate, here(rhos), batches[:steps])
        spent.append(SPENT["gradients"])
        sgds, path = train_sgd(U, v, *train, rate, batches, held_out)
        spent.append(SPENT["gradients"])
    U, v = (xp.concat(parts) for parts in zip(sams, *sgds, strict=True))
    start = here(task.rng(4).standard_normal(4 * width))  # of Lanczos: one number a weight
    losses = [float(loss) for loss in logistic_loss(forward(*sams, train[0])[2], train[1])]
    config, overlap = (noise, task_is_spiral, width, rate), shared_samples(sets[0][0], sets[2][0])
    probes = labels(config, error, purity(*sets[2]), overlap, np.diff(spent).tolist())
    at_loss = at_equal_loss(path, losses, train, test, start)
    return measure(U, v, train, test, start) | at_loss | probes


def labels(config, error, pure, overlap, spent):
    """The fields of a record that tell its configuration, and PROBES."""
    noise, task_is_spiral, width, rate = config[:4]
    return {
        "noise": noise, "spiral": task_is_spiral, "width": width, "rate": rate,
        "hessian_error": min(error, 1e9), "purity": pure, "overlap": overlap, "spent": spent,
    }  # fmt: skip


def at_equal_loss(path, losses, train, test, start):
    """Flatness and accuracy of SGD where it had the training loss of each SAM arm."""
    found = [at_loss(path, loss) for loss in losses]
    nets = [net for net, _ in found]
    tops = [top_eigenvalue(hvp(U[0], v[0], *train), start) for U, v in nets]
    right = [accuracies(U, v, test)[0] for U, v in nets]
    return measured_at_loss(tops, right, [reached for _, reached in found])


def measured_at_loss(tops, right, reached):
    """The fields of a record from flatness and accuracy of SGD at each SAM arm's loss."""
    return {
        "loss_lambda": [max(top, 1e-12) for top in tops],
        "loss_accuracy": right,
        "unreached": sum(not one for one in reached) / len(reached),
    }


def measure(U, v, train, test, start):
    """Flatness, accuracy and training loss of the arms: SAM's, then SGD half way, end, best."""
    with np.errstate(over="ignore", invalid="ignore"):
        losses = logistic_loss(forward(U, v, train[0])[2], train[1])
    gone = ~(losses < DIVERGED)
    diverged = bool(gone.any())
    U[gone], v[gone], losses[gone] = 0.0, 0.0, 0.0  # the flag says so
    tops = [top_eigenvalue(hvp(U[i], v[i], *train), start) for i in range(len(U) - 1)]
    return measured(diverged, tops, accuracies(U, v, test), losses.tolist())


def measured(diverged, tops, right, losses):
    """The fields of a record from flatness, accuracy and training loss, arms as in `measure`."""
    arms = len(losses) - 3
    tops = [max(top, 1e-12) for top in tops]  # logarithms follow
    return {
        "diverged": int(diverged),
        "sam_lambda": tops[:arms],
        "sgd_lambda": tops[arms],
        "sgd_equal_lambda": tops[arms + 1],
        "sam_accuracy": right[:arms],
        "sgd_accuracy": right[arms],
        "sgd_equal_accuracy": right[arms + 1],
        "sgd_early_accuracy": right[arms + 2],
        "sam_train_loss": losses[:arms],
        "sgd_train_loss": losses[arms],
    }


def plan(parameters, budget_seconds):
    """The configurations that the budget allows, in their fixed order; at least one.

    Both tasks, clean and noisy, come first: even a small budget sees every kind. Each has data of
    its own.
    """
    configs, spent, stream = [], 0.0, DATA_STREAM
    fixed, per_unit = SECONDS_PER_STEP
    for rate in parameters["rates"]:
        for width in parameters["widths"]:
            for task_is_spiral in (0, 1):
                for noise in KINDS:
                    stream += 1
                    spent += parameters["steps"] * (fixed + per_unit * width)
                    if configs and spent > budget_seconds:
                        return configs
                    configs.append((noise, task_is_spiral, width, rate, stream))
    return configs


def run(task):
    configs = plan(task.parameters, task.budget_seconds)
    done = (task.restore() or {"done": []})["done"]
    for config in configs[len(done) :]:
        done.append(run_config(task, *config))
        task.checkpoint({"done": done})
        task.progress(len(done) / len(configs))
    return report(done, task.parameters["rhos"])


def mean_log_ratio(configs, control):
    """Geometric mean over configurations of SAM's eigenvalue over the control's, for each rho."""
    ratios = [np.log(c["sam_lambda"]) - np.log(c[control]) for c in configs]
    return np.exp(np.mean(ratios, axis=0))


def mean_gain(configs, control):
    """Mean paired difference of test accuracy over configurations, for each rho."""
    return np.mean([np.array(c["sam_accuracy"]) - c[control] for c in configs], axis=0)


def report(done, rhos):
    """Means over configurations, and a record for each. Not valid if a kind did not run."""
    clean = [c for c in done if c["noise"] == 0]
    noisy = [c for c in done if c["noise"] > 0]
    small, large = np.array(rhos) <= SMALL_RHO, int(np.argmax(rhos))
    worst = min((c["sgd_accuracy"] for c in clean), default=0.0)
    failed = sum(c["diverged"] for c in done)
    ratio = mean_log_ratio(done, "sgd_lambda")
    keys = ("sgd_accuracy", "sgd_equal_accuracy", "sgd_early_accuracy")
    none = np.zeros(len(rhos))
    clean_gain, clean_equal, _ = (mean_gain(clean, k) if clean else none for k in keys)
    noisy_gain, noisy_equal, noisy_early = (mean_gain(noisy, k) if noisy else none for k in keys)
    # Separately, since further training lowers the curvature for clean labels and raises it for
    # wrong ones.
    clean_equal_ratio, noisy_equal_ratio = (
        mean_log_ratio(kind, "sgd_equal_lambda") if kind else none for kind in (clean, noisy)
    )
    worse = np.maximum(clean_equal_ratio, noisy_equal_ratio)
    loss_ratio = mean_log_ratio(done, "loss_lambda")
    loss_gain = [c["sam_accuracy"][large] - c["loss_accuracy"][large] for c in noisy]
    overlap = sum(c["overlap"] for c in done)
    spent = np.array([c["spent"] for c in done])
    error, pure = max(c["hessian_error"] for c in done), min(c["purity"] for c in done)
    ran = bool(noisy) and bool(small.any()) and failed == 0
    sane = ran and worst > LEARNT and overlap == 0 and bool(np.all(spent[:, 0] == spent[:, 1]))
    sane = sane and error < HESSIAN_ERROR_MAX and pure > PURITY_MIN
    return {
        "valid": int(sane),
        "configs_done": len(done),
        "overlap": overlap,
        "hessian_error": error,
        "test_purity": pure,
        "gradients_sam": int(spent[:, 0].max()),
        "gradients_equal": int(spent[:, 1].min()),
        "diverged": failed,
        "rho": list(rhos),
        "lambda_ratio": ratio.tolist(),
        "clean_lambda_equal": clean_equal_ratio.tolist(),
        "noisy_lambda_equal": noisy_equal_ratio.tolist(),
        "lambda_equal_loss": loss_ratio.tolist(),
        "clean_gain": clean_gain.tolist(),
        "noisy_gain": noisy_gain.tolist(),
        "worst_lambda_ratio": min(float(ratio.max()), RATIO_MAX),
        "clean_lambda_equal_small": min(mean_of(clean_equal_ratio[small]), 2 * RATIO_MAX),
        "lambda_equal_large": min(float(worse[large]), RATIO_MAX),
        "lambda_equal_loss_large": min(float(loss_ratio[large]), RATIO_MAX),
        "noisy_gain_equal_loss": clipped(mean_of(loss_gain), 0.25),
        "unreached_share": mean_of([c["unreached"] for c in done]),
        "clean_gain_small": clipped(mean_of(clean_gain[small]), 0.1),
        "clean_gain_small_equal": clipped(mean_of(clean_equal[small]), 0.1),
        "noisy_gain_large": clipped(float(noisy_gain[large]), 0.25),
        "noisy_gain_large_equal": clipped(float(noisy_equal[large]), 0.25),
        "noisy_gain_over_early": clipped(float(noisy_early[large]), 0.25),
        "clean_accuracy": worst,
        "configs": [{k: v for k, v in c.items() if k not in PROBES} for c in done],
    }


def clipped(value, most):
    """A gain that findings use, clipped to +-``most``: with bounds a mean is decided sooner."""
    return float(np.clip(value, -most, most))


def mean_of(values):
    return float(np.mean(values)) if len(values) else 0.0


# Many seeds at once, on a GPU: a further first axis of every array is for jobs, that is, for the
# configurations of one width of all seeds. Nothing is summed over it.


def run_cohort(tasks):
    """`run` for several tasks at once, since further nets cost a GPU little."""
    parameters = tasks[0].parameters
    configs = plan(parameters, tasks[0].budget_seconds)
    done = [(task.restore() or {"done": []})["done"] for task in tasks]
    for stage in stages(configs, tasks[0].device):
        jobs = [(s, configs[i]) for i in stage for s in range(len(tasks)) if i >= len(done[s])]
        for part in parts_of(jobs, parameters):
            for (s, _), record in zip(part, run_jobs(tasks, part), strict=True):
                done[s].append(record)
        for task, records in zip(tasks, done, strict=True):
            task.checkpoint({"done": records})
            task.progress(len(records) / len(configs))
    return [report(records, parameters["rhos"]) for records in done]


def stages(configs, device):
    """Positions in the plan of the configurations that are trained at once: of one width and rate.

    On a core each alone: more arms at once are no faster there.
    """
    if on_host(device):
        return [[i] for i in range(len(configs))]
    groups = itertools.groupby(range(len(configs)), lambda i: configs[i][2:4])
    return [list(group) for _, group in groups]


def parts_of(jobs, parameters):
    """The jobs in equal parts, each within PART_BYTES; all in one with few seeds."""
    if not jobs:
        return []
    arms, checks = len(parameters["rhos"]), 2 * parameters["steps"] // CHECK_EVERY
    for_a_unit = 8 * BATCH * arms + 8 * checks + 4 * TEST_PART + 3 * SAMPLES * (arms + 3)
    job_bytes = DATA_BYTES + 8 * for_a_unit * jobs[0][1][2]
    parts = math.ceil(len(jobs) * job_bytes / PART_BYTES)
    size = math.ceil(len(jobs) / parts)
    return [jobs[i : i + size] for i in range(0, len(jobs), size)]


def run_jobs(tasks, jobs):
    """The record of each job (position of its task, configuration), as `run_config` gives it."""
    if on_host(tasks[0].device):
        return [run_config(tasks[s], *config) for s, config in jobs]
    sets = [
        make_data(tasks[s].rng(stream), spiral, noise) for s, (noise, spiral, _, _, stream) in jobs
    ]
    train, held_out, test = (stacked(parts, tasks[0].device) for parts in zip(*sets, strict=True))
    U, v, start = draw_nets(tasks, jobs)
    probes = hessian_errors(U, v, *train, start), purities(*test), shared_by_jobs(train[0], test[0])
    sams, sgds, path, spent = train_jobs(tasks, jobs, U, v, train, held_out)
    U, v = (library(U).concat(parts, 1) for parts in zip(sams, *sgds, strict=True))
    found = (
        measure_jobs(U, v, train, test, start),
        at_equal_losses(path, sams, train, test, start),
        zip(*(fetch(probe).tolist() for probe in probes), strict=True),
    )
    return [
        measured(*own) | measured_at_loss(*at_loss) | labels(config, *probe, spent)
        for (_, config), own, at_loss, probe in zip(jobs, *found, strict=True)
    ]


def stacked(sets, device):
    """The sets of all jobs: x (jobs, 1, n, 3) and y (jobs, 1, n), the 1 being for arms."""
    return [place(np.stack(parts)[:, None], device) for parts in zip(*sets, strict=True)]


def draw_nets(tasks, jobs):
    """As in `run_config`: U (jobs, 1, 3, width), v (jobs, 1, width), and where Lanczos starts."""
    width, drawn = jobs[0][1][2], []
    for task in tasks:
        rng = task.rng(width)
        net = rng.standard_normal((1, 3, width)), rng.standard_normal((1, width))
        drawn.append((*net, task.rng(4).standard_normal((1, 4 * width))))
    return [
        place(np.stack([drawn[s][i] for s, _ in jobs]), tasks[0].device)
        for i in range(3)
    ]  # fmt: skip


def train_jobs(tasks, jobs, U, v, train, held_out):
    """SAM's nets, SGD's three, SGD's path, and the gradients that each of the two has taken."""
    steps, rhos = tasks[0].parameters["steps"], tasks[0].parameters["rhos"]
    drawn = [task.rng(3).integers(0, SAMPLES, (2 * steps, BATCH)) for task in tasks]
    batches = place(np.stack(drawn, 1), tasks[0].device)  # (steps, tasks, BATCH)
    owner = place(np.array([s for s, _ in jobs]), tasks[0].device)
    rate = place(np.array([config[3] for _, config in jobs])[:, None, None], tasks[0].device)
    rho = place(np.array(rhos), tasks[0].device)
    sams = U.repeat(1, len(rhos), 1, 1), v.repeat(1, len(rhos), 1)
    step, sam_spent = stepper(*sams, *train, rate, batches, owner, rho)
    for _ in range(steps):
        step()
    step, sgd_spent = stepper(sgd := U.clone(), sgd_v := v.clone(), *train, rate, batches, owner)
    sgds, path = follow_sgd(step, sgd, sgd_v, train, held_out, 2 * steps)
    SPENT["gradients"] = 0
    return sams, sgds, path, [int(sam_spent), int(sgd_spent)]


def stepper(U, v, x, y, rate, batches, owner, rho=None):
    """A function that takes one step of every net in place, SGD's without rho; and its count.

    The count is of the gradients, on the device, since a replayed graph does not run `gradients`.
    """
    import torch

    at = torch.zeros(1, dtype=torch.int64, device=U.device)
    spent = torch.zeros((), dtype=torch.int64, device=U.device)
    rows = torch.arange(len(owner), device=U.device)[:, None]
    x, y = x[:, 0], y[:, 0]

    def step():
        SPENT["gradients"] = spent
        batch = batches.index_select(0, at)[0].index_select(0, owner)
        known = x[rows, batch][:, None], y[rows, batch][:, None]
        dU, dv = gradients(U, v, *known)
        if rho is not None:
            dU, dv = gradients(*uphill(U, v, dU, dv, rho), *known)
        U.sub_(rate[..., None] * dU)
        v.sub_(rate * dv)
        at.add_(1)

    return replayed(step, [U, v, at, spent], U.device), spent


def gradients(U, v, x, y):
    """As `gradient`, with fewer passes over memory: there is one array (jobs, arms, n, width)."""
    SPENT["gradients"] += 1
    scale = math.sqrt(2.0 / v.shape[-1])
    active = (x @ U).clamp_(min=0)
    f = (active @ (scale * v)[..., None])[..., 0]
    pull = (sigmoid(f) - y) / y.shape[-1]
    dv = scale * (pull[..., None, :] @ active)[..., 0, :]
    dU = (pull[..., None] * x).mT @ active.sign_()
    return dU * (scale * v)[..., None, :], dv


def follow_sgd(step, U, v, train, held_out, steps):
    """As `train_sgd`: the nets (half way, at the end, best) and the path, with all checks stacked.

    The path: training losses (checks, jobs), U (checks, jobs, 1, 3, width), v likewise.
    """
    halfway, held, told, nets = None, [], [], []
    for i in range(steps):
        if i == steps // 2:
            halfway = U.clone(), v.clone()
        if i % CHECK_EVERY == 0:
            held.append(loss_of(U, v, held_out))
            told.append(loss_of(U, v, train))
            nets.append((U.clone(), v.clone()))
        step()
    stack = library(U).stack
    path = stack(told)[..., 0], *(stack(parts) for parts in zip(*nets, strict=True))
    held = stack(held)[..., 0].nan_to_num(math.inf, math.inf)
    return (halfway, (U, v), picked(path, held.argmin(0))), path


def loss_of(U, v, known):
    return logistic_loss(forward(U, v, known[0])[2], known[1])


def picked(path, checks):
    """The nets of the path at one check (jobs,) for each job."""
    jobs = library(checks).arange(len(checks), device=checks.device)
    return path[1][checks, jobs], path[2][checks, jobs]


def replayed(step, state, device):
    """``step`` as one CUDA graph: one launch instead of dozens. On a CPU, ``step`` itself.

    ``step`` takes no arguments and changes the tensors ``state`` in place; all else that it reads
    stays where it is.
    """
    import torch

    if torch.device(device).type != "cuda":
        return step
    before = [tensor.clone() for tensor in state]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries allocate their work space in the first calls
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for tensor, was in zip(state, before, strict=True):
        tensor.copy_(was)

    def replay(kept=step):  # the tensors that the graph reads must live as long as it
        graph.replay()

    return replay


def measure_jobs(U, v, train, test, start):
    """As `measure`, for each job: what `measured` takes."""
    losses = loss_of(U, v, train)
    gone = ~(losses < DIVERGED)
    U, v = U.masked_fill(gone[..., None, None], 0.0), v.masked_fill(gone[..., None], 0.0)
    tops = tops_of(U[:, :-1], v[:, :-1], train, start)
    found = gone.any(1), tops, accuracies_of(U, v, test), losses.masked_fill(gone, 0.0)
    return zip(*(fetch(part).tolist() for part in found), strict=True)


def at_equal_losses(path, sams, train, test, start):
    """As `at_equal_loss`, for each job: what `measured_at_loss` takes."""
    told, losses = fetch(path[0]).T.tolist(), fetch(loss_of(*sams, train)).tolist()
    found = [
        [at_loss([(one, i) for i, one in enumerate(own)], loss) for loss in arms]
        for own, arms in zip(told, losses, strict=True)
    ]
    checks = library(path[0]).tensor(
        [[check for check, _ in own] for own in found], device=path[0].device
    )
    nets = [picked(path, arm) for arm in checks.T]
    U, v = (library(checks).concat(parts, 1) for parts in zip(*nets, strict=True))
    reached = [[one for _, one in own] for own in found]
    tops, right = tops_of(U, v, train, start), accuracies_of(U, v, test)
    return zip(fetch(tops).tolist(), fetch(right).tolist(), reached, strict=True)


def accuracies_of(U, v, test):
    """Test accuracy (jobs, arms), by parts that bound the memory."""
    x, y = test
    right = library(v).zeros_like(v[..., 0])
    for arm in range(U.shape[1]):
        for at in range(0, y.shape[-1], TEST_PART):
            part = slice(at, at + TEST_PART)
            f = forward(U[:, arm : arm + 1], v[:, arm : arm + 1], x[:, :, part])[2]
            right[:, arm] += ((f > 0) == y[:, :, part]).sum(-1)[:, 0]
    return right / y.shape[-1]


def purities(x, y):
    """`purity` of each job's test set."""
    points, labels, few = x[:, 0], y[:, 0], PURITY_SAMPLES
    same = 0 * labels[:, 0]
    for i in range(0, few, PURITY_PART):
        some = slice(i, i + PURITY_PART)
        distances = sum(
            (points[:, some, None, axis] - points[:, None, :, axis]) ** 2 for axis in range(2)
        )
        distances.diagonal(i, 1, 2).fill_(math.inf)
        nearest = distances.argmin(-1)
        same = same + (labels.gather(1, nearest) == labels[:, some]).sum(1)
    return same / few


def shared_by_jobs(inputs, test_inputs):
    """`shared_samples` of each job."""
    return (test_inputs[:, 0, :, None] == inputs[:, 0, None]).all(-1).any(-1).sum(-1)


def hvps(U, v, x, y):
    """`hvp` of each net of (jobs, arms), for directions (jobs, arms, weights)."""
    slope, active, f = forward(U, v, x)
    p = sigmoid(f)
    pull, bend = (p - y) / y.shape[-1], p * (1 - p) / y.shape[-1]
    split = math.prod(U.shape[-2:])

    def product(direction):
        dU, dv = direction[..., :split].reshape(U.shape), direction[..., split:]
        d_active = (x @ dU) * slope
        d_f = (d_active @ v[..., None] + active @ dv[..., None])[..., 0]
        d_pull = bend * d_f
        d_slope = d_pull[..., None] * v[..., None, :] + pull[..., None] * dv[..., None, :]
        hv = d_pull[..., None, :] @ active + pull[..., None, :] @ d_active
        return flattened(x.mT @ (slope * d_slope), hv[..., 0, :])

    return product


def flattened(U, v):
    """The weights of each net as one vector: (jobs, arms, weights)."""
    return library(U).concat([U.reshape(*v.shape[:-1], -1), v], -1)


def length(vectors):
    return library(vectors).sqrt((vectors * vectors).sum(-1))


def hessian_errors(U, v, x, y, direction):
    """`hessian_error` of each job, (jobs,)."""
    unit = direction / length(direction)[..., None]
    told = hvps(U, v, x, y)(unit)
    dU, dv = unit[..., : -v.shape[-1]].reshape(U.shape), unit[..., -v.shape[-1] :]
    ahead, behind = (
        flattened(*gradient(U + step * dU, v + step * dv, x, y))
        for step in (DIFFERENCE, -DIFFERENCE)
    )
    seen = (ahead - behind) / (2 * DIFFERENCE)
    return (length(told - seen) / length(seen))[:, 0]


def tops_of(U, v, train, start):
    """Largest eigenvalue of the Hessian of each net, (jobs, arms); an arm at a time, for memory."""
    nets = [(U[:, i : i + 1], v[:, i : i + 1]) for i in range(U.shape[1])]
    return library(U).concat([top_eigenvalues(hvps(*net, *train), start) for net in nets], 1)


def top_eigenvalues(product, start):
    """`top_eigenvalue` of each of a stack of operators; start (..., weights)."""
    xp = library(start)
    basis = (start / length(start)[..., None])[..., None, :]
    diagonal, beside = [], []
    found, done = xp.zeros_like(start[..., 0]), xp.zeros_like(start[..., 0], dtype=bool)
    for _ in range(min(LANCZOS_MAX, start.shape[-1])):
        image = product(basis[..., -1, :])
        diagonal.append((basis[..., -1, :] * image).sum(-1))
        for _ in range(2):
            image = image - (basis.mT @ (basis @ image[..., None]))[..., 0]
        beside.append(length(image))
        value, last = top_pair(diagonal, beside[:-1])
        found = xp.where(done, found, value)
        done = done | (beside[-1] * last <= LANCZOS_RTOL * abs(value))
        if done.all():
            break
        following = image / beside[-1].clip(1e-300)[..., None]
        basis = xp.concat([basis, following[..., None, :]], -2)
    return found


def top_pair(diagonal, beside):
    """Largest eigenvalue of a stack of tridiagonal matrices, and |last entry| of its eigenvector.

    By repeated squaring: batches of `eigh` are slow on a GPU.
    """
    xp = library(diagonal[0])
    matrix = xp.stack(diagonal, -1).diag_embed()
    if beside:
        off = xp.stack(beside, -1).diag_embed(1)
        matrix = matrix + off + off.mT
    shift = matrix.square().sum((-2, -1)).sqrt().clip(1e-300)  # no eigenvalue is below -shift
    power = matrix + shift[..., None, None] * xp.eye(len(diagonal), device=matrix.device)
    for _ in range(SQUARINGS):
        power = power / trace(power)
        power = power @ power
    power = power / trace(power)
    return (matrix * power).sum((-2, -1)), power[..., -1, -1].sqrt()


def trace(matrices):
    return matrices.diagonal(0, -2, -1).sum(-1)[..., None, None]
