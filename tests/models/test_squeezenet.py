"""SqueezeNet: sizes of its maps, fire modules, the bypass and its gates, initial values."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.convert import torchvision
from flaxarch.convert.rules import slots
from flaxarch.layers import Network
from flaxarch.models.squeezenet import SqueezeNet
from tests.reference import random_variables

BYPASSED = SqueezeNet(8, 3, (3, 4, 1), bypass=True, num_classes=5)
APPLY = jax.jit(partial(flaxarch.functional(BYPASSED).apply, train=False))


def create(name: str) -> SqueezeNet:
    model = flaxarch.create(name)
    assert isinstance(model, SqueezeNet)
    return model


def shapes(model: Network, size: int = 224) -> Any:
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)


@pytest.fixture(scope="module")
def params() -> Any:
    return random_variables(BYPASSED)[0]


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(0), (2, 17, 22, 3))


def logits(params: Any, images: jax.Array, gates: jax.Array | None = None) -> jax.Array:
    return APPLY(params, {}, images, gates=gates)[0]


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        # the paper's Table 1 pads the first convolution: 111, 55, 27, 13
        ("squeezenet1_0", {2: (109, 96), 4: (54, 256), 8: (27, 512), 16: (13, 512)}),
        ("squeezenet1_0_bypass", {2: (109, 96), 4: (54, 256), 8: (27, 512), 16: (13, 512)}),
        ("squeezenet1_1", {2: (111, 64), 4: (55, 128), 8: (27, 256), 16: (13, 512)}),
    ],
)
def test_maps_have_torchvisions_sizes(name: str, maps: dict):
    model = create(name)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    found = jax.eval_shape(flaxarch.features(model), *shapes(model), images)
    assert {stride: x.shape for stride, x in found.items()} == {
        stride: (1, side, side, features) for stride, (side, features) in maps.items()
    }


def test_fire_modules_are_those_of_table_1():
    params, _ = shapes(create("squeezenet1_0"))
    squeeze, expand1x1, expand3x3 = (
        [params[f"fire{i}"][name]["kernel"].shape for i in range(2, 10)]
        for name in ("squeeze", "expand1x1", "expand3x3")
    )
    assert [shape[3] for shape in squeeze] == [16, 16, 32, 32, 48, 48, 64, 64]
    assert [shape[2] for shape in squeeze] == [96, 128, 128, 256, 256, 384, 384, 512]
    assert [shape[3] for shape in expand1x1] == [64, 64, 128, 128, 192, 192, 256, 256]
    assert [shape[3] for shape in expand3x3] == [64, 64, 128, 128, 192, 192, 256, 256]
    assert {shape[:2] for shape in expand3x3} == {(3, 3)}


@pytest.mark.parametrize(("name", "smallest"), [("squeezenet1_0", 21), ("squeezenet1_1", 17)])
def test_smallest_image_is_torchvisions(name: str, smallest: int):
    model = create(name)
    assert shapes(model, smallest) == shapes(model)
    with pytest.raises(ValueError, match=f"this SqueezeNet needs images of at least {smallest}x{smallest}"):
        shapes(model, smallest - 1)


def test_no_logit_is_negative(params: Any, images: jax.Array):
    assert bool((logits(params, images) >= 0).all())


def test_gates_of_one_change_nothing(params: Any, images: jax.Array):
    np.testing.assert_allclose(
        logits(params, images, gates=jnp.ones(4)), logits(params, images), rtol=1e-5, atol=1e-6
    )


def test_gate_of_zero_takes_a_fire_module_out(params: Any, images: jax.Array):
    """Whatever its parameters are: and the bypass around the third is not that around the others."""
    for i, fire in enumerate((3, 5, 7, 9)):
        changed = params | {f"fire{fire}": jax.tree.map(lambda x: 2 * x + 1, params[f"fire{fire}"])}
        lesion = jnp.ones(4).at[i].set(0)
        found, expected = (logits(tree, images, gates=lesion) for tree in (changed, params))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert not np.allclose(logits(changed, images), logits(params, images), rtol=1e-2)


def test_network_without_bypass_has_no_gates():
    model = BYPASSED.clone(bypass=False)
    init = flaxarch.functional(model).init
    images = jnp.zeros((1, 32, 32, 3))
    params, _ = jax.eval_shape(init, jax.random.key(0), images)
    apply = partial(flaxarch.functional(model).apply, train=False)
    with pytest.raises(ValueError, match="without bypass takes neither gates nor survival_prob"):
        jax.eval_shape(apply, params, {}, images, gates=jnp.ones(4))
    with pytest.raises(ValueError, match="without bypass takes neither gates nor survival_prob"):
        jax.eval_shape(flaxarch.functional(model.clone(survival_prob=0.5)).init, jax.random.key(0), images)


def test_bypass_adds_no_parameter():
    assert shapes(create("squeezenet1_0_bypass")) == shapes(create("squeezenet1_0"))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("squeezenet1_0", [3, 4, 5, 7, 8, 9, 10, 12]), ("squeezenet1_1", [3, 4, 6, 7, 9, 10, 11, 12])],
)
def test_torch_names_count_pools(name: str, numbers: list[int]):
    model = create(name)
    rules = torchvision.squeezenet(model)
    names = {slot.name for slot in slots({"params": shapes(model)[0]}, rules)}
    found = {int(name.split(".")[1]) for name in names if "squeeze" in name}
    assert sorted(found) == numbers
    assert {"features.0.weight", "classifier.1.bias", "features.12.expand3x3.weight"} <= names


def test_initial_values_are_torchvisions():
    init = jax.jit(flaxarch.functional(SqueezeNet(64, 3, (1,), num_classes=100)).init)
    params, _ = init(jax.random.key(0), jnp.zeros((1, 17, 17, 3)))
    for kernel in params["conv1"]["kernel"], params["fire2"]["squeeze"]["kernel"]:
        bound = math.sqrt(6 / math.prod(kernel.shape[:3]))
        assert 0.97 * bound < jnp.abs(kernel).max() <= bound
        assert abs(kernel.std() / (bound / math.sqrt(3)) - 1) < 0.06
    assert abs(params["conv10"]["kernel"].std() / 0.01 - 1) < 0.05
    assert not any(x.any() for x in jax.tree.leaves(params) if x.ndim == 1)
