"""Rank and the lottery ticket: does pruning remove the low-rank components of a network?

    axiom-client try experiments/rank_lottery.py --seed 1 --plot rank_lottery.png

Frankle & Carbin 2019 (ICLR) found winning tickets: train a network, remove its smallest weights,
put the rest back to their initial values, train again, and repeat. The sparse net that remains
trains better than the same sparse net with new initial weights. Training can also make weight
matrices low-rank (Huh et al. 2021; `rank_dynamics`). The two meet in one question: does magnitude
pruning take away the few large singular directions, or the bulk?

Each trial trains a dense net [20, 128, 64, 5] on Gaussian clusters and prunes it in six rounds to
98 %. At each sparsity five nets train alike, on the same batches, from masks of the same size:

    ticket    the magnitude mask, the initial weights of the dense net
    reinit    the magnitude mask, new initial weights          (control: is it the mask alone?)
    random    a random mask, the dense net's initial weights   (control: is it the size alone?)
    signs     the magnitude mask, initial magnitudes permuted within each layer, their signs kept
    unsigned  the magnitude mask, initial magnitudes kept, new signs

Then the trained dense weights W = sum_i s_i u_i v_i' are pruned to the same sparsities without
training. A mask M keeps of the singular energy in a set I of directions the share

    kept(I) = sum_I s_i u_i' (M * W) v_i / sum_I s_i^2.

Over all directions this is |M * W|^2 / |W|^2, the energy of the weights that stay, and it adds up
direction by direction. (The square of u_i' (M * W) v_i does not: energy that a mask scatters out of
the large directions inflates the small ones, so that even a random mask seems selective.) A random
mask that keeps a share p of the weights keeps p of every set, on average. I is the top five
directions, which is all that five classes need, or the bulk.

Controls: a random mask; the same pruning of the untrained weights; and a net with small initial
weights, whose rank training does compress, since with He's initial weights it hardly does.

The result is neither: magnitude pruning keeps several times what a random mask keeps, of the top
and of the bulk alike. It selects single entries, and when singular vectors are spread out over many
units, an entry does not reveal its direction. Tickets win by their mask and the signs of their
initial weights (Zhou et al. 2019), not by being low-rank, and not by the weights' magnitudes.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]  # torch on GPUs only
#
# [tool.axiom]
# name = "rank_lottery"
# version = "2.2.0"
# title = "Lottery tickets and the rank of what pruning keeps"
# question = "Does magnitude pruning remove the low-rank components of a trained net, or the bulk?"
# rationale = [
#   "Links rank dynamics to the confirmed lottery ticket: both say that few directions suffice.",
#   "Random masks of equal size and untrained weights show what is not due to training.",
#   "Ticket, re-initialised and random nets see the same batches, so differences are paired.",
#   "Manual gradients, five nets in one batched product: six rounds cost seconds on one core.",
# ]
# references = [
#   "Frankle & Carbin 2019, ICLR: the lottery ticket hypothesis",
#   "Zhou et al. 2019, arXiv:1905.01067: deconstructing lottery tickets",
#   "Huh et al. 2021, arXiv:2103.10427: the low-rank simplicity bias in deep networks",
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
# valid = { kind = "flag", about = "fits and generalises; rewound; masks and new weights as set" }
# configs_done = { kind = "integer", min = 1, about = "trials: a task and its six rounds" }
# dense_accuracy = { min = 0, max = 1, atol = 2e-4 }
# untrained_accuracy = { min = 0, max = 1, atol = 2e-4 }
# ticket_accuracy = { min = 0, max = 1, atol = 2e-4, about = "test, mean of sparsities >= 93 %" }
# reinit_accuracy = { min = 0, max = 1, atol = 2e-4 }
# random_accuracy = { min = 0, max = 1, atol = 2e-4 }
# signs_accuracy = { min = 0, max = 1, atol = 2e-4, about = "magnitudes permuted, signs kept" }
# unsigned_accuracy = { min = 0, max = 1, atol = 2e-4, about = "magnitudes kept, new signs" }
# overlap = { kind = "integer", min = 0, about = "test samples that are in the training set" }
# ticket_gain.about = "ticket_accuracy - reinit_accuracy"
# ticket_gain.min = -0.25
# ticket_gain.max = 0.25
# ticket_gain.atol = 2e-4
# mask_gain = { min = -0.25, max = 0.25, atol = 2e-4, about = "reinit_accuracy - random_accuracy" }
# signs_gain = { min = -0.25, max = 0.25, atol = 2e-4, about = "signs_accuracy - reinit_accuracy" }
# magnitude_gain.about = "ticket_accuracy - signs_accuracy"
# magnitude_gain.min = -0.1
# magnitude_gain.max = 0.1
# magnitude_gain.atol = 1e-4
# unsigned_gain.about = "unsigned_accuracy - reinit_accuracy"
# unsigned_gain.min = -0.1
# unsigned_gain.max = 0.1
# unsigned_gain.atol = 2e-4
# top_ratio = { min = 0, max = 2, rtol = 1e-4, about = "top_kept_magnitude / top_kept_untrained" }
# rank_ratio = { min = 0, max = 2, rtol = 1e-4, about = "rank_left_compressed / rank_left" }
# rewind_error = { min = 0, about = "most by which a ticket's start differs from initial weights" }
# reinit_scale = { min = 0, rtol = 1e-9, about = "deviation of new weights over initial ones" }
# sign_agreement = { min = 0, max = 1, rtol = 1e-9, about = "signs arm with initial weights" }
# ticket_wins = { kind = "flag", about = "beats reinit at every sparsity >= 93 %" }
# top_kept_magnitude = { rtol = 1e-4, about = "singular energy kept, top five, at 93 %" }
# top_kept_untrained = { rtol = 1e-4, about = "the same of untrained weights" }
# bulk_kept_magnitude = { rtol = 1e-4, about = "the same, all other directions" }
# top_kept_random = { rtol = 1e-4, about = "by a random mask of the same size" }
# bulk_kept_random = { rtol = 1e-4 }
# selectivity = { min = 0, max = 2, rtol = 1e-4, about = "top kept / bulk kept, at 93 %" }
# selectivity_untrained = { rtol = 1e-4, about = "the same rule on untrained weights" }
# selectivity_compressed.about = "on a net trained from small weights"
# selectivity_compressed.min = 0
# selectivity_compressed.max = 2
# selectivity_compressed.rtol = 1e-4
# selectivity_random = { rtol = 1e-4, about = "random mask on trained weights" }
# rank_left = { min = 0, rtol = 1e-4, about = "stable rank, middle layer, trained / untrained" }
# rank_left_compressed = { min = 0, rtol = 1e-4, about = "the same from small weights" }
# top_only_accuracy = { min = 0, max = 1, atol = 2e-4, about = "its top five directions alone" }
# bulk_only_accuracy = { min = 0, max = 1, atol = 2e-4, about = "dense net without them" }
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
# atol = 2e-4
# [tool.axiom.result.reinit_curve]
# dims = 1
# min = 0
# max = 1
# atol = 2e-4
# [tool.axiom.result.random_curve]
# dims = 1
# min = 0
# max = 1
# atol = 2e-4
# [tool.axiom.result.signs_curve]
# dims = 1
# min = 0
# max = 1
# atol = 2e-4
# [tool.axiom.result.unsigned_curve]
# dims = 1
# min = 0
# max = 1
# atol = 2e-4
#
# [tool.axiom.result.top_curve]
# dims = 1
# rtol = 1e-4
# about = "top_kept_magnitude over sparsity"
# [tool.axiom.result.bulk_curve]
# dims = 1
# rtol = 1e-4
# [tool.axiom.result.random_kept_curve]
# dims = 1
# rtol = 1e-4
# about = "top and bulk together, random mask"
# [tool.axiom.result.ticket_rank]
# dims = 1
# min = 0
# rtol = 1e-3
# about = "stable rank of the middle layer of each trained ticket"
# [tool.axiom.result.reinit_rank]
# dims = 1
# min = 0
# rtol = 1e-3
#
# [[tool.axiom.findings]]
# name = "ticket_beats_reinit"
# claim = "From 93 % sparsity on, the winning ticket beats the same mask with new initial weights."
# field = "ticket_gain"
# criterion = { above = 0.0 }
# min_share = 0.95
#
# [[tool.axiom.findings]]
# name = "mask_beats_random"
# claim = "The magnitude mask is worth having even with new weights: it beats a random one."
# field = "mask_gain"
# criterion = { above = 0.0 }
#
# [[tool.axiom.findings]]
# name = "signs_are_enough"
# claim = "With magnitudes permuted and signs kept the mask still beats new weights by 0.02."
# field = "signs_gain"
# criterion = { above = 0.02 }
#
# [[tool.axiom.findings]]
# name = "magnitudes_do_not_matter"
# claim = "The ticket is no better than its mask and signs with permuted magnitudes, to 0.02."
# field = "magnitude_gain"
# criterion = { above = -0.02, below = 0.02 }
#
# [[tool.axiom.findings]]
# name = "without_signs_nothing_is_won"
# claim = "With the ticket's magnitudes and new signs the mask is no better than with new weights."
# field = "unsigned_gain"
# criterion = { above = -0.03, below = 0.03 }
#
# [[tool.axiom.findings]]
# name = "top_kept_as_if_untrained"
# claim = "Magnitude keeps as much of the trained top directions as of untrained ones, to a tenth."
# about = "Not against a random mask: magnitude keeps five times its share of Gaussian noise."
# field = "top_ratio"
# criterion = { above = 0.9, below = 1.1 }
#
# [[tool.axiom.findings]]
# name = "blind_to_rank"
# claim = """\
#   Magnitude pruning neither removes nor spares the low-rank part: kept of top / kept of bulk is \
#   near 1."""
# field = "selectivity"
# criterion = { above = 0.8, below = 1.25 }
#
# [[tool.axiom.findings]]
# name = "blind_when_compressed"
# claim = "For weights of compressed rank, too, kept of top / kept of bulk is near 1."
# field = "selectivity_compressed"
# criterion = { above = 0.8, below = 1.25 }
#
# [[tool.axiom.findings]]
# name = "compression_depends_on_init"
# claim = "Training from small weights compresses the middle layer more than from He's."
# field = "rank_ratio"
# criterion = { below = 0.6 }
#
# [[tool.axiom.figures]]
# name = "tickets"
# title = "The ticket, its mask with new weights, a random mask"
# x = "sparsity"
# y = ["ticket_curve", "signs_curve", "unsigned_curve", "reinit_curve", "random_curve"]
# legend = ["ticket", "signs kept", "magnitudes kept", "re-initialised", "random mask"]
# x_label = "share of weights removed"
# y_label = "test accuracy"
# x_mark = [0.93]
#
# [[tool.axiom.figures]]
# name = "kept"
# title = "Singular energy that pruning keeps: top and bulk alike"
# x = "sparsity"
# y = ["top_curve", "bulk_curve", "random_kept_curve"]
# legend = ["top five, magnitude", "bulk, magnitude", "random mask"]
# x_label = "share of weights removed"
# y_label = "share of singular energy kept"
# y_scale = "log"
# x_mark = [0.93]
# ///

from itertools import pairwise

import numpy as np

SIZES = (20, 128, 64, 5)  # the log's lottery net: wide enough for 2 % of it to learn the task
INPUTS, CLASSES = SIZES[0], SIZES[-1]
SHAPES = tuple(pairwise(SIZES))
CLUSTERS = 4  # of each class, so that no linear read-out of the inputs separates the classes

SAMPLES, TEST_SAMPLES = 1000, 2000
BATCH = 64
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Adam's own defaults

# Each round keeps half of the hidden weights and three quarters of the output's (Frankle & Carbin
# prune the output at half the rate: its few weights serve every class). Sparsity after each:
# 49, 74, 87, 93, 96, 98 %.
ROUNDS = 6
HIDDEN_KEEP, OUTPUT_KEEP = 0.5, 0.75
SPARSE = 0.93  # sparsity from which tickets are compared with their controls

TOP = CLASSES  # directions that five classes can need
PRUNED_LAYERS = (0, 1)  # whose spectra are measured; the output layer has no bulk: its rank is TOP

ARMS = ("ticket", "reinit", "random", "signs", "unsigned")
TICKET, REINIT, RANDOM, SIGNS, UNSIGNED = range(len(ARMS))

SMALL_DEVIATION = 0.05  # initial weights from which training compresses rank, as in rank_dynamics

TRIALS_MAX = 6  # tasks averaged in one run
TRIAL_SECONDS = 6.5  # nominal, at 600 steps on one core


# --- arrays: nets are trained on the task's device; spectra and masks are computed by numpy ------


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


def clusters(rng, centres, count):
    """``count`` samples around the centres: inputs (count, INPUTS), classes (count,)."""
    which = rng.integers(0, len(centres), count)
    return centres[which] + rng.standard_normal((count, INPUTS)), which % CLASSES


# --- nets, several at once ------------------------------------------------------------------------

WEIGHTS = sum(fan_in * fan_out for fan_in, fan_out in SHAPES)
BIASES = sum(SIZES[1:])


def initial_net(rng):
    """One flat vector (WEIGHTS + BIASES,): He's Gaussian weights, zero biases."""
    parts = [rng.standard_normal(a * b) * np.sqrt(2.0 / a) for a, b in SHAPES]
    return np.concatenate([*parts, np.zeros(BIASES)])


def layers(flat):
    """Views of flat nets (nets, all): weights (nets, in, out), biases (nets, 1, out)."""
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
    """Activities of all layers, from the inputs to the logits (nets, samples, CLASSES)."""
    activities = [library(inputs).broadcast_to(inputs, (len(flat), *inputs.shape))]
    for depth, (weight, bias) in enumerate(zip(*layers(flat), strict=True)):
        total = activities[-1] @ weight + bias
        activities.append(total if depth == len(SHAPES) - 1 else total.clip(0.0))
    return activities


def softmax(logits):
    xp = library(logits)
    odds = xp.exp(logits - xp.amax(logits, axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def gradient(flat, inputs, targets, slope):
    """Write d(mean cross-entropy)/d(flat) into ``slope``, shaped like ``flat``."""
    activities, matmul = forward(flat, inputs), library(flat).matmul
    weights, _ = layers(flat)
    weight_slopes, bias_slopes = layers(slope)
    back = (softmax(activities[-1]) - targets) / len(inputs)
    for depth in reversed(range(len(SHAPES))):
        matmul(activities[depth].swapaxes(1, 2), back, out=weight_slopes[depth])
        bias_slopes[depth][:] = back.sum(axis=1, keepdims=True)
        if depth:
            back = (back @ weights[depth].swapaxes(1, 2)) * (activities[depth] > 0)


def train(nets, masks, data, batches, learning_rate, device="cpu"):
    """Adam on the weights that the masks leave, all nets on the same batches: the trained nets."""
    inputs, targets, flat, masks = (place(a, device) for a in (*data, nets * masks, masks))
    batches, xp = place(batches, device), library(flat)
    slope, mean, square = (xp.zeros_like(flat) for _ in range(3))
    for step, batch in enumerate(batches, start=1):
        gradient(flat, inputs[batch], targets[batch], slope)
        slope *= masks
        mean += (1 - BETA1) * (slope - mean)
        square += (1 - BETA2) * (slope * slope - square)
        size = xp.sqrt(square / (1 - BETA2**step)) + EPSILON
        flat -= learning_rate / (1 - BETA1**step) * mean / size
    return fetch(flat)


def accuracy(flat, inputs, classes):
    """The share of right classes of each net, (nets,)."""
    return np.mean(forward(flat, inputs)[-1].argmax(axis=-1) == classes, axis=-1)


# --- masks ----------------------------------------------------------------------------------------


def magnitude_mask(net, mask):
    """A flat mask of the largest weights that ``mask`` leaves, layer by layer; biases stay."""
    kept = mask.copy()
    sizes, (left, _) = layers(np.abs(net)[None])[0], layers(kept[None])
    for depth, (size, alive) in enumerate(zip(sizes, left, strict=True)):
        keep = OUTPUT_KEEP if depth == len(SHAPES) - 1 else HIDDEN_KEEP
        magnitude = np.where(alive[0] > 0, size[0], -1.0).ravel()
        lost = np.argsort(magnitude, kind="stable")[: -round(keep * alive.sum())]
        alive[0].reshape(-1)[lost] = 0.0
    return kept


def shuffled_mask(rng, mask):
    """A mask with as many weights in each layer, at random positions."""
    mixed = mask.copy()
    for alive in layers(mixed[None])[0]:
        alive[0] = rng.permutation(alive[0].reshape(-1)).reshape(alive[0].shape)
    return mixed


def with_permuted_magnitudes(rng, net, mask):
    """The net with its signs, and the magnitudes that ``mask`` leaves permuted in each layer."""
    mixed = net.copy()
    for weight, alive in zip(*(layers(a[None])[0] for a in (mixed, mask)), strict=True):
        kept = alive[0] > 0
        weight[0][kept] = np.sign(weight[0][kept]) * rng.permutation(np.abs(weight[0][kept]))
    return mixed


def with_new_signs(rng, net):
    """The net with every weight's magnitude and a new random sign; initial biases are 0."""
    return net * rng.choice([-1.0, 1.0], len(net))


def start_checks(starts, first, mask):
    """Checks of the arms' initial weights, on the arrays that are trained: (3,).

    The ticket's largest distance from the initial weights, the deviation of new weights over that
    of initial ones, and the share of signs that the signs arm has in common with them.
    """
    kept = np.flatnonzero(mask[:WEIGHTS])
    was = first[kept]
    return [
        float(np.abs(starts[TICKET][kept] - was).max()),
        float(np.sqrt(np.mean(starts[REINIT][:WEIGHTS] ** 2) / np.mean(first[:WEIGHTS] ** 2))),
        float(np.mean(np.sign(starts[SIGNS][kept]) == np.sign(was))),
    ]


def shared_samples(inputs, test_inputs):
    """How many test samples are also training samples; the test is meaningful only if none are."""
    seen = {row.tobytes() for row in inputs}
    return sum(row.tobytes() in seen for row in test_inputs)


def sparsity(mask):
    return 1.0 - mask[:WEIGHTS].sum() / WEIGHTS


# --- singular directions --------------------------------------------------------------------------


def stable_rank(matrix):
    """|W|_F^2 / |W|_2^2."""
    values = np.linalg.svd(matrix, compute_uv=False)
    return np.sum(values**2) / values[0] ** 2


def spectra(net):
    """Left vectors, singular values and right vectors (as rows) of each of PRUNED_LAYERS."""
    weights = layers(net[None])[0]
    return [np.linalg.svd(weights[depth][0], full_matrices=False) for depth in PRUNED_LAYERS]


def kept_energy(net, mask, spectrum):
    """Share of singular energy that the mask keeps in the top directions and in the bulk: (2,).

    The mean over PRUNED_LAYERS, whose ``spectrum`` is that of the net.
    """
    weights, masks = layers(net[None])[0], layers(mask[None])[0]
    shares = []
    for depth, (left, values, right) in zip(PRUNED_LAYERS, spectrum, strict=True):
        pruned = masks[depth][0] * weights[depth][0]
        stays = values * np.einsum("ij,ij->j", left, pruned @ right.T)
        sets = slice(0, TOP), slice(TOP, None)
        shares.append([np.sum(stays[i]) / np.sum(values[i] ** 2) for i in sets])
    return np.mean(shares, axis=0)


def middle_rank(net):
    """Stable rank of the middle layer, the only one whose rank can fall much."""
    return stable_rank(layers(net[None])[0][1][0])


def restricted(net, directions, spectrum):
    """The net with only these singular directions left in PRUNED_LAYERS."""
    changed = net.copy()
    weights = layers(changed[None])[0]
    for depth, (left, values, right) in zip(PRUNED_LAYERS, spectrum, strict=True):
        weights[depth][0] = (left[:, directions] * values[directions]) @ right[directions]
    return changed


# --- one trial and the whole run ------------------------------------------------------------------


def small_net(net):
    """The same draw with every weight's deviation at SMALL_DEVIATION."""
    scaled = net.copy()
    for weight in layers(scaled[None])[0]:
        weight *= SMALL_DEVIATION / np.sqrt(2.0 / weight.shape[1])
    return scaled


def dense_numbers(first, dense, compressed, spectrum, data, test):
    """The eight numbers of DENSE_NUMBERS; ``spectrum`` is that of the dense net."""
    top, bulk = (restricted(dense, i, spectrum) for i in (slice(0, TOP), slice(TOP, None)))
    return [
        *accuracy(dense[None], *data),
        *accuracy(np.stack([dense, first, top, bulk]), *test),
        middle_rank(dense) / middle_rank(first),
        middle_rank(compressed) / middle_rank(first),
        shared_samples(data[0], test[0]),
    ]


DENSE_NUMBERS = (
    *("fit", "dense_accuracy", "untrained_accuracy", "top_only_accuracy", "bulk_only_accuracy"),
    *("rank_left", "rank_left_compressed", "overlap"),
)


def probe_masks(weights, masks):
    """One more round of pruning without training, of each net by its own magnitudes."""
    return [magnitude_mask(net, mask) for net, mask in zip(weights, masks, strict=True)]


def trial(rng, parameters, device):
    """One task: its DENSE_NUMBERS, and for each round sparsity, accuracies, ranks, kept shares.

    Rounds are (ROUNDS, 1 + 5 + 5 + 8 + 3): a number for each of ARMS, twice; top and bulk for each
    of KEPT_RULES; and the start_checks.
    """
    centres = parameters["separation"] * rng.standard_normal((CLASSES * CLUSTERS, INPUTS))
    inputs, classes = clusters(rng, centres, SAMPLES)
    test = clusters(rng, centres, TEST_SAMPLES)
    batches = rng.integers(0, SAMPLES, (parameters["steps"], BATCH))
    data = inputs, np.eye(CLASSES)[classes]
    training = data, batches, parameters["learning_rate"], device

    first = initial_net(rng)
    mask = np.ones_like(first)
    starts = np.stack([first, small_net(first)])
    dense, compressed = train(starts, np.stack([mask, mask]), *training)
    ticket, probed, rounds = dense, (dense, first, compressed), []
    probes, whole = [mask] * len(probed), [spectra(net) for net in probed]
    for _ in range(ROUNDS):
        mask = magnitude_mask(ticket, mask)
        scattered = shuffled_mask(rng, mask)
        starts = np.stack([
            first, initial_net(rng), first,
            with_permuted_magnitudes(rng, first, mask), with_new_signs(rng, first),
        ])  # fmt: skip
        masks = np.stack([scattered if arm == RANDOM else mask for arm in range(len(ARMS))])
        nets = train(starts, masks, *training)
        ticket = nets[TICKET]
        probes = probe_masks(probed, probes)
        shares = [kept_energy(*each) for each in zip(probed, probes, whole, strict=True)]
        rounds.append(
            [
                sparsity(mask),
                *accuracy(nets, *test),
                *map(middle_rank, nets),
                *np.ravel([*shares, kept_energy(dense, scattered, whole[0])]),
                *start_checks(starts, first, mask),
            ]
        )
    numbers = dense_numbers(first, dense, compressed, whole[0], (inputs, classes), test)
    return numbers, np.array(rounds)


KEPT_RULES = ("magnitude", "untrained", "compressed", "random")


def kept_numbers(kept, at):
    """Of kept (rules, top or bulk, rounds): shares and selectivities at the round ``at``."""
    rule = dict(zip(KEPT_RULES, kept[:, :, at].tolist(), strict=True))
    selectivity = {name: top / bulk for name, (top, bulk) in rule.items()}
    return {
        "top_kept_magnitude": rule["magnitude"][0],
        "top_kept_untrained": rule["untrained"][0],
        "bulk_kept_magnitude": rule["magnitude"][1],
        "top_kept_random": rule["random"][0],
        "bulk_kept_random": rule["random"][1],
        "selectivity": selectivity["magnitude"],
        "selectivity_untrained": selectivity["untrained"],
        "selectivity_compressed": selectivity["compressed"],
        "selectivity_random": selectivity["random"],
        "top_curve": kept[0, 0].tolist(),
        "bulk_curve": kept[0, 1].tolist(),
        "random_kept_curve": kept[3].mean(axis=0).tolist(),
    }


def ticket_numbers(levels, test, ranks):
    """Of accuracies and ranks (arms, rounds): means where it is sparse, and the curves."""
    sparse = levels >= SPARSE
    high = test[:, sparse].mean(axis=1)
    return {
        **{f"{arm}_accuracy": value for arm, value in zip(ARMS, high.tolist(), strict=True)},
        **{f"{arm}_curve": row.tolist() for arm, row in zip(ARMS, test, strict=True)},
        "ticket_wins": int((test[TICKET, sparse] > test[REINIT, sparse]).all()),
        "sparsity": levels.tolist(),
        "ticket_rank": ranks[TICKET].tolist(),
        "reinit_rank": ranks[REINIT].tolist(),
    }


def summary(dense, rounds):
    """The result from the numbers of all trials: dense (trials, 8), rounds (trials, ROUNDS, 22)."""
    whole = dict(zip(DENSE_NUMBERS, np.mean(dense, axis=0).tolist(), strict=True))
    table = np.mean(rounds, axis=0).T
    levels, test, ranks = table[0], table[1:6], table[6:11]
    kept = table[11:19].reshape(len(KEPT_RULES), 2, ROUNDS)
    checks = {
        "overlap": int(sum(numbers[-1] for numbers in dense)),
        "rewind_error": float(np.max(np.array(rounds)[:, :, 19])),
        "reinit_scale": float(table[20].mean()),
        "sign_agreement": float(table[21].mean()),
    }
    fit = whole.pop("fit")
    sane = (
        fit > 0.95
        and 0.6 < whole["dense_accuracy"] < fit - 0.01  # chance is 0.2; seen data are known better
        and whole["untrained_accuracy"] < 0.45
        and test[:, 0].min() > whole["dense_accuracy"] - 0.1  # any half of the weights suffices
        and test[:, 0].max() < whole["dense_accuracy"] + 0.04  # and what is left knows no more
        and checks["overlap"] == 0
        and checks["rewind_error"] == 0
        and abs(checks["reinit_scale"] - 1) < 0.05  # of 11,000 weights: five deviations
        and checks["sign_agreement"] == 1
    )
    return {
        "valid": int(sane),
        "configs_done": len(dense),
        **whole,
        **checks,
        **ticket_numbers(levels, test, ranks),
        **kept_numbers(kept, int(np.argmax(levels >= SPARSE))),
    }


def trials_within(budget_seconds, steps):
    """How many whole trials the budget allows, by their nominal cost; at least one."""
    return int(np.clip(budget_seconds // (TRIAL_SECONDS * steps / 600), 1, TRIALS_MAX))


#: Numbers that findings use are clipped to these bounds: with bounds a mean is decided sooner.
CUT = {
    "selectivity": (0, 2),
    "selectivity_compressed": (0, 2),
    "ticket_gain": (-0.25, 0.25),
    "mask_gain": (-0.25, 0.25),
    "signs_gain": (-0.25, 0.25),
    "magnitude_gain": (-0.1, 0.1),
    "unsigned_gain": (-0.1, 0.1),
    "top_ratio": (0, 2),
    "rank_ratio": (0, 2),
}


def cut(result):
    """The result with its comparisons added and every number in CUT clipped to its bounds."""
    result["ticket_gain"] = result["ticket_accuracy"] - result["reinit_accuracy"]
    result["mask_gain"] = result["reinit_accuracy"] - result["random_accuracy"]
    result["signs_gain"] = result["signs_accuracy"] - result["reinit_accuracy"]
    result["magnitude_gain"] = result["ticket_accuracy"] - result["signs_accuracy"]
    result["unsigned_gain"] = result["unsigned_accuracy"] - result["reinit_accuracy"]
    result["top_ratio"] = (
        result["top_kept_magnitude"] / result["top_kept_untrained"]
        if result["top_kept_untrained"]
        else 0.0
    )
    result["rank_ratio"] = (
        result["rank_left_compressed"] / result["rank_left"] if result["rank_left"] else 0.0
    )
    bounded = {name: min(max(result[name], low), high) for name, (low, high) in CUT.items()}
    return result | bounded


def run(task):
    parameters = task.parameters
    count = trials_within(task.budget_seconds, parameters["steps"])
    state = task.restore() or {"dense": [], "rounds": []}
    dense, rounds = state["dense"], state["rounds"]
    while len(dense) < count:
        numbers, levels = trial(task.rng(len(dense)), parameters, task.device)
        dense.append(numbers)
        rounds.append(levels)
        task.checkpoint({"dense": dense, "rounds": rounds})
        task.progress(len(dense) / count)
    return cut(summary(dense, rounds))
