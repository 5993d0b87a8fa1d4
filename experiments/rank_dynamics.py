"""Rank dynamics: does training compress the rank of weights and of hidden representations?

Run it:  axiom-client try experiments/rank_dynamics.py --seed 1 --plot rank.png

The claim. Gradient descent is said to lower the rank of a network's weights and of what they
compute, and the lower rank to be why networks generalise (Huh et al. 2021; Timor et al. 2023). The
first version of this experiment reported universal compression (-51.6 % in nine of nine
configurations), a phase transition in all nine, more compression at higher learning rates (-53.9 %
against -36.6 %) and a monotone fall of weights and representations alike.

The test. Nine configurations (three depths, three learning rates) each train two networks on the
same minibatches. Both start from the *same* random draw, once with standard deviation 0.05 and
once at He's sqrt(2 / fan_in). The measure is the stable rank, |W|_F^2 / |W|_2^2: a soft count of
the directions that matter. It does not depend on scale, and a ReLU network without biases is
homogeneous, so both arms start at exactly the same ranks, in every layer and representation. Any
later difference is an effect of the scale.

What the test refutes:
- Compression is not universal. From small weights every configuration compresses, by about half;
  from He's scale the same networks on the same data barely do, and they generalise as well. Small
  weights must *grow* along the few directions that the task needs, and the rank of the sum is that
  of what grew; weights of He's scale hardly need to move (the rich and the lazy regime).
- "Phase transitions in all nine" is what a naive detector (a jump beyond mean + 2 sd) reports for
  any decay. The strict one below is wrong on at most 2 % of smooth decays, power laws, ramps,
  noises and random walks. It uses the curve in the logarithm of time, since most of the fall is
  over within a few epochs: snapshots every 5 epochs would hide a step there.
- Weights and representations do not behave alike. The uncentred representation of a ReLU layer has
  a large mean, which hides its spread: from small weights its rank *rises*, by 8 to 18 %,
  and hardly ever falls monotonically. With the mean removed it falls, in both arms. So the three
  are reported apart.
- If the nine configurations average -51.6 %, and the highest and the lowest rate -53.9 % and
  -36.6 %, then the middle rate has -64.3 %: beyond both. "Higher rate, more compression" did not
  follow from its own numbers. Here it does hold, and is small beside the effect of initialisation.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]
#
# [tool.axiom]
# name = "rank_dynamics"
# version = "1.3.0"
# title = "Rank dynamics"
# question = """\
#   How does the stable rank of weights and hidden representations change in training, and does \
#   the change depend on the scale of initialisation?"""
# rationale = [
#   """\
#   Two arms from one random draw, small and He scale: the stable rank does not depend on scale, \
#   so both start at the same ranks and only training can separate them.""",
#   """\
#   Weights, representations and centred representations are reported apart, because they move \
#   differently.""",
# ]
# references = [
#   "Timor, Vardi & Shamir 2023, Implicit regularization towards rank minimization, ALT",
#   "Huh et al. 2021, The low-rank simplicity bias in deep networks, arXiv:2103.10427",
#   "He et al. 2015, Delving deep into rectifiers, arXiv:1502.01852",
#   "Chizat, Oyallon & Bach 2019, On lazy training in differentiable programming, arXiv:1812.07956",
# ]
# resources = { cpu_cores = 1, gpus = 0, memory_bytes = 1_000_000_000, disk_bytes = 10_000_000 }
# expected_seconds = 40
#
# [tool.axiom_cohort]
# most = 256
# seed_memory_bytes = 8_000_000
# seed_gpu_memory_bytes = 120_000_000
#
# [tool.axiom.parameters]
# learning_rates.about = "rising; each is one configuration"
# learning_rates.default = [0.005, 0.02, 0.1]
# learning_rates.min = 0.0001
# learning_rates.max = 0.5
# learning_rates.max_items = 8
# epochs = { default = 400, min = 5, max = 4000 }
# snapshot_every = { default = 5, min = 1, max = 1000, about = "epochs between measurements" }
# init_sd = { default = 0.05, min = 0.001, max = 1.0, about = "of the small arm's weights" }
# precision.about = "of training; ranks are measured in f64"
# precision.default = "f32"
# precision.choices = ["f32", "f64"]
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "every sanity gate passed" }
# configs_done = { kind = "integer", min = 1, max = 24 }
# overlap = { kind = "integer", min = 0, about = "test samples that are training samples" }
# epochs = { kind = "integer", dims = 1, unit = "epoch", min = 0, about = "of the curves" }
# weight_change_small.about = "stable rank, relative, to 0; mean of layers, then configurations"
# weight_change_small.min = -1
# weight_change_small.max = 0
# weight_change_small.atol = 3e-4
# weight_change_he = { min = -1, atol = 3e-4 }
# hidden_change_small = { min = -1, atol = 3e-4 }
# hidden_change_he = { min = -1, atol = 3e-4 }
# centred_change_small = { min = -1, atol = 3e-4, about = "representations less their mean" }
# centred_change_he = { min = -1, atol = 3e-4 }
# compressed_share_small.about = "of configurations; lost more than a tenth"
# compressed_share_small.min = 0
# compressed_share_small.max = 1
# compressed_share_small.atol = 1e-6
# compressed_share_he = { min = 0, max = 1, atol = 1e-6 }
# rate_effect.about = "highest rate's change less the lowest's, clipped; 0: not run"
# rate_effect.min = -0.25
# rate_effect.max = 0.25
# rate_effect.atol = 3e-4
# middle_rate_excess.about = "below 0: the middle rate compresses most; 0 when not run"
# middle_rate_excess.min = -2
# middle_rate_excess.max = 100
# middle_rate_excess.atol = 3e-4
# log_steps = { kind = "integer", dims = 1, unit = "step", min = 0, about = "of small_log_weights" }
# transition_share_strict.about = "of the small arm's weight curves in log time"
# transition_share_strict.min = 0
# transition_share_strict.max = 1
# transition_share_strict.atol = 1e-6
# transition_share_naive.about = "the same, by a naive detector"
# transition_share_naive.min = 0
# transition_share_naive.max = 1
# transition_share_naive.atol = 1e-6
# monotone_share_weights.about = "never 1 % above the lowest value so far"
# monotone_share_weights.min = 0
# monotone_share_weights.max = 1
# monotone_share_weights.atol = 1e-6
# monotone_share_hidden = { min = 0, max = 1, atol = 1e-6 }
# accuracy_small = { min = 0, max = 1, atol = 2e-4, about = "test; mean over configurations" }
# accuracy_he = { min = 0, max = 1, atol = 2e-4 }
# hard_accuracy_small = { min = 0, max = 1, atol = 2e-4, about = "test points of twice the noise" }
# hard_accuracy_he = { min = 0, max = 1, atol = 2e-4 }
# hard_gain_small = { min = -0.1, max = 0.1, atol = 2e-4, about = "small less He, clipped" }
# rate_error.about = "largest error of a first step's rate against that declared: rounding"
# rate_error.min = 0
# rate_error.max = 1000000000.0
# rate_error.chaotic = true
# rank_of_ones = { min = 0, rtol = 1e-9, about = "measure of matrices of ones: 1" }
# untrained_change.about = "control: a second untrained draw"
# untrained_change.min = -1
# untrained_change.max = 10
# untrained_change.atol = 1e-6
#
# [tool.axiom.result.configs]
# kind = "records"
# max_items = 24
# [tool.axiom.result.configs.fields]
# hidden_layers = { kind = "integer", min = 1, max = 3 }
# learning_rate = { min = 0, max = 1 }
# small_accuracy = { min = 0, max = 1, atol = 4e-4 }
# small_hard = { min = 0, max = 1, atol = 4e-4, about = "accuracy at twice the noise" }
# he_hard = { min = 0, max = 1, atol = 4e-4 }
# small_rate = { min = -1e9, max = 1e9, rtol = 1e-3, about = "of the first step, measured" }
# he_rate = { min = -1e9, max = 1e9, rtol = 1e-3 }
# small_loss.about = "final, training"
# small_loss.min = 0
# small_loss.max = 1000000.0
# small_loss.rtol = 5e-4
# small_loss.atol = 1e-6
# small_loss.unit = "nat"
# small_change = { min = -1, atol = 3e-4, about = "last value of small_weights, less 1" }
# small_weights.about = "relative to untrained, mean over layers"
# small_weights.dims = 1
# small_weights.min = 0
# small_weights.rtol = 5e-4
# small_log_weights.about = "relative to untrained, mean over layers, at log_steps"
# small_log_weights.dims = 1
# small_log_weights.min = 0
# small_log_weights.rtol = 5e-4
# small_hidden = { dims = 1, min = 0, rtol = 5e-4 }
# small_centred = { dims = 1, min = 0, rtol = 5e-4 }
# small_layers.about = "of each matrix, input side first; 0 once diverged"
# small_layers.dims = 2
# small_layers.min = 0
# small_layers.rtol = 5e-4
# small_hidden_layers = { dims = 2, min = 0, rtol = 5e-4 }
# small_centred_layers = { dims = 2, min = 0, rtol = 5e-4 }
# he_accuracy = { min = 0, max = 1, atol = 4e-4 }
# he_loss = { min = 0, max = 1e6, rtol = 5e-4, atol = 1e-6, unit = "nat" }
# he_change = { min = -1, atol = 3e-4 }
# he_weights = { dims = 1, min = 0, rtol = 5e-4 }
# he_hidden = { dims = 1, min = 0, rtol = 5e-4 }
# he_centred = { dims = 1, min = 0, rtol = 5e-4 }
# he_layers = { dims = 2, min = 0, rtol = 5e-4 }
# he_hidden_layers = { dims = 2, min = 0, rtol = 5e-4 }
# he_centred_layers = { dims = 2, min = 0, rtol = 5e-4 }
#
# [[tool.axiom.findings]]
# name = "small_init_compresses"
# claim = """\
#   From small weights (sd 0.05), training lowers the stable rank of the weights by 40 to 60 %."""
# field = "weight_change_small"
# criterion = { above = -0.6, below = -0.4 }
#
# [[tool.axiom.findings]]
# name = "compression_depends_on_initialisation"
# claim = """\
#   Compression is not universal, it depends on initialisation: from He's scale the same networks \
#   keep at least 25 points more of their rank."""
# field = "weight_change_he"
# control = "weight_change_small"
# statistic = "difference"
# criterion = { above = 0.25 }
#
# [[tool.axiom.findings]]
# name = "he_init_mostly_does_not_compress"
# claim = """\
#   From He's scale, fewer than half of the configurations lose a tenth of the stable rank of \
#   their weights."""
# field = "compressed_share_he"
# criterion = { below = 0.5 }
#
# [[tool.axiom.findings]]
# name = "higher_rate_compresses_more"
# claim = """\
#   From small weights, the highest learning rate compresses the weights more than the lowest \
#   does."""
# field = "rate_effect"
# criterion = { below = 0.0 }
#
# [[tool.axiom.findings]]
# name = "no_sharp_step_in_log_time"
# claim = """\
#   In log time most weight curves of the small arm fall without a sharp step: fewer than half of \
#   them hold one by the strict detector."""
# about = "The detector finds nine of ten true steps, and at most 2 % of ramps and decays."
# field = "transition_share_strict"
# criterion = { below = 0.5 }
#
# [[tool.axiom.findings]]
# name = "compression_is_not_needed_to_generalise"
# claim = """\
#   Where test points are hard (noise doubled, so that even the nearest centre is often wrong) the \
#   arm that compresses is as accurate as the other, to two points."""
# field = "hard_gain_small"
# criterion = { above = -0.02, below = 0.02 }
#
# [[tool.axiom.figures]]
# name = "weights"
# title = "The same networks, two scales of initialisation"
# kind = "lines"
# x = "epochs"
# y = ["configs.small_weights", "configs.he_weights"]
# legend = ["small init", "He init"]
# label = "{hidden_layers} hidden, lr {learning_rate:g}"
# x_label = "epoch"
# y_label = "stable rank of weights / untrained"
# y_mark = [1.0]
#
# [[tool.axiom.figures]]
# name = "change"
# title = "Change of stable rank by configuration"
# kind = "bars"
# x = "configs.learning_rate"
# y = ["configs.small_change", "configs.he_change"]
# legend = ["small init", "He init"]
# label = "{hidden_layers} hidden, lr {learning_rate:g}"
# y_label = "relative change of the weights' stable rank"
#
# [[tool.axiom.figures]]
# name = "kinds"
# title = "Weights, representations and centred ones do not move alike"
# kind = "bars"
# x = "configs_done"
# y = [
#   "weight_change_small", "weight_change_he", "hidden_change_small", "hidden_change_he",
#   "centred_change_small", "centred_change_he",
# ]
# legend = [
#   "weights, small init", "weights, He init", "representations, small", "representations, He",
#   "centred repr., small", "centred repr., He",
# ]
# y_label = "relative change of the stable rank, mean of configurations"
# ///

import itertools
import math

import numpy as np

CLASSES = 3  # the log's setting: three Gaussian blobs ...
INPUTS = 20  # ... in twenty dimensions
SAMPLES = 1000  # training points, and as many test points: one test point is 0.1 % accuracy
#: Between class centres, in noise sd: 99 % accuracy is possible. Where classes overlap (2 to 3) the
#: network stores single points, and that takes rank.
SEPARATION = 5.5
BATCH = 32
HIDDEN = ((64,), (128, 64), (256, 128, 64))  # shallow, medium, deep
CONFIG_SECONDS = (
    1.2,
    2.8,
    7.5,
)  # nominal, never measured: one learning rate, both arms, 400 epochs
NOMINAL_EPOCHS = 400
ARMS = ("small", "he")
KINDS = ("layers", "hidden_layers", "centred_layers")  # weights, representations, the same centred

LOG_LOOKS = 6  # looks at the weights an octave of time
HARD_NOISE = math.sqrt(3)  # added to test points: twice the noise in all
RATE_ERROR_MAX = 0.01  # of a first step: float32 leaves a hundredth of it

DATA, ORDER, HARD, WEIGHTS, CONTROL = 0, 1, 2, 10, 20  # streams of task.rng; weight layer i adds i

COMPRESSED = -0.1  # a change below this counts as compression; two untrained draws differ by less
MONOTONE_SLACK = 0.01  # a curve may rise this far above its lowest value so far, relatively
ACCURACY_GATE = 0.8  # mean test accuracy, chance being 0.33
ACCURACY_GATE_EACH = 0.5  # of every single network
LOSS_GATE = 0.9 * math.log(CLASSES)  # nats, final training loss of every net; guessing has ln 3
UNTRAINED_GATE = 0.15  # two untrained draws may differ by this much on average


# ---------------------------------------------------------------- the task and the networks


def draw_task(rng):
    """Training and test sets of one task: x (1000, 20), y (1000,) each, around the same centres.

    The centres form an equilateral triangle in a random plane, so every seed is equally hard.
    """
    frame, _ = np.linalg.qr(rng.standard_normal((INPUTS, CLASSES)))
    centres = frame.T * SEPARATION / math.sqrt(2)
    return draw_points(rng, centres), draw_points(rng, centres)


def shared_samples(inputs, test_inputs):
    """How many test samples are also training samples; the test is meaningful only if none are."""
    seen = {row.tobytes() for row in inputs}
    return sum(row.tobytes() in seen for row in test_inputs)


def draw_points(rng, centres):
    labels = rng.integers(0, CLASSES, SAMPLES)
    return centres[labels] + rng.standard_normal((SAMPLES, INPUTS)), labels


def draw_weights(task, hidden, first_stream):
    """One standard normal matrix (fan_in, fan_out) per layer; there are no biases."""
    sizes = (INPUTS, *hidden, CLASSES)
    return [
        task.rng(first_stream + i).standard_normal(shape)
        for i, shape in enumerate(itertools.pairwise(sizes))
    ]


def scale(arm, matrix, init_sd):
    """The arm's initial weights from the shared draw."""
    return matrix * (init_sd if arm == "small" else math.sqrt(2 / len(matrix)))


# ---------------------------------------------------------------- the measure


def stable_rank(matrices):
    """|A|_F^2 / |A|_2^2 of each of a stack (nets, rows, columns), in f64; 0 where not finite."""
    a = matrices.astype(np.float64)
    return rank_from_gram(a @ a.mT if a.shape[1] < a.shape[2] else a.mT @ a)


def rank_from_gram(gram):
    """Trace over largest eigenvalue, of each Gram matrix of a stack.

    eigvalsh is exact to rounding; power iteration is off by up to 9e-3 when eigenvalues are close.
    """
    finite = np.isfinite(gram).all(axis=(1, 2))
    gram = np.where(finite[:, None, None], gram, 0.0)
    top = np.linalg.eigvalsh(gram)[:, -1]
    return np.where(top > 0, np.trace(gram, axis1=1, axis2=2) / np.where(top > 0, top, 1.0), 0.0)


def representation_ranks(h):
    """Stable ranks of representations (nets, points, width), as they are and less their mean."""
    h = h.astype(np.float64)
    mean = h.mean(axis=1, keepdims=True)
    gram = np.stack([a.T @ a for a in h])  # for a.T @ a BLAS uses the symmetry: half the work
    return rank_from_gram(gram), rank_from_gram(gram - h.shape[1] * (mean.mT @ mean))


def measure(weights, x, y):
    """One snapshot: test accuracy (nets,) and the ranks, a list of (nets,) for each of KINDS."""
    ranks = {kind: [] for kind in KINDS}
    ranks["layers"] = [stable_rank(w) for w in weights]
    hidden = activations(weights, x)
    for h in hidden[:-1]:
        raw, centred = representation_ranks(h)
        ranks["hidden_layers"].append(raw)
        ranks["centred_layers"].append(centred)
    return (hidden[-1].argmax(axis=-1) == y).mean(axis=-1), ranks


def activations(weights, x):
    """Each layer's output for every net: hidden ones (nets, points, width), logits last."""
    outputs = []
    for w in weights:
        x = x @ w if not outputs else np.maximum(x, 0, out=x) @ w
        outputs.append(x)
    return outputs


def training_loss(weights, x, y):
    """Mean cross-entropy of each net in nats, in f64; a diverged net's is capped."""
    return cross_entropy(activations(weights, x)[-1], y)


def cross_entropy(logits, y):
    """Mean cross-entropy of logits (nets, points, classes), as `training_loss`."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    loss = np.log(np.exp(logits).sum(axis=-1)) - logits[:, np.arange(len(y)), y]
    return np.nan_to_num(loss.mean(axis=-1), nan=1e6, posinf=1e6).clip(0.0, 1e6)


# ---------------------------------------------------------------- training: several nets at once


def arrays_on(device, precision):
    """The array library for a device, and how to place an array on it and fetch one back.

    numpy on the CPU: its matrix products are as fast here as torch's and each call costs less. The
    training code below uses only operations that both libraries share.
    """
    if device == "cpu":
        dtype = np.float32 if precision == "f32" else np.float64
        return np, lambda a: np.array(a, dtype), lambda a: a
    import torch

    kind = torch.float32 if precision == "f32" else torch.float64
    return (
        torch,
        lambda a: torch.tensor(a, dtype=kind, device=device),
        lambda a: a.cpu().numpy(),
    )


def buffers(place, weights):
    """Activations and their gradients for one minibatch, (nets, BATCH, width) per layer."""
    shapes = [(len(w), BATCH, w.shape[2]) for w in weights]
    return [place(np.zeros(s)) for s in shapes], [place(np.zeros(s)) for s in shapes]


def sgd_step(xp, weights, updates, outputs, deltas, x, y, rates, zero):
    """One step of every net on the same minibatch x (BATCH, 20), one-hot y, in place.

    ``rates`` (nets, 1, 1) holds each net's learning rate over BATCH. It enters at the logits, where
    gradients are smallest; by linearity every layer's gradient then comes out scaled.
    """
    last = len(weights) - 1
    for i, w in enumerate(weights):
        xp.matmul(outputs[i - 1] if i else x, w, out=outputs[i])
        if i < last:
            xp.maximum(outputs[i], zero, out=outputs[i])
    delta = outputs[last]
    delta -= xp.amax(delta, axis=-1, keepdims=True)
    xp.exp(delta, out=delta)
    delta /= xp.sum(delta, axis=-1, keepdims=True)
    delta -= y
    delta *= rates
    for i in range(last, -1, -1):
        inputs, gradient = outputs[i - 1] if i else x, delta
        if i:
            xp.matmul(delta, weights[i].mT, out=deltas[i - 1])
            delta = deltas[i - 1]
            delta *= outputs[i - 1] > 0
        descend(xp, weights[i], inputs, gradient, updates[i])


def descend(xp, weights, inputs, gradient, update):
    """weights -= inputs.mT @ gradient for each net; ``update`` is memory for the product."""
    if xp is np:
        np.matmul(inputs.mT, gradient, out=update)
        weights -= update
        return
    # On a GPU, reading and writing weights takes longest; this subtracts the product at once.
    inputs = inputs.expand(*weights.shape[:-2], *inputs.shape[-2:]).flatten(0, -3)
    weights.view(-1, *weights.shape[-2:]).baddbmm_(inputs.mT, gradient.flatten(0, -3), alpha=-1)


def train(task, hidden, learning_rates, data, on_epoch):
    """Train one architecture at every rate and arm together: snapshots, and the final loss.

    Nets are ordered rate by rate, and within a rate by ARMS. Each sees the same minibatches: 31
    whole ones an epoch, newly shuffled, the 8 points left over being others each time.
    """
    p = task.parameters
    xp, place, fetch = arrays_on(task.device, p["precision"])
    (x, y), (x_test, y_test) = data
    draw = draw_weights(task, hidden, WEIGHTS)
    stacks = [[scale(arm, m, p["init_sd"]) for _ in learning_rates for arm in ARMS] for m in draw]
    weights = [place(np.stack(s)) for s in stacks]
    updates = [place(np.zeros(w.shape)) for w in weights]
    outputs, deltas = buffers(place, weights)
    rates = place(np.repeat(learning_rates, len(ARMS))[:, None, None] / BATCH)
    zero = place(0.0)
    x_train, y_train = place(x), place(np.eye(CLASSES)[y])
    x_test = fetch(place(x_test))
    order = task.rng(ORDER)
    snapshots = [measure([fetch(w) for w in weights], x_test, y_test)]
    steps, step, early = None, 0, []
    looks = set(log_steps(p["epochs"]))
    for epoch in range(1, p["epochs"] + 1):
        shuffled = order.permutation(SAMPLES)
        x_epoch, y_epoch = x_train[shuffled], y_train[shuffled]
        for at in range(0, SAMPLES - BATCH + 1, BATCH):
            batch = x_epoch[at : at + BATCH], y_epoch[at : at + BATCH]
            before = [fetch(w).copy() for w in weights] if steps is None else None
            sgd_step(xp, weights, updates, outputs, deltas, *batch, rates, zero)
            if before is not None:
                steps = first_rates(before, fetch(weights[-1]), *(fetch(part) for part in batch))
            step += 1
            if step in looks:
                early.append([stable_rank(fetch(w)) for w in weights])
        if epoch % p["snapshot_every"] == 0:
            snapshots.append(measure([fetch(w) for w in weights], x_test, y_test))
            on_epoch(epoch)
    last = [fetch(w) for w in weights]
    hard = x_test + (HARD_NOISE * task.rng(HARD).standard_normal(x_test.shape)).astype(x_test.dtype)
    right = (activations(last, hard)[-1].argmax(axis=-1) == y_test).mean(axis=-1)
    early.insert(0, snapshots[0][1]["layers"])
    return snapshots, early, training_loss(last, fetch(x_train), y), right, steps


def log_steps(epochs):
    """Steps in even ratios, LOG_LOOKS an octave, from 1 to the last of the run."""
    last = epochs * (SAMPLES // BATCH)
    exponents = np.arange(LOG_LOOKS * math.log2(last) + 1) / LOG_LOOKS
    return sorted({min(round(2.0**e), last) for e in exponents})


def first_rates(before, last_after, x, targets):
    """The rate of each net's first step: its last layer's change over the gradient there, (nets,).

    It computes the gradient itself, so that a wrong rate of an arm is detected.
    """
    *_, hidden, logits = activations([w.astype(np.float64) for w in before], x.astype(np.float64))
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    pull = (odds / odds.sum(axis=-1, keepdims=True) - targets) / len(x)
    slope = hidden.mT @ pull
    change = before[-1].astype(np.float64) - last_after
    return (change * slope).sum(axis=(1, 2)) / (slope * slope).sum(axis=(1, 2))


# ---------------------------------------------------------------- phase transitions, strictly


def naive_transition(curve):
    """Whether any step exceeds the mean of all steps by 2 sd, as in nearly every curve."""
    steps = np.abs(np.diff(curve))
    return bool((steps > steps.mean() + 2 * steps.std()).any())


def strict_transition(curve, steps):
    """Whether there is one sharp step in log time that neither smooth decay nor chance explains.

    ``steps`` (n,) rise from 0 or more; the curve is read at even spacing of their logarithm. In
    that time a logistic must beat an exponential of a power of (linear) time by 6 units of BIC,
    with n corrected for autocorrelated residuals, and leave less variance than the steps of a
    random walk through the points have. Its midpoint must lie inside the run, its 10-90 width be
    below a quarter of the run and its height above half of the curve's range.
    """
    log_time = np.log(np.maximum(steps, 1.0))
    even = np.linspace(log_time[0], log_time[-1], len(steps))
    y = np.interp(even, log_time, np.asarray(curve, float))
    n, time = len(y), np.exp(even - even[-1])
    if n < 12 or np.ptp(y) < 1e-9 * np.abs(y).max():
        return False
    unit = np.linspace(0.0, 1.0, n)
    rss, height, (middle, log_slope), residual = best_fit(y, unit, logistic, LOGISTIC_BOUNDS)
    bounds = ((math.log(time[0]), math.log(10.0)), STRETCH_BOUNDS)
    smooth_rss = best_fit(y, time, stretched_exponential, bounds)[0]
    floor = 1e-12 * n * np.ptp(y) ** 2  # two exact fits are equally good
    gain = effective_count(residual) * math.log((smooth_rss + floor) / (rss + floor))
    return bool(
        gain > 6.0  # both have four parameters, so the penalties of BIC cancel
        and rss / (n - 4) < WALK_SHARE * np.mean(np.diff(y) ** 2)
        and 0.1 < middle < 0.9
        and 2 * math.log(9) * math.exp(log_slope) < 0.25  # 10-90 width of a logistic: 2 ln 9 slopes
        and abs(height) > 0.5 * np.ptp(y)
    )


def logistic(t, middle, log_slope):
    return 0.5 + 0.5 * np.tanh((t - middle) / (2 * np.exp(log_slope)))


def stretched_exponential(t, log_tau, beta):
    return np.exp(-((t / np.exp(log_tau)) ** beta))


WALK_SHARE = 0.6  # white noise on a step leaves at most half the variance of its own steps
LOGISTIC_BOUNDS = ((0.0, 1.0), (math.log(0.002), math.log(0.5)))  # time runs from 0 to 1
STRETCH_BOUNDS = (0.1, 1.0)  # 1 is exponential in linear time
GRID = (41, 17)  # points along the two shape parameters, then twice refined around the best
REFINEMENTS = 2


def best_fit(y, t, shape, bounds):
    """Least squares of y = a + b shape(t, p, q): (rss, b, (p, q), residual), p and q by a grid."""
    d = y - y.mean()
    (p_low, p_high), (q_low, q_high) = bounds
    for _ in range(1 + REFINEMENTS):
        p, q = np.meshgrid(np.linspace(p_low, p_high, GRID[0]), np.linspace(q_low, q_high, GRID[1]))
        p, q = p.reshape(-1, 1), q.reshape(-1, 1)
        f = shape(t, p, q)
        f = f - f.mean(axis=1, keepdims=True)
        power = (f * f).sum(axis=1) + 1e-300
        best = int(np.argmax((f @ d) ** 2 / power))
        height = float(f[best] @ d / power[best])
        residual = d - height * f[best]
        point = float(p[best, 0]), float(q[best, 0])
        p_step, q_step = (p_high - p_low) / (GRID[0] - 1), (q_high - q_low) / (GRID[1] - 1)
        p_low, p_high = max(bounds[0][0], point[0] - p_step), min(bounds[0][1], point[0] + p_step)
        q_low, q_high = max(bounds[1][0], point[1] - q_step), min(bounds[1][1], point[1] + q_step)
    return float(residual @ residual), height, point, residual


def effective_count(residual):
    """Independent samples in an AR(1) series: n (1 - r) / (1 + r), r the lag-1 autocorrelation."""
    n = len(residual)
    r = float(residual[1:] @ residual[:-1]) / (float(residual @ residual) + 1e-300)
    r = min(max(r, 0.0), 0.99)
    return n * (1 - r) / (1 + r)


# ---------------------------------------------------------------- from snapshots to a result


def tidy(values, precision):
    """Native floats with the digits that mean something: 6 of f32 training, 12 of f64."""
    digits = 6 if precision == "f32" else 12
    return [[float(f"{v:.{digits}g}") for v in row] for row in values]


def record(net, arm, snapshots, loss, precision):
    """The fields of one trained net, under its arm's prefix."""
    fields = {
        f"{arm}_accuracy": float(snapshots[-1][0][net]),
        f"{arm}_loss": float(loss[net]),
    }
    for kind, short in zip(KINDS, ("weights", "hidden", "centred"), strict=True):
        layers = np.array([[layer[net] for layer in ranks[kind]] for _, ranks in snapshots]).T
        relative = (layers / np.maximum(layers[:, :1], 1e-300)).mean(axis=0)
        fields[f"{arm}_{kind}"] = tidy(layers, precision)
        fields[f"{arm}_{short}"] = tidy([relative], precision)[0]
    fields[f"{arm}_change"] = fields[f"{arm}_weights"][-1] - 1
    return fields


def relative_ranks(early, net, precision):
    """The mean over layers of a net's stable ranks over its untrained ones, at each log step."""
    layers = np.array([[layer[net] for layer in ranks] for ranks in early])
    return tidy([(layers / np.maximum(layers[:1], 1e-300)).mean(axis=1)], precision)[0]


def run_group(task, architecture, learning_rates, data, on_epoch):
    """Records of one architecture, one for each learning rate."""
    hidden, precision = HIDDEN[architecture], task.parameters["precision"]
    with np.errstate(all="ignore"):  # a net may diverge: its ranks become 0, and the gates fail
        trained = train(task, hidden, learning_rates, data, on_epoch)
        return records_of(trained, hidden, learning_rates, precision)


def records_of(trained, hidden, learning_rates, precision):
    """Records from what `train` returns, one for each learning rate."""
    snapshots, early, loss, hard, steps = trained
    records = []
    for i, rate in enumerate(learning_rates):
        fields = {"hidden_layers": len(hidden), "learning_rate": float(rate)}
        for j, arm in enumerate(ARMS):
            net = i * len(ARMS) + j
            fields |= record(net, arm, snapshots, loss, precision)
            if arm == "small":
                fields["small_log_weights"] = relative_ranks(early, net, precision)
            fields |= {f"{arm}_hard": float(hard[net]), f"{arm}_rate": float(steps[net])}
        records.append(fields)
    return records


def plan(parameters, budget_seconds):
    """[(architecture, its learning rates)] that the budget affords, in order, at least one."""
    affordable, spent = [], 0.0
    for architecture, seconds in enumerate(CONFIG_SECONDS):
        rates = []
        for rate in parameters["learning_rates"]:
            spent += seconds * parameters["epochs"] / NOMINAL_EPOCHS
            if spent > budget_seconds and (affordable or rates):
                return affordable + ([(architecture, rates)] if rates else [])
            rates.append(rate)
        affordable.append((architecture, rates))
    return affordable


def untrained_change(task):
    """Control: how far a second untrained draw lies from the first, by chance alone."""
    changes = []
    for hidden in HIDDEN:
        draws = (draw_weights(task, hidden, stream) for stream in (WEIGHTS, CONTROL))
        for first, second in zip(*draws, strict=True):
            changes.append(stable_rank(second[None])[0] / stable_rank(first[None])[0] - 1)
    return float(np.mean(changes))


def rank_of_ones():
    """The rank that `measure` finds for weights that are all one: 1; 0 if it centred them."""
    weights = [np.ones((1, INPUTS, CLASSES)), np.ones((1, CLASSES, CLASSES))]
    _, ranks = measure(weights, np.ones((2, INPUTS)), np.zeros(2))
    return float(np.mean(ranks["layers"]))


def rate_effects(records):
    """Highest rate's change less the lowest's; the middle's less the lower of those two."""
    rates = sorted({r["learning_rate"] for r in records})
    by_depth = {}
    for r in records:
        by_depth.setdefault(r["hidden_layers"], {})[r["learning_rate"]] = r["small_change"]
    whole = [changes for changes in by_depth.values() if len(changes) == len(rates)]
    mean = [float(np.mean([changes[rate] for changes in whole])) for rate in rates]
    effect = mean[-1] - mean[0]
    excess = mean[len(mean) // 2] - min(mean[0], mean[-1]) if len(mean) > 2 else 0.0
    return effect, excess


def is_monotone(curve):
    """Whether the curve never rises by more than the slack above its lowest value so far."""
    lowest = np.minimum.accumulate(curve)
    return bool((np.asarray(curve) <= lowest * (1 + MONOTONE_SLACK)).all())


def summarise(records, steps):
    """One number for each question: configurations of one run are not independent samples."""
    result = {}
    for arm in ARMS:
        for short, name in (("weights", "weight"), ("hidden", "hidden"), ("centred", "centred")):
            last = [r[f"{arm}_{short}"][-1] for r in records]
            result[f"{name}_change_{arm}"] = float(np.mean(last)) - 1
        result[f"compressed_share_{arm}"] = share(r[f"{arm}_change"] < COMPRESSED for r in records)
        result[f"accuracy_{arm}"] = float(np.mean([r[f"{arm}_accuracy"] for r in records]))
        result[f"hard_accuracy_{arm}"] = float(np.mean([r[f"{arm}_hard"] for r in records]))
    result["rate_error"] = max(
        abs(r[f"{arm}_rate"] / r["learning_rate"] - 1) for r in records for arm in ARMS
    )
    result["weight_change_small"] = min(result["weight_change_small"], 0.0)
    gain = result["hard_accuracy_small"] - result["hard_accuracy_he"]
    result["hard_gain_small"] = clipped(gain, 0.1)
    effect, excess = rate_effects(records)
    result["rate_effect"], result["middle_rate_excess"] = clipped(effect, 0.25), excess
    curves = [r["small_weights"] for r in records]
    result["transition_share_strict"] = share(
        strict_transition(r["small_log_weights"], steps) for r in records
    )
    result["transition_share_naive"] = share(naive_transition(curve) for curve in curves)
    result["monotone_share_weights"] = share(is_monotone(curve) for curve in curves)
    result["monotone_share_hidden"] = share(is_monotone(r["small_hidden"]) for r in records)
    return result


def clipped(value, most):
    """A number that findings use, clipped to +-``most``: with bounds a mean is decided sooner."""
    return float(np.clip(value, -most, most))


def share(flags):
    return float(np.mean(list(flags)))


def passes_gates(records, result):
    """Whether every net learnt and generalises, and the controls have their known values."""
    return (
        all(
            r[f"{arm}_accuracy"] > ACCURACY_GATE_EACH
            and r[f"{arm}_loss"] < LOSS_GATE
            and min(map(min, r[f"{arm}_layers"])) >= 0.99  # it is at least 1; 0 once diverged
            and result[f"accuracy_{arm}"] > ACCURACY_GATE
            for r in records
            for arm in ARMS
        )
        and abs(result["untrained_change"]) < UNTRAINED_GATE
        and result["overlap"] == 0
        and result["rate_error"] < RATE_ERROR_MAX
        and abs(result["rank_of_ones"] - 1) < 1e-6
    )


# ---------------------------------------------------------------- many seeds at once

SQUARINGS = 20  # a top eigenvalue is then right to 1e-5, however close the next one is


class Stack:
    """The nets of many seeds on one device: (seeds, nets, fan_in, fan_out) for each layer.

    Every other array has the same first axis, and nothing is ever summed over it.
    """

    def __init__(self, tasks, hidden, learning_rates, data):
        self.tasks, self.data, self.device = tasks, data, tasks[0].device
        self.xp, self.place, self.fetch = arrays_on(self.device, tasks[0].parameters["precision"])
        place = self.place
        self.weights = stack_weights(tasks, hidden, len(learning_rates), place)
        self.updates = [place(np.zeros(w.shape)) for w in self.weights]
        shapes = [(*w.shape[:2], BATCH, w.shape[3]) for w in self.weights]
        self.outputs, self.deltas = ([place(np.zeros(s)) for s in shapes] for _ in range(2))
        self.rates = place(np.repeat(learning_rates, len(ARMS))[:, None, None] / BATCH)
        self.zero = place(0.0)
        self.x = place(np.stack([x for (x, _), _ in data]))
        self.y = place(np.stack([np.eye(CLASSES)[y] for (_, y), _ in data]))
        self.batch = [place(np.zeros((len(tasks), 1, BATCH, n))) for n in (INPUTS, CLASSES)]
        self.x_test = place(np.stack([x for _, (x, _) in data]))
        self.x_hard = place(np.stack([self._hard(*one) for one in zip(tasks, data, strict=True)]))
        self.gpu = None if self.xp is np else Measured(self)

    def _hard(self, task, data):
        x_test = data[1][0]
        dtype = np.float64 if task.parameters["precision"] == "f64" else np.float32
        noise = HARD_NOISE * task.rng(HARD).standard_normal(x_test.shape)
        return x_test.astype(dtype) + noise.astype(dtype)

    def step(self):
        """One step of every net on its seed's part of ``batch``."""
        sgd_step(
            self.xp, self.weights, self.updates, self.outputs, self.deltas, *self.batch,
            self.rates, self.zero,
        )  # fmt: skip

    def first_step(self):
        """As `step`; returns the rates that `first_rates` measures, (nets,) for each seed."""
        before = [self.fetch(w).copy() for w in self.weights]
        self.step()
        after, x, y = (self.fetch(a) for a in (self.weights[-1], *self.batch))
        return [
            first_rates([w[s] for w in before], after[s], x[s, 0], y[s, 0])
            for s in range(len(self.tasks))
        ]

    def ranks(self):
        """The stable ranks of each layer's weights, a list of (nets,) for each seed."""
        if self.xp is np:
            return [[stable_rank(w[s]) for w in self.weights] for s in range(len(self.tasks))]
        self.gpu.rank_weights()
        return list(self.fetch(self.gpu.weight_ranks.clone()).swapaxes(0, 1))

    def measure(self):
        """What `measure` returns, for each seed."""
        labels = [y for _, (_, y) in self.data]
        if self.xp is np:
            return [
                measure([w[s] for w in self.weights], self.x_test[s], y)
                for s, y in enumerate(labels)
            ]
        self.gpu.measure()
        kinds = (self.gpu.weight_ranks, *self.gpu.hidden_ranks)
        ranks = [self.fetch(kind.clone()).swapaxes(0, 1) for kind in kinds]
        right = self.accuracies(self.gpu.classes, labels)
        return [
            (right[s], {kind: list(ranks[i][s]) for i, kind in enumerate(KINDS)})
            for s in range(len(labels))
        ]

    def accuracies(self, classes, labels):
        """The share of points that each net classifies right, (nets,) for each seed."""
        found = self.fetch(classes)
        return [(one == y).mean(axis=-1) for one, y in zip(found, labels, strict=True)]

    def last_losses(self):
        """What `training_loss` returns, for each seed."""
        labels = [y for (_, y), _ in self.data]
        if self.xp is np:
            return [
                training_loss([w[s] for w in self.weights], self.x[s], y)
                for s, y in enumerate(labels)
            ]
        logits = self.fetch(activations_on_gpu(self.weights, self.x)[-1])
        return [cross_entropy(one, y) for one, y in zip(logits, labels, strict=True)]

    def last_hard_accuracies(self):
        """The accuracy at twice the noise, (nets,) for each seed."""
        labels = [y for _, (_, y) in self.data]
        if self.xp is np:
            logits = [
                activations([w[s] for w in self.weights], self.x_hard[s])[-1]
                for s in range(len(labels))
            ]
            return self.accuracies(np.stack(logits).argmax(-1), labels)
        logits = activations_on_gpu(self.weights, self.x_hard)[-1]
        return self.accuracies(logits.argmax(-1), labels)


class Measured:
    """`ranks` and `measure` of a stack on a GPU, each as one CUDA graph.

    weight_ranks  (layers, seeds, nets) in f64
    hidden_ranks  two of (hidden layers, seeds, nets): as they are, and less their mean
    classes       (seeds, nets, points): what each net makes of the test points
    """

    def __init__(self, stack):
        import torch

        self._weights, self._x = stack.weights, stack.x_test
        layers, (seeds, nets) = len(stack.weights), stack.weights[0].shape[:2]
        wide = {"dtype": torch.float64, "device": stack.device}
        self.weight_ranks = torch.zeros((layers, seeds, nets), **wide)
        self.hidden_ranks = torch.zeros((2, layers - 1, seeds, nets), **wide)
        points = stack.x_test.shape[1]
        self.classes = torch.zeros((seeds, nets, points), dtype=torch.int64, device=stack.device)
        self.rank_weights = replayed(self._rank_weights, [], stack.device)
        self.measure = replayed(self._measure, [], stack.device)

    def _rank_weights(self):
        for ranks, w in zip(self.weight_ranks, self._weights, strict=True):
            ranks.copy_(stable_rank_on_gpu(w))

    def _measure(self):
        self._rank_weights()
        *hidden, logits = activations_on_gpu(self._weights, self._x)
        self.classes.copy_(logits.argmax(-1))
        for i, h in enumerate(hidden):
            for ranks, found in zip(self.hidden_ranks, representation_ranks_on_gpu(h), strict=True):
                ranks[i].copy_(found)


def activations_on_gpu(weights, x):
    """As `activations`, for x (seeds, points, 20): a list of (seeds, nets, points, width)."""
    x, outputs = x[:, None], []
    for w in weights:
        x = x @ w if not outputs else x.clamp_(min=0) @ w
        outputs.append(x)
    return outputs


def representation_ranks_on_gpu(h):
    """As `representation_ranks`, for h (seeds, nets, points, width): two of (seeds, nets)."""
    wide = h.double()
    gram, mean = wide.mT @ wide, wide.mean(-2, keepdim=True)
    return rank_on_gpu(gram), rank_on_gpu(gram - h.shape[-2] * (mean.mT @ mean))


def stable_rank_on_gpu(matrices):
    """As `stable_rank`, for a stack of any shape."""
    a = matrices.double()
    return rank_on_gpu(a @ a.mT if a.shape[-2] < a.shape[-1] else a.mT @ a)


def rank_on_gpu(gram):
    """As `rank_from_gram`, by squaring: a GPU's eigenvalue routines are slow for small matrices.

    Squared again and again, a Gram matrix keeps only the directions of its largest eigenvalue.
    """
    size = trace(gram)
    power = gram / size
    for i in range(1, SQUARINGS + 1):
        power = power @ power
        if i % 4 == 0:  # the trace, 1 before, is then above 1e-39
            power /= trace(power)
    top = (gram * power).sum((-2, -1), keepdim=True)
    return (size / top).nan_to_num(nan=0.0, posinf=0.0)[..., 0, 0]


def trace(matrices):
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def replayed(step, state, device):
    """``step`` as one CUDA graph: one launch instead of dozens. On a CPU, ``step`` itself.

    ``step`` takes no arguments and changes the tensors ``state`` in place; all else that it reads
    stays where it is.
    """
    if device == "cpu":
        return step
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
    return graph.replay


def train_together(tasks, hidden, learning_rates, data, on_epoch):
    """What `train` returns, for each of many seeds."""
    p, stack = tasks[0].parameters, Stack(tasks, hidden, learning_rates, data)
    orders = [task.rng(ORDER) for task in tasks]
    rows, looks = np.arange(len(tasks))[:, None], set(log_steps(p["epochs"]))
    snapshots, early, step, rates, advance = [stack.measure()], [], 0, None, None
    shuffled = np.stack([order.permutation(SAMPLES) for order in orders])
    for epoch in range(1, p["epochs"] + 1):
        x_epoch, y_epoch = stack.x[rows, shuffled][:, None], stack.y[rows, shuffled][:, None]
        for at in range(0, SAMPLES - BATCH + 1, BATCH):
            stack.batch[0][...] = x_epoch[:, :, at : at + BATCH]
            stack.batch[1][...] = y_epoch[:, :, at : at + BATCH]
            if advance is None:
                rates = stack.first_step()
                advance = replayed(stack.step, stack.weights, stack.device)
            else:
                advance()
            step += 1
            if step in looks:
                early.append(stack.ranks())
        # While a GPU still computes the steps:
        shuffled = np.stack([order.permutation(SAMPLES) for order in orders])
        if epoch % p["snapshot_every"] == 0:
            snapshots.append(stack.measure())
            on_epoch(epoch)
    return finish_training(stack, snapshots, early, rates)


def stack_weights(tasks, hidden, rates, place):
    """Initial weights (seeds, nets, fan_in, fan_out) of each layer, nets ordered as in `train`."""
    draws = [draw_weights(task, hidden, WEIGHTS) for task in tasks]
    init_sd = tasks[0].parameters["init_sd"]
    return [
        place(
            np.stack(
                [[scale(arm, m, init_sd) for _ in range(rates) for arm in ARMS] for m in layer]
            )
        )
        for layer in zip(*draws, strict=True)
    ]


def finish_training(stack, snapshots, early, rates):
    """What `train` returns, for each of the stack's seeds."""
    losses, hard, results = stack.last_losses(), stack.last_hard_accuracies(), []
    for s in range(len(stack.tasks)):
        own = [taken[s] for taken in snapshots]
        own_early = [own[0][1]["layers"], *(ranks[s] for ranks in early)]
        results.append((own, own_early, losses[s], hard[s], rates[s]))
    return results


def run_cohort(tasks):
    """`run` for several tasks at once, since further networks cost a GPU little.

    A group of configurations is trained for all seeds whose checkpoint lacks it. Then `run` finds
    every group in each seed's checkpoint, and only computes the summary.
    """
    p, data = tasks[0].parameters, [draw_task(task.rng(DATA)) for task in tasks]
    groups = plan(p, tasks[0].budget_seconds)
    costs = [len(rates) * CONFIG_SECONDS[a] for a, rates in groups]
    records = [(task.restore() or {"records": []})["records"] for task in tasks]
    done = 0
    for i, (architecture, rates) in enumerate(groups):
        done += len(rates)
        lacking = [s for s in range(len(tasks)) if len(records[s]) < done]
        if not lacking:
            continue
        waiting = [tasks[s] for s in lacking]

        def on_epoch(epoch, i=i, waiting=waiting):
            for task in waiting:
                task.progress((sum(costs[:i]) + costs[i] * epoch / p["epochs"]) / sum(costs))

        hidden, own = HIDDEN[architecture], [data[s] for s in lacking]
        with np.errstate(all="ignore"):  # a net may diverge; it does not affect other seeds
            trained = train_together(waiting, hidden, rates, own, on_epoch)
            for s, one in zip(lacking, trained, strict=True):
                records[s] = records[s] + records_of(one, hidden, rates, p["precision"])
        for s in lacking:
            tasks[s].checkpoint({"records": records[s]})
    return [run(task) for task in tasks]


def run(task):
    p = task.parameters
    groups = plan(p, task.budget_seconds)
    data = draw_task(task.rng(DATA))
    records = (task.restore() or {"records": []})["records"]
    costs = [len(rates) * CONFIG_SECONDS[a] for a, rates in groups]
    done = 0
    for i, (architecture, rates) in enumerate(groups):
        if done + len(rates) > len(records):  # otherwise the checkpoint has this group

            def on_epoch(epoch, i=i):
                task.progress((sum(costs[:i]) + costs[i] * epoch / p["epochs"]) / sum(costs))

            records = records + run_group(task, architecture, rates, data, on_epoch)
            task.checkpoint({"records": records})
        done += len(rates)
    steps = [0, *log_steps(p["epochs"])]
    result = summarise(records, steps)
    result["log_steps"] = steps
    result["untrained_change"] = untrained_change(task)
    result["rank_of_ones"] = rank_of_ones()
    result["overlap"] = shared_samples(data[0][0], data[1][0])
    result["epochs"] = list(range(0, p["epochs"] + 1, p["snapshot_every"]))
    result["configs"] = records
    result["configs_done"] = len(records)
    result["valid"] = int(passes_gates(records, result))
    return result
