"""Our networks equal the originals: against golden files, in evaluation and in training.

A file is recorded anew by `python -m tests.golden.record`, only where the library's own numbers have changed.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from flaxarch.ops import use_native_forms
from tests.golden import fill
from tests.golden.families.every import CASES, GOLDEN
from tests.golden.file import read, sketched, sketches
from tests.models.parity import Filled, logits_error, sketch_errors

# Half a minute each of compiling gradients; all that they are made of trains in other cases.
SLOW_TRAINING = ("inception_v3", "dpn68", "googlenet", "xception", "resnext29_8x64d")


def params(names: list[str], slow: tuple[str, ...] = ()) -> list:
    """Names of cases as parameters of a test."""
    marked = pytest.mark.slow
    return [pytest.param(x, marks=marked) if CASES[x].slow or x in slow else x for x in names]


class Case:
    """A golden file, and our network with the weights that it was recorded with."""

    def __init__(self, name: str):
        self.name, self.golden = name, read(name)
        self.ours = Filled(name, self.golden.shapes)
        self.channels = CASES[name].channels

    def images(self, i: int) -> np.ndarray:
        """Those of the i-th evaluation."""
        return fill.images(*self.golden.images[i], self.channels)


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    with jax.enable_x64(True):
        yield Case(request.param)


each_case = pytest.mark.parametrize("case", params(GOLDEN), indirect=True)
each_case_of_two_sizes = pytest.mark.parametrize(
    "case", params([name for name in GOLDEN if len(CASES[name].evaluation) > 1]), indirect=True
)


def quick_form(case: Case) -> contextlib.AbstractContextManager[None]:
    """The CPU's form of operations, but for networks of many groups, which it takes minutes to compile.

    ResNeXt-29, with 8 groups, does that form's gradients if asked, and `test_parity_live.py` those of all.
    """
    return use_native_forms(CASES[case.name].lax)


@each_case
def test_logits_equal_the_originals(case: Case):
    with quick_form(case):
        found = case.ours.logits(case.images(0))
    assert logits_error(found, case.golden.evaluations[0].logits) < 1e-9


@each_case_of_two_sizes
def test_logits_and_stages_of_odd_sizes_equal_the_originals_in_lax_own_forms(case: Case):
    with use_native_forms(True):
        found = case.ours.evaluate(case.images(1))
    expected = case.golden.evaluations[1]
    assert logits_error(found.logits, expected.logits) < 1e-9
    stages = sketches({stride: found.stages[stride] for stride in expected.stages})
    errors = sketch_errors(stages, expected.stages) if stages else {}
    assert all(error < 1e-9 for error in errors.values()), errors


# In float32 a network differs from its float64 self by rounding alone: a few are enough by default.
FLOAT32 = ("resnet18", "resnet20", "resnet50_keras")


@pytest.mark.parametrize(
    "case",
    [name if name in FLOAT32 else pytest.param(name, marks=pytest.mark.slow) for name in GOLDEN],
    indirect=True,
)
def test_float32_logits_equal_the_originals(case: Case):
    with quick_form(case):
        found = case.ours.float32_logits(case.images(-1))
    assert found.dtype == np.float32
    assert logits_error(found, case.golden.evaluations[-1].logits) < 1e-4


@pytest.mark.parametrize("case", params(GOLDEN, SLOW_TRAINING), indirect=True)
def test_a_training_step_equals_the_originals(case: Case):
    golden = case.golden
    with quick_form(case):
        images = fill.images(*golden.batch, case.channels)
        found = case.ours.train(images, fill.labels(golden.batch[0], golden.num_classes))
    found = sketched(found)
    expected = golden.training
    assert abs(found.loss - expected.loss) < 1e-8 * abs(expected.loss)
    for kind in ("gradients", "statistics"):
        errors = sketch_errors(getattr(found, kind), getattr(expected, kind))
        wrong = {key: error for key, error in errors.items() if not error < 1e-8}
        assert not wrong, f"{kind} differ: {wrong}"
