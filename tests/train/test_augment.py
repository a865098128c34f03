"""What is done to training images on the host."""

from functools import partial

import numpy as np
import pytest

from train.augment import AUGMENTATIONS, Augmenter, Draws, make_augmenter
from train.augment.build import Augmentation
from train.augment.colour import color_jitter, lighting
from train.augment.crop import alternating_flip, crop_box, flip, inception_crop, pad_crop
from train.augment.erase import cutout, random_erasing
from train.augment.policies import auto_augment_cifar10, rand_augment, trivial_augment
from train.config import Config, ConfigError

GREY, COLOUR = (7,), (7, 8, 9)
CHANGES: dict[str, Augmentation] = {
    "crop": pad_crop,
    "crop with the image's own pixels": partial(pad_crop, reflect=True),
    "flip": flip,
    "alternating flip": alternating_flip,
    "lighting": lighting,
    "colour jitter": color_jitter,
    "cutout": partial(cutout, fill=COLOUR, size=3),
    "erasing": partial(random_erasing, fill=COLOUR),
    "erasing by noise": partial(random_erasing, fill=COLOUR, probability=1.0, noise=True),
    "RandAugment": partial(rand_augment, fill=COLOUR, std=0.5),
    "TrivialAugment": partial(trivial_augment, fill=COLOUR),
    "AutoAugment": partial(auto_augment_cifar10, fill=COLOUR),
    "Inception crop": partial(inception_crop, size=(6, 5)),
}


def random_images(num_images: int, height: int = 6, width: int = 5, channels: int = 3) -> np.ndarray:
    """No pixel is black, as padding is."""
    shape = (num_images, height, width, channels)
    return np.random.default_rng(0).integers(1, 256, size=shape, dtype=np.uint8)


def draws(seed: int, batch_size: int, start: int = 0, stop: int | None = None, epoch: int = 0) -> Draws:
    """Of the examples from `start` on, whose indices are their positions."""
    here = slice(start, batch_size if stop is None else stop)
    indices = np.arange(here.start, here.stop)
    return Draws(np.random.default_rng(seed), batch_size, here, 3, epoch, indices, batch_size)


# Properties of all


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("process_count", [2, 4])
def test_slices_augmented_apart_are_the_batch_augmented_whole(name: str, process_count: int):
    images, change = random_images(32), CHANGES[name]
    whole = change(images, draws(6, 32))
    assert (whole != images).any()
    share = 32 // process_count
    starts = range(0, 32, share)
    parts = [change(images[i : i + share], draws(6, 32, i, i + share)) for i in starts]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("name", CHANGES)
def test_every_process_leaves_the_generator_at_one_state(name: str):
    images, first, second = random_images(8), draws(6, 8, 0, 4), draws(6, 8, 4, 8)
    CHANGES[name](images[:4], first)
    CHANGES[name](images[4:], second)
    assert first.rng.random() == second.rng.random()


@pytest.mark.parametrize("name", CHANGES)
def test_shape_and_type_stay_and_images_are_left_as_they_were(name: str):
    images = random_images(8)
    before = images.copy()
    changed = CHANGES[name](images, draws(7, 8))
    assert (changed.shape, changed.dtype) == (images.shape, np.uint8)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_grey_images_stay_grey_images(name: str):
    images = random_images(8, channels=1)
    config = Config(
        augment=name,  # pyright: ignore[reportArgumentType]
        augment_policy="randaugment_timm",
        color_jitter=0.4,
        cutout_size=2,
        erase_probability=0.5,
    )
    augmenter = make_augmenter(config, (6, 5, 1), (0.1,))
    changed = images if augmenter.crop is None else augmenter.crop(images, draws(0, 8))
    changed = augmenter(changed, draws(0, 8))
    assert (changed.shape, changed.dtype) == (images.shape, np.uint8)


# Crops and mirror images


def test_no_padding_changes_nothing():
    images = random_images(16)
    np.testing.assert_array_equal(pad_crop(images, draws(1, 16), padding=0), images)


@pytest.mark.parametrize("name", ["crop", "crop_flip"])
def test_each_result_is_a_window_of_the_padded_image_or_of_its_mirror_image(name: str):
    images = random_images(64)
    crops = AUGMENTATIONS[name](images, draws(2, 64))
    for image, crop in zip(images, crops, strict=True):
        versions = [image, image[:, ::-1]] if name == "crop_flip" else [image]
        padded = [np.pad(version, ((4, 4), (4, 4), (0, 0))) for version in versions]
        windows = [p[i : i + 6, j : j + 5] for p in padded for i in range(9) for j in range(9)]
        assert any(np.array_equal(crop, window) for window in windows)


def test_every_window_is_about_equally_likely():
    images = np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3, 1).repeat(9000, axis=0)
    crops = pad_crop(images, draws(3, 9000), padding=1)
    centres, counts = np.unique(crops[:, 1, 1, 0], return_counts=True)  # the centre tells which of 9 it is
    np.testing.assert_array_equal(centres, np.arange(1, 10))
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(9000 * 1 / 9 * 8 / 9)


def test_reflecting_pads_with_the_image_itself():
    images = random_images(64)
    assert (pad_crop(images, draws(2, 64)) == 0).any()
    assert (pad_crop(images, draws(2, 64), reflect=True) > 0).all()


def test_about_half_of_the_images_are_mirrored():
    images = random_images(1, 1, 2, 1).repeat(10000, axis=0)
    images[:, 0, :, 0] = 1, 2
    mirrored = flip(images, draws(4, 10000))[:, 0, 0, 0] == 2
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / 100


def test_alternating_flip_mirrors_an_image_in_every_other_epoch_wherever_it_stands():
    images = random_images(100)
    epochs = [alternating_flip(images, draws(9, 100, epoch=epoch)) for epoch in range(4)]
    np.testing.assert_array_equal(epochs[1], epochs[0][:, :, ::-1])
    np.testing.assert_array_equal(epochs[2], epochs[0])
    np.testing.assert_array_equal(epochs[3], epochs[1])
    mirrored = (epochs[0] != images).any(axis=(1, 2, 3))
    assert 30 < mirrored.sum() < 70

    order = np.random.default_rng(0).permutation(100)
    shuffled = Draws(np.random.default_rng(1), 100, slice(0, 100), 3, 2, order, 100)
    np.testing.assert_array_equal(alternating_flip(images[order], shuffled), epochs[2][order])


def test_inception_crops_have_the_areas_and_ratios_asked_for():
    numbers = np.random.default_rng(0).random((2000, 10, 4))
    boxes = np.array([crop_box(500, 400, u, (0.08, 1.0), (3 / 4, 4 / 3)) for u in numbers])
    left, top, width, height = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + width).max() <= 500
    assert (top + height).max() <= 400
    areas, ratios = width * height / 200_000, width / height
    assert areas.min() == pytest.approx(0.08, abs=0.01)
    assert areas.max() > 0.9
    assert ratios.min() == pytest.approx(3 / 4, abs=0.01)
    assert ratios.max() == pytest.approx(4 / 3, abs=0.01)


def test_a_strip_is_cropped_in_its_middle():
    # Not one of the tries fits, for a part of the whole area would be higher than the strip.
    u = np.full((10, 4), 0.5)
    assert crop_box(1000, 30, u, (1.0, 1.0), (3 / 4, 4 / 3)) == (480, 0, 40, 30)
    assert crop_box(30, 1000, u, (1.0, 1.0), (3 / 4, 4 / 3)) == (0, 480, 30, 40)


def test_a_crop_of_all_at_its_own_size_is_the_image():
    images = random_images(4, 6, 6)
    same = inception_crop(images, draws(0, 4), (6, 6), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    np.testing.assert_array_equal(same, images)


def test_images_of_any_sizes_are_cropped_to_one():
    images = [random_images(1, 10 + 3 * i, 20 - 2 * i)[0] for i in range(5)]
    assert inception_crop(iter(images), draws(0, 5), (6, 7)).shape == (5, 6, 7, 3)


# Colour and light


def test_light_is_one_shift_for_all_pixels_of_an_image():
    images = np.full((500, 4, 4, 3), 128, np.uint8)
    shifts = lighting(images, draws(0, 500), std=0.1).astype(int) - 128
    assert (shifts == shifts[:, :1, :1]).all()
    # Along the first component red, green and blue go together; its standard deviation is 0.1 * 0.2175 * 255.
    expected = 0.1 * 255 * np.sqrt((np.array([0.2175 * 0.5675, 0.0188 * 0.7192, 0.0045 * 0.4009]) ** 2).sum())
    assert shifts[:, 0, 0, 0].std() == pytest.approx(expected, rel=0.1)
    assert np.corrcoef(shifts[:, 0, 0].T)[0, 2] > 0.9


@pytest.mark.parametrize("change", [partial(lighting, std=0.0), partial(color_jitter, strength=0.0)])
def test_no_strength_changes_no_colour(change: Augmentation):
    images = random_images(8)
    np.testing.assert_array_equal(change(images, draws(0, 8)), images)


def test_jitter_changes_grey_pixels_only_by_their_brightness_and_contrast():
    images = np.full((200, 2, 2, 3), 100, np.uint8)
    levels = color_jitter(images, draws(0, 200), strength=0.4)
    assert (levels == levels[:, :1, :1, :1]).all()  # a flat grey image stays one
    assert levels.min() >= 59
    assert levels.max() <= 141
    assert levels.std() > 10


# What is painted over


@pytest.mark.parametrize("noise", [False, True])
def test_one_rectangle_of_the_chosen_images_is_erased(noise: bool):
    images = np.full((400, 20, 30, 3), 200, np.uint8)
    erased = random_erasing(images, draws(1, 400), COLOUR, probability=0.25, noise=noise)
    changed = (erased != images).any(axis=-1)
    which = changed.any(axis=(1, 2))
    assert abs(which.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 400)
    for image, mask in zip(erased[which], changed[which], strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert 0.01 < area / 600 < 0.37
        if noise:
            assert len(np.unique(image[mask])) > 20
        else:
            assert mask.sum() == area
            assert (image[mask] == COLOUR).all()


def test_cutout_is_a_square_around_any_pixel_and_may_stick_out():
    images = np.full((500, 9, 12, 3), 200, np.uint8)
    painted = (cutout(images, draws(2, 500), COLOUR, size=4) == COLOUR).all(axis=-1)
    sizes = painted.sum(axis=(1, 2))
    assert sizes.max() == 16
    assert 4 <= sizes.min() < 16
    assert painted.any(axis=0).all()


# Together


def test_changes_follow_one_another_and_the_mean_colour_is_painted():
    config = Config(augment="crop", crop_padding=0, cutout_size=100)
    augmenter = make_augmenter(config, (6, 5, 3), (0.2, 0.4, 0.6))
    changed = augmenter(random_images(4), draws(0, 4))
    np.testing.assert_array_equal(changed, np.broadcast_to([51, 102, 153], changed.shape))


def test_crop_takes_its_flags():
    config = Config(augment="inception_crop_flip", crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    augmenter = make_augmenter(config, (6, 6, 3), (0.5,) * 3)
    assert augmenter.crop is not None
    images = random_images(4, 6, 6)
    np.testing.assert_array_equal(augmenter.crop(images, draws(0, 4)), images)
    assert len(augmenter.changes) == 1
    assert AUGMENTATIONS["none"] == Augmenter()


@pytest.mark.parametrize(
    ("config", "channels", "sentence"),
    [
        (Config(lighting_std=0.1), 1, "lighting_std is for RGB images; these have 1 channel"),
        (
            Config(augment_policy="trivialaugment"),
            2,
            "augment_policy is for .* images; these have 2",
        ),
        (Config(color_jitter=0.4), 4, "color_jitter is for grey and RGB images"),
        (Config(augment="inception_crop"), 4, "augment inception_crop is for grey and RGB images"),
    ],
)
def test_images_without_the_channels_needed_are_refused(config: Config, channels: int, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        make_augmenter(config, (6, 6, channels), (0.5,) * channels)
