"""The pure pair of a model: what it keeps, what it moves, and what it refuses."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.layers import Network
from flaxarch.models.cifar_resnet import CifarResNet, stage_sizes
from tests.reference import random_variables

MODELS = {
    "basic": CifarResNet(stage_sizes(8)),
    "bottleneck": flaxarch.create("resnext29_8x64d").clone(stage_sizes=(1, 1, 1), widths=(8, 16, 32)),
    "wide": flaxarch.create("wrn_16_4").clone(depth=10, widen_factor=1),
    "plain": CifarResNet(stage_sizes(8), shortcut=None),
}
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (4, 12, 16, 3))


@each_model
def test_eval_leaves_batch_stats_alone_and_training_moves_them_all(model: Network, images: jax.Array):
    _, apply = flaxarch.functional(model)
    params, batch_stats = random_variables(model)
    before = jax.tree.map(np.copy, batch_stats)
    apply = jax.jit(apply, static_argnames="train")
    _, same = apply(params, batch_stats, images, train=False)
    _, moved = apply(params, batch_stats, images, train=True)
    chex.assert_trees_all_equal(same, before)
    chex.assert_trees_all_equal(batch_stats, before)
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, before)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(moved), strict=True):
        assert not np.array_equal(old, new)


@each_model
def test_init_makes_the_same_variables_in_either_mode_and_from_shapes_alone(
    model: Network, images: jax.Array
):
    key = jax.random.key(0)
    init, _ = flaxarch.functional(model)
    struct = jax.ShapeDtypeStruct(images.shape, images.dtype)
    params, batch_stats = jax.eval_shape(lambda key: init(key, struct), key)
    for train in (False, True):
        rngs = {"params": key, "gates": key, "dropout": key}
        variables = jax.eval_shape(lambda rngs, train=train: model.init(rngs, images, train=train), rngs)
        chex.assert_trees_all_equal_shapes_and_dtypes(
            variables, {"params": params, "batch_stats": batch_stats}
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@each_model
def test_params_statistics_and_logits_are_float32_at_any_dtype(
    model: Network, dtype: jnp.dtype, images: jax.Array
):
    init, apply = flaxarch.functional(model.clone(dtype=dtype))
    variables = jax.eval_shape(init, jax.random.key(0), images)
    for train in (False, True):
        logits, batch_stats = jax.eval_shape(
            lambda p, b, train=train: apply(p, b, images, train=train), *variables
        )
        chex.assert_shape(logits, (4, 10))
        for x in jax.tree.leaves((logits, batch_stats, variables)):
            assert x.dtype == jnp.float32


def test_bfloat16_logits_are_near_those_of_float32(images: jax.Array):
    model = MODELS["basic"]
    exact, rounded = (
        jax.jit(partial(flaxarch.functional(model.clone(dtype=dtype)).apply, train=True))(
            *random_variables(model), images
        )[0]
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert 0 < float(jnp.abs(rounded - exact).max()) < 0.1 * float(jnp.abs(exact).max())


def test_functional_equals_the_linen_module(images: jax.Array):
    model = MODELS["basic"]
    _, apply = flaxarch.functional(model)
    params, batch_stats = random_variables(model)
    variables = {"params": params, "batch_stats": batch_stats}
    evaluated = jax.jit(partial(model.apply, train=False))(variables, images)
    trained, updated = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))(variables, images)
    apply = jax.jit(apply, static_argnames="train")
    chex.assert_trees_all_equal(apply(params, batch_stats, images, train=False), (evaluated, batch_stats))
    chex.assert_trees_all_equal(
        apply(params, batch_stats, images, train=True), (trained, updated["batch_stats"])
    )


def test_one_key_gives_one_network(images: jax.Array):
    init, _ = flaxarch.functional(MODELS["basic"])
    kernel = jax.jit(lambda key: init(key, images)[0]["layer1_0"]["conv1"]["kernel"])
    chex.assert_trees_all_equal(kernel(jax.random.key(0)), kernel(jax.random.key(0)))
    assert not np.array_equal(kernel(jax.random.key(0)), kernel(jax.random.key(1)))


def test_dropout_is_drawn_from_the_key(images: jax.Array):
    model = MODELS["wide"].clone(dropout_rate=0.5)
    _, apply = flaxarch.functional(model)
    variables = random_variables(model)
    apply = jax.jit(apply, static_argnames="train")
    one, same, other = (apply(*variables, images, train=True, key=jax.random.key(k))[0] for k in (1, 1, 2))
    chex.assert_trees_all_equal(one, same)
    assert not np.array_equal(one, other)
    # in evaluation nothing is dropped, and no key is needed
    with_key, _ = apply(*variables, images, train=False, key=jax.random.key(1))
    chex.assert_trees_all_equal(with_key, apply(*variables, images, train=False)[0])


@pytest.mark.parametrize(
    ("name", "least"), [("resnet18", 32), ("resnet50_keras", 32), ("resnet20", 4), ("wrn_16_4", 4)]
)
def test_images_below_the_least_size_are_refused_in_one_sentence(name: str, least: int):
    init, _ = flaxarch.functional(flaxarch.create(name))

    def shapes(height: int, width: int):
        struct = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        return jax.eval_shape(init, jax.random.key(0), struct)

    shapes(least, least + 1)
    for height, width in ((least - 1, least), (least, least - 1)):
        sentence = f"at least {least}x{least} pixels, not {height}x{width} "
        with pytest.raises(ValueError, match=sentence) as error:
            shapes(height, width)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 1, 32, 32, 3), (3072,)])
@pytest.mark.parametrize("name", ["resnet20", "wrn_16_4"])
def test_arrays_that_are_no_batch_of_images_are_refused_in_one_sentence(name: str, shape: tuple[int, ...]):
    init, _ = flaxarch.functional(flaxarch.create(name))
    with pytest.raises(ValueError, match=r"takes a batch of images \(N, H, W, C\), not an array of shape"):
        jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
