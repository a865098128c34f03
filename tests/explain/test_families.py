"""Every method, on the cheapest row of every class of network."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

import flaxarch
from flaxarch import explain
from flaxarch.ops import use_native_forms
from tests.explain.nets import random_images, random_variables
from tests.models.test_every_family import ROWS, images, shapes

LACKING = {
    "cam": {
        "vgg16_bn_cifar",
        "unet",
        "unet_resnet18",
        "alexnet",
        "lenet5_relu",
        "mobilenet_v3_small_050",
        "airbench94",
    },
    "guided_backprop": {"airbench94"},
}
METHODS: dict[str, Callable[..., Any]] = {
    "cam": explain.cam,
    "grad_cam": explain.grad_cam,
    "gradient": explain.gradient,
    "guided_backprop": explain.guided_backprop,
    "integrated_gradients": explain.integrated_gradients,
    "occlusion": explain.occlusion,
    "first_layer_filters": explain.first_layer_filters,
    "effective_receptive_field": explain.effective_receptive_field,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_method_takes_every_family_or_says_what_is_missing(name: str):
    params, batch_stats = shapes(name)
    model, image = flaxarch.create(name), images(name)
    with use_native_forms(True):
        for method, function in METHODS.items():
            steps = {"steps": 1} if method == "integrated_gradients" else {}
            steps = {"size": min(image.shape[1:3])} if method == "occlusion" else steps
            take = partial(function, model, **steps)
            if name in LACKING.get(method, ()):
                with pytest.raises(ValueError, match="has no "):
                    jax.eval_shape(take, {"params": params, "batch_stats": batch_stats}, image)
                continue
            found = jax.eval_shape(take, {"params": params, "batch_stats": batch_stats}, image)
            if method in ("gradient", "guided_backprop", "integrated_gradients"):
                assert found.shape == image.shape
            elif method in ("occlusion", "effective_receptive_field"):
                assert found.shape[-2:] == image.shape[1:3]
            elif method == "first_layer_filters":
                assert found.shape[-1] == image.shape[-1]
            else:
                assert min(found.shape[1:]) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet8_keras", 32),
        ("wrn_16_4", 16),
        ("densenet_bc_40_12", 16),
        ("nin_cifar10", 16),
        ("preact_resnet20_pytorchcv", 16),
        ("mobilenet_025", 64),
        ("squeezenet1_1", 64),
        ("shufflenet_v2_x0_5", 64),
    ],
)
def test_grad_cam_is_the_positive_part_of_cam_in_families_with_a_linear_head(name: str, size: int):
    model, shape = flaxarch.create(name), (size, size, 3)
    variables, given = random_variables(model, shape), random_images(2, shape)
    classes = np.asarray([3, 7])
    cam = np.asarray(explain.cam(model, variables, given, classes))
    found = explain.grad_cam(model, variables, given, classes)
    np.testing.assert_allclose(found, np.maximum(cam, 0), atol=1e-5 * np.abs(cam).max())
