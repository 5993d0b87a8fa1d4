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
# version = "2.3.0"
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
# [tool.axiom_cohort]
# most = 256
# seed_memory_bytes = 50_000_000
# seed_gpu_memory_bytes = 150_000_000
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


def uses_numpy(device):
    return device == "cpu" or device.startswith("mps")  # Apple's GPUs have no float64


def place(array, device):
    """A copy of a numpy array on the task's device: numpy's on a CPU, torch's on a GPU."""
    if uses_numpy(device):
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
    """Activities of all layers, from the inputs to the logits (nets, samples, CLASSES).

    The inputs are (samples, INPUTS), the same for all nets, or (nets, samples, INPUTS).
    """
    activities = [library(inputs).broadcast_to(inputs, (len(flat), *inputs.shape[-2:]))]
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
    back = (softmax(activities[-1]) - targets) / inputs.shape[-2]
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


def draw_trial(rng, parameters):
    """What a trial draws first: training and test samples, batches, and the dense net."""
    centres = parameters["separation"] * rng.standard_normal((CLASSES * CLUSTERS, INPUTS))
    samples = clusters(rng, centres, SAMPLES)
    test = clusters(rng, centres, TEST_SAMPLES)
    batches = rng.integers(0, SAMPLES, (parameters["steps"], BATCH))
    return samples, test, batches, initial_net(rng)


def trial(rng, parameters, device):
    """One task: its DENSE_NUMBERS, and for each round sparsity, accuracies, ranks, kept shares.

    Rounds are (ROUNDS, 1 + 5 + 5 + 8 + 3): a number for each of ARMS, twice; top and bulk for each
    of KEPT_RULES; and the start_checks.
    """
    (inputs, classes), test, batches, first = draw_trial(rng, parameters)
    data = inputs, np.eye(CLASSES)[classes]
    training = data, batches, parameters["learning_rate"], device

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


# --- many seeds at once: trials of all of them on one GPU, each on the first axis of every array --

TRIALS_AT_ONCE = 256  # 1,280 nets: enough for the largest GPUs
SQUARINGS = 30  # of a Gram matrix; they tell apart eigenvalues that differ by one in 10^7

COUNTS = tuple(fan_in * fan_out for fan_in, fan_out in SHAPES)
ENDS = tuple(int(end) for end in np.cumsum(COUNTS))
SLICES = tuple(slice(end - count, end) for end, count in zip(ENDS, COUNTS, strict=True))
PRUNED = slice(0, SLICES[PRUNED_LAYERS[-1]].stop)  # the weights of PRUNED_LAYERS
ROWS, COLUMNS = -2, -1


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
    return graph.replay


def trainer(data, batches, nets, learning_rate):
    """A function that does what `train` does, for ``nets`` nets of each trial at once.

    It takes starts and masks (trials, nets, all). Each trial has its own data (trials, samples,
    ...) and its own batches (steps, trials, BATCH).
    """
    import torch

    shape = batches.shape[1], nets, WEIGHTS + BIASES
    masks, *arrays = (batches.new_zeros(shape, dtype=torch.float64) for _ in range(5))
    taken = batches.new_zeros((), dtype=torch.float32)  # steps, as torch's Adam counts them
    state = *arrays, taken
    step = adam_step(data, batches, masks, state, learning_rate)
    advance = replayed(step, state, batches.device)

    def train_from(starts, starting_masks):
        for tensor in state:
            tensor.zero_()
        masks.copy_(starting_masks)
        state[0].copy_(starts * masks)
        for _ in range(len(batches)):
            advance()
        return state[0].clone()

    train_from.step = step  # what it holds must live as long as the graph that reads it
    return train_from


def adam_step(data, batches, masks, state, learning_rate):
    """A function that takes the next of `train`'s steps, in place, in a few large kernels.

    The state is the nets, their gradients, Adam's two means (trials, nets, all), and its steps.
    """
    import torch
    from torch.optim.adam import adam

    flat, slope, mean, square, taken = state
    rows = torch.arange(len(flat), device=flat.device)[:, None]
    constants = {"beta1": BETA1, "beta2": BETA2, "eps": EPSILON, "lr": learning_rate}

    def step():
        batch = batches.index_select(0, taken.long())[0].long()
        inputs, targets = (for_each_net(part[rows, batch], flat.shape[1]) for part in data)
        gradient(flat.flatten(0, 1), inputs, targets, slope.flatten(0, 1))
        slope.mul_(masks)
        adam(
            *([flat], [slope], [mean], [square], [], [taken]),
            **constants, weight_decay=0.0, amsgrad=False, maximize=False,
            fused=True, capturable=True,
        )  # fmt: skip

    return step


def for_each_net(samples, nets):
    """Samples of each trial (trials, samples, ...), repeated for its nets (trials * nets, ...)."""
    return samples[:, None].expand(-1, nets, -1, -1).flatten(0, 1)


def accuracies(nets, inputs, classes):
    """`accuracy` of nets (trials, nets, all) on the samples of their trial: (trials, nets)."""
    import torch

    right = [forward(net, inputs)[-1].argmax(axis=-1) == classes for net in nets.unbind(1)]
    return torch.stack(right, 1).double().mean(-1)


def leading_projector(gram):
    """The projector on the leading eigenvector of each Gram matrix (..., n, n).

    By repeated squaring, because GPUs compute eigenvalues of many small matrices slowly.
    """
    power = gram / trace(gram)
    for _ in range(SQUARINGS):
        power = power @ power
        power = power / trace(power)
    return power


def trace(matrices):
    """The traces of square matrices (..., n, n), as (..., 1, 1)."""
    return matrices.diagonal(dim1=ROWS, dim2=COLUMNS).sum(-1)[..., None, None]


def middle_ranks(nets):
    """`middle_rank` of each of nets (..., all)."""
    weights = nets[..., SLICES[1]].unflatten(-1, SHAPES[1])
    gram = weights.mT @ weights
    return (trace(gram) / trace(gram @ leading_projector(gram)))[..., 0, 0]


def top_projector(gram):
    """The projector on the TOP leading eigenvectors of each Gram matrix (..., n, n)."""
    total = gram * 0.0
    for _ in range(TOP):
        one = leading_projector(gram)
        total = total + one
        gram = gram - one @ gram
    return total


def top_nets(nets):
    """`restricted` to the top directions, for each of nets (..., all)."""
    changed = nets.clone()
    for depth in PRUNED_LAYERS:
        weights = nets[..., SLICES[depth]].unflatten(-1, SHAPES[depth])
        if SHAPES[depth][0] < SHAPES[depth][1]:
            top = top_projector(weights @ weights.mT) @ weights
        else:
            top = weights @ top_projector(weights.mT @ weights)
        changed[..., SLICES[depth]] = top.flatten(-2)
    return changed


def kept_shares(nets, masks, tops):
    """`kept_energy` of each of nets (..., all), whose `top_nets` are given: (..., 2)."""
    import torch

    shares = []
    for depth in PRUNED_LAYERS:
        net, mask, top = (each[..., SLICES[depth]] for each in (nets, masks, tops))
        sets = top, net - top
        # u_i' (M * W) v_i, times s_i and summed over a set, is the product of M * W with the set
        shares.append([(mask * net * part).sum(-1) / (part * part).sum(-1) for part in sets])
    return torch.stack([torch.stack(pair, -1) for pair in shares]).mean(0)


def weights_left(rounds):
    """How many weights of each layer `magnitude_mask` leaves after this many rounds."""
    left = list(COUNTS)
    for _ in range(rounds):
        keeps = (HIDDEN_KEEP,) * (len(left) - 1) + (OUTPUT_KEEP,)
        left = [round(keep * count) for keep, count in zip(keeps, left, strict=True)]
    return left


def magnitude_masks(nets, masks, left):
    """`magnitude_mask` of each of nets (..., all), which leaves ``left`` weights in each layer."""
    import torch

    kept = masks.clone()
    for part, count in zip(SLICES, left, strict=True):
        magnitude = torch.where(masks[..., part] > 0, nets[..., part].abs(), -1.0)
        lost = magnitude.argsort(dim=-1, stable=True)[..., :-count]
        kept[..., part].scatter_(-1, lost, 0.0)
    return kept


def draw_round(rng, left):
    """What a round of `trial` draws: orders of all weights and of those left, a net, and signs."""
    places = permutations(rng, COUNTS)
    new = initial_net(rng)
    return places, new, permutations(rng, left), with_new_signs(rng, np.ones(len(new)))


def permutations(rng, counts):
    """A permutation of each of consecutive stretches of these lengths, in one array of places."""
    starts = np.cumsum([0, *counts[:-1]])
    drawn = [start + rng.permutation(count) for start, count in zip(starts, counts, strict=True)]
    return np.concatenate(drawn)


def shuffled_masks(masks, places):
    """`shuffled_mask` of each of masks (trials, all), by orders of the weights."""
    shuffled = masks.clone()
    shuffled[:, :WEIGHTS] = masks.gather(1, places)
    return shuffled


def permuted_magnitudes(nets, masks, orders):
    """`with_permuted_magnitudes` of each of nets (trials, all), by orders of the weights left."""
    ranked = masks[:, :WEIGHTS].argsort(dim=1, descending=True, stable=True)
    places = ranked[:, : orders.shape[1]]
    kept = nets.gather(1, places)
    return nets.scatter(1, places, kept.sign() * kept.abs().gather(1, orders))


def all_start_checks(starts, first, mask):
    """`start_checks` of each trial: (trials, 3)."""
    import torch

    alive, was = mask[:, :WEIGHTS], first[:, :WEIGHTS]
    ticket, new, signed = (starts[:, arm, :WEIGHTS] for arm in (TICKET, REINIT, SIGNS))
    checks = [
        ((ticket - was).abs() * alive).amax(1),
        ((new * new).mean(1) / (was * was).mean(1)).sqrt(),
        ((signed.sign() == was.sign()) * alive).sum(1) / alive.sum(1),
    ]
    return torch.stack(checks, 1)


def dense_table(probed, data, test):
    """`dense_numbers` of each trial, but for the overlap, from its `train_dense` nets."""
    import torch

    dense, first, compressed = probed.unbind(1)
    top, bulk = top_nets(dense), dense.clone()
    bulk[:, PRUNED] -= top[:, PRUNED]
    ranks = middle_ranks(torch.stack([dense, compressed, first], 1))
    fit = accuracies(dense[:, None], *data)
    right = accuracies(torch.stack([dense, first, top, bulk], 1), *test)
    return torch.cat([fit, right, ranks[:, :2] / ranks[:, 2:]], 1)


def arm_starts(first, mask, new, orders, signs):
    """Initial weights of each trial's ARMS (trials, arms, all)."""
    import torch

    mixed = permuted_magnitudes(first, mask, orders)
    return torch.stack([first, new, first, mixed, first * signs], 1)


def arm_masks(mask, places):
    """Masks of each trial's ARMS (trials, arms, all)."""
    import torch

    scattered = shuffled_masks(mask, places)
    arms = [scattered if arm == RANDOM else mask for arm in range(len(ARMS))]
    return torch.stack(arms, 1)


def round_table(nets, starts, first, masks, shares, test):
    """The numbers of one round of each trial, in the order of `trial`: (trials, 22)."""
    import torch

    mask = masks[:, TICKET]
    sparse = 1.0 - mask[:, :WEIGHTS].sum(1, keepdim=True) / WEIGHTS
    checks = all_start_checks(starts, first, mask)
    return torch.cat(
        [sparse, accuracies(nets, *test), middle_ranks(nets), shares.flatten(1), checks], 1
    )


def stacked(arrays, device):
    return place(np.stack(arrays), device)


def random_parts(rngs, left, device):
    """What `draw_round` draws for each trial: four arrays (trials, ...) on the device."""
    drawn = zip(*(draw_round(rng, left) for rng in rngs), strict=True)
    return [stacked(part, device) for part in drawn]


def train_dense(firsts, data, batches, learning_rate, device):
    """Each trial's dense net, its first weights, and the compressed net: (trials, 3, all)."""
    import torch

    first, small = stacked(firsts, device), stacked([small_net(net) for net in firsts], device)
    starts = torch.stack([first, small], 1)
    train_both = trainer(data, batches, 2, learning_rate)
    dense, compressed = train_both(starts, torch.ones_like(starts)).unbind(1)
    return torch.stack([dense, first, compressed], 1)


def prune_rounds(rngs, probed, train_arms, test, device):
    """The numbers of each round for all trials, whose `train_dense` nets are given."""
    import torch

    dense, first, _ = probed.unbind(1)
    mask, probes, tops = torch.ones_like(first), torch.ones_like(probed), top_nets(probed)
    ticket = dense
    for done in range(1, ROUNDS + 1):
        left = weights_left(done)
        places, new, orders, signs = random_parts(rngs, left, device)
        mask, probes = magnitude_masks(ticket, mask, left), magnitude_masks(probed, probes, left)
        starts, masks = arm_starts(first, mask, new, orders, signs), arm_masks(mask, places)
        nets = train_arms(starts, masks)
        random = kept_shares(dense, masks[:, RANDOM], tops[:, 0])
        shares = torch.cat([kept_shares(probed, probes, tops), random[:, None]], 1)
        yield round_table(nets, starts, first, masks, shares, test)
        ticket = nets[:, TICKET]


def trials_together(rngs, parameters, device, on_round):
    """`trial` for each of the generators: a list of what it returns."""
    import torch

    samples, tests, batches, firsts = zip(
        *(draw_trial(rng, parameters) for rng in rngs), strict=True
    )
    known, test = (on_device(sets, device) for sets in (samples, tests))
    data = known[0], place(np.eye(CLASSES), device)[known[1]]
    order = place(np.stack(batches, 1).astype(np.int16), device)  # SAMPLES fit, in a quarter of it
    probed = train_dense(firsts, data, order, parameters["learning_rate"], device)
    train_arms = trainer(data, order, len(ARMS), parameters["learning_rate"])
    rounds = []
    for table in prune_rounds(rngs, probed, train_arms, test, device):
        rounds.append(table)
        on_round(len(rounds))
    overlaps = [shared_samples(a, b) for (a, _), (b, _) in zip(samples, tests, strict=True)]
    dense, levels = fetch(dense_table(probed, known, test)), fetch(torch.stack(rounds, 1))
    return [([*row.tolist(), n], t) for row, n, t in zip(dense, overlaps, levels, strict=True)]


def on_device(sets, device):
    """Inputs and classes of each trial's samples, (trials, samples, ...)."""
    return [stacked(part, device) for part in zip(*sets, strict=True)]


def run_cohort(tasks):
    """`run` for several tasks at once: further nets cost a GPU little.

    On a core more nets at a time are no faster, so there it is `run`.
    """
    device, parameters = tasks[0].device, tasks[0].parameters
    if uses_numpy(device):
        return [run_or_error(task) for task in tasks]
    count = trials_within(tasks[0].budget_seconds, parameters["steps"])
    states = [task.restore() or {"dense": [], "rounds": []} for task in tasks]
    for group in groups_of_trials([len(state["dense"]) for state in states], count):
        run_group(tasks, states, group, count)
        for task, state in zip(tasks, states, strict=True):  # all: a request to stop waits for them
            task.checkpoint(state)
    return [result_or_error(state, count) for state in states]


def run_group(tasks, states, group, count):
    """Add these trials (number, seed) to the states of their seeds."""
    rngs = [tasks[seed].rng(number) for number, seed in group]
    report = progress_of(tasks, states, group, count)
    found = trials_together(rngs, tasks[0].parameters, tasks[0].device, report)
    for (number, seed), trial_found in zip(group, found, strict=True):
        keep_trial(states[seed], number, trial_found)


def run_or_error(task):
    """The result of `run`, or the error of a seed whose numbers are not finite."""
    try:
        return run(task)
    except np.linalg.LinAlgError as error:
        return error


def groups_of_trials(done, count):
    """The trials (number, seed) that seeds with so many done lack, in groups of similar size."""
    lacking = [(number, seed) for number in range(count) for seed in range(len(done))]
    lacking = [(number, seed) for number, seed in lacking if number >= done[seed]]
    groups = -(-len(lacking) // TRIALS_AT_ONCE)
    return [
        lacking[len(lacking) * i // groups : len(lacking) * (i + 1) // groups]
        for i in range(groups)
    ]


def progress_of(tasks, states, group, count):
    """A function that reports each task's progress after a round of its trials in the group."""
    done = [len(state["dense"]) for state in states]
    now = [sum(seed == other for _, other in group) for seed in range(len(tasks))]

    def report(rounds):
        for task, before, trials in zip(tasks, done, now, strict=True):
            task.progress((before + trials * rounds / ROUNDS) / count)

    return report


def keep_trial(state, number, found):
    """Add a trial to its seed's state, unless it or one before it is not finite."""
    dense, rounds = found
    if len(state["dense"]) == number and np.isfinite(dense).all() and np.isfinite(rounds).all():
        state["dense"].append(dense)
        state["rounds"].append(rounds)


def result_or_error(state, count):
    if len(state["dense"]) < count:
        return np.linalg.LinAlgError(f"trial {len(state['dense'])} has numbers that are not finite")
    return cut(summary(state["dense"], state["rounds"]))


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
