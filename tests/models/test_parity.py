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
from tests.golden.file import read, sketched, sketches
from tests.golden.record import RECORDED
from tests.models.parity import Filled, logits_error, sketch_errors

NETWORKS = [name for library in RECORDED.values() for name in library]
CLONES = ("resnet50, output stride 8", "resnet50d")  # fields of ResNet that no row has
ROWS = [name for name in NETWORKS if name not in CLONES]


class Case:
    """A golden file, and our network with the weights that it was recorded with."""

    def __init__(self, name: str):
        self.name, self.golden = name, read(name)
        self.ours = Filled(name, self.golden.shapes)


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    with jax.enable_x64(True):
        yield Case(request.param)


each_network = pytest.mark.parametrize("case", NETWORKS, indirect=True)
each_row = pytest.mark.parametrize("case", ROWS, indirect=True)


def quick_form(case: Case) -> contextlib.AbstractContextManager[None]:
    """The CPU's form of operations, but not for ResNeXt-50, whose 32 groups it takes a minute to compile.

    ResNeXt-29, with 8 groups, does that form's gradients here, and `test_parity_live.py` those of all.
    """
    return use_native_forms(case.name == "resnext50_32x4d")


@each_network
def test_logits_equal_the_originals(case: Case):
    images = fill.images(*case.golden.images[0])
    assert logits_error(case.ours.logits(images), case.golden.evaluations[0].logits) < 1e-9


@each_row
def test_logits_of_odd_sizes_equal_the_originals_in_lax_own_forms(case: Case):
    images = fill.images(*case.golden.images[1])
    with use_native_forms(True):
        found = case.ours.logits(images)
    assert logits_error(found, case.golden.evaluations[1].logits) < 1e-9


@each_row
def test_float32_logits_equal_the_originals(case: Case):
    with quick_form(case):
        found = case.ours.float32_logits(fill.images(*case.golden.images[1]))
    assert found.dtype == np.float32
    assert logits_error(found, case.golden.evaluations[1].logits) < 1e-4


@pytest.mark.parametrize("case", ["resnet50", "resnet20", "wrn_16_4"], indirect=True)
def test_activations_after_each_stage_equal_the_originals(case: Case):
    found = sketches(case.ours.stages(fill.images(*case.golden.images[1])))
    errors = sketch_errors(found, case.golden.evaluations[1].stages)
    assert all(error < 1e-9 for error in errors.values()), errors


@pytest.mark.parametrize(
    "case",
    [*ROWS, *(pytest.param(name, marks=pytest.mark.slow) for name in CLONES)],
    indirect=True,
)
def test_a_training_step_equals_the_originals(case: Case):
    golden = case.golden
    with quick_form(case):
        found = case.ours.train(fill.images(*golden.batch), fill.labels(golden.batch[0], golden.num_classes))
    found = sketched(found)
    expected = golden.training
    assert abs(found.loss - expected.loss) < 1e-8 * abs(expected.loss)
    for kind in ("gradients", "statistics"):
        errors = sketch_errors(getattr(found, kind), getattr(expected, kind))
        wrong = {key: error for key, error in errors.items() if not error < 1e-8}
        assert not wrong, f"{kind} differ: {wrong}"
