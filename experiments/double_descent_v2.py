"""Double descent: does test error fall, rise and fall again as a network gets wider?

    axiom-client try experiments/double_descent_v2.py --seed 1 --plot double_descent_v2.png

In classical statistics a model with too many parameters overfits. Belkin, Hsu, Ma & Mandal 2019
(PNAS 116) showed that test error peaks where the network can only just fit its training set, and
falls again beyond that. With a squared loss over k outputs and n samples there are n k equations,
so the peak is expected near parameters / (n k) = 1. Nakkiran et al. 2020 (ICLR) found that wrong
labels make the peak higher.

The experiment trains one-hidden-layer ReLU networks of sixteen widths on the same 100 samples of
five Gaussian blobs, once with a fifth of the training labels wrong and once with none. Test data
come from the same blobs and always have true labels. All networks of a trial are trained at once,
side by side in one weight matrix, whose blocks do not interact.

Two controls. Without label noise the peak must shrink (it does not vanish: a network that only just
interpolates generalises badly even from clean labels). With labels drawn at random, which is what
80 % of noise in five classes means, the test accuracy of a network must be at chance; otherwise
test data would have leaked into training.

Limits: regularisation (early stopping, weight decay) flattens the peak, so double descent is a
property of networks trained to the end, not of width alone.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]  # torch on GPUs only
#
# [tool.axiom]
# name = "double_descent_v2"
# version = "1.3.0"
# title = "Double descent over width, with label noise"
# question = "Does test error peak where a network can only just fit its data, and fall beyond?"
# rationale = [
#   "Complements the confirmed simplicity bias: wide nets that fit everything still generalise.",
#   "Two noise levels on the same inputs and initial weights: the effect of noise is paired.",
#   "Squared loss puts the interpolation threshold at a known place, so a peak elsewhere refutes.",
#   "A whole curve costs seconds on one core, so four training sets are averaged in every run.",
# ]
# references = [
#   "Belkin, Hsu, Ma & Mandal 2019, PNAS 116:15849: reconciling modern machine learning",
#   "Nakkiran, Kaplun, Bansal, Yang, Barak & Sutskever 2020, ICLR: deep double descent",
#   "Advani, Saxe & Sompolinsky 2020, Neural Networks 132: generalization error dynamics",
# ]
# resources = { cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 10_000_000 }
# expected_seconds = 48
#
# [tool.axiom.parameters.steps]
# default = 3000
# min = 10
# max = 100_000
# about = "full-batch Adam steps; by 3000 every network past the threshold fits its labels"
#
# [tool.axiom.parameters.learning_rate]
# default = 0.01
# min = 1e-5
# max = 0.1
# about = "at the start; it falls to 0 as a half cosine"
#
# [tool.axiom.parameters.label_noise]
# default = 0.2
# min = 0.05
# max = 0.7
# about = "share of training labels replaced by another class"
#
# [tool.axiom.parameters.separation]
# default = 1.0
# min = 0.1
# max = 10.0
# about = "standard deviation of the class centres, in units of that within a class"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "narrow nets misfit, wide ones fit and beat chance" }
# configs_done = { kind = "integer", min = 1, about = "trials: task, training set, all widths" }
# overlap = { kind = "integer", min = 0, about = "test samples that are training samples" }
# noise_gain.about = "second_descent - clean_second_descent"
# noise_gain.min = -0.5
# noise_gain.max = 0.5
# noise_gain.atol = 3e-3
# label_gap = { min = -1, max = 1, atol = 1e-6, about = "of test labels; see label_gap" }
# peak_error = { min = 0, max = 1, atol = 1.5e-3, about = "test error at the peak, noisy labels" }
# peak_ratio = { min = 0, max = 3, atol = 1e-6, about = "parameters / (n k) at the peak" }
# first_descent = { min = -1, max = 1, atol = 3e-3, about = "peak less the least error before it" }
# second_descent = { min = -1, max = 1, atol = 3e-3, about = "peak less the error of the widest" }
# clean_peak_error = { min = 0, max = 1, atol = 1.5e-3, about = "the same without label noise" }
# clean_second_descent = { min = -1, max = 1, atol = 3e-3 }
# fit_ratio = { min = 0, atol = 1e-6, about = "least parameters / (n k) that fits noisy labels" }
# widest_error = { min = 0, max = 1, atol = 1.5e-3, about = "test error of the widest, with noise" }
# clean_widest_error = { min = 0, max = 1, atol = 8e-4 }
# random_label_error = { min = 0, max = 1, atol = 1.5e-3, about = "control: chance is 0.8" }
#
# [tool.axiom.result.curves]
# kind = "records"
# max_items = 4
# about = "one per label noise, over widths, mean of trials"
# [tool.axiom.result.curves.fields]
# label_noise = { min = 0, max = 1 }
# width = { kind = "integer", dims = 1, min = 1 }
# ratio = { dims = 1, min = 0, about = "parameters / (n k)", rtol = 1e-12 }
# test_error = { dims = 1, min = 0, max = 1, atol = 0.0015 }
# train_error = { dims = 1, min = 0, max = 1, atol = 0.003 }
# test_loss = { dims = 1, min = 0, about = "mean squared error of the outputs", rtol = 0.02 }
#
# [[tool.axiom.findings]]
# name = "second_descent"
# claim = "Past the peak, wider networks test better again, by more than 0.1."
# field = "second_descent"
# criterion = { above = 0.1 }
#
# [[tool.axiom.findings]]
# name = "first_descent"
# claim = "Before the peak there is a narrower network that tests better, by more than 0.03."
# field = "first_descent"
# criterion = { above = 0.03 }
#
# [[tool.axiom.findings]]
# name = "peak_at_threshold"
# claim = "The peak lies where parameters match equations: parameters / (n k) in [0.4, 1.3]."
# field = "peak_ratio"
# criterion = { above = 0.4, below = 1.3 }
#
# [[tool.axiom.findings]]
# name = "noise_raises_peak"
# claim = "Label noise makes the second descent longer, not only every error larger."
# field = "noise_gain"
# criterion = { above = 0.0 }
#
# [[tool.axiom.findings]]
# name = "clean_peak_remains"
# claim = "Without label noise a smaller peak remains."
# field = "clean_second_descent"
# criterion = { above = 0.02 }
#
# [[tool.axiom.figures]]
# name = "double_descent"
# title = "Test error over width"
# x = "curves.ratio"
# y = ["curves.test_error"]
# label = "label noise {label_noise:g}"
# x_label = "parameters / (samples x classes)"
# y_label = "test error (true labels)"
# x_scale = "log"
# x_mark = [1.0]
# about = "The dashed line is the interpolation threshold."
#
# [[tool.axiom.figures]]
# name = "training"
# title = "Training error reaches zero at the peak"
# x = "curves.ratio"
# y = ["curves.train_error"]
# label = "label noise {label_noise:g}"
# x_label = "parameters / (samples x classes)"
# y_label = "training error (given labels)"
# x_scale = "log"
# x_mark = [1.0]
# ///

import numpy as np

SAMPLES = 100  # few, so that the threshold lies at a width that trains in seconds
INPUTS = 20
CLASSES = 5
TEST_SAMPLES = 2000  # an error of 0.5 is known to 0.011 in one trial
EQUATIONS = SAMPLES * CLASSES  # squared loss: one for each output of each sample
CHANCE_ERROR = 1 - 1 / CLASSES

# Dense around parameters / (n k) = 1, which is width 19; to twenty times the threshold beyond it.
WIDTHS = (2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 32, 64, 128, 384)
RANDOM_LABEL_WIDTH = 64  # of the control that must not learn; one width past the threshold
# A quarter of He's variance: the smaller the initial weights, the less a wide net keeps of them.
HIDDEN_GAIN = 0.5

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Adam's own defaults

LABEL_GAP_MAX = 0.06  # of mean nearest-centre errors: chance alone gives 0.01
TRIALS_MAX = 4  # training sets averaged in one run; the peak of a single one varies
TRIAL_SECONDS = 12.0  # nominal, at 3000 steps on one core


def parameter_count(width):
    """Weights and biases of a net INPUTS -> width -> CLASSES."""
    return width * (INPUTS + 1) + (width + 1) * CLASSES


def network_list(label_noise):
    """The networks that a trial trains: (label noise, width) of each, in order."""
    random_labels = CHANCE_ERROR  # so much noise makes the label independent of the class
    return [
        *((label_noise, width) for width in WIDTHS),
        *((0.0, width) for width in WIDTHS),
        (random_labels, RANDOM_LABEL_WIDTH),
    ]


# --- arrays: numpy's on a CPU, torch's on a GPU; the code below uses what both share -------------


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


def blobs(rng, centres, count):
    """``count`` samples around the class centres: inputs (INPUTS + 1, count), classes (count,).

    The last input is the constant 1, whose weight is the bias.
    """
    classes = np.arange(count) % CLASSES
    inputs = centres[classes] + rng.standard_normal((count, INPUTS))
    return np.vstack([inputs.T, np.ones(count)]), classes


def shared_samples(inputs, test_inputs):
    """How many test samples are also training samples; the test is meaningful only if none are."""
    seen = {row.tobytes() for row in inputs}
    return sum(row.tobytes() in seen for row in test_inputs)


def nearest_error(centres, inputs, classes):
    """Share of samples (count, INPUTS) that are not nearest to their own class's centre."""
    distances = ((inputs[:, None] - centres[None]) ** 2).sum(axis=-1)
    return float(np.mean(distances.argmin(axis=1) != classes))


def label_gap(rng, centres, inputs, classes):
    """The error of the nearest-centre rule on the test set less that on newly drawn samples.

    Far above 0 if some test labels are not the class that their sample was drawn from.
    """
    fresh = np.arange(TEST_SAMPLES) % CLASSES
    drawn = centres[fresh] + rng.standard_normal((TEST_SAMPLES, INPUTS))
    here = nearest_error(centres, inputs[:INPUTS].T, classes)
    return here - nearest_error(centres, drawn, fresh)


def noisy(classes, share, luck, shift):
    """The labels with a ``share`` moved to another class: those whose ``luck`` in [0, 1) is low."""
    return np.where(luck < share, (classes + shift) % CLASSES, classes)


def one_hot(labels):
    """(CLASSES, samples), the targets of the squared loss."""
    return np.eye(CLASSES)[labels].T


# --- networks side by side ------------------------------------------------------------------------


class Networks:
    """One-hidden-layer ReLU nets, their hidden units stacked: rows ``units[i]`` belong to net i.

    hidden (units, INPUTS + 1), output (units, CLASSES) and bias (nets, CLASSES, 1) are views of one
    flat vector, so that the optimizer is a few operations on one array.
    """

    def __init__(self, widths, flat):
        ends = np.cumsum(widths).tolist()
        hidden_end = ends[-1] * (INPUTS + 1)
        output_end = hidden_end + ends[-1] * CLASSES
        self.widths, self.flat = widths, flat
        self.units = [slice(end - width, end) for width, end in zip(widths, ends, strict=True)]
        self.hidden = flat[:hidden_end].reshape(ends[-1], INPUTS + 1)
        self.output = flat[hidden_end:output_end].reshape(ends[-1], CLASSES)
        self.bias = flat[output_end:].reshape(len(widths), CLASSES, 1)

    def forward(self, i, inputs):
        """Hidden activity (width, samples) and outputs (CLASSES, samples) of net i."""
        active = (self.hidden[self.units[i]] @ inputs).clip(0.0)
        return active, self.output[self.units[i]].T @ active + self.bias[i]


def size(widths):
    return sum(parameter_count(width) for width in widths)


def initial_networks(rng, widths):
    """Gaussian weights; nets of one width start alike, so that arms differ by labels only."""
    networks = Networks(widths, np.zeros(size(widths)))
    drawn = {
        width: (rng.standard_normal((width, INPUTS)), rng.standard_normal((width, CLASSES)))
        for width in sorted(set(widths))
    }
    for width, units in zip(widths, networks.units, strict=True):
        hidden, output = drawn[width]
        networks.hidden[units, :INPUTS] = hidden * np.sqrt(HIDDEN_GAIN / INPUTS)
        networks.output[units] = output / np.sqrt(width)
    return networks


def gradient(networks, slope, inputs, targets):
    """Write d(loss)/d(weights) of each net into ``slope``; loss: mean |output - target|^2 / 2."""
    xp = library(inputs)
    for i, units in enumerate(networks.units):
        active, outputs = networks.forward(i, inputs)
        residual = (outputs - targets[i]) / inputs.shape[1]
        back = networks.output[units] @ residual
        back *= active > 0
        xp.matmul(back, inputs.T, out=slope.hidden[units])
        xp.matmul(active, residual.T, out=slope.output[units])
        slope.bias[i] = residual.sum(axis=1, keepdims=True)


def half_cosine(done):
    """From 1 to 0 over a training run.

    At a constant rate Adam oscillates where gradients vanish, and hosts whose sums differ in the
    last digit end with test errors 0.01 apart. With a rate that falls to 0 most networks agree to
    nine digits, and the widest to a few of the test samples; the tolerances allow for that.
    """
    return 0.5 * (1 + np.cos(np.pi * done))


def train(networks, inputs, targets, steps, learning_rate):
    """Full-batch Adam (Kingma & Ba 2015), on all nets at once, in place."""
    xp = library(networks.flat)
    slope = Networks(networks.widths, xp.empty_like(networks.flat))
    mean, square, scratch = (xp.zeros_like(networks.flat) for _ in range(3))
    for step in range(1, steps + 1):
        gradient(networks, slope, inputs, targets)
        correction = np.sqrt(1 - BETA2**step)
        xp.subtract(slope.flat, mean, out=scratch)
        scratch *= 1 - BETA1
        mean += scratch
        xp.multiply(slope.flat, slope.flat, out=scratch)
        scratch -= square
        scratch *= 1 - BETA2
        square += scratch
        xp.sqrt(square, out=scratch)
        scratch += EPSILON * correction
        xp.divide(mean, scratch, out=scratch)
        rate = learning_rate * half_cosine(step / steps)
        scratch *= rate * correction / (1 - BETA1**step)
        networks.flat -= scratch


# --- one trial and the whole run ------------------------------------------------------------------


def measure(networks, inputs, labels):
    """Error and squared loss of every net: two arrays (nets,). ``labels`` is (nets, samples)."""
    errors, losses = [], []
    for i, given in enumerate(labels):
        outputs = networks.forward(i, inputs)[1]
        errors.append(np.mean(outputs.argmax(axis=0) != given))
        losses.append(np.mean((outputs - one_hot(given)) ** 2))
    return np.array(errors), np.array(losses)


def trial(rng, parameters, device):
    """Draw a task, train every net on it: training error, test error, test loss, (3, nets).

    Also the numbers for the gates: overlap of test and training samples, and label_gap.
    """
    arms = network_list(parameters["label_noise"])
    centres = parameters["separation"] * rng.standard_normal((CLASSES, INPUTS))
    inputs, classes = blobs(rng, centres, SAMPLES)
    test_inputs, test_classes = blobs(rng, centres, TEST_SAMPLES)
    luck, shift = rng.random(SAMPLES), rng.integers(1, CLASSES, SAMPLES)
    labels = np.stack([noisy(classes, noise, luck, shift) for noise, _ in arms])
    drawn = initial_networks(rng, [width for _, width in arms])
    targets = np.stack([one_hot(given) for given in labels])
    networks = Networks(drawn.widths, place(drawn.flat, device))
    data = place(inputs, device), place(targets, device)
    train(networks, *data, parameters["steps"], parameters["learning_rate"])
    networks = Networks(drawn.widths, fetch(networks.flat))
    train_error, _ = measure(networks, inputs, labels)
    test_error, test_loss = measure(networks, test_inputs, [test_classes] * len(arms))
    checks = (
        shared_samples(inputs.T, test_inputs.T),
        label_gap(rng, centres, test_inputs, test_classes),
    )
    return np.stack([train_error, test_error, test_loss]), checks


def ratios():
    """Parameters / equations of each width."""
    return np.array([parameter_count(width) for width in WIDTHS]) / EQUATIONS


def peak_of(test_error):
    """Index of the largest error that has a smaller one before it: the peak between two descents.

    A curve that only falls has none: the index is 0 and the first descent comes out at 0.
    """
    rise = test_error - np.minimum.accumulate(test_error)
    return int(np.argmax(rise))


def descents(test_error):
    """Peak error, its index, and how far the error falls to either side of it."""
    peak = peak_of(test_error)
    top = test_error[peak]
    return top, peak, top - test_error[: peak + 1].min(), top - test_error[-1]


def curve(label_noise, train_error, test_error, test_loss):
    return {
        "label_noise": label_noise,
        "width": list(WIDTHS),
        "ratio": ratios().tolist(),
        "test_error": test_error.tolist(),
        "train_error": train_error.tolist(),
        "test_loss": test_loss.tolist(),
    }


def summary(outcomes, parameters, checks):
    """The result from the outcomes (trials, 3, nets)."""
    mean = np.mean(outcomes, axis=0)
    count = len(WIDTHS)
    noise, clean, random_error = mean[:, :count], mean[:, count:-1], mean[1, -1]
    top, peak, first, second = descents(noise[1])
    clean_top, _, _, clean_second = descents(clean[1])
    fits = noise[0] <= 0.01
    overlap, gap = sum(shared for shared, _ in checks), mean_of(gap for _, gap in checks)
    sane = (
        overlap == 0
        and abs(gap) < LABEL_GAP_MAX
        and noise[0, 0] > 0.1  # the narrowest cannot fit: there is a threshold to cross
        and fits[-1]  # the widest does
        and clean[1, -1] < CHANCE_ERROR - 0.4  # it generalises, so the test data are of this task
        and noise[1, -1] < CHANCE_ERROR - 0.2
        and random_error > CHANCE_ERROR - 0.12  # five deviations of a mean of four trials
    )
    return {
        "valid": int(sane),
        "configs_done": len(outcomes),
        "overlap": overlap,
        "label_gap": gap,
        "peak_error": float(top),
        "peak_ratio": float(ratios()[peak]),
        "first_descent": float(first),
        "second_descent": float(second),
        "clean_peak_error": float(clean_top),
        "clean_second_descent": float(clean_second),
        "fit_ratio": float(ratios()[np.argmax(fits)]) if fits.any() else 0.0,
        "widest_error": float(noise[1, -1]),
        "clean_widest_error": float(clean[1, -1]),
        "random_label_error": float(random_error),
        "curves": [
            curve(parameters["label_noise"], *noise),
            curve(0.0, *clean),
        ],
    }


def mean_of(values):
    return float(np.mean(list(values)))


def trials_within(budget_seconds, steps):
    """How many whole trials the budget allows, by their nominal cost; at least one."""
    price = TRIAL_SECONDS * steps / 3000
    return int(np.clip(budget_seconds // price, 1, TRIALS_MAX))


#: Numbers that findings use are clipped to these bounds: with bounds a mean is decided sooner.
CUT = {
    "peak_ratio": (0, 3),
    "noise_gain": (-0.5, 0.5),
}


def cut(result):
    """The result with its comparisons added and every number in CUT clipped to its bounds."""
    result["noise_gain"] = result["second_descent"] - result["clean_second_descent"]
    bounded = {name: min(max(result[name], low), high) for name, (low, high) in CUT.items()}
    return result | bounded


def run(task):
    parameters = task.parameters
    count = trials_within(task.budget_seconds, parameters["steps"])
    state = task.restore() or {"outcomes": [], "checks": []}
    outcomes = state["outcomes"]
    while len(outcomes) < count:
        outcome, checks = trial(task.rng(len(outcomes)), parameters, task.device)
        outcomes.append(outcome)
        state["checks"].append(checks)
        task.checkpoint(state)
        task.progress(len(outcomes) / count)
    return cut(summary(np.array(outcomes), parameters, state["checks"]))
