"""Kernel change: does training change the tangent kernel of one small network?

    axiom-client try experiments/kernel_change.py --seed 1 --param width=64 --param alpha=0.1

One cell of the map that `feature_learning_phase` draws whole: a network of one hidden layer, its
centred output multiplied by alpha (Chizat, Oyallon & Bach 2019), trained by gradient flow to a
fixed loss. It costs tens of milliseconds, so that a study can spend a workunit on each width, alpha
and seed, and refine the grid along the border between the phases (``experiments/studies``).

Every cell of one seed has the same task. The gate: the loss was reached, and, if the kernel hardly
changed, the trained net agrees with the net linearised at its start.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy"]
#
# [tool.axiom]
# name = "kernel_change"
# version = "1.0.0"
# title = "Kernel change of one network"
# question = "How much does training change the tangent kernel, by width and output scale?"
# rationale = [
#   "A whole map in one run cannot be refined where it matters; one cell a workunit can.",
#   "The border between lazy and rich has an exponent known from theory, alpha ~ width^-1/2.",
# ]
# references = [
#   "Chizat, Oyallon & Bach 2019, NeurIPS: on lazy training in differentiable programming",
#   "Geiger, Spigler, Jacot & Wyart 2020, J. Stat. Mech. 113301: feature and lazy training",
# ]
# resources = { cpu_cores = 1, memory_bytes = 300_000_000, disk_bytes = 1_000_000 }
# expected_seconds = 1
#
# [tool.axiom.parameters.width]
# default = 64
# min = 4
# max = 1024
# about = "hidden units"
#
# [tool.axiom.parameters.alpha]
# default = 1.0
# min = 0.01
# max = 100.0
# about = "output scale"
#
# [tool.axiom.parameters.samples]
# default = 32
# min = 8
# max = 512
#
# [tool.axiom.parameters.target_loss]
# default = 0.05
# min = 1e-4
# max = 0.5
# about = "mean squared error, relative to the targets', at which training stops"
#
# [tool.axiom.result]
# valid = { kind = "flag", about = "trained to the loss; agrees with its linearisation where lazy" }
# configs_done = { kind = "integer", min = 1, max = 1 }
# log_kernel_change = { min = -5, max = 3, atol = 1e-4, about = "log10 |K - K0| / |K0|" }
# log_movement = { min = -5, max = 3, atol = 1e-4, about = "log10 |w - w0| / |w0|" }
# alignment = { min = -1, max = 1, atol = 1e-4, about = "of the final kernel with the target" }
# linear_gap = { min = 0, rtol = 1e-3, about = "from the linearised net's output, relative" }
# steps = { min = 0, rtol = 0.02, unit = "step" }
# ///

import math

import numpy as np

INPUTS = 6  # the target uses two of them
STEP_FRACTION = 0.5  # of 1 / curvature: a quarter of the stability limit, so Euler follows the flow
MOVE_FRACTION = 0.02  # largest relative movement of a step: for small alpha the flow is curved
CURVATURE_EVERY = 10  # steps; the curvature changes by a few percent meanwhile
STEPS_MAX = 4000
LAZY_CHANGE = 0.02  # a kernel that changed less must follow the linearised net ...
LAZY_GAP = 0.1  # ... as closely as this
TASK, WEIGHTS = 0, 1  # random streams


def product_task(rng, count):
    """Inputs (count, INPUTS) on the unit sphere, targets x1 x2 (count,), scaled to order 1."""
    inputs = rng.standard_normal((count, INPUTS))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    return inputs, INPUTS * inputs[:, 0] * inputs[:, 1]


def initial_weights(rng, width):
    """W (h, INPUTS) and a (h,), standard normal: the parameterisation of the tangent kernel."""
    return rng.standard_normal((width, INPUTS)), rng.standard_normal(width)


def forward(inputs, hidden, output):
    """Activity (samples, h) and f (samples,)."""
    active = (inputs @ hidden.T).clip(0.0)
    return active, active @ output / math.sqrt(len(output))


def gradient(inputs, active, output, slope):
    """d(loss)/dW and d(loss)/da from d(loss)/df, ``slope`` (samples,)."""
    slope = slope / math.sqrt(len(output))
    return ((active > 0) * output * slope[:, None]).T @ inputs, active.T @ slope


def tangent_kernel(inputs, active, output):
    """K(x, x') = grad f(x) . grad f(x'), (samples, samples)."""
    gates = (active > 0) * output
    return (active @ active.T + (inputs @ inputs.T) * (gates @ gates.T)) / len(output)


def alignment(kernel, targets):
    """Cosine between the centred kernel and the centred y y' (Cortes et al. 2012, JMLR 13)."""
    centred = kernel - kernel.mean(0)
    centred = centred - centred.mean(1)[:, None]
    y = targets - targets.mean()
    return float(y @ centred @ y / (norm(centred) * (y @ y)))


def norm(*parts):
    """The Euclidean norm of all numbers of these arrays together."""
    return math.sqrt(sum(float(part.ravel() @ part.ravel()) for part in parts))


def flow(data, hidden, output, alpha, target_loss):
    """Train until the relative loss is below ``target_loss``.

    Returns the weights, the steps, whether the loss was reached, and the relative distance of the
    output from that of the net linearised at its start after the same steps.
    """
    inputs, targets = data
    count = len(targets)
    active, start = forward(inputs, hidden, output)
    first_kernel = tangent_kernel(inputs, active, output)
    linear = -targets  # residual of the linearised net
    for step in range(STEPS_MAX + 1):
        active, now = forward(inputs, hidden, output)
        residual = alpha * (now - start) - targets
        reached = residual @ residual < target_loss * (targets @ targets)
        if reached or step == STEPS_MAX:
            break
        if step % CURVATURE_EVERY == 0:
            curvature = np.linalg.eigvalsh(tangent_kernel(inputs, active, output))[-1] / count
        d_hidden, d_output = gradient(inputs, active, output, alpha * residual / count)
        rate = min(
            STEP_FRACTION / (alpha**2 * curvature),
            MOVE_FRACTION * norm(hidden, output) / norm(d_hidden, d_output),
        )
        linear = linear - rate * alpha**2 / count * (first_kernel @ linear)
        hidden, output = hidden - rate * d_hidden, output - rate * d_output
    return hidden, output, step, bool(reached), norm(residual - linear) / norm(targets)


def run(task):
    p = task.parameters
    data = inputs, targets = product_task(task.rng(TASK), p["samples"])
    first = initial_weights(task.rng(WEIGHTS), p["width"])
    before = tangent_kernel(inputs, forward(inputs, *first)[0], first[1])
    hidden, output, steps, reached, gap = flow(data, *first, p["alpha"], p["target_loss"])
    after = tangent_kernel(inputs, forward(inputs, hidden, output)[0], output)
    change = norm(after - before) / norm(before)
    moved = norm(hidden - first[0], output - first[1]) / norm(*first)
    task.progress(1.0)
    return {
        "valid": int(reached and (change > LAZY_CHANGE or gap < LAZY_GAP)),
        "configs_done": 1,
        "log_kernel_change": float(np.clip(np.log10(change), -5, 3)),
        "log_movement": float(np.clip(np.log10(moved), -5, 3)),
        "alignment": alignment(after, targets),
        "linear_gap": float(gap),
        "steps": float(steps),
    }
