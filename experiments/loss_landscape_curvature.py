"""Loss-landscape curvature: does noisier SGD end where the loss is flatter?

Jastrzebski, Kenton, Arpit, Ballas, Fischer, Bengio & Storkey 2018, "Three factors influencing
minima in SGD" (arXiv:1711.04623); Keskar et al. 2017 (arXiv:1609.04836).

    axiom-client try experiments/loss_landscape_curvature.py --seed 1 --plot curvature.png

SGD at rate lr and batch size B is, to first order, gradient flow with noise in proportion to lr/B.
If the noise determines how sharp a region SGD can stay in, the curvature at the end depends on the
ratio lr/B and on neither number alone. All nets here start from the same weights and are trained to
the same training loss, since the curvature of a classifier falls with its loss under any training.
The curvature is the largest eigenvalue of the Hessian of the whole training loss at that point.

Controls: pairs of nets with the same lr/B, rate and batch both four times larger, which should end
alike; and equal loss, without which a net that was merely trained longer would count as flatter.

The Hessian is applied by central differences of the gradient, so that there is no second formula
that could be wrong; the gradient is checked against differences of the loss, and the error is part
of the result.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy"]
#
# [tool.axiom]
# name = "loss_landscape_curvature"
# version = "1.2.0"
# title = "Loss-landscape curvature and the noise of SGD"
# question = "At equal training loss, is the Hessian's top eigenvalue lower where lr/B is higher?"
# rationale = [
#   "An earlier session log confirmed it, but not at equal loss, as it is tested here.",
#   "Equal ratios lr/B at other rates are the control that separates noise from step size.",
#   "Complements SAM and progressive sharpening: a third thing that sets curvature.",
# ]
# references = [
#   "Jastrzebski et al. 2018, Three factors influencing minima in SGD, arXiv:1711.04623",
#   "Keskar et al. 2017, On large-batch training for deep learning, arXiv:1609.04836",
#   "Dinh et al. 2017, Sharp minima can generalize for deep nets, arXiv:1703.04933",
# ]
# resources = { cpu_cores = 1, memory_bytes = 500_000_000, disk_bytes = 10_000_000 }
# expected_seconds = 6
#
# [tool.axiom.parameters.rates]
# default = [0.1, 0.1, 0.05, 0.2, 0.1, 0.1]
# min = 0.001
# max = 2.0
# max_items = 30
# about = "of each net; findings read the first four: noisy, quiet, and a pair of the first's lr/B"
#
# [tool.axiom.parameters.batches]
# default = [4, 256, 2, 8, 16, 64]
# min = 1
# max = 512
# max_items = 30
# about = "batch size of each net"
#
# [tool.axiom.parameters.target_loss]
# default = 0.2
# min = 0.001
# max = 1.5
# about = "training loss at which curvature is read"
#
# [tool.axiom.parameters.separation]
# default = 0.4
# min = 0.1
# max = 10.0
# about = "deviation of class centres, in units of that within a class"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "all at the target loss; tests above chance; gradient right" }
# configs_done = { kind = "integer", min = 1, about = "nets" }
# overlap = { kind = "integer", min = 0, about = "test samples that are training samples" }
# noisy_curvature = { min = 0, rtol = 1e-6, about = "top eigenvalue, first net" }
# quiet_curvature = { min = 0, rtol = 1e-6, about = "second net" }
# flattening = { min = 0, max = 2, rtol = 1e-6, about = "noisy / quiet, to 2" }
# same_ratio = { min = 0, max = 2, rtol = 1e-6, about = "fourth / third, of one lr/B, to 2" }
# noise_slope = { min = -1, max = 1, rtol = 1e-6, atol = 1e-6, about = "log curvature on log lr/B" }
# noisy_test = { min = 0, max = 1, atol = 5e-4, about = "test accuracy" }
# quiet_test = { min = 0, max = 1, atol = 5e-4 }
# test_gain = { min = -0.1, max = 0.1, atol = 5e-4, about = "noisy less quiet, clipped" }
# least_gap = { min = -1, max = 1, atol = 2e-3, about = "training less test accuracy, of all nets" }
# worst_loss_gap = { min = 0, max = 1, atol = 1e-6, about = "most that a loss is below the target" }
# start_curvature = { min = 0, rtol = 1e-6, about = "of the untrained net" }
# gradient_error = { min = 0, max = 1, chaotic = true, about = "and the Hessian's" }
#
# [tool.axiom.result.configs]
# kind = "records"
# max_items = 30
# [tool.axiom.result.configs.fields]
# rate = { rtol = 1e-9 }
# batch = { kind = "integer" }
# noise = { min = 0, rtol = 1e-9, about = "lr / B" }
# steps = { kind = "integer", chaotic = true }
# loss = { min = 0, rtol = 1e-6 }
# curvature = { min = 0, rtol = 1e-6 }
# test_accuracy = { min = 0, max = 1, atol = 5e-4 }
#
# [[tool.axiom.findings]]
# name = "noise_flattens"
# claim = "At equal loss lr/B = 0.025 leaves less than 0.8 of the curvature that 0.0004 leaves."
# field = "flattening"
# criterion = { below = 0.8 }
#
# [[tool.axiom.findings]]
# name = "the_ratio_decides"
# claim = "Rate and batch both four times larger: the same curvature, within a factor of 1.3."
# field = "same_ratio"
# criterion = { above = 0.77, below = 1.3 }
#
# [[tool.axiom.findings]]
# name = "by_degrees"
# claim = "Curvature falls as a power of lr/B steeper than 0.05, over all nets."
# field = "noise_slope"
# criterion = { below = -0.05 }
#
# [[tool.axiom.findings]]
# name = "flatter_is_not_better"
# claim = "The flatter net's test accuracy is that of the sharper one, to 0.03."
# about = "At equal training loss: what large batches lose elsewhere is not lost here."
# field = "test_gain"
# criterion = { above = -0.03, below = 0.03 }
#
# [[tool.axiom.figures]]
# name = "curvature"
# title = "At equal loss, the noisier the flatter"
# kind = "points"
# x = "configs.noise"
# y = ["configs.curvature"]
# label = "B = {batch}"
# x_label = "lr / B"
# y_label = "top Hessian eigenvalue"
# x_scale = "log"
# y_scale = "log"
# ///

from __future__ import annotations

import math

import numpy as np

INPUTS, CLASSES = 20, 5
HIDDEN = 32
SAMPLES, TEST_SAMPLES = 768, 4000
CLIPPED = 0.1  # accuracy; with bounds a mean is decided sooner
GAP_MIN = 0.02  # of accuracy: what was trained on is known better, or the test is no test
LOOK_EVERY = 64  # samples between looks at the whole loss: it ends within a few percent of target
STEPS_MAX = 30_000  # three times what any net takes; later none reaches the target
ARRIVED = 0.85  # of the target: the losses of noisy nets fall below it in one step
STEP = 1e-4  # of central differences: error about STEP^2, rounding 1e-12
WIDE_STEP = 1e-2  # of second differences: unit direction, of 1,000 weights; rounding 1e-12
LANCZOS_STEPS = 40  # the top eigenvalue to better than 1e-6
NET_SECONDS = 1.0  # nominal, on one core


# --- the task and the net: softmax(tanh(x A + a) B + b) -------------------------------------------


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


def initial(rng):
    """All parameters in one vector: normal weights of variance 1 / fan-in, biases 0."""
    first = rng.standard_normal((INPUTS, HIDDEN)) / math.sqrt(INPUTS)
    second = rng.standard_normal((HIDDEN, CLASSES)) / math.sqrt(HIDDEN)
    return np.concatenate([first.ravel(), np.zeros(HIDDEN), second.ravel(), np.zeros(CLASSES)])


def unpack(theta):
    """(A, a, B, b) as views."""
    shapes = (INPUTS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,)
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = np.split(theta, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def outputs(theta, inputs):
    A, a, B, b = unpack(theta)
    hidden = np.tanh(inputs @ A + a)
    return hidden, hidden @ B + b


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def accuracy(theta, inputs, classes):
    return float(np.mean(outputs(theta, inputs)[1].argmax(axis=1) == classes))


def loss(theta, inputs, targets):
    """Mean cross-entropy; targets are one-hot."""
    return -float(np.sum(log_softmax(outputs(theta, inputs)[1]) * targets)) / len(inputs)


def gradient(theta, inputs, targets):
    hidden, logits = outputs(theta, inputs)
    pull = (np.exp(log_softmax(logits)) - targets) / len(inputs)
    back = (pull @ unpack(theta)[2].T) * (1 - hidden * hidden)
    parts = inputs.T @ back, back.sum(axis=0), hidden.T @ pull, pull.sum(axis=0)
    return np.concatenate([part.ravel() for part in parts])


def gradient_error(theta, direction, data):
    """Relative error of the gradient along a direction, against differences of the loss."""
    ahead, behind = (loss(theta + sign * STEP * direction, *data) for sign in (1, -1))
    told, seen = float(gradient(theta, *data) @ direction), (ahead - behind) / (2 * STEP)
    return abs(told - seen) / max(abs(told), abs(seen))


# --- curvature ------------------------------------------------------------------------------------


def hvp(theta, direction, data):
    """Hessian times a direction of length one."""
    ahead, behind = (gradient(theta + sign * STEP * direction, *data) for sign in (1, -1))
    return (ahead - behind) / (2 * STEP)


def curvature_error(theta, direction, data):
    """Relative error of `hvp` along a direction, against second differences of the loss.

    A Gauss-Newton or Fisher matrix differs from the Hessian where the loss is not small.
    """
    ahead, here, behind = (loss(theta + sign * WIDE_STEP * direction, *data) for sign in (1, 0, -1))
    told = float(hvp(theta, direction, data) @ direction)
    seen = (ahead - 2 * here + behind) / WIDE_STEP**2
    return abs(told - seen) / max(abs(told), abs(seen))


def top_eigenvalue(product, start):
    """Largest eigenvalue of a symmetric operator, by Lanczos with full reorthogonalisation."""
    basis, diagonal, beside = [start / np.linalg.norm(start)], [], []
    for _ in range(LANCZOS_STEPS):
        image = product(basis[-1])
        diagonal.append(float(basis[-1] @ image))
        known = np.array(basis)
        for _ in range(2):  # twice is enough (Kahan)
            image = image - known.T @ (known @ image)
        beside.append(float(np.linalg.norm(image)))
        basis.append(image / beside[-1])
    off = np.diag(beside[:-1], 1)
    return float(np.linalg.eigvalsh(np.diag(diagonal) + off + off.T)[-1])


# --- the run --------------------------------------------------------------------------------------


def descend(theta, data, rng, rate, batch, target):
    """SGD until the whole training loss is at the target: (parameters, steps, loss)."""
    inputs, targets = data
    look_every = max(1, LOOK_EVERY // batch)
    for step in range(STEPS_MAX + 1):
        if step % look_every == 0:
            now = loss(theta, *data)
            if now <= target or step + look_every > STEPS_MAX:
                return theta, step, now
        chosen = rng.integers(0, SAMPLES, batch)
        theta = theta - rate * gradient(theta, inputs[chosen], targets[chosen])
    raise AssertionError("the last look returns")


def run_net(task, index):
    """One net: the same task and initial weights for every rate and batch."""
    parameters = task.parameters
    rate, batch = parameters["rates"][index], parameters["batches"][index]
    (inputs, classes), (test, truth) = draw_task(task.rng(0), parameters["separation"])
    data = inputs, np.eye(CLASSES)[classes]
    rng = task.rng(1)
    start, direction = initial(rng), rng.standard_normal(len(initial(rng)))
    theta, steps, now = descend(
        start, data, task.rng(10 + index), rate, batch, parameters["target_loss"]
    )
    unit = direction / np.linalg.norm(direction)
    right, known = accuracy(theta, test, truth), accuracy(theta, inputs, classes)
    return {
        "rate": rate, "batch": batch, "noise": rate / batch, "steps": steps, "loss": now,
        "curvature": top_eigenvalue(lambda v: hvp(theta, v, data), direction),
        "test_accuracy": right,
        "gap": known - right,
        "overlap": shared_samples(inputs, test),
        "start": top_eigenvalue(lambda v: hvp(start, v, data), direction) if index == 0 else 0.0,
        "gradient_error": max(
            gradient_error(theta, unit, data), curvature_error(theta, unit, data)
        ),
    }  # fmt: skip


def run(task):
    nets = min(len(task.parameters["rates"]), len(task.parameters["batches"]))
    count = int(np.clip(task.budget_seconds // NET_SECONDS, 1, nets))
    done = (task.restore() or {"done": []})["done"]
    for index in range(len(done), count):
        done.append(run_net(task, index))
        task.checkpoint({"done": done})
        task.progress(len(done) / count)
    return report(done, task.parameters["target_loss"])


def report(done, target):
    """The result. A net that did not run counts as 0, and the run is not valid."""
    of = [c["curvature"] for c in done] + [0.0] * 4
    tests = [c["test_accuracy"] for c in done] + [0.0] * 4
    gap = max(1 - c["loss"] / target for c in done)
    error = max(c["gradient_error"] for c in done)
    least = min(c["gap"] for c in done)
    overlap = sum(c["overlap"] for c in done)
    sane = (
        len(done) >= 4
        and overlap == 0
        and all(ARRIVED * target <= c["loss"] <= target for c in done)
        and min(c["test_accuracy"] for c in done) > 0.35  # chance is 0.2
        and error < 1e-4
        and least > GAP_MIN
    )
    inner = ("start", "gradient_error", "overlap", "gap")
    return {
        "valid": int(sane),
        "configs_done": len(done),
        "overlap": overlap,
        "noisy_curvature": of[0],
        "quiet_curvature": of[1],
        "flattening": min(of[0] / of[1], 2.0) if of[1] else 0.0,
        "same_ratio": min(of[3] / of[2], 2.0) if of[2] else 0.0,
        "noise_slope": float(np.clip(slope(done), -1, 1)),
        "noisy_test": tests[0],
        "quiet_test": tests[1],
        "test_gain": float(np.clip(tests[0] - tests[1], -CLIPPED, CLIPPED)),
        "least_gap": least,
        "worst_loss_gap": max(0.0, gap),
        "start_curvature": done[0]["start"],
        "gradient_error": min(1.0, error),
        "configs": [{k: v for k, v in c.items() if k not in inner} for c in done],
    }


def slope(done):
    """Least-squares power of lr/B in curvature; 0 where all nets have one lr/B."""
    noise, curvature = np.log([[c["noise"], c["curvature"]] for c in done]).T
    return float(np.polyfit(noise, curvature, 1)[0]) if np.ptp(noise) > 0 else 0.0
