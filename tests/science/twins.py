"""Each experiment, broken on purpose: text that is put after its script and replaces a function.

shuffled_labels    training labels (or targets) say nothing about their inputs
another_test_set   test data are drawn from a task of their own
seed_ignored       every seed computes the same

None of them may come out as confirmed. They run at BUDGET_SECONDS, a part of the default budget;
so that their size is not what fails them, the sound experiment is run at the same budget beside.
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

_PIECES_SHUFFLED = """
_sound_task = draw_task


def draw_task(rng):
    (inputs, targets), test = _sound_task(rng)
    return (inputs, rng.permutation(targets)), test
"""

_PIECES_OTHER = """
_sound_task = draw_task


def draw_task(rng):
    return _sound_task(rng)[0], _sound_task(rng)[1]
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

BROKEN: dict[str, dict[str, str]] = {
    name: {"shuffled_labels": shuffled, "another_test_set": other, "seed_ignored": SEED_IGNORED}
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
        ("depth_and_width", _PIECES_SHUFFLED, _PIECES_OTHER),
        ("edge_of_chaos", *_BLOBS),
        ("eigenspectrum", _SPECTRUM_SHUFFLED, _SPECTRUM_OTHER),
        ("grokking", _GROK_SHUFFLED, _GROK_OTHER),
        ("loss_landscape_curvature", *_BLOBS),
        ("simplicity_bias", _SIMPLE_SHUFFLED, _SIMPLE_OTHER),
    )
}

#: Of twins, nominal: what is the least that still tests the claims.
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
    "grokking": 20.0,  # every arm: each is the others' control
    "loss_landscape_curvature": 4.0,  # the four nets that findings read
    "simplicity_bias": 2.0,  # every net: each is the others' control
    "sam_vs_sgd_v2": 12.0,  # both tasks, clean and noisy, at the first width and rate
}
