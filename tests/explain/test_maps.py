"""Activations, class activation maps and Grad-CAM, against what they are made of."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flaxarch
from flaxarch import explain
from flaxarch.depth.chain import Chain
from flaxarch.explain.program import trace
from flaxarch.ops import use_native_forms
from tests.explain.nets import (
    ClassMaps,
    Linear,
    Stack,
    apply,
    random_images,
    random_variables,
    tiny_densenet,
    tiny_resnet,
)
from tests.models.test_every_family import ROWS, shapes
from tests.models.test_every_family import images as row_images

IMAGES, CLASSES = random_images(3, (8, 8, 3)), np.asarray([7, 0, 4])


@cache
def resnet() -> tuple[Any, Any]:
    model = tiny_resnet(8)
    return model, random_variables(model)


def test_activations_are_what_the_modules_give():
    model, variables = resnet()
    found = explain.activations(model, variables, IMAGES)
    capture = partial(model.apply, train=False, capture_intermediates=True, mutable="intermediates")
    _, state = jax.jit(capture)(variables, IMAGES)
    leaves = jax.tree_util.tree_leaves_with_path(state["intermediates"])
    expected = {"/".join(key.key for key in path[:-2]): x for path, x in leaves}
    assert set(found) == set(expected) - {"", "Dropout_0"}  # which gives what it is given
    for name, x in found.items():
        np.testing.assert_allclose(x, expected[name], atol=1e-5, err_msg=name)


def test_layers_have_the_names_and_shapes_of_the_summary():
    model, _ = resnet()
    found = explain.layers(model, (8, 8, 3))
    layers = {layer.path: layer.output_shape for layer in flaxarch.cost(model, (8, 8, 3)).layers}
    own = {path: shape for path, shape in layers.items() if path in found}
    assert {"conv1", "layer1_0/conv1", "layer3_0/bn2", "fc"} <= own.keys()
    assert own == {path: found[path] for path in own}


def test_a_layer_that_is_not_there_is_named_with_those_near():
    model, variables = resnet()
    with pytest.raises(ValueError, match=r"ResNet has no layer 'layer3_O': did you mean .*layer3_0"):
        explain.feature_map(model, variables, IMAGES, "layer3_O")
    with pytest.raises(
        ValueError, match="fc gives no map with height and width: what it gives of an image is 10"
    ):
        explain.grad_cam(model, variables, IMAGES, CLASSES, "fc")


def test_the_head_reads_the_mean_of_the_last_feature_map():
    model, variables = resnet()
    head = variables["params"]["fc"]
    features = np.asarray(explain.feature_map(model, variables, IMAGES))
    logits = features.mean(axis=(1, 2)) @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(logits, explain.logits(model, variables, IMAGES), atol=1e-5)


def test_cam_is_the_head_at_each_place_and_sums_to_the_logit():
    model, variables = resnet()
    head = variables["params"]["fc"]
    features = np.asarray(explain.feature_map(model, variables, IMAGES))
    places = features.shape[1] * features.shape[2]
    expected = np.stack([x @ head["kernel"][:, c] / places for x, c in zip(features, CLASSES, strict=True)])
    found = explain.cam(model, variables, IMAGES, CLASSES)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    logits = np.asarray(explain.logits(model, variables, IMAGES))[range(3), CLASSES]
    np.testing.assert_allclose(np.asarray(found).sum((1, 2)), logits - head["bias"][CLASSES], atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [tiny_resnet(8), ClassMaps(), pytest.param(tiny_densenet(), marks=pytest.mark.slow)],
    ids=lambda x: type(x).__name__,
)
def test_grad_cam_is_the_positive_part_of_cam_where_the_head_is_linear_in_the_mean(model: Any):
    variables = random_variables(model)
    classes = CLASSES % model.num_classes
    cam = np.asarray(explain.cam(model, variables, IMAGES, classes))
    assert cam.max() > 0 > cam.min() or isinstance(model, ClassMaps)  # whose maps are activated
    found = explain.grad_cam(model, variables, IMAGES, classes)
    np.testing.assert_allclose(found, np.maximum(cam, 0), atol=1e-5 * np.abs(cam).max())


def test_grad_cam_at_a_layer_within_weighs_its_features_by_their_mean_gradients():
    model = ClassMaps()
    variables, classes = random_variables(model), CLASSES % 4
    features = np.asarray(explain.feature_map(model, variables, IMAGES, "conv"))  # ahead of its ReLU
    head = variables["params"]["maps"]
    kernel = head["kernel"][0, 0]
    is_on = np.maximum(features, 0) @ kernel + head["bias"][None, None, None] > 0  # the class maps
    asked = np.eye(4)[classes][:, None, None] * is_on / 64
    gradient = asked @ kernel.T * (features > 0)
    expected = np.maximum((gradient.mean((1, 2), keepdims=True) * features).sum(-1), 0)
    assert np.any(expected)
    found = explain.grad_cam(model, variables, IMAGES, classes, "conv")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_grad_cam_at_a_block_is_that_of_the_network_cut_there():
    model, variables = resnet()
    chain = Chain(model, (8, 8, 3))

    @jax.jit
    def by_parts(images: jax.Array) -> jax.Array:
        x = chain.run(variables, images, stop=2)
        gradient = jax.grad(lambda x: chain.run(variables, x, start=2)[jnp.arange(3), CLASSES].sum())(x)
        return jnp.maximum((gradient.mean((1, 2), keepdims=True) * x).sum(-1), 0)

    expected = by_parts(IMAGES)
    assert np.any(expected)
    found = explain.grad_cam(model, variables, IMAGES, CLASSES, chain.blocks[1].name)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_map_does_not_depend_on_the_other_images_of_its_batch():
    model, variables = resnet()
    together = explain.grad_cam(model, variables, IMAGES, CLASSES)
    others = np.concatenate([IMAGES[:1], -2 * IMAGES[1:]])
    found = explain.grad_cam(model, variables, others, CLASSES)
    np.testing.assert_allclose(found[0], together[0], atol=1e-6)
    assert np.abs(found - together)[1:].max() > 1e-3


def test_the_likeliest_class_is_explained_where_none_is_given():
    model = ClassMaps()
    variables = random_variables(model)
    likeliest = apply(model, variables, IMAGES).argmax(-1)
    np.testing.assert_array_equal(
        explain.grad_cam(model, variables, IMAGES), explain.grad_cam(model, variables, IMAGES, likeliest)
    )


class Rematerialised(nn.Module):
    """A network that computes its convolution anew for the gradient."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        x = nn.remat(nn.Conv)(4, (3, 3), name="conv")(images)
        return nn.Dense(10, name="fc")(nn.relu(x).mean(axis=(1, 2)))


def test_layers_in_a_rematerialised_part_have_no_name_and_maps_are_the_same():
    model = Rematerialised()
    variables = random_variables(model)
    assert list(explain.layers(model, (8, 8, 3))) == ["fc"]
    features = explain.feature_map(model, variables, IMAGES)
    cam = np.asarray(features @ variables["params"]["fc"]["kernel"][:, CLASSES] / 64)
    found = explain.grad_cam(model, variables, IMAGES, CLASSES)
    np.testing.assert_allclose(found, np.maximum(cam[range(3), ..., range(3)], 0), atol=1e-5)
    assert np.any(explain.guided_backprop(model, variables, IMAGES, CLASSES))


@pytest.mark.parametrize("name", ["lenet5_relu", "airbench94"])
def test_cam_is_refused_where_the_head_is_not_linear_in_the_mean(name: str):
    model = flaxarch.create(name)
    params, batch_stats = shapes(name)
    with pytest.raises(ValueError, match=r"has no class activation maps: its logits are not linear"):
        jax.eval_shape(
            partial(explain.cam, model), {"params": params, "batch_stats": batch_stats}, row_images(name)
        )


def test_a_network_without_feature_map_says_so():
    for model in (Linear(), Stack()):
        variables = random_variables(model, (1, 1, 3))
        with pytest.raises(ValueError, match=f"{type(model).__name__} has no feature map"):
            explain.grad_cam(model, variables, IMAGES[:, :1, :1])


def _last_map(name: str) -> tuple[tuple[int, ...], bool]:
    params, batch_stats = shapes(name)
    with use_native_forms(True):
        program = trace(
            flaxarch.create(name), {"params": params, "batch_stats": batch_stats}, row_images(name)
        )
    last = program.last_map()
    return last.aval.shape[1:], program.is_linear_in_the_mean(last)


# Shapes of the last feature map by the papers' tables, and whether a mean and a linear layer follow it.
LAST_MAPS = {
    "vgg16_bn_cifar": ((2, 2, 512), False),
    "nin_cifar10": ((8, 8, 10), True),
    "lenet5_relu": ((4, 4, 16), False),
    "airbench94": ((3, 3, 256), False),
}
LARGE_LAST_MAPS = {
    "alexnet": ((6, 6, 256), False),
    "unet": ((388, 388, 64), False),
    "squeezenet1_1": ((13, 13, 1000), True),
    "resnet8_keras": ((8, 8, 64), True),
    "wrn_16_4": ((8, 8, 256), True),
    "densenet_bc_40_12": ((8, 8, 132), True),
    "preact_resnet20_pytorchcv": ((8, 8, 64), True),
    "ode_resnet_digits": ((4, 4, 32), True),
    "plain18": ((7, 7, 512), True),
    "seresnet20": ((8, 8, 64), True),
    "dpn68": ((7, 7, 832), True),
    "inception_v3": ((8, 8, 2048), True),
    "googlenet": ((7, 7, 1024), True),
    "unet_resnet18": ((224, 224, 16), False),
    "xception": ((10, 10, 2048), True),
    "shufflenet_v2_x0_5": ((7, 7, 1024), True),
    "bn_inception_paper": ((7, 7, 1024), True),
    "inception_v4": ((8, 8, 1536), True),
    "inception_resnet_v1": ((8, 8, 1792), True),
    "mobilenet_025": ((7, 7, 256), True),
    "mobilenet_v2_035": ((7, 7, 1280), True),
    "mobilenet_v3_small_050": ((7, 7, 288), False),
}


@pytest.mark.parametrize("name", LAST_MAPS)
def test_the_last_feature_map_is_what_the_head_reads(name: str):
    assert _last_map(name) == LAST_MAPS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_LAST_MAPS)
def test_the_last_feature_map_is_what_the_head_reads_in_networks_that_take_longer_to_trace(name: str):
    assert _last_map(name) == LARGE_LAST_MAPS[name]


def test_no_family_is_left_out():
    assert set(LAST_MAPS) | set(LARGE_LAST_MAPS) == set(ROWS)
