"""A network cut between its blocks, and put together again."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flaxarch
from flaxarch.depth import Chain
from tests.depth.nets import (
    SHAPE,
    random_batch,
    random_variables,
    tiny_densenet,
    tiny_preact,
    tiny_resnet,
    tiny_vgg,
)

_create: Any = flaxarch.create
NETWORKS = {
    "shared activation": (tiny_preact(stage_sizes=(1, 2)), SHAPE),
    "concatenated": (tiny_densenet(), SHAPE),
    "plain": (tiny_vgg((1, 2), widths=(4, 6)), SHAPE),
}
MORE = {
    "post-activation": (tiny_resnet(20), SHAPE),
    "excited": (_create("seresnet20").clone(stage_sizes=(1, 1), widths=(16, 16)), SHAPE),
    "sum in the network": (_create("squeezenet1_1_bypass"), (24, 24, 3)),
}


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        *(pytest.param(*row, id=name) for name, row in NETWORKS.items()),
        *(pytest.param(*row, id=name, marks=pytest.mark.slow) for name, row in MORE.items()),
    ],
)
def test_stem_blocks_and_head_one_after_the_other_are_the_network(model: Any, shape: Any):
    variables, (images, _) = random_variables(model, shape), random_batch(2, shape)
    chain = Chain(model, shape)
    n = len(chain.blocks)

    @jax.jit
    def walk(images: jax.Array) -> Any:
        states = [chain.run(variables, images, stop=0)]
        for i in range(n):
            states.append(chain.run(variables, states[-1], start=i, stop=i + 1))
        return states, chain.run(variables, states[-1], start=n), chain.states(variables, images)

    states, logits, at_once = walk(images)
    expected = jax.jit(partial(model.apply, train=False))(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    for x, y in zip(states, at_once, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
    for block, x in zip(chain.blocks, states, strict=False):
        assert x.shape[1:] == block.input_shape


def test_shortcut_and_branch_add_up_to_the_next_state():
    for model, outer in ((tiny_preact(stage_sizes=(1, 2)), lambda x: x), (tiny_resnet(8), nn.relu)):
        variables, (images, _) = random_variables(model), random_batch(2)
        chain = Chain(model, SHAPE)

        @jax.jit
        def parts(images: jax.Array, chain: Chain = chain, variables: Any = variables) -> Any:
            states = chain.states(variables, images)
            numbers = range(len(chain.blocks))
            branches = [chain.branch(variables, states[i], i) for i in numbers]
            return states, branches, [chain.shortcut(variables, states[i], i) for i in numbers]

        states, branches, shortcuts = parts(images)
        for i, (x, y) in enumerate(zip(shortcuts, branches, strict=True)):
            np.testing.assert_allclose(outer(x + y), states[i + 1], rtol=1e-5, atol=1e-5)
        same = [block.input_shape == block.output_shape for block in chain.blocks]
        # where the shape changes the shortcut is a projection, or zeros for new channels
        assert [bool(jnp.array_equal(x, y)) for x, y in zip(states, shortcuts, strict=False)] == same


def test_cut_that_more_than_one_array_passes_is_refused():
    model = _create("unet").clone(widths=(4, 4, 4), padding=1, num_classes=2)
    chain = Chain(model, (16, 16, 3))
    variables, (images, _) = random_variables(model, (16, 16, 3)), random_batch(1, (16, 16, 3))
    last = len(chain.blocks)
    x = jax.eval_shape(chain.states, variables, images)[3]
    with pytest.raises(ValueError, match="cannot be cut here: more than one array"):
        jax.eval_shape(partial(chain.run, start=3, stop=last), variables, x)


def test_places_that_are_none_are_one_sentence():
    model = tiny_resnet(8)
    chain, (images, _) = Chain(model, SHAPE), random_batch(1)
    variables = random_variables(model)
    for places, sentence in (
        ({"stop": 4}, "x_0 to x_3, not x_4"),
        ({"start": 2, "stop": 1}, "x_1 stands ahead of x_2"),
        ({"start": 1}, r"x is \(1, 8, 8, 3\), and is to be \(1, 8, 8, 4\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            jax.eval_shape(partial(chain.run, **places), variables, images)
    plain = Chain(tiny_resnet(8, shortcut=None), SHAPE)
    with pytest.raises(ValueError, match="its blocks have no branch"):
        jax.eval_shape(partial(plain.branch, i=1), variables, images)
