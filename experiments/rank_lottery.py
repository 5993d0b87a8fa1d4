"""Rank and the lottery ticket: does pruning remove the low-rank components of a network?

    axiom-client try experiments/rank_lottery.py --seed 1 --plot rank_lottery.png

Frankle & Carbin 2019 (ICLR) found winning tickets: train a network, remove its smallest weights,
put the rest back to their initial values, train again, and repeat. The sparse net that remains
trains better than the same sparse net with new initial weights. Training also makes weight matrices
low-rank (Feng & Tu 2021; Huh et al. 2021; `rank_dynamics`). The two meet in one question: is what
magnitude pruning takes away the few large singular directions that training built, or the bulk?

Each trial trains a dense net [20, 128, 64, 5] on Gaussian clusters and prunes it in six rounds to
98 %. At each sparsity three nets train alike, on the same batches, from masks of the same size:

    ticket    the magnitude mask, the initial weights of the dense net
    reinit    the magnitude mask, new initial weights          (control: is it the mask alone?)
    random    a random mask, the dense net's initial weights   (control: is it the size alone?)

Then the trained dense weights W = sum_i s_i u_i v_i' are pruned to the same sparsities without
training. The share of singular energy that a mask keeps in directions I is

    kept(I) = sum_I (u_i' (mask * W) v_i)^2 / sum_I s_i^2,

for I the top five directions and for the bulk. A random mask that keeps a share p keeps p^2 of both.
Magnitude keeps more of everything, trained or not, so its own control is the same pruning of the
untrained weights: only what exceeds that is due to training.

Also measured: what the net can still do with its top five directions alone, and with the bulk alone.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy"]
#
# [tool.axiom]
# name = "rank_lottery"
# version = "1.0.0"
# title = "Lottery tickets and the rank of what pruning keeps"
# question = "Does magnitude pruning remove the low-rank components that training builds, or the bulk?"
# rationale = [
#   "Links rank dynamics to the confirmed lottery ticket: both say that few directions suffice.",
#   "Random masks of equal size and untrained weights separate the effect of training from trivia.",
#   "Ticket, re-initialised and random nets see the same batches, so differences are paired.",
#   "Manual gradients, three nets in one batched product: six rounds cost seconds on one core.",
# ]
# references = [
#   "Frankle & Carbin 2019, ICLR: the lottery ticket hypothesis",
#   "Feng & Tu 2021, PNAS 118: the inverse variance-flatness relation in stochastic gradient descent",
#   "Huh, Mobahi, Zhang, Cheung, Agrawal & Isola 2021: the low-rank simplicity bias in deep networks",
# ]
# resources = { cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 10_000_000 }
# expected_seconds = 40
#
# [tool.axiom.parameters.steps]
# default = 600
# min = 10
# max = 20_000
# about = "Adam steps of each training; the dense net fits its training set by 400"
#
# [tool.axiom.parameters.learning_rate]
# default = 0.003
# min = 1e-5
# max = 0.1
#
# [tool.axiom.parameters.separation]
# default = 1.0
# min = 0.1
# max = 10.0
# about = "standard deviation of the cluster centres, in units of that within a cluster"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "the dense net fits and generalises, the untrained one does not" }
# configs_done = { kind = "integer", min = 1, about = "trials: a task and its six rounds" }
# dense_accuracy = { min = 0, max = 1, atol = 0.002 }
# untrained_accuracy = { min = 0, max = 1, atol = 0.002 }
# ticket_accuracy = { min = 0, max = 1, atol = 0.002, about = "test, mean of sparsities >= 93 %" }
# reinit_accuracy = { min = 0, max = 1, atol = 0.002 }
# random_accuracy = { min = 0, max = 1, atol = 0.002 }
# ticket_wins = { kind = "flag", about = "beats reinit at every sparsity >= 93 %" }
# top_kept_magnitude = { min = 0, rtol = 1e-4, about = "singular energy kept, top five, at 93 %" }
# bulk_kept_magnitude = { min = 0, rtol = 1e-4, about = "the same, all other directions" }
# top_kept_random = { min = 0, rtol = 1e-4 }
# bulk_kept_random = { min = 0, rtol = 1e-4 }
# selectivity = { min = 0, rtol = 1e-4, about = "top kept / bulk kept, magnitude, trained, at 93 %" }
# selectivity_untrained = { min = 0, rtol = 1e-4, about = "the same mask rule on untrained weights" }
# selectivity_random = { min = 0, rtol = 1e-4, about = "random mask on trained weights" }
# top_only_accuracy = { min = 0, max = 1, atol = 0.002, about = "dense net, top five directions alone" }
# bulk_only_accuracy = { min = 0, max = 1, atol = 0.002, about = "dense net without them" }
#
# [tool.axiom.result.arms]
# kind = "records"
# max_items = 3
# about = "0 ticket, 1 reinit, 2 random; over sparsity, mean of trials"
# [tool.axiom.result.arms.fields]
# arm = { kind = "integer", min = 0, max = 2 }
# sparsity = { dims = 1, min = 0, max = 1, rtol = 1e-12 }
# test_accuracy = { dims = 1, min = 0, max = 1, atol = 0.002 }
# train_accuracy = { dims = 1, min = 0, max = 1, atol = 0.004 }
# stable_rank = { dims = 1, min = 0, rtol = 1e-3, about = "of the trained middle layer" }
#
# [tool.axiom.result.sparsity]
# dims = 1
# min = 0
# max = 1
# rtol = 1e-12
# [tool.axiom.result.ticket_curve]
# dims = 1
# min = 0
# max = 1
# atol = 0.002
# [tool.axiom.result.reinit_curve]
# dims = 1
# min = 0
# max = 1
# atol = 0.002
# [tool.axiom.result.random_curve]
# dims = 1
# min = 0
# max = 1
# atol = 0.002
#
# [tool.axiom.result.kept]
# kind = "records"
# max_items = 3
# about = "0 magnitude on trained weights, 1 random on trained, 2 magnitude on untrained"
# [tool.axiom.result.kept.fields]
# rule = { kind = "integer", min = 0, max = 2 }
# top = { dims = 1, min = 0, rtol = 1e-4 }
# bulk = { dims = 1, min = 0, rtol = 1e-4 }
#
# [[tool.axiom.findings]]
# name = "ticket_beats_reinit"
# claim = "From 93 % sparsity on, the winning ticket beats the same mask with new initial weights."
# field = "ticket_accuracy"
# control = "reinit_accuracy"
# statistic = "difference"
# criterion = { above = 0.0 }
# min_share = 0.95
#
# [[tool.axiom.findings]]
# name = "mask_beats_random"
# claim = "The magnitude mask is worth having even with new weights: it beats a random one."
# field = "reinit_accuracy"
# control = "random_accuracy"
# statistic = "difference"
# criterion = { above = 0.0 }
#
# [[tool.axiom.findings]]
# name = "keeps_the_top"
# claim = "Magnitude pruning at 93 % keeps more of the top five directions than of the bulk."
# field = "top_kept_magnitude"
# control = "bulk_kept_magnitude"
# statistic = "ratio"
# criterion = { above = 1.0 }
#
# [[tool.axiom.findings]]
# name = "because_of_training"
# claim = "It prefers the top directions more in trained weights than in untrained ones."
# field = "selectivity"
# control = "selectivity_untrained"
# statistic = "ratio"
# criterion = { above = 1.0 }
#
# [[tool.axiom.findings]]
# name = "random_keeps_less"
# claim = "A random mask of the same size keeps less of the top directions than magnitude does."
# field = "top_kept_magnitude"
# control = "top_kept_random"
# statistic = "ratio"
# criterion = { above = 2.0 }
#
# [[tool.axiom.figures]]
# name = "tickets"
# title = "The ticket, its mask with new weights, a random mask"
# x = "sparsity"
# y = ["ticket_curve", "reinit_curve", "random_curve"]
# legend = ["ticket", "re-initialised", "random mask"]
# x_label = "share of weights removed"
# y_label = "test accuracy"
# x_mark = [0.93]
#
# [[tool.axiom.figures]]
# name = "kept"
# title = "Singular energy kept at 93 % sparsity"
# kind = "bars"
# x = "configs_done"
# y = ["top_kept_magnitude", "bulk_kept_magnitude", "top_kept_random", "bulk_kept_random"]
# legend = ["top five, magnitude", "bulk, magnitude", "top five, random", "bulk, random"]
# y_label = "share of singular energy kept"
# ///

import numpy as np

SIZES = (20, 128, 64, 5)  # the log's lottery net: wide enough that 2 % of it still computes
INPUTS, CLASSES = SIZES[0], SIZES[-1]
SHAPES = tuple(zip(SIZES[:-1], SIZES[1:], strict=True))
CLUSTERS = 4  # of each class, so that no linear read-out of the inputs separates the classes

SAMPLES, TEST_SAMPLES = 1000, 2000
BATCH = 64
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Adam's own defaults

# Each round keeps half of the hidden weights and three quarters of the output's (Frankle & Carbin
# prune the output at half the rate: its few weights serve every class). Sparsity after each:
# 49, 74, 87, 93, 96, 98 %.
ROUNDS = 6
HIDDEN_KEEP, OUTPUT_KEEP = 0.5, 0.75
SPARSE = 0.93  # where tickets are held against their controls

TOP = CLASSES  # directions that five classes can need
PRUNED_LAYERS = (0, 1)  # whose spectra are read; the output layer has no bulk: its rank is TOP

TICKET, REINIT, RANDOM = range(3)

TRIALS_MAX = 8  # tasks averaged in one run
TRIAL_SECONDS = 5.0  # nominal, at 600 steps on one core


# --- the task ------------------------------------------------------------------------------------


def clusters(rng, centres, count):
    """``count`` samples around the centres: inputs (count, INPUTS), classes (count,)."""
    which = rng.integers(0, len(centres), count)
    return centres[which] + rng.standard_normal((count, INPUTS)), which % CLASSES


# --- nets, several at once -----------------------------------------------------------------------------

WEIGHTS = sum(fan_in * fan_out for fan_in, fan_out in SHAPES)
BIASES = sum(SIZES[1:])


def initial_net(rng):
    """One flat vector (WEIGHTS + BIASES,): He's Gaussian weights, zero biases."""
    parts = [rng.standard_normal(a * b) * np.sqrt(2.0 / a) for a, b in SHAPES]
    return np.concatenate([*parts, np.zeros(BIASES)])


def layers(flat):
    """Views of flat nets (nets, WEIGHTS + BIASES): weights (nets, in, out), biases (nets, 1, out)."""
    weights, biases, start = [], [], 0
    for fan_in, fan_out in SHAPES:
        end = start + fan_in * fan_out
        weights.append(flat[:, start:end].reshape(-1, fan_in, fan_out))
        start = end
    for fan_out in SIZES[1:]:
        biases.append(flat[:, None, start : start + fan_out])
        start += fan_out
    return weights, biases


def forward(flat, inputs):
    """Activities of each layer: the inputs, two hidden layers, the logits (nets, samples, CLASSES)."""
    activities = [np.broadcast_to(inputs, (len(flat), *inputs.shape))]
    for depth, (weight, bias) in enumerate(zip(*layers(flat), strict=True)):
        total = activities[-1] @ weight + bias
        activities.append(total if depth == len(SHAPES) - 1 else np.maximum(total, 0.0))
    return activities


def softmax(logits):
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def gradient(flat, inputs, targets, slope):
    """Write d(mean cross-entropy)/d(flat) into ``slope``, shaped like ``flat``."""
    activities = forward(flat, inputs)
    weights, _ = layers(flat)
    weight_slopes, bias_slopes = layers(slope)
    back = (softmax(activities[-1]) - targets) / len(inputs)
    for depth in reversed(range(len(SHAPES))):
        np.matmul(activities[depth].swapaxes(1, 2), back, out=weight_slopes[depth])
        bias_slopes[depth][:] = back.sum(axis=1, keepdims=True)
        if depth:
            back = (back @ weights[depth].swapaxes(1, 2)) * (activities[depth] > 0)


def train(nets, masks, data, batches, learning_rate):
    """Adam on the weights that the masks leave; every net sees the same batches. Returns new nets."""
    inputs, targets = data
    flat = nets * masks
    slope, mean, square = (np.zeros_like(flat) for _ in range(3))
    for step, batch in enumerate(batches, start=1):
        gradient(flat, inputs[batch], targets[batch], slope)
        slope *= masks
        mean += (1 - BETA1) * (slope - mean)
        square += (1 - BETA2) * (slope * slope - square)
        size = np.sqrt(square / (1 - BETA2**step)) + EPSILON
        flat -= learning_rate / (1 - BETA1**step) * mean / size
    return flat


def accuracy(flat, inputs, classes):
    """(nets,)"""
    return np.mean(forward(flat, inputs)[-1].argmax(axis=-1) == classes, axis=-1)


# --- masks -----------------------------------------------------------------------------------------


def magnitude_mask(net, mask):
    """Keep the largest of what ``mask`` leaves, layer by layer; biases stay. Shaped like the net."""
    kept = mask.copy()
    sizes, (left, _) = layers(np.abs(net)[None])[0], layers(kept[None])
    for depth, (size, alive) in enumerate(zip(sizes, left, strict=True)):
        keep = OUTPUT_KEEP if depth == len(SHAPES) - 1 else HIDDEN_KEEP
        magnitude = np.where(alive[0] > 0, size[0], -1.0).ravel()
        lost = np.argsort(magnitude, kind="stable")[: -int(round(keep * alive.sum()))]
        alive[0].reshape(-1)[lost] = 0.0
    return kept


def shuffled_mask(rng, mask):
    """As many weights in each layer, anywhere."""
    mixed = mask.copy()
    for alive in layers(mixed[None])[0]:
        alive[0] = rng.permutation(alive[0].reshape(-1)).reshape(alive[0].shape)
    return mixed


def sparsity(mask):
    return 1.0 - mask[:WEIGHTS].sum() / WEIGHTS


# --- singular directions ----------------------------------------------------------------------------


def stable_rank(matrix):
    """|W|_F^2 / |W|_2^2."""
    values = np.linalg.svd(matrix, compute_uv=False)
    return np.sum(values**2) / values[0] ** 2


def kept_energy(net, mask):
    """Share of singular energy that the mask keeps in the top directions and in the bulk: (2,).

    Summed over PRUNED_LAYERS, each layer counting by its own energy relative to its total.
    """
    shares = []
    for depth in PRUNED_LAYERS:
        weight, alive = layers(net[None])[0][depth][0], layers(mask[None])[0][depth][0]
        left, values, right = np.linalg.svd(weight, full_matrices=False)
        stays = np.einsum("ij,ik,kj->j", left, alive * weight, right.T)
        top, bulk = slice(0, TOP), slice(TOP, None)
        shares.append([np.sum(stays[i] ** 2) / np.sum(values[i] ** 2) for i in (top, bulk)])
    return np.mean(shares, axis=0)


def restricted(net, directions):
    """The net with only these singular directions left in PRUNED_LAYERS."""
    changed = net.copy()
    for depth in PRUNED_LAYERS:
        weight = layers(changed[None])[0][depth][0]
        left, values, right = np.linalg.svd(weight, full_matrices=False)
        weight[:] = (left[:, directions] * values[directions]) @ right[directions]
    return changed


# --- one trial and the whole run ------------------------------------------------------------------------


def dense_numbers(first, dense, data, test):
    """Training and test accuracy, untrained, top directions only, bulk only: (5,)."""
    nets = np.stack([dense, first, restricted(dense, slice(0, TOP)), restricted(dense, slice(TOP, None))])
    return np.concatenate([accuracy(dense[None], *data), accuracy(nets, *test)])


def trial(rng, parameters):
    """One task: numbers of the dense net (5,) and of each round (ROUNDS, 1 + 9 + 6)."""
    centres = parameters["separation"] * rng.standard_normal((CLASSES * CLUSTERS, INPUTS))
    inputs, classes = clusters(rng, centres, SAMPLES)
    test = clusters(rng, centres, TEST_SAMPLES)
    batches = rng.integers(0, SAMPLES, (parameters["steps"], BATCH))
    data = inputs, np.eye(CLASSES)[classes]
    rate = parameters["learning_rate"]

    first = initial_net(rng)
    mask = still = np.ones_like(first)
    dense = ticket = train(first[None], mask[None], data, batches, rate)[0]
    probe, rounds = mask, []
    for _ in range(ROUNDS):
        mask = magnitude_mask(ticket, mask)
        scattered = shuffled_mask(rng, mask)
        starts = np.stack([first, initial_net(rng), first])
        nets = train(starts, np.stack([mask, mask, scattered]), data, batches, rate)
        ticket = nets[TICKET]
        probe, still = magnitude_mask(dense, probe), magnitude_mask(first, still)
        rounds.append(
            [
                sparsity(mask),
                *accuracy(nets, *test),
                *accuracy(nets, inputs, classes),
                *(stable_rank(weight) for weight in layers(nets)[0][1]),
                *kept_energy(dense, probe),
                *kept_energy(dense, scattered),
                *kept_energy(first, still),
            ]
        )
    return dense_numbers(first, dense, (inputs, classes), test), np.array(rounds)


def summary(dense, rounds):
    """The result from the numbers of all trials: dense (trials, 5), rounds (trials, ROUNDS, 16)."""
    fit, dense_accuracy, untrained, top_only, bulk_only = np.mean(dense, axis=0)
    table = np.mean(rounds, axis=0)
    levels, test, fitted, ranks = table[:, 0], table[:, 1:4].T, table[:, 4:7].T, table[:, 7:10].T
    kept = table[:, 10:].T.reshape(3, 2, ROUNDS)  # rule, top or bulk, round
    sparse = levels >= SPARSE
    at = int(np.argmax(sparse))
    high = test[:, sparse].mean(axis=1)
    sane = (
        fit > 0.95
        and dense_accuracy > 0.6  # chance is 0.2: the test data are of the task
        and untrained < 0.45
        and test[:, 0].min() > dense_accuracy - 0.1  # half the weights are dispensable, whichever
    )
    return {
        "valid": int(sane),
        "configs_done": len(dense),
        "dense_accuracy": float(dense_accuracy),
        "untrained_accuracy": float(untrained),
        "ticket_accuracy": float(high[TICKET]),
        "reinit_accuracy": float(high[REINIT]),
        "random_accuracy": float(high[RANDOM]),
        "ticket_wins": int((test[TICKET, sparse] > test[REINIT, sparse]).all()),
        "top_kept_magnitude": float(kept[0, 0, at]),
        "bulk_kept_magnitude": float(kept[0, 1, at]),
        "top_kept_random": float(kept[1, 0, at]),
        "bulk_kept_random": float(kept[1, 1, at]),
        "selectivity": float(kept[0, 0, at] / kept[0, 1, at]),
        "selectivity_untrained": float(kept[2, 0, at] / kept[2, 1, at]),
        "selectivity_random": float(kept[1, 0, at] / kept[1, 1, at]),
        "top_only_accuracy": float(top_only),
        "bulk_only_accuracy": float(bulk_only),
        "arms": [
            {
                "arm": arm,
                "sparsity": levels.tolist(),
                "test_accuracy": test[arm].tolist(),
                "train_accuracy": fitted[arm].tolist(),
                "stable_rank": ranks[arm].tolist(),
            }
            for arm in (TICKET, REINIT, RANDOM)
        ],
        "sparsity": levels.tolist(),
        "ticket_curve": test[TICKET].tolist(),
        "reinit_curve": test[REINIT].tolist(),
        "random_curve": test[RANDOM].tolist(),
        "kept": [
            {"rule": rule, "top": kept[rule, 0].tolist(), "bulk": kept[rule, 1].tolist()}
            for rule in range(3)
        ],
    }


def trials_within(budget_seconds, steps):
    """Whole trials that the budget pays for, at their nominal price; at least one."""
    return int(np.clip(budget_seconds // (TRIAL_SECONDS * steps / 600), 1, TRIALS_MAX))


def run(task):
    parameters = task.parameters
    count = trials_within(task.budget_seconds, parameters["steps"])
    state = task.restore() or {"dense": [], "rounds": []}
    dense, rounds = state["dense"], state["rounds"]
    while len(dense) < count:
        numbers, levels = trial(task.rng(len(dense)), parameters)
        dense.append(numbers)
        rounds.append(levels)
        task.checkpoint({"dense": dense, "rounds": rounds})
        task.progress(len(dense) / count)
    return summary(dense, rounds)
