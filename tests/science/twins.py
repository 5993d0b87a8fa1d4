"""Broken copies ("twins") of the experiments: text that is appended to a script and replaces a
function.

shuffled_labels    training labels (or targets) do not depend on their inputs
another_test_set   test data are drawn from another task
seed_ignored       every seed computes the same
test_is_training   the test set repeats the training set

No finding of them may be confirmed. They run with BUDGET_SECONDS, a part of the default budget. To
show that they do not fail because of this, the sound experiment runs with the same budget too.
"""

from __future__ import annotations

SEED_IGNORED = """
_sound_run = run


def run(task):
    task.seed = 42
    return _sound_run(task)
"""

_SHUFFLED_TARGETS = """
_sound_data = make_data


def make_data(rng):
    data = _sound_data(rng)
    return data | {"targets": rng.permutation(data["targets"])}
"""

_OTHER_TEST_TARGETS = """
_sound_data = make_data


def make_data(rng):
    data, other = _sound_data(rng), _sound_data(rng)
    return data | {key: other[key] for key in ("test_inputs", "test_targets")}
"""

_SHUFFLED_CLASSES = """
_sound_draw = {draw}


def {draw}(rng, centres, count):
    inputs, classes = _sound_draw(rng, centres, count)
    return inputs, rng.permutation(classes) if count == SAMPLES else classes
"""

_OTHER_CENTRES = """
_sound_draw = {draw}


def {draw}(rng, centres, count):
    here = centres if count == SAMPLES else rng.standard_normal(centres.shape)
    return _sound_draw(rng, here, count)
"""

_RANK_SHUFFLED = """
_sound_draw = draw_task


def draw_task(rng):
    (x, y), test = _sound_draw(rng)
    return (x, rng.permutation(y)), test
"""

_RANK_OTHER = """
_sound_draw = draw_task


def draw_task(rng):
    return _sound_draw(rng)[0], _sound_draw(rng)[1]
"""

_FEATURE_SHUFFLED = """
_sound_task = product_task


def product_task(rng, count):
    inputs, targets = _sound_task(rng, count)
    return inputs, rng.permutation(targets) if count < TEST_SAMPLES else targets
"""

_FEATURE_OTHER = """
_sound_task = product_task


def product_task(rng, count):
    inputs, targets = _sound_task(rng, count)
    rotation, _ = np.linalg.qr(rng.standard_normal((INPUTS, INPUTS)))  # another in every draw
    return inputs @ rotation, targets
"""

_SAM_SHUFFLED = """
_sound_data = make_data


def make_data(rng, task_is_spiral, noise):
    (x, y), held_out, test = _sound_data(rng, task_is_spiral, noise)
    return [(x, rng.permutation(y)), held_out, test]
"""

_SAM_OTHER = """
_sound_data = make_data


def make_data(rng, task_is_spiral, noise):
    train, held_out, _ = _sound_data(rng, task_is_spiral, noise)
    return [train, held_out, _sound_data(rng, 1 - task_is_spiral, noise)[2]]
"""

_GROK_SHUFFLED = """
_sound_arm = draw_arm


def draw_arm(arm, rng, parameters):
    (pairs, classes), test = _sound_arm(arm, rng, parameters)
    return (pairs, rng.permutation(classes)), test
"""

_GROK_OTHER = """
_sound_arm = draw_arm


def draw_arm(arm, rng, parameters):
    train, (pairs, _) = _sound_arm(arm, rng, parameters)
    return train, (pairs, (pairs[:, 0] - pairs[:, 1]) % DIGITS)
"""

_SIMPLE_SHUFFLED = """
_sound_draw = draw


def draw(rng, count, net, parameters):
    inputs, classes = _sound_draw(rng, count, net, parameters)
    return inputs, rng.permutation(classes) if count == SAMPLES else classes
"""

_SIMPLE_OTHER = """
_sound_draw = draw


def draw(rng, count, net, parameters):
    inputs, classes = _sound_draw(rng, count, net, parameters)
    return (inputs, classes) if count == SAMPLES else (inputs, 1 - classes)
"""

_SPECTRUM_SHUFFLED = """
_sound_task = draw_task


def draw_task(rng, count):
    directions, (inputs, targets), test = _sound_task(rng, count)
    return directions, (inputs, rng.permutation(targets)), test
"""

_SPECTRUM_OTHER = """
_sound_task = draw_task


def draw_task(rng, count):
    directions, train, _ = _sound_task(rng, count)
    return directions, train, _sound_task(rng, count)[2]
"""

_BLOBS = _SHUFFLED_CLASSES.format(draw="blobs"), _OTHER_CENTRES.format(draw="blobs")

_REPEATED_CLASSES = """
_sound_draw = {draw}
_trained_on = None


def {draw}(rng, *given):
    global _trained_on
    count = given[{place}]
    if count < TEST_SAMPLES:
        _trained_on = _sound_draw(rng, *given)
        return _trained_on
    rows = np.arange(count) % len(_trained_on[1])
    return tuple(part[..., rows] if part.shape[0] != len(_trained_on[1]) else part[rows]
                 for part in _trained_on)
"""

_REPEATED_TARGETS = """
_sound_data = make_data


def make_data(rng):
    data = _sound_data(rng)
    rows = np.arange(TEST_SAMPLES) % SAMPLES
    return data | {"test_inputs": data["inputs"][rows], "test_targets": data["targets"][rows]}
"""

_REPEATED_PAIR = """
_sound_draw = draw_task


def draw_task(rng):
    train, _ = _sound_draw(rng)
    return train, train
"""

_REPEATED_SPECTRUM = """
_sound_draw = draw_task


def draw_task(rng, count):
    directions, (inputs, targets), _ = _sound_draw(rng, count)
    return directions, (inputs, targets), (inputs[:TEST_SAMPLES], targets[:TEST_SAMPLES])
"""

_REPEATED_ARM = """
_sound_arm = draw_arm


def draw_arm(arm, rng, parameters):
    train, _ = _sound_arm(arm, rng, parameters)
    return train, train
"""

_REPEATED_SETS = """
_sound_data = make_data


def make_data(rng, task_is_spiral, noise):
    (x, y), held_out, _ = _sound_data(rng, task_is_spiral, noise)
    rows = np.arange(TEST_SAMPLES) % SAMPLES
    return [(x, y), held_out, (x[rows], y[rows])]
"""

_BLOBS_REPEATED = _REPEATED_CLASSES.format(draw="blobs", place=1)

REPEATED: dict[str, str] = {
    "activation_functions": _BLOBS_REPEATED,
    "catapult_phase": _REPEATED_TARGETS,
    "depth_and_width": _REPEATED_PAIR,
    "double_descent_v2": _BLOBS_REPEATED,
    "edge_of_chaos": _BLOBS_REPEATED,
    "eigenspectrum": _REPEATED_SPECTRUM,
    "feature_learning_phase": _REPEATED_CLASSES.format(draw="product_task", place=0),
    "grokking": _REPEATED_ARM,
    "loss_landscape_curvature": _BLOBS_REPEATED,
    "progressive_sharpening": _REPEATED_TARGETS,
    "rank_dynamics": _REPEATED_PAIR,
    "rank_lottery": _REPEATED_CLASSES.format(draw="clusters", place=1),
    "sam_vs_sgd_v2": _REPEATED_SETS,
    "simplicity_bias": _REPEATED_CLASSES.format(draw="draw", place=0),
}

BROKEN: dict[str, dict[str, str]] = {
    name: {
        "shuffled_labels": shuffled,
        "another_test_set": other,
        "seed_ignored": SEED_IGNORED,
        "test_is_training": REPEATED[name],
    }
    for name, shuffled, other in (
        ("catapult_phase", _SHUFFLED_TARGETS, _OTHER_TEST_TARGETS),
        (
            "double_descent_v2",
            _SHUFFLED_CLASSES.format(draw="blobs"),
            _OTHER_CENTRES.format(draw="blobs"),
        ),
        ("feature_learning_phase", _FEATURE_SHUFFLED, _FEATURE_OTHER),
        ("progressive_sharpening", _SHUFFLED_TARGETS, _OTHER_TEST_TARGETS),
        ("rank_dynamics", _RANK_SHUFFLED, _RANK_OTHER),
        (
            "rank_lottery",
            _SHUFFLED_CLASSES.format(draw="clusters"),
            _OTHER_CENTRES.format(draw="clusters"),
        ),
        ("sam_vs_sgd_v2", _SAM_SHUFFLED, _SAM_OTHER),
        ("activation_functions", *_BLOBS),
        ("depth_and_width", _RANK_SHUFFLED, _RANK_OTHER),
        ("edge_of_chaos", *_BLOBS),
        ("eigenspectrum", _SPECTRUM_SHUFFLED, _SPECTRUM_OTHER),
        ("grokking", _GROK_SHUFFLED, _GROK_OTHER),
        ("loss_landscape_curvature", *_BLOBS),
        ("simplicity_bias", _SIMPLE_SHUFFLED, _SIMPLE_OTHER),
    )
}

_TESTED_ON_TRAINING = """
_sound_task, _sound_{measure} = draw_task, {measure}


def draw_task(*given):
    global _trained_on
    _trained_on, test = _sound_task(*given)
    return _trained_on, test


def {measure}(net, *given):
    return _sound_{measure}(net, {trained_on}, *given[{rest}:])
"""

#: Further faults of single experiments, each detected by a gate: `valid` is 0.
FAULTS: dict[str, dict[str, str]] = {
    "double_descent_v2": {
        "wrong_labels_in_the_test_set": """
_sound_blobs = blobs


def blobs(rng, centres, count):
    inputs, classes = _sound_blobs(rng, centres, count)
    wrong = (rng.random(count) < 0.2) & (count == TEST_SAMPLES)
    return inputs, np.where(wrong, (classes + 1) % CLASSES, classes)
""",
    },
    "feature_learning_phase": {
        "uncentred_alignment": """
def alignment(kernel, targets):
    return float(targets @ kernel @ targets / (norm(kernel) * (targets @ targets)))
""",
    },
    "progressive_sharpening": {
        "gauss_newton_for_the_hessian": """
_sound_hvp = hvp


def hvp(theta, direction, data, width, seen):
    first, second, slope1, slope2, pull, back1, back2, delta2 = seen
    fitted = (first, second, slope1, slope2, 0 * pull, 0 * back1, 0 * back2, 0 * delta2)
    return _sound_hvp(theta, direction, data, width, fitted)
""",
    },
    "rank_dynamics": {
        "he_arm_at_a_tenth_of_the_rate": """
_sound_step = sgd_step


def sgd_step(xp, weights, updates, outputs, deltas, x, y, rates, zero):
    tenth = rates.copy() if hasattr(rates, "copy") else rates.clone()
    tenth[1 :: len(ARMS)] *= 0.1
    return _sound_step(xp, weights, updates, outputs, deltas, x, y, tenth, zero)
""",
        "rank_of_centred_weights": """
_sound_rank = stable_rank


def stable_rank(matrices):
    return _sound_rank(matrices - matrices.mean(axis=1, keepdims=True))
""",
    },
    "activation_functions": {
        "accuracy_of_training_data": _TESTED_ON_TRAINING.format(
            measure="accuracy", trained_on="*_trained_on", rest=2
        ),
        "relu_for_sigmoid_in_two_layers": """
_sound_learnt = learnt


def learnt(task, depth, activation):
    return _sound_learnt(task, task.parameters["depth"], activation)
""",
    },
    "depth_and_width": {
        "error_of_training_data": _TESTED_ON_TRAINING.format(
            measure="test_error", trained_on="_trained_on", rest=1
        ),
        "breaks_of_the_last_layer_alone": """
def breaks(net, start, end):
    state = np.stack([start, end])
    for weight, bias in net[:-2]:
        state = (state @ weight + bias).clip(0.0)
    at, _ = with_zeros(np.array([0.0, 1.0]), state @ net[-2][0] + net[-2][1])
    return at[1:-1]
""",
    },
    "edge_of_chaos": {
        "accuracy_of_training_data": _TESTED_ON_TRAINING.format(
            measure="accuracy", trained_on="*_trained_on", rest=2
        ),
        "labels_of_the_test_set_noisy": """
_sound_blobs = blobs


def blobs(rng, centres, count):
    inputs, classes = _sound_blobs(rng, centres, count)
    wrong = (rng.random(count) < 0.3) & (count == TEST_SAMPLES)
    return inputs, np.where(wrong, (classes + 1) % CLASSES, classes)
""",
    },
    "eigenspectrum": {
        "bulk_of_twice_the_variance": """
_sound_initial = initial


def initial(rng, outputs):
    first, second = _sound_initial(rng, outputs)
    return 1.4 * first, second
""",
    },
    "grokking": {
        "no_rule_in_the_plentiful_arm": """
_sound_arm = draw_arm


def draw_arm(arm, rng, parameters):
    (pairs, classes), test = _sound_arm(arm, rng, parameters)
    return (pairs, rng.permutation(classes) if arm == PLENTY else classes), test
""",
    },
    "loss_landscape_curvature": {
        "accuracy_of_training_data": _TESTED_ON_TRAINING.format(
            measure="accuracy", trained_on="*_trained_on", rest=2
        ),
        "gauss_newton_for_the_hessian": """
def hvp(theta, direction, data):
    inputs, _ = data
    ahead, behind = (outputs(theta + sign * STEP * direction, inputs)[1] for sign in (1, -1))
    odds = np.exp(log_softmax(outputs(theta, inputs)[1]))
    moved = odds * (ahead - behind) / (2 * STEP)
    pull = (moved - odds * moved.sum(axis=1, keepdims=True)) / len(inputs)
    hidden, _ = outputs(theta, inputs)
    back = (pull @ unpack(theta)[2].T) * (1 - hidden * hidden)
    parts = inputs.T @ back, back.sum(axis=0), hidden.T @ pull, pull.sum(axis=0)
    return np.concatenate([part.ravel() for part in parts])
""",
        "gradient_of_half_the_loss": """
_sound_gradient = gradient


def gradient(theta, inputs, targets):
    return 0.5 * _sound_gradient(theta, inputs, targets)
""",
        "equal_steps_in_place_of_equal_loss": """
def descend(theta, data, rng, rate, batch, target):
    for _ in range(1000):
        chosen = rng.integers(0, SAMPLES, batch)
        theta = theta - rate * gradient(theta, *(part[chosen] for part in data))
    return theta, 1000, loss(theta, *data)
""",
    },
    "rank_lottery": {
        "accuracy_of_training_data": """
_sound_clusters, _sound_accuracy = clusters, accuracy


def clusters(rng, centres, count):
    global _trained_on
    drawn = _sound_clusters(rng, centres, count)
    if count == SAMPLES:
        _trained_on = drawn
    return drawn


def accuracy(flat, inputs, classes):
    return _sound_accuracy(flat, *(_trained_on if len(flat) == len(ARMS) else (inputs, classes)))
""",
        "no_rewinding": """
_sound_train = train


def with_permuted_magnitudes(rng, net, mask):
    global _trained
    net[:] = _trained
    return net.copy()


def train(nets, masks, data, batches, learning_rate, device="cpu"):
    global _trained
    found = _sound_train(nets, masks, data, batches, learning_rate, device)
    if len(nets) == 2:
        _trained = found[0]
    return found
""",
        "new_weights_of_half_the_scale": """
_sound_initial, _drawn = initial_net, [0]


def initial_net(rng):
    _drawn[0] += 1
    return _sound_initial(rng) * (1.0 if _drawn[0] % (ROUNDS + 1) == 1 else 0.5)
""",
        "signs_are_not_kept": """
def with_permuted_magnitudes(rng, net, mask):
    return rng.permutation(net)
""",
    },
    "sam_vs_sgd_v2": {
        "fisher_for_the_hessian": """
def hvp(U, v, x, y):
    slope, active, f = (part[0] for part in forward(U[None], v[None], x))
    p = sigmoid(f)
    bend, split = p * (1 - p) / len(y), math.prod(U.shape)

    def product(direction):
        dU, dv = direction[:split].reshape(U.shape), direction[split:]
        moved = bend * (((x @ dU) * slope) @ v + active @ dv)
        hU = x.T @ (slope * (moved[:, None] * v))
        return library(U).concat([hU.ravel(), active.T @ moved])

    return product
""",
        "wrong_labels_in_the_test_set": """
_sound_data = make_data


def make_data(rng, task_is_spiral, noise):
    *seen, (x, y) = _sound_data(rng, task_is_spiral, noise)
    return [*seen, (x, np.where(rng.random(len(y)) < noise, 1 - y, y))]
""",
        "equal_cost_of_half_the_gradients": """
_sound_sgd = train_sgd


def train_sgd(U, v, x, y, rate, batches, held_out):
    return _sound_sgd(U, v, x, y, rate, batches[: len(batches) // 2], held_out)
""",
    },
    "simplicity_bias": {
        "nothing_is_shuffled": """
def shuffled(rng, inputs, columns):
    return inputs
""",
    },
}

#: Faults that no gate can detect, but that make a finding fail: (finding, how it is broken). A
#: single seed does not meet the criterion, so many seeds are not confirmed.
FALSIFIED: dict[str, dict[str, tuple[str, str]]] = {
    "activation_functions": {
        "sigmoid_in_the_place_of_the_rescaled_one": (
            "not_saturation",
            """
ACTIVATIONS = [ACTIVATIONS[0] if i == RESCALED else a for i, a in enumerate(ACTIVATIONS)]
""",
        ),
    },
    "catapult_phase": {
        "rates_halved": (
            "spike_above_the_edge",
            """
_sound_descend = descend


def descend(data, first, second, rate, steps):
    return _sound_descend(data, first, second, rate / 2, steps)
""",
        ),
        "kernel_of_the_second_layer_alone": (
            "no_spike_below_the_edge",
            """
def top_kernel_eigenvalue(gram, active, slope, second):
    return float(np.linalg.eigvalsh(active @ active.T)[-1]) / len(gram)
""",
        ),
    },
    "depth_and_width": {
        "every_layer_has_all_units": (
            "depth_hardly_matters",
            """
_sound_initial = initial


def initial(rng, units, depth, bias):
    return _sound_initial(rng, units * depth, depth, bias)
""",
        ),
    },
    "double_descent_v2": {
        "labels_of_the_clean_arm_wrong_too": (
            "noise_raises_peak",
            """
_sound_noisy = noisy


def noisy(classes, share, luck, shift):
    return _sound_noisy(classes, 0.2, luck, shift)
""",
        ),
    },
    "edge_of_chaos": {
        "no_biases": (
            "critical_where_theory_says",
            """
_sound_probe = probe


def probe(rng, bias, device):
    return _sound_probe(rng, 0.0 * bias, device)
""",
        ),
    },
    "grokking": {
        "no_decay_in_any_arm": (
            "the_rule_is_learnt",
            """
_sound_step = adamw_step


def adamw_step(weights, gradients, moments, step, decay):
    _sound_step(weights, gradients, moments, step, 0.0)
""",
        ),
    },
    "progressive_sharpening": {
        "linear_task_of_the_others_targets": (
            "no_sharpening_of_a_linear_task",
            """
_sound_data = make_data


def make_data(rng):
    data = _sound_data(rng)
    return data | {"linear": data["targets"]}
""",
        ),
    },
    "rank_dynamics": {
        "small_arm_from_the_scale_of_he": (
            "small_init_compresses",
            """
def scale(arm, matrix, init_sd):
    return matrix * math.sqrt(2 / len(matrix))
""",
        ),
        "ranks_jump_at_once": (
            "no_sharp_step_in_log_time",
            """
_sound_ranks = relative_ranks


def relative_ranks(early, net, precision):
    curve = _sound_ranks(early, net, precision)
    return [curve[0 if i < len(curve) // 2 else -1] for i in range(len(curve))]
""",
        ),
    },
    "sam_vs_sgd_v2": {
        "sam_without_its_step_uphill": (
            "flatter_at_every_rho",
            """
def uphill(U, v, dU, dv, rho):
    return U, v
""",
        ),
    },
    "simplicity_bias": {
        "linear_coordinate_wrong_in_a_tenth": (
            "without_linear_nothing_is_left",
            """
_sound_linear = linear_feature


def linear_feature(rng, classes, margin):
    wrong = rng.random(len(classes)) < 0.1
    return _sound_linear(rng, np.where(wrong, 1 - classes, classes), margin)
""",
        ),
    },
}

#: Budgets of the broken copies: the smallest with which the findings are still tested.
BUDGET_SECONDS: dict[str, float] = {
    "catapult_phase": 2.5,  # all rates at the first width
    "double_descent_v2": 12.0,  # one trial of four
    "feature_learning_phase": 4.0,  # one trial of eight
    "progressive_sharpening": 17.0,  # all rates at the first width
    "rank_dynamics": 3.7,  # the shallow net at every rate
    "rank_lottery": 5.0,  # one trial of eight
    "activation_functions": 20.0,  # every activation: each is the others' control
    "depth_and_width": 4.0,  # two numbers of units at every depth
    "edge_of_chaos": 22.0,  # the three scales that findings read
    "eigenspectrum": 4.0,  # one and two directions
    "kernel_change": 1.0,  # one network
    "grokking": 20.0,  # every arm: each is the others' control
    "loss_landscape_curvature": 4.0,  # the four nets that findings read
    "simplicity_bias": 2.0,  # every net: each is the others' control
    "sam_vs_sgd_v2": 12.0,  # both tasks, clean and noisy, at the first width and rate
}


#: Experiments that come to the same bits on every processor, without the rounding that does it.
UNROUNDED: dict[str, dict[str, str]] = {
    "grokking": {
        "unrounded": """

def rounded(array, step):
    return array
"""
    },
}


def broken(name: str, twin: str) -> str:
    """The text that breaks an experiment so: a key of BROKEN, FAULTS, FALSIFIED or UNROUNDED."""
    falsified = {twin: text for twin, (_, text) in FALSIFIED.get(name, {}).items()}
    return {
        **BROKEN[name], **FAULTS.get(name, {}), **falsified, **UNROUNDED.get(name, {}),
    }[twin]  # fmt: skip
