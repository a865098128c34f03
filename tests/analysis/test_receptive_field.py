"""Receptive fields: of known networks by arithmetic, and of many small ones against their gradients."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flaxarch
from flaxarch import ops
from flaxarch.analysis import Cost, LayerCost

Layer = Callable[[jax.Array], jax.Array]


def row_cost(name: str) -> Cost:
    return flaxarch.cost(flaxarch.create(name), flaxarch.published(name).input_shape)


def last_stage(name: str) -> LayerCost:
    return [layer for layer in row_cost(name).layers if layer.path.startswith("layer")][-1]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        # Stem: 7, and 2 * 2 by the pool: 11 at stride 4. A 3x3 adds twice the stride of what it reads; of a
        # basic block's two, the first of a stage reads at the stride before.
        ("resnet18", 11 + 4 * 8 + (8 + 3 * 16) + (16 + 3 * 32) + (32 + 3 * 64)),  # 435
        # A bottleneck has one 3x3. It brings the stride in v1.5; in v1 the 1x1 before it does.
        ("resnet50", 11 + 3 * 8 + (8 + 3 * 16) + (16 + 5 * 32) + (32 + 2 * 64)),  # 427
        ("resnet50_v1", 11 + 3 * 8 + 4 * 16 + 6 * 32 + 3 * 64),  # 483
        ("resnet20", 3 + 6 * 2 + (2 + 5 * 4) + (4 + 5 * 8)),
    ],
)
def test_receptive_field_of_known_networks(name: str, size: int):
    stride = 4 if name == "resnet20" else 32
    assert last_stage(name).receptive_field == (size, size)
    assert last_stage(name).stride == (stride, stride)


def test_stem_of_resnet_sees_eleven_pixels():
    pool = row_cost("resnet18").of("").layers[0]
    assert (pool.kind, pool.receptive_field, pool.stride) == ("max pool 3x3 / 2", (11, 11), (4, 4))


def test_dilation_keeps_the_receptive_field_of_the_strides():
    model = flaxarch.create("resnet50_v1")
    fields = [
        [
            layer.receptive_field
            for layer in flaxarch.cost(net, (64, 64, 3)).layers
            if layer.path.endswith("_2/bn3")
        ]
        for net in (model, model.clone(output_stride=8))
    ]
    # the first 3x3 of a dilated stage keeps the dilation before it: 16 pixels less, and 32 in the next
    assert [h for h, _ in fields[1]] == [
        h - less for (h, _), less in zip(fields[0], (0, 0, 16, 48), strict=True)
    ]


class Body(nn.Module):
    """A function of images that may make layers, as a network."""

    body: Layer

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return self.body(images)


def conv(*kernel_size: int, layer: Any = nn.Conv, features: int = 1, **fields: Any) -> Layer:
    """A convolution whose kernel is ones, so that no gradient is zero by chance."""
    ones = nn.initializers.ones
    return lambda x: layer(features, kernel_size, use_bias=False, kernel_init=ones, **fields)(x)


def up(*kernel_size: int) -> Layer:
    return conv(*kernel_size, layer=nn.ConvTranspose, strides=(2, 2))


def stack(*layers: Layer) -> Layer:
    def run(x: jax.Array) -> jax.Array:
        for layer in layers:
            x = layer(x)
        return x

    return run


def branches(x: jax.Array) -> jax.Array:
    seven = conv(7, 1)(conv(1, 5)(x))
    x = jnp.concatenate([conv(1, 1)(x), seven, nn.avg_pool(x, (3, 3), padding="SAME")], axis=-1)
    return jnp.concatenate([conv(1, 1, strides=2)(x), conv(2, 2, strides=2)(x)], axis=-1)


def option_a(x: jax.Array) -> jax.Array:
    y = conv(3, 3, strides=(2, 2), padding=1)(x)
    return x[:, 1::2, ::2] + conv(2, 2)(y)


def u_net(x: jax.Array) -> jax.Array:
    y = conv(3, 3)(nn.avg_pool(x, (2, 2), (2, 2)))
    return conv(3, 3)(jnp.concatenate([x, up(2, 2)(y)], axis=-1))


def resize(x: jax.Array, size: int, method: str) -> jax.Array:
    return jax.image.resize(x, (x.shape[0], size, size, x.shape[-1]), method)


def shuffle(x: jax.Array) -> jax.Array:
    """Space to depth, a convolution, depth to space."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, 4 * c)
    x = conv(3, 3, features=4)(x).reshape(n, h // 2, w // 2, 2, 2, 1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, 1)


class Step(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return conv(3, 3)(x), None


def loop(x: jax.Array) -> jax.Array:
    steps = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    return steps(name="steps")(x, None)[0]


NETWORKS: dict[str, Layer] = {
    "strides and padding": stack(
        conv(5, 3, strides=(2, 1), padding=((0, 1), (1, 1))),
        conv(3, 3, padding=0),
    ),
    "dilation": stack(conv(3, 2, kernel_dilation=(2, 3)), conv(3, 3, strides=(3, 2))),
    "pooling": stack(conv(3, 3), lambda x: ops.avg_pool(x, (3, 3), (2, 2), padding=1)),
    "branches": branches,
    "shortcut that skips": option_a,
    "up-convolution": stack(up(2, 2), conv(3, 3)),
    "overlapping up-convolution": stack(conv(3, 3, strides=(2, 2)), up(5, 3)),
    "U-Net": u_net,
    "bilinear": stack(conv(3, 3, strides=(2, 2)), lambda x: resize(x, 24, "bilinear")),
    "nearest": stack(conv(3, 3, strides=(2, 2)), lambda x: resize(x, 36, "nearest")),
    "repeat": stack(lambda x: x.repeat(2, axis=1).repeat(3, axis=2), conv(3, 4)),
    "adaptive pooling": stack(conv(3, 3), lambda x: ops.adaptive_avg_pool(x, (9, 6))),
    "pixel shuffle": stack(shuffle, conv(2, 2)),
    "loop": loop,
    "remat": stack(conv(3, 3, layer=nn.remat(nn.Conv)), conv(3, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_receptive_field_is_the_window_on_which_the_gradient_is_not_zero(name: str):
    model = Body(stack(NETWORKS[name], conv(1, 1)))
    layer = flaxarch.cost(model, (24, 24, 1)).layers[-1]
    images = jnp.ones((1, 24, 24, 1))
    variables = model.init(jax.random.key(0), images, train=False)

    def units(images: jax.Array) -> jax.Array:
        return model.apply(variables, images, train=False)[0].sum(-1)

    gradients = np.asarray(jax.jit(jax.jacrev(units))(images))[:, :, 0, :, :, 0]
    assert layer.output_shape[:2] == gradients.shape[:2]
    for side, others in ((0, (1, 3)), (1, (0, 2))):
        seen = (gradients != 0).any(axis=others)  # [row of units, row of pixels], or columns
        first, last = seen.argmax(1), seen.shape[1] - 1 - seen[:, ::-1].argmax(1)
        assert (last - first + 1).max() == layer.receptive_field[side]
        centres = ((first + last) / 2)[len(seen) // 3 : -(len(seen) // 3)]  # away from the borders
        steps = (centres[-1] - centres[0]) / (len(centres) - 1)
        assert math.isclose(steps, layer.stride[side], rel_tol=0.3)


def test_a_gate_from_the_whole_image_opens_every_field_behind_it():
    def squeeze_and_excite(x: jax.Array) -> jax.Array:
        x = conv(3, 3, strides=2)(x)
        return x * nn.sigmoid(conv(1, 1)(x.mean((1, 2), keepdims=True)))

    layers = flaxarch.cost(Body(stack(squeeze_and_excite, conv(3, 3))), (20, 30, 3)).layers
    assert [layer.kind for layer in layers] == ["conv 3x3 / 2", "global avg pool", "conv 1x1", "conv 3x3"]
    assert [layer.output_shape for layer in layers] == [(10, 15, 1), (1,), (1, 1, 1), (10, 15, 1)]
    assert [layer.receptive_field for layer in layers] == [(3, 3), (20, 30), (20, 30), (20, 30)]
    assert [layer.stride for layer in layers] == [(2, 2), (20, 30), (20, 30), (2, 2)]


def test_resizing_and_adaptive_pooling_are_layers_without_multiply_accumulates():
    for name, kind in (("bilinear", "resize"), ("nearest", "resize"), ("adaptive pooling", "adaptive pool")):
        *_, layer = flaxarch.cost(Body(NETWORKS[name]), (24, 24, 1)).layers
        assert (layer.kind, layer.macs, layer.num_params) == (kind, 0, 0)


def test_transposed_convolution_multiplies_no_inserted_zeros():
    (layer,) = flaxarch.cost(Body(up(2, 2)), (6, 5, 4)).layers
    assert layer.kind == "transposed conv 2x2 * 2"
    assert (layer.output_shape, layer.stride) == ((12, 10, 1), (0.5, 0.5))
    assert layer.macs == 6 * 5 * 4 * 2 * 2  # an input, a tap


def test_loop_costs_its_body_as_often_as_it_runs():
    cost = flaxarch.cost(Body(loop), (8, 8, 1))
    assert [layer.path for layer in cost.layers] == ["steps/Conv_0"] * 3
    assert (cost.macs, cost.num_params) == (3 * 64 * 9, 3 * 9)


def test_loop_whose_length_the_image_decides_is_one_sentence():
    def network(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: 2 * x, x)

    with pytest.raises(ValueError, match="depends on its data: there is a `while`"):
        flaxarch.cost(Body(network), (8, 8, 1))
