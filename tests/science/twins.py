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
    "sam_vs_sgd_v2": 12.0,  # both tasks, clean and noisy, at the first width and rate
}
