"""Occlusion, filters and effective receptive fields, against what is known of them."""

from functools import partial

import numpy as np
import pytest

import flaxarch
from flaxarch import explain
from tests.explain.nets import Blur, Linear, apply, ones, random_images, random_variables, tiny_resnet

IMAGES = random_images(2, (6, 7, 3))
CLASSES = np.asarray([1, 3])


def test_occlusion_of_a_linear_network_is_what_the_patch_takes_away():
    model = Linear()
    variables = random_variables(model, (6, 7, 3))
    kernel = variables["params"]["fc"]["kernel"].T[CLASSES].reshape(2, 6, 7, 3)
    terms = np.asarray(kernel * (IMAGES - 0.25)).sum(-1)
    total, count = np.zeros((2, 6, 7)), np.zeros((6, 7))
    for top in (0, 2, 3):
        for left in (0, 2, 4):  # the last patch is flush with the border
            patch = np.s_[top : top + 3, left : left + 3]
            total[:, *patch] += terms[:, *patch].sum((1, 2), keepdims=True)
            count[patch] += 1
    found = explain.occlusion(model, variables, IMAGES, CLASSES, size=3, stride=2, fill=0.25)
    np.testing.assert_allclose(found, total / count, atol=1e-5)


@pytest.mark.slow
def test_batches_change_no_occlusion():
    model = Linear()
    variables = random_variables(model, (6, 7, 3))
    occlude = partial(explain.occlusion, model, variables, IMAGES, size=2, stride=1)
    np.testing.assert_allclose(occlude(batch_size=4), occlude(batch_size=100), atol=1e-6)


@pytest.mark.slow
def test_hiding_everything_leaves_what_the_network_says_of_nothing():
    model = Linear()
    images = random_images(2, (6, 6, 3))
    variables = random_variables(model, (6, 6, 3))
    difference = apply(model, variables, images) - apply(model, variables, np.zeros_like(images))
    expected = difference[range(2), CLASSES]
    found = explain.occlusion(model, variables, images, CLASSES, size=6)
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], (2, 6, 6)), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "stride", "sentence"),
    [
        (7, 1, "a patch of 7x7 pixels does not fit into images of 6x7"),
        (0, 1, "a patch of 0x0 pixels does not fit"),
        (2, 3, "a stride of 3 would leave pixels out between patches of 2"),
        (2, 0, "a stride of 0"),
    ],
)
def test_patches_that_make_no_sense_are_refused(size: int, stride: int, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        explain.occlusion(Linear(), {}, IMAGES, CLASSES, size=size, stride=stride)


# filters


def test_filters_are_the_first_kernels_each_on_its_own_scale():
    model = tiny_resnet(8)
    variables = random_variables(model)
    kernel = variables["params"]["conv1"]["kernel"]  # (3, 3, 3, 4)
    kernel[..., 2] *= 7.0
    kernel[..., 3] = 0.0
    found = np.asarray(explain.first_layer_filters(model, variables, np.empty((1, 8, 8, 3))))
    assert found.shape == (4, 3, 3, 3)
    for i in range(3):
        np.testing.assert_allclose(2 * found[i] - 1, kernel[..., i] / np.abs(kernel[..., i]).max(), atol=1e-6)
    assert (found[3] == 0.5).all()


def test_a_grid_holds_each_filter_in_its_place():
    filters = np.arange(5 * 2 * 3 * 3).reshape(5, 2, 3, 3) / 100
    grid = explain.filter_grid(filters)
    assert grid.shape == (2 * 3 - 1, 3 * 4 - 1, 3)
    np.testing.assert_array_equal(grid[3:5, 4:7], filters[4])
    assert (grid[2] == 1).all()
    assert (grid[3:, 8:] == 1).all()
    grey = explain.filter_grid(filters[..., :1], columns=5)
    np.testing.assert_array_equal(grey[:, 4:7, 2], filters[1, ..., 0])


def test_filters_that_are_no_pictures_are_refused():
    two = random_images(1, (8, 8, 2))
    for model, images, sentence in (
        (Blur(1), two, "conv0, reads 2 channels of an image of 2: its filters are no pictures"),
        (Linear(), two, "Linear has no convolution, so it has no filters to show"),
    ):
        with pytest.raises(ValueError, match=sentence):
            explain.first_layer_filters(model, random_variables(model, (8, 8, 2)), images)


# effective receptive fields


def test_the_field_of_blurring_layers_is_the_kernel_as_often_convolved_with_itself():
    images = np.zeros((1, 15, 15, 1), np.float32)
    field = np.zeros((15, 15))
    field[7, 7] = 1
    for _ in range(3):  # Luo et al. 2016, Sec. 2.2: uniform weights
        field = np.sum([np.roll(field, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)
    found = explain.effective_receptive_field(Blur(3), ones(Blur(3), (15, 15, 1)), images)
    np.testing.assert_allclose(found, field / field.max(), atol=1e-6)


@pytest.mark.slow
def test_the_field_grows_with_the_root_of_the_depth():
    images = np.zeros((1, 65, 65, 1), np.float32)
    sides = []
    for depth in (4, 16):
        model = Blur(depth)
        field = explain.effective_receptive_field(model, ones(model, (65, 65, 1)), images)
        sides.append(explain.field_size(field).side)
    assert sides[1] / sides[0] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("layer", ["layer2_0/conv1", pytest.param("layer1_0/conv2", marks=pytest.mark.slow)])
def test_the_field_is_within_the_theoretical_one_and_touches_its_ends(layer: str):
    model, shape = tiny_resnet(8), (32, 32, 3)
    variables, images = random_variables(model, shape), random_images(2, shape)
    field = np.asarray(explain.effective_receptive_field(model, variables, images, layer))
    (cost,) = flaxarch.cost(model, shape).of(layer).layers
    seen = [np.flatnonzero(field.max(axis)) for axis in (1, 0)]
    assert cost.receptive_field == tuple(x.max() - x.min() + 1 for x in seen)


def test_the_size_counts_pixels_within_two_deviations():
    y, x = np.mgrid[-30:31, -30:31]
    assert explain.field_size(np.exp(-(x**2 + y**2) / (2 * 6.0**2))).side == pytest.approx(
        np.sqrt(np.pi * 2 * 36 * np.log(1 / 0.0455)), rel=0.01
    )
