"""U-Nets: sizes, counts by hand, up-convolutions, and U-Nets over other networks' pyramids."""

import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flaxarch
from flaxarch import registry
from flaxarch.convert.rules import slots
from flaxarch.convert.segmentation import SEGMENTATION_MODELS
from flaxarch.layers import Network, inner_pyramid
from flaxarch.models.cifar_resnet import CifarResNet, stage_sizes
from flaxarch.models.unet import PyramidUNet, UNet, UpConvolution, centred, copy_pixels
from tests.models.shapes import map_shapes
from tests.reference import random_variables

THIN = UNet((2, 3, 4, 5, 6), num_classes=2)
SMALL = CifarResNet(stage_sizes(8), widths=(4, 6, 8))
OVER_SMALL = PyramidUNet(SMALL, widths=(5, 3), num_classes=4)


def output_shape(model: Network, *images: int) -> tuple[int, ...]:
    logits = jax.eval_shape(
        lambda key: model.init_with_output(key, jnp.zeros(images), train=False)[0], jax.random.key(0)
    )
    return logits.shape


def hand_count(channels: int, num_classes: int, is_normed: bool) -> int:
    """Fig. 1: 3x3s with a bias, or a scale and a bias each of batch norm; up-convolutions; the 1x1."""
    pairs = [(channels, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    pairs += [(512, 1024), (1024, 1024), (1024, 512), (512, 512), (512, 256), (256, 256), (256, 128)]
    pairs += [(128, 128), (128, 64), (64, 64)]
    ups = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    convs = sum(9 * c * f + (2 if is_normed else 1) * f for c, f in pairs)
    return convs + sum(4 * c * f + f for c, f in ups) + 64 * num_classes + num_classes


@pytest.mark.parametrize("name", ["unet", "unet_same", "unet_same_bn"])
def test_counts_of_the_rows_are_those_of_figure_1_by_hand(name: str):
    row = flaxarch.published(name)
    assert row.num_params == hand_count(row.input_shape[2], row.num_classes, row.num_batch_stats > 0)


def test_maps_of_the_paper_have_the_sizes_of_figure_1():
    model = flaxarch.create("unet")
    assert output_shape(model, 1, 572, 572, 1) == (1, 388, 388, 2)
    assert model.output_size(572, 572) == (388, 388)
    assert model.output_size(188, 204) == (4, 20)
    assert map_shapes(model, 572, 572, 1) == {
        1: (388, 388, 64),
        2: (196, 196, 128),
        4: (100, 100, 256),
        8: (52, 52, 512),
        16: (28, 28, 1024),
    }


def test_all_sizes_that_output_size_takes_run_and_no_others():
    """Against the arithmetic of each layer, for all sizes up to 300."""

    def by_layers(size: int) -> int | None:
        for _ in range(4):
            size -= 4
            if size <= 0 or size % 2:
                return None
            size //= 2
        size -= 4
        for _ in range(4):
            size = 2 * size - 4
        return size if size > 0 else None

    taken = {}
    for size in range(188, 300):
        try:
            taken[size] = THIN.output_size(size, 188)[0]
        except ValueError:
            taken[size] = None
    assert taken == {size: by_layers(size) for size in range(188, 300)}
    assert all(by_layers(size) is None for size in range(188))
    assert UNet((2, 3)).output_size(18, 20) == (2, 4)
    with pytest.raises(ValueError, match="at least 18x18"):
        output_shape(UNet((2, 3)), 1, 16, 18, 1)


def test_sizes_with_odd_maps_are_refused_and_the_nearest_named():
    with pytest.raises(ValueError, match=r"are 188 \+ 16n, here 588x572 or 604x572") as error:
        output_shape(THIN, 1, 600, 572, 1)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="at least 188x188 pixels, not 172x188"):
        output_shape(THIN, 1, 172, 188, 1)


@pytest.mark.parametrize("size", [(32, 48), (37, 51), (16, 16)])
def test_padded_u_net_keeps_any_size(size: tuple[int, int]):
    assert output_shape(THIN.clone(padding=1, batch_norm=True), 2, *size, 3) == (2, *size, 2)


def test_padded_u_net_needs_a_pixel_at_the_bottom():
    with pytest.raises(ValueError, match="at least 16x16"):
        output_shape(THIN.clone(padding=1), 1, 16, 15, 1)


def test_up_convolution_is_the_gradient_of_a_convolution_with_its_kernel():
    x, kernel = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 3, 5, 4), (2, 2, 6, 4)]))
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(2, 2),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    _, transpose = jax.vjp(lambda y: convolve(y, kernel), jnp.zeros((2, 6, 10, 6)))
    params = {"params": {"kernel": kernel, "bias": jnp.arange(6.0)}}
    found = np.asarray(UpConvolution(6, nn.initializers.zeros).apply(params, x))
    expected = transpose(x)[0] + jnp.arange(6.0).reshape(1, 1, 1, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_centred_crops_and_pads_about_the_centre():
    x = jnp.arange(1.0, 17).reshape(1, 4, 4, 1)
    assert centred(x, 2, 2)[0, :, :, 0].tolist() == [[6, 7], [10, 11]]
    assert centred(x, 4, 7)[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 0, 0]
    assert centred(centred(x, 8, 10), 4, 4).tolist() == x.tolist()


def test_copied_pixels_are_the_nearest_at_any_size():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    assert (
        copy_pixels(x, 4, 6)[0, :, :, 0].tolist()
        == np.arange(6).reshape(2, 3).repeat(2, 0).repeat(2, 1).tolist()
    )
    assert copy_pixels(x, 3, 5)[0, :, :, 0].tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


def test_convolutions_start_with_the_papers_deviation():
    # sqrt(2 / N), N = 9 * 64 for a 3x3 over 64 features (Sec. 3); over one pixel's features going up
    model = UNet()
    for init, shape, incoming in (
        (model.conventions.kernel_init, (3, 3, 64, 32), 9 * 64),
        (model.up_init, (2, 2, 32, 64), 64),
    ):
        kernel = np.asarray(init(jax.random.key(0), shape, jnp.float32))
        assert kernel.std() == pytest.approx(math.sqrt(2 / incoming), rel=0.03)


def test_dropout_is_at_the_end_of_the_contracting_path_and_in_training_only():
    model = THIN.clone(padding=1)
    variables = {"params": random_variables(model, channels=1)[0]}
    images = jax.random.normal(jax.random.key(0), (1, 16, 16, 1))
    train = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={"dropout": key}))
    evaluate = jax.jit(lambda: model.apply(variables, images, train=False))
    first, second = (np.asarray(train(jax.random.key(i))) for i in range(2))
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(evaluate(), evaluate())


# Over the pyramids of other networks


def pyramid_unet(name: str) -> PyramidUNet:
    model = flaxarch.create(name)
    row = flaxarch.published(name)
    images = jax.ShapeDtypeStruct((1, *row.input_shape), jnp.float32)
    variables = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    strides = jax.eval_shape(flaxarch.features(model), *variables, images)
    return PyramidUNet(model, (4,) * int(math.log2(max(strides))), num_classes=3)


# With maps from stride 1, 2 and 4 on, with and without batch norm, odd sizes rounded up and down.
@pytest.mark.parametrize("name", ["alexnet", "resnet20", "resnet50", "squeezenet1_1", "vgg11"])
def test_any_network_with_a_pyramid_makes_a_u_net_of_any_size_without_its_head(name: str):
    model = pyramid_unet(name)
    images = jax.ShapeDtypeStruct((2, 75, 100, 3), jnp.float32)
    init, apply = flaxarch.functional(model)
    params, batch_stats = jax.eval_shape(init, jax.random.key(0), images)
    logits, _ = jax.eval_shape(partial(apply, train=False), params, batch_stats, images)
    assert logits.shape == (2, 75, 100, 3)
    heads = {"fc", "conv10", "fc6", "fc7", "fc8"}
    assert not heads & params["encoder"].keys()


def test_map_is_float32_and_the_computation_bfloat16():
    model = OVER_SMALL.clone(dtype=jnp.bfloat16)
    assert model.encoder.dtype == jnp.bfloat16
    logits = jax.eval_shape(
        lambda key: model.init_with_output(key, jnp.zeros((1, 8, 8, 3)), train=False)[0], jax.random.key(0)
    )
    assert logits.dtype == jnp.float32


def test_encoder_has_its_variables_without_the_head_and_takes_released_ones():
    model = OVER_SMALL
    images = jax.random.normal(jax.random.key(0), (2, 9, 11, 3))
    params, batch_stats = random_variables(model)
    loaded, loaded_stats = random_variables(SMALL)
    assert params["encoder"].keys() == loaded.keys() - {"fc"}

    def maps(encoder_params, encoder_stats):
        variables = {
            "params": params | {"encoder": encoder_params},
            "batch_stats": batch_stats | {"encoder": encoder_stats},
        }
        return flaxarch.features(model)(variables["params"], variables["batch_stats"], images)[4]

    expected = jax.jit(flaxarch.features(SMALL))(loaded, loaded_stats, images)[4]
    np.testing.assert_allclose(jax.jit(maps)(loaded, loaded_stats), expected, rtol=1e-5, atol=1e-6)


def test_training_moves_the_encoders_statistics_and_gives_all_parameters_gradients():
    params, batch_stats = random_variables(OVER_SMALL)
    images = jax.random.normal(jax.random.key(0), (2, 9, 11, 3))
    apply = flaxarch.functional(OVER_SMALL).apply

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params):
        logits, moved = apply(params, batch_stats, images, train=True)
        return (logits**2).mean(), moved

    gradients, moved = gradient(params)
    assert jax.tree.structure(moved) == jax.tree.structure(batch_stats)
    changed = jax.tree.map(lambda a, b: bool((a != b).all()), moved, batch_stats)
    assert all(jax.tree.leaves(changed))
    assert all(bool(x.any()) for x in jax.tree.leaves(gradients))


def test_gates_reach_the_encoder():
    params, batch_stats = random_variables(OVER_SMALL)
    images = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    apply = jax.jit(partial(flaxarch.functional(OVER_SMALL).apply, train=False))
    plain, ones, lesioned = (
        apply(params, batch_stats, images, gates=gates)[0]
        for gates in (None, jnp.ones(3), jnp.array([1.0, 0, 1]))
    )
    np.testing.assert_allclose(ones, plain, rtol=1e-5)
    assert not np.allclose(lesioned, plain, rtol=1e-3)


def test_number_of_widths_must_fit_the_pyramid():
    with pytest.raises(ValueError, match=r"end at stride 4: .* 2 widths, not the 3 of"):
        output_shape(OVER_SMALL.clone(widths=(4, 4, 4)), 1, 8, 8, 3)


def test_encoder_without_stages_is_refused():
    class Mean(Network):
        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
            return images.mean(axis=(1, 2))

    with pytest.raises(ValueError, match="Mean has no stages, so no feature pyramid"):
        output_shape(PyramidUNet(Mean()), 1, 8, 8, 3)


def test_inner_pyramid_is_what_features_gives():
    class Sums(nn.Module):
        network: Network

        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool) -> dict[int, jax.Array]:
            return inner_pyramid(self.network, images, train=train)

    params, batch_stats = random_variables(SMALL)
    images = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    inner = {"params": {"network": params}, "batch_stats": {"network": batch_stats}}
    found = jax.jit(partial(Sums(SMALL).apply, train=False))(inner, images)
    expected = jax.jit(flaxarch.features(SMALL))(params, batch_stats, images)
    assert found.keys() == expected.keys()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)


def test_u_net_over_another_encoder_is_no_row_and_saving_says_so(tmp_path: Path):
    model = PyramidUNet(SMALL.clone(), widths=(5, 3))
    with pytest.raises(ValueError, match="its encoder is"):
        flaxarch.save(tmp_path / "x.safetensors", model, {})


def test_row_over_resnet18_names_the_encoder_as_torchvision():
    model = flaxarch.create("unet_resnet18", dtype=jnp.bfloat16)
    assert registry.describe(model) == ("unet_resnet18", {})
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params, batch_stats = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    whole, _ = jax.eval_shape(
        flaxarch.functional(flaxarch.create("resnet18")).init, jax.random.key(0), images
    )
    assert jax.tree.map(jnp.shape, params["encoder"]) == jax.tree.map(
        jnp.shape, {key: x for key, x in whole.items() if key != "fc"}
    )
    names = {slot.name for slot in slots({"params": params, "batch_stats": batch_stats}, SEGMENTATION_MODELS)}
    assert {
        "encoder.layer2.0.downsample.0.weight",
        "decoder.blocks.4.conv2.0.weight",
        "segmentation_head.0.bias",
    } <= names
