"""Catapult phase: does a learning rate above the stability limit lead to a flatter minimum?

Lewkowycz, Bahri, Dyer, Sohl-Dickstein & Gur-Ari 2020, "The large learning rate phase of deep
learning: the catapult mechanism" (arXiv:2003.02218).

    axiom-client try experiments/catapult_phase.py --seed 1 --plot catapult_phase.png

A linear model trained at rate lr on a loss of curvature lambda diverges if lr * lambda > 2. A wide
net need not diverge: the loss grows by (1 - lr * lambda)^2 a step, until it is so large that the
weights shrink, which lowers the curvature itself. When lr * lambda falls below 2, the loss comes
down, and the net ends at a lower curvature. Above about 4 it diverges.

Here lambda is the largest eigenvalue of the neural tangent kernel over n, which for the loss
(1/2n) sum (f - y)^2 is the curvature that the linearised net would have. Learning rates are given
in units of 1/lambda0, that of the initial net: 2 is the edge for every seed and width.

Controls: rates below the edge (the loss must not spike, the curvature must hardly change), rates
far above it (all must diverge), and the width: the weights change the curvature by 1/width, so the
loss must grow in proportion to the width before the curvature falls enough.

The paper's suggestion that flatter nets generalise better holds on this task, where a net that
leaves the lazy phase can learn which direction matters (`test_ratio`, against the best net below
the edge). This does not carry over to other tasks: on pure noise there is nothing to generalise.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "torch"]  # torch on GPUs only
#
# [tool.axiom]
# name = "catapult_phase"
# version = "1.3.0"
# title = "Catapult phase"
# question = "Does training above the initial stability edge spike, recover and end flatter?"
# rationale = [
#   "Cross-validates the loss-spike-then-recovery at high learning rates over hosts and seeds.",
#   "Complements loss-landscape curvature: how a large learning rate comes to a flat minimum.",
#   "Rates in units of 1/lambda0 make the edge the same number, 2, in every seed and width.",
#   "Widths from 128 to 4096 separate the mechanism from luck: its spike must grow with width.",
# ]
# references = [
#   "Lewkowycz et al. 2020, The large learning rate phase of deep learning, arXiv:2003.02218",
#   "Jacot, Gabriel & Hongler 2018, Neural tangent kernel, arXiv:1806.07572",
#   "Meltzer, Chen & Liu 2023, Catapult dynamics in quadratic nets, arXiv:2301.07737",
# ]
# expected_seconds = 35
# resources = { cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 10_000_000 }
#
# [tool.axiom_cohort]
# most = 256
# seed_memory_bytes = 10_000_000
# seed_gpu_memory_bytes = 150_000_000
#
# [tool.axiom.parameters.rates]
# default = [3.0, 1.0, 2.5, 1.9, 3.5, 6.0, 0.5, 1.5, 2.1, 2.25, 2.75, 4.0, 4.5, 5.0, 8.0]
# min = 0.05
# max = 20.0
# max_items = 40
# about = "learning rates in units of 1/lambda0, in the order in which they run"
#
# [tool.axiom.parameters.widths]
# default = [512, 128, 2048, 256, 1024, 4096]
# min = 16
# max = 8192
# max_items = 10
# about = "hidden widths; the findings on rates are read from the first"
#
# [tool.axiom.parameters.steps]
# default = 600
# min = 50
# max = 20000
# about = "steps of full-batch gradient descent"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "the controls ran; nets below the edge fit and generalise" }
# configs_done = { kind = "integer", min = 1, about = "pairs of width and rate" }
# overlap = { kind = "integer", min = 0, about = "test samples that are training samples" }
# lazy_peak_ratio = { min = 0, max = 2, rtol = 1e-8, about = "largest max L / L0 up to 1.9" }
# lazy_lambda_shift = { min = 0, rtol = 1e-6, atol = 1e-9, about = "largest move of lambda there" }
# catapult_peak_ratio = { min = 0, max = 1e5, rtol = 1e-8, about = "smallest there, 2.5 to 3.5" }
# catapult_final_loss = { min = 0, max = 1, rtol = 1e-8, about = "largest last loss there, to 1" }
# catapult_lambda_ratio = { min = 0, rtol = 1e-8, about = "largest last lambda / lambda0 there" }
# unseen_lambda_ratio = { min = 0, max = 2, rtol = 1e-8, about = "of unseen inputs; 2: or more" }
# lazy_unseen_ratio = { min = 0, max = 2, rtol = 1e-8, about = "least such ratio up to 1.9" }
# catapult_edge = { min = 0, max = 4, rtol = 1e-8, about = "largest last lr * lambda, to 4" }
# all_caught = { kind = "flag", about = "the detector finds every rate from 2.5 to 3.5" }
# false_alarms = { kind = "integer", min = 0, about = "its finds up to 1.9" }
# first_divergent_rate = { min = 0, max = 9, rtol = 1e-9, about = "least that diverged; 0: none" }
# last_stable_rate = { min = 0, rtol = 1e-9, about = "largest that did not diverge; 0: none" }
# peak_width_slope.about = "d log max L / d log width; 0: too few"
# peak_width_slope.min = 0
# peak_width_slope.max = 2
# peak_width_slope.rtol = 1e-8
# peak_width_slope.atol = 1e-9
# test_ratio = { min = 0, max = 3, rtol = 1e-8, about = "test loss, catapulted / best lazy" }
# loss0 = { min = 0, rtol = 1e-9, about = "loss of the untrained net, first width" }
# lambda0 = { min = 0, rtol = 1e-9, about = "lambda of the untrained net, first width" }
#
# [tool.axiom.result.configs]
# kind = "records"
# max_items = 400
# [tool.axiom.result.configs.fields]
# width = { kind = "integer" }
# rate = { unit = "1/lambda0", rtol = 1e-9 }
# learning_rate = { rtol = 1e-8 }
# loss0 = { min = 0, rtol = 1e-9, about = "L0, of the untrained net" }
# peak_ratio = { rtol = 1e-6, about = "max L / L0" }
# log_peak = { atol = 1e-6, about = "log10 of max L / L0; 5 means diverged" }
# peak_step = { kind = "integer", unit = "step" }
# final_loss = { rtol = 1e-6, atol = 1e-12 }
# lambda_ratio = { rtol = 1e-6, about = "last lambda / lambda0" }
# edge = { rtol = 1e-6, about = "last lr * lambda" }
# test_loss = { rtol = 1e-6, atol = 1e-12 }
# diverged = { kind = "flag" }
# caught = { kind = "flag", about = "a catapult by the detector" }
#
# [tool.axiom.result.curves]
# kind = "records"
# max_items = 40
# about = "the first width, thinned: every step to 60, then every 20th"
# [tool.axiom.result.curves.fields]
# rate = { unit = "1/lambda0", rtol = 1e-9 }
# step = { kind = "integer", dims = 1, unit = "step" }
# loss_ratio = { dims = 1, rtol = 1e-6, atol = 1e-12, about = "L / L0" }
# edge = { dims = 1, rtol = 1e-6, about = "lr * lambda" }
#
# [[tool.axiom.findings]]
# name = "no_spike_below_the_edge"
# claim = "Up to 1.9/lambda0 the loss never rises above its start by more than 5 %."
# field = "lazy_peak_ratio"
# criterion = { below = 1.05 }
#
# [[tool.axiom.findings]]
# name = "spike_above_the_edge"
# claim = "At 2.5, 3 and 3.5/lambda0 the loss first climbs to more than three times its start."
# field = "catapult_peak_ratio"
# control = "lazy_peak_ratio"
# statistic = "ratio"
# criterion = { above = 3 }
#
# [[tool.axiom.findings]]
# name = "recovery"
# claim = "After the spike the training loss falls below 1e-3 at each of those rates."
# field = "catapult_final_loss"
# criterion = { below = 1e-3 }
#
# [[tool.axiom.findings]]
# name = "flatter_where_nothing_was_fitted"
# claim = "The kernel of inputs never trained on has lost a tenth of its top eigenvalue too."
# about = "On training inputs that follows from having settled; on others it does not."
# field = "unseen_lambda_ratio"
# criterion = { below = 0.9 }
#
# [[tool.axiom.findings]]
# name = "lazy_stays_as_sharp"
# claim = """\
#   Below the edge the kernel of inputs never trained on loses less than a twentieth of its top \
#   eigenvalue."""
# field = "lazy_unseen_ratio"
# criterion = { above = 0.95 }
#
# [[tool.axiom.findings]]
# name = "overshoots"
# claim = "The catapulted net ends flatter than it had to: lr * lambda below 1.7, not just below 2."
# about = "Below 2 follows from having settled at all; how far below does not."
# field = "catapult_edge"
# criterion = { below = 1.7 }
#
# [[tool.axiom.findings]]
# name = "divergence"
# claim = "Recovery ends near 4/lambda0: the first divergent rate lies between 3.5 and 5.5."
# field = "first_divergent_rate"
# criterion = { above = 3.5, below = 5.5 }
#
# [[tool.axiom.findings]]
# name = "spike_grows_with_width"
# claim = "From 2.5 to 3.5/lambda0 the loss's peak grows as the width to the power 1, within 0.15."
# about = "Of the loss itself: the ratio to L0 would carry the luck of six untrained nets."
# field = "peak_width_slope"
# criterion = { above = 0.85, below = 1.15 }
#
# [[tool.axiom.findings]]
# name = "flat_minimum_generalises"
# claim = "Catapulted nets have a lower test loss than lazy ones."
# about = "Against the best of the lazy nets, so that slow training is not what makes them worse."
# field = "test_ratio"
# criterion = { below = 1 }
#
# [[tool.axiom.figures]]
# name = "spikes"
# title = "Above lr = 2/lambda0 the loss is thrown up, and comes down"
# x = "curves.step"
# y = ["curves.loss_ratio"]
# label = "{rate:g}/lambda0"
# x_label = "step"
# y_label = "L / L0"
# x_scale = "log"
# y_scale = "log"
# y_mark = [1.0]
#
# [[tool.axiom.figures]]
# name = "flattening"
# title = "The kernel's top eigenvalue falls until lr * lambda < 2"
# x = "curves.step"
# y = ["curves.edge"]
# label = "{rate:g}/lambda0"
# x_label = "step"
# y_label = "lr * lambda"
# x_scale = "log"
# y_scale = "log"
# y_mark = [2.0]
#
# [[tool.axiom.figures]]
# name = "phases"
# title = "Lazy, catapult, divergent: the height of the spike over rate and width"
# kind = "map"
# x = "configs.rate"
# y = ["configs.width"]
# z = "configs.log_peak"
# x_label = "learning rate, 1/lambda0"
# y_label = "width"
# z_label = "log10 of max L / L0"
# y_scale = "log"
# x_mark = [2.0, 4.0]
# ///

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

SAMPLES = 64  # every width here can fit them, and a 64 x 64 kernel is cheap to diagonalise
INPUTS = 10  # fewer than samples: the task has a direction to find, not 64 points to memorise
TEST_SAMPLES = 512  # test loss to about 5 %
DIVERGED = 1e5  # times L0; the highest spike that came down was below 2e3, at width 2048
LAZY_MAX = 1.9  # below 2 by more than lambda drifts in the lazy phase
CATAPULT = (2.5, 3.5)  # clear of the edge at 2 and of the divergence that begins near 4
SPIKE = 3.0  # times L0; below the edge nothing rises by 5 %
RATIO_MAX, EDGE_MAX, TEST_RATIO_MAX = 2.0, 4.0, 3.0  # with bounds a mean is decided sooner
SHOWN = 1e3  # times L0; higher than any spike of the first width that came down
DENSE_STEPS = 60  # the catapult is over by then; later the curves are smooth
THIN = 20  # steps between later points of a curve
SECONDS_PER_STEP = (7e-5, 4e-7)  # nominal: fixed, and per hidden unit; on one 2.4 GHz core
SQUARINGS = 30  # of a kernel: eigenvalues closer than 1e-9 of the largest count as one
BATCH_BYTES = 16 << 20  # of one seed's activations on a GPU: eight nets of width 4096
SAVE_EVERY = 30  # pairs of a cohort: for 90 configs a checkpoint takes a core 10 ms a seed


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


# The net, in NTK parameterisation: f(x) = v . relu(U x / sqrt(d)) * sqrt(2 / width). The 2 restores
# the variance that relu halves. Every weight starts as N(0, 1).


def hidden(inputs, first):
    """Activations and relu's slope, each of shape (n, width) and times sqrt(2 / width)."""
    scale = math.sqrt(2.0 / first.shape[1])
    active = inputs @ first
    slope = (active > 0) * scale
    active *= slope
    return active, slope


def half_mean_square(error):
    return 0.5 * float(error @ error) / len(error)


def gradient(inputs, active, slope, second, error):
    """The gradient of the loss by the first and second layer."""
    pull = error / len(error)
    return inputs.T @ (slope * (pull[:, None] * second)), active.T @ pull


def top_kernel_eigenvalue(gram, active, slope, second):
    """The largest eigenvalue of NTK / n, of shape (n, n).

    The kernel is grad f(x) . grad f(x'): from the first layer (x . x' / d) sum of slope slope' v^2,
    from the second the product of the activations. ``gram`` is x . x' / d.
    """
    weighted = slope * second
    kernel = gram * (weighted @ weighted.T) + active @ active.T
    return float(library(kernel).linalg.eigvalsh(kernel)[-1]) / len(gram)


def is_catapult(losses):
    """Whether the loss rose steeply and came down; a spike alone or a noisy curve does not count.

    It must be a loss, never negative; exceed SPIKE times its start in the first half; rise
    steadily, as an instability does (from the lowest point before the peak, at least two steps, 9
    of 10 of them upward); fall below its start and stay there; and be below a tenth of its start in
    the last tenth of the run.
    """
    losses = np.asarray(losses)
    peak = int(np.argmax(losses))
    if losses.min() < 0:
        return False
    if not 2 <= peak < len(losses) // 2 or losses[peak] <= SPIKE * losses[0]:
        return False
    lowest = int(np.argmin(losses[:peak]))
    upward = np.diff(losses[lowest : peak + 1]) > 0
    back = np.flatnonzero(losses[peak:] < losses[0])
    if len(upward) < 2 or np.mean(upward) < 0.9 or len(back) == 0:
        return False
    stays = np.all(losses[peak + back[0] :] <= losses[0])
    settled = losses[-max(1, len(losses) // 10) :]
    return bool(stays and np.all(settled < 0.1 * losses[0]))


def kept(step, steps):
    """Whether this step is a point of the thinned curve."""
    return step <= DENSE_STEPS or step % THIN == 0 or step == steps


def descend(data, first, second, rate, steps):
    """Full-batch gradient descent at ``rate`` / lambda0 until ``steps``, or until it diverges."""
    inputs, targets, gram = data["inputs"], data["targets"], data["gram"]
    losses, at, lambdas = [], [], []
    learning_rate = 0.0
    active, slope = hidden(data["unseen"], first)
    unseen = [top_kernel_eigenvalue(data["unseen_gram"], active, slope, second)]
    for step in range(steps + 1):
        active, slope = hidden(inputs, first)
        error = active @ second - targets
        losses.append(half_mean_square(error))
        diverged = not losses[-1] < DIVERGED * losses[0]
        if kept(step, steps) or diverged:
            at.append(step)
            lambdas.append(top_kernel_eigenvalue(gram, active, slope, second))
        if step == 0:
            learning_rate = rate / lambdas[0]
        if diverged or step == steps:
            break
        by_first, by_second = gradient(inputs, active, slope, second, error)
        first = first - learning_rate * by_first
        second = second - learning_rate * by_second
    active, slope = hidden(data["unseen"], first)
    unseen.append(top_kernel_eigenvalue(data["unseen_gram"], active, slope, second))
    test_error = hidden(data["test_inputs"], first)[0] @ second - data["test_targets"]
    return {
        "losses": losses, "at": at, "lambdas": lambdas, "learning_rate": learning_rate,
        "diverged": diverged, "test_loss": half_mean_square(test_error),
        "unseen": min(unseen[-1] / unseen[0], RATIO_MAX),
    }  # fmt: skip


def make_data(rng):
    """Normal inputs over sqrt(d); targets are one random direction of them. Test data alike."""
    direction = rng.standard_normal(INPUTS)
    direction /= np.linalg.norm(direction)
    inputs = rng.standard_normal((SAMPLES + TEST_SAMPLES, INPUTS))
    targets = inputs @ direction
    inputs /= math.sqrt(INPUTS)
    train, unseen = inputs[:SAMPLES], inputs[-SAMPLES:]
    return {
        "inputs": train, "targets": targets[:SAMPLES], "gram": train @ train.T,
        "unseen": unseen, "unseen_gram": unseen @ unseen.T,
        "test_inputs": inputs[SAMPLES:], "test_targets": targets[SAMPLES:],
    }  # fmt: skip


def run_config(task, data, width, rate, steps):
    """Train one net. Every rate starts from the same weights, so that only the rates differ."""
    rng = task.rng(width)
    first = place(rng.standard_normal((INPUTS, width)), task.device)
    second = place(rng.standard_normal(width), task.device)
    return summarise(descend(data, first, second, rate, steps), width, rate)


def summarise(path, width, rate):
    losses, lambdas = path["losses"], path["lambdas"]
    peak = int(np.argmax(losses))
    # The last loss of a diverged run depends on the step at which it was stopped; use the limit.
    ratio = DIVERGED if path["diverged"] else losses[peak] / losses[0]
    return {
        "width": width,
        "rate": rate,
        "learning_rate": path["learning_rate"],
        "peak_ratio": ratio,
        "log_peak": math.log10(ratio),
        "peak_step": peak,
        "final_loss": losses[-1],
        "lambda_ratio": lambdas[-1] / lambdas[0],
        "edge": path["learning_rate"] * lambdas[-1],
        "test_loss": path["test_loss"],
        "unseen": path["unseen"],
        "diverged": int(path["diverged"]),
        "caught": int(not path["diverged"] and is_catapult(losses)),
        "loss0": losses[0],
        "lambda0": lambdas[0],
        "curve": curve_of(path, rate),
    }


def curve_of(path, rate):
    """Loss and curvature over the steps at which the loss is at most SHOWN times its start."""
    first = path["losses"][0]
    looks = [
        (step, path["losses"][step] / first, path["learning_rate"] * value)
        for step, value in zip(path["at"], path["lambdas"], strict=True)
        if path["losses"][step] <= SHOWN * first
    ]
    steps, ratios, edges = (list(column) for column in zip(*looks, strict=True))
    return {"rate": rate, "step": steps, "loss_ratio": ratios, "edge": edges}


def plan(parameters, budget_seconds):
    """The pairs (width, rate) that the budget allows, in their fixed order; at least one."""
    pairs, spent = [], 0.0
    fixed, per_unit = SECONDS_PER_STEP
    for width in parameters["widths"]:
        for rate in parameters["rates"]:
            spent += parameters["steps"] * (fixed + per_unit * width)
            if pairs and spent > budget_seconds:
                return pairs
            pairs.append((width, rate))
    return pairs


def shared_samples(inputs, test_inputs):
    """How many test samples are also training samples; the test is meaningful only if none are."""
    seen = {row.tobytes() for row in inputs}
    return sum(row.tobytes() in seen for row in test_inputs)


#: Numbers that findings use are clipped to these bounds: with bounds a mean is decided sooner.
CUT = {
    "lazy_peak_ratio": (0, 2),
    "first_divergent_rate": (0, 9),
    "peak_width_slope": (0, 2),
}


def cut(result):
    """The result with every number in CUT clipped to its bounds."""
    bounded = {name: min(max(result[name], low), high) for name, (low, high) in CUT.items()}
    return result | bounded


def run(task):
    drawn = make_data(task.rng(0))
    overlap = shared_samples(drawn["inputs"], drawn["test_inputs"])
    data = {name: place(part, task.device) for name, part in drawn.items()}
    steps = task.parameters["steps"]
    pairs = plan(task.parameters, task.budget_seconds)
    done = (task.restore() or {"done": []})["done"]
    for width, rate in pairs[len(done) :]:
        done.append(run_config(task, data, width, rate, steps))
        task.checkpoint({"done": done})
        task.progress(len(done) / len(pairs))
    return cut(report(done, half_mean_square(data["test_targets"]), overlap))


# Many seeds at once, on a GPU. Tensors have a first axis for nets: seed by seed, and within a seed
# rate by rate. Nothing sums over it, so that a net that diverges does not affect another.


class Nets:
    """Nets of one width in training; every tensor is (nets, ...), and buffers keep their place.

    ``data`` is as in `place_data`, ``first`` (nets, INPUTS, width), ``second`` (nets, width, 1) and
    ``rates`` (nets, 1, 1) in units of 1/lambda0. Training reads only which units are active, 1 or
    0 in ``slope`` (nets, n, width), since relu(z) = slope z. For wide nets a step takes as long as
    reading and writing this array, so it is read twice and nothing else of its size is made.
    """

    def __init__(self, data, first, second, rates):
        import torch

        torch.cuda.empty_cache()  # of what the nets of another width have left
        self.torch, self.data, self.rates = torch, data, rates
        self.first, self.second = first, second
        self.slope = first.new_zeros((len(first), SAMPLES, first.shape[2]))
        self.work = torch.zeros_like(self.slope)
        self.error = first.new_zeros((len(first), SAMPLES, 1))
        self.loss = first.new_zeros((len(first), 1, 1))
        self.top = torch.zeros_like(self.loss)
        self.stopped = torch.zeros_like(self.loss, dtype=torch.bool)
        self.start()

    def start(self):
        """Measure the untrained nets: from their losses the limit, from lambda0 the rates."""
        self.limit = self.torch.full_like(self.loss, math.inf)  # none has diverged yet
        self.forward()
        self.limit = DIVERGED * self.loss
        self.look()
        self.learning_rate = self.rates / self.top
        self.unseen = self.unseen_curvature()

    def forward(self):
        """Slopes, errors and losses; a net whose loss is beyond the limit stops for good."""
        torch, inputs = self.torch, self.data["inputs"]
        torch.bmm(inputs, self.first, out=self.slope).gt_(0)
        linear = torch.bmm(self.slope, (self.first * self.second.mT).mT)
        torch.sum(inputs * linear, dim=2, keepdim=True, out=self.error)
        self.error -= self.data["targets"]
        self.loss.copy_(half_mean_squares(self.error))
        self.stopped |= ~(self.loss < self.limit)

    def advance(self):
        """One step of gradient descent from what the last `forward` found, and the next one."""
        pull = self.error * self.learning_rate / SAMPLES
        pull.masked_fill_(self.stopped, 0.0)
        pulled = self.torch.bmm((self.data["inputs"] * pull).mT, self.slope)
        by_second = (self.first * pulled).sum(dim=1)[:, :, None]
        self.first -= pulled * self.second.mT
        self.second -= by_second
        self.forward()

    def curvature(self, inputs, gram):
        """As `top_kernel_eigenvalue` of each net on these inputs, (nets, 1, 1)."""
        work = self.torch.bmm(inputs, self.first, out=self.work).clamp_(min=0)
        kernels = self.torch.bmm(work, work.mT)
        work.sign_().mul_(self.second.mT)
        kernels += gram * self.torch.bmm(work, work.mT)
        return top_eigenvalues(kernels) / SAMPLES

    def look(self):
        """Write lambda to ``top``."""
        self.top.copy_(self.curvature(self.data["inputs"], self.data["gram"]))

    def unseen_curvature(self):
        return self.curvature(self.data["unseen"], self.data["unseen_gram"])

    def test_losses(self, stride):
        """Test loss of each net, (nets, 1, 1); in parts, as test inputs are many."""
        losses = self.torch.zeros_like(self.loss)
        for at in range(stride):
            part = slice(at, None, stride)
            active = self.torch.bmm(self.data["test_inputs"][part], self.first[part]).clamp_(min=0)
            error = self.torch.bmm(active, self.second[part]) - self.data["test_targets"][part]
            losses[part] = half_mean_squares(error)
        return losses


def half_mean_squares(errors):
    """`half_mean_square` of each of a stack (nets, n, 1), as (nets, 1, 1)."""
    return 0.5 * (errors * errors).sum(dim=1, keepdim=True) / errors.shape[1]


def top_eigenvalues(kernels):
    """The largest eigenvalue of each of a stack (nets, n, n) of positive kernels, (nets, 1, 1).

    By repeated squaring: products of small matrices are what a GPU does fast, unlike `eigvalsh`.
    """
    powers = kernels / traces(kernels)
    for _ in range(SQUARINGS):
        powers = powers.bmm(powers)
        powers /= traces(powers)
    return (kernels * powers).sum(dim=(1, 2), keepdim=True)


def traces(matrices):
    return matrices.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]


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


def place_data(drawn, width, rates, device):
    """The data of several seeds, (nets, n, ...), the same for each of a seed's ``rates`` nets.

    Inputs are times sqrt(2 / width), which is then left out of the activations.
    """
    scales = {"targets": 1.0, "test_targets": 1.0, "gram": 2.0 / width, "unseen_gram": 2.0 / width}
    placed = {}
    for name in drawn[0]:
        stack = np.stack([data[name] for data in drawn]) * scales.get(name, math.sqrt(2.0 / width))
        stack = stack[..., None] if stack.ndim == 2 else stack
        placed[name] = place(stack, device).repeat_interleave(rates, dim=0)
    return placed


def draw_nets(tasks, width, rates):
    """The untrained nets of several seeds, at each of the rates."""
    device = tasks[0].device
    drawn = [make_data(task.rng(0)) for task in tasks]
    rngs = [task.rng(width) for task in tasks]
    first = np.stack([rng.standard_normal((INPUTS, width)) for rng in rngs])
    second = np.stack([rng.standard_normal((width, 1)) for rng in rngs])
    first, second = (place(w, device).repeat_interleave(len(rates), dim=0) for w in (first, second))
    data = place_data(drawn, width, len(rates), device)
    return Nets(data, first, second, place(np.tile(rates, len(tasks))[:, None, None], device))


def descend_together(nets, steps, device):
    """Train to the last step: losses (steps + 1, nets) and lambdas (points, nets), with numpy."""
    state = [nets.first, nets.second, nets.slope, nets.error, nets.loss, nets.stopped]
    advance = replayed(nets.advance, state, device)
    look = replayed(nets.look, [nets.top], device)
    losses = nets.loss.new_empty((steps + 1, len(nets.loss)))
    lambdas = []
    for step in range(steps + 1):
        if step:
            advance()
        losses[step] = nets.loss[:, 0, 0]
        if kept(step, steps):
            look()
            lambdas.append(nets.top[:, 0, 0].clone())
    return losses.cpu().numpy(), nets.torch.stack(lambdas).cpu().numpy()


def train_together(tasks, width, rates):
    """`run_config` for several tasks and rates: for each task a list with one item a rate."""
    nets = draw_nets(tasks, width, rates)
    losses, lambdas = descend_together(nets, tasks[0].parameters["steps"], tasks[0].device)
    test_losses = nets.test_losses(len(rates))
    unseen = nets.unseen_curvature() / nets.unseen
    numbers = [x.flatten().tolist() for x in (nets.learning_rate, test_losses, unseen)]
    paths = map(path_of, losses.T, lambdas.T, *numbers)
    configs = [summarise(path, width, rates[i % len(rates)]) for i, path in enumerate(paths)]
    return [configs[at : at + len(rates)] for at in range(0, len(configs), len(rates))]


@functools.cache
def kept_steps(steps):
    return [step for step in range(steps + 1) if kept(step, steps)]


def path_of(losses, lambdas, learning_rate, test_loss, unseen):
    """What `descend` returns, for one net; after the step at which it diverged it stood still."""
    steps = len(losses) - 1
    beyond = ~(losses < DIVERGED * losses[0])
    last = int(np.argmax(beyond)) if beyond.any() else steps
    at = [step for step in kept_steps(steps) if step <= last]
    seen = lambdas[: len(at)].tolist()
    if at[-1] < last:
        at, seen = [*at, last], [*seen, float(lambdas[-1])]
    return {
        "losses": losses[: last + 1].tolist(), "at": at, "lambdas": seen,
        "learning_rate": learning_rate, "diverged": bool(beyond.any()), "test_loss": test_loss,
        "unseen": min(unseen, RATIO_MAX),
    }  # fmt: skip


def batches(pairs):
    """The pairs in their order, as (width, rates, pairs so far), within BATCH_BYTES each."""
    end = 0
    for width, group in itertools.groupby(pairs, lambda pair: pair[0]):
        rates = [rate for _, rate in group]
        most = max(1, BATCH_BYTES // (8 * SAMPLES * width))
        for at in range(0, len(rates), most):
            end += len(rates[at : at + most])
            yield width, rates[at : at + most], end


def extend(tasks, done, width, rates, end):
    """Add what the seeds lack of the first ``end`` configs; whether any of them lacked one."""
    lacking = [s for s in range(len(tasks)) if len(done[s]) < end]
    if lacking:
        found = train_together([tasks[s] for s in lacking], width, rates)
        for s, configs in zip(lacking, found, strict=True):
            done[s] += configs[len(done[s]) - end :]
    return bool(lacking)


def run_cohort(tasks):
    """`run` for several tasks at once, since further nets cost a GPU little.

    The nets of a batch are trained for all seeds whose checkpoint lacks one of them. Then `run`
    finds every net in each seed's checkpoint, and only computes the summary.
    """
    if isinstance(place(0.0, tasks[0].device), np.ndarray):  # a core gains nothing from batches
        return [run(task) for task in tasks]
    pairs = plan(tasks[0].parameters, tasks[0].budget_seconds)
    done = [(task.restore() or {"done": []})["done"] for task in tasks]
    saved = 0
    for width, rates, end in batches(pairs):
        if not extend(tasks, done, width, rates, end):
            continue
        if end - saved >= SAVE_EVERY or end == len(pairs):
            saved = end
            for task, configs in zip(tasks, done, strict=True):
                task.checkpoint({"done": configs})
        for task, configs in zip(tasks, done, strict=True):
            task.progress(len(configs) / len(pairs))
    return [run(task) for task in tasks]


def report(done, naive_loss, overlap):
    """Headline numbers and curves of the first width, and a record for each pair.

    A number whose rates did not run is 0, and then the run is not valid: a spike without the
    control below the edge, or the control alone, is no evidence.
    """
    main = [c for c in done if c["width"] == done[0]["width"]]
    lazy = [c for c in main if c["rate"] <= LAZY_MAX]
    thrown = [c for c in main if CATAPULT[0] <= c["rate"] <= CATAPULT[1]]
    divergent = [c["rate"] for c in main if c["diverged"]]
    stable = [c["rate"] for c in main if not c["diverged"]]
    sane = (
        bool(lazy and thrown)
        and overlap == 0
        and all(c["final_loss"] < 0.1 * c["loss0"] for c in lazy)
        and all(c["test_loss"] < 0.5 * naive_loss for c in lazy)  # against guessing the mean, 0
    )
    tables = sorted(done, key=lambda c: (c["width"], c["rate"]))
    hidden_keys = ("lambda0", "curve", "unseen")
    return {
        "valid": int(sane),
        "configs_done": len(done),
        "overlap": overlap,
        "lazy_peak_ratio": max((c["peak_ratio"] for c in lazy), default=0.0),
        "lazy_lambda_shift": max((abs(c["lambda_ratio"] - 1) for c in lazy), default=0.0),
        "catapult_peak_ratio": min((c["peak_ratio"] for c in thrown), default=0.0),
        "catapult_final_loss": min(max((c["final_loss"] for c in thrown), default=0.0), 1.0),
        "catapult_lambda_ratio": max((c["lambda_ratio"] for c in thrown), default=0.0),
        "unseen_lambda_ratio": max((c["unseen"] for c in thrown), default=0.0),
        "lazy_unseen_ratio": min((c["unseen"] for c in lazy), default=0.0),
        "catapult_edge": min(max((c["edge"] for c in thrown), default=0.0), EDGE_MAX),
        "all_caught": int(bool(thrown) and all(c["caught"] for c in thrown)),
        "false_alarms": sum(c["caught"] for c in lazy),
        "first_divergent_rate": min(divergent, default=0.0),
        "last_stable_rate": max(stable, default=0.0),
        "peak_width_slope": peak_width_slope(done),
        "test_ratio": min(test_ratio(lazy, thrown), TEST_RATIO_MAX),
        "loss0": done[0]["loss0"],
        "lambda0": done[0]["lambda0"],
        "configs": [{k: v for k, v in c.items() if k not in hidden_keys} for c in tables],
        "curves": [c["curve"] for c in tables if c["width"] == done[0]["width"]],
    }


def test_ratio(lazy, thrown):
    """Mean test loss of catapulted nets over that of the best net below the edge; 0 if none."""
    if not lazy or not thrown:
        return 0.0
    mean = sum(c["test_loss"] for c in thrown) / len(thrown)
    return mean / min(c["test_loss"] for c in lazy)


def peak_width_slope(done):
    """Least-squares slope of log max L on log width; 0 with fewer than 3 widths.

    A peak is known only to the last step's growth, a factor (1 - rate)^2 of 2 to 6: hence the mean
    of the logs over the rates from 2.5 to 3.5 that every width has run.
    """
    thrown = [c for c in done if CATAPULT[0] <= c["rate"] <= CATAPULT[1]]
    widths = sorted({c["width"] for c in thrown})
    ran = [
        {c["rate"]: c["log_peak"] + math.log10(c["loss0"]) for c in thrown if c["width"] == width}
        for width in widths
    ]
    if len(widths) < 3:
        return 0.0
    rates = set.intersection(*map(set, ran))
    means = [sum(peaks[rate] for rate in sorted(rates)) / len(rates) for peaks in ran]
    return float(np.polyfit(np.log10(widths), means, 1)[0])
