"""Blocks deleted by gates, in networks with shortcuts and without."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxarch import depth
from tests.depth.nets import SHAPE, random_batch, random_variables, tiny_densenet, tiny_resnet, tiny_vgg


def without(variables: Any, *names: str) -> Any:
    return {
        collection: {key: tree for key, tree in trees.items() if key not in names}
        for collection, trees in variables.items()
    }


def test_layer_deleted_from_a_vgg_is_the_vgg_that_never_had_it():
    model = tiny_vgg((1, 2, 2))
    variables, (images, _) = random_variables(model), random_batch(3)
    names = [block.name for block in depth.deletable(model, SHAPE)]
    assert names == ["conv2_2", "conv3_1", "conv3_2"]
    gates = jnp.asarray([0.0, 1.0, 0.0])
    found = jax.jit(partial(depth.apply_gated, model))(variables, images, gates)
    shallow = tiny_vgg((1, 1, 1))
    left = without(variables, "conv2_2", "bn2_2", "conv3_2", "bn3_2")
    expected = jax.jit(partial(shallow.apply, train=False))(left, images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(found, jax.jit(partial(model.apply, train=False))(variables, images), rtol=1e-2)


def test_gates_of_one_change_nothing_and_gates_per_image_are_gates_of_each_image():
    model = tiny_resnet(14, shortcut=None)  # four of its six blocks keep the shape
    variables, (images, _) = random_variables(model), random_batch(3)
    apply = jax.jit(partial(depth.apply_gated, model))
    whole = jax.jit(partial(model.apply, train=False))(variables, images)
    np.testing.assert_allclose(apply(variables, images, jnp.ones(4)), whole, rtol=1e-5, atol=1e-5)
    gates = np.random.default_rng(0).integers(0, 2, (4, 3)).astype(np.float32)
    together = apply(variables, images, gates)
    for i in range(3):
        alone = apply(variables, images, gates[:, i])[i]
        np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (3,), (4, 2, 1)])
def test_gates_of_another_shape_are_refused_in_one_sentence(shape: tuple[int, ...]):
    model = tiny_resnet(14, shortcut=None)
    variables, (images, _) = random_variables(model), random_batch(3)
    with pytest.raises(ValueError, match=r"do not fit this network of 4 layers to delete: give \(4,\)"):
        jax.eval_shape(partial(depth.apply_gated, model), variables, images, jnp.ones(shape))


def test_network_without_anything_to_delete_takes_no_gates():
    variables, (images, _) = random_variables(tiny_densenet()), random_batch(1)
    with pytest.raises(ValueError, match="no block to delete"):
        jax.eval_shape(partial(depth.apply_gated, tiny_densenet()), variables, images, jnp.ones(1))


def test_random_rows_keep_as_many_blocks_as_asked_each_as_often():
    rows = np.asarray(depth.keep_random(jax.random.key(0), 10, 4, 2000))
    assert set(np.unique(rows)) == {0, 1}
    np.testing.assert_array_equal(rows.sum(axis=1), 4)
    deviation = np.sqrt(0.4 * 0.6 / 2000)
    assert (np.abs(rows.mean(axis=0) - 0.4) < 5 * deviation).all()
    assert len(np.unique(rows, axis=0)) == 210  # all of them: 10 choose 4
    with pytest.raises(ValueError, match="of 10 blocks 0 to 10 can be kept, not 11"):
        depth.keep_random(jax.random.key(0), 10, 11, 1)


def test_row_of_subsets_has_its_number_in_bits():
    rows = depth.subsets(4)
    np.testing.assert_array_equal(rows @ [1, 2, 4, 8], np.arange(16))
    np.testing.assert_array_equal(depth.delete_each(3), [[0, 1, 1], [1, 0, 1], [1, 1, 0]])
