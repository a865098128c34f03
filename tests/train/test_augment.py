import numpy as np
import pytest

from train.augment import AUGMENTATIONS, pad_crop_flip


def random_images(num_images: int, height: int = 6, width: int = 5, channels: int = 3) -> np.ndarray:
    shape = (num_images, height, width, channels)
    return np.random.default_rng(0).integers(
        1, 256, size=shape, dtype=np.uint8
    )  # no pixel is black, as padding is


def test_no_padding_and_no_flip_change_nothing():
    images = random_images(16)
    same = pad_crop_flip(images, np.random.default_rng(1), 16, padding=0, flip=False)
    np.testing.assert_array_equal(same, images)


@pytest.mark.parametrize("flip", [False, True])
def test_each_result_is_a_window_of_the_padded_image_or_of_its_mirror_image(flip: bool):
    images = random_images(64)
    crops = pad_crop_flip(images, np.random.default_rng(2), 64, padding=2, flip=flip)
    for image, crop in zip(images, crops, strict=True):
        versions = [image, image[:, ::-1]] if flip else [image]
        padded = [np.pad(version, ((2, 2), (2, 2), (0, 0))) for version in versions]
        windows = [p[i : i + 6, j : j + 5] for p in padded for i in range(5) for j in range(5)]
        assert any(np.array_equal(crop, window) for window in windows)


def test_every_window_is_about_equally_likely():
    images = np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3, 1).repeat(9000, axis=0)
    crops = pad_crop_flip(images, np.random.default_rng(3), 9000, padding=1, flip=False)
    centres, counts = np.unique(
        crops[:, 1, 1, 0], return_counts=True
    )  # the centre tells which of the 9 it is
    np.testing.assert_array_equal(centres, np.arange(1, 10))
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(9000 * 1 / 9 * 8 / 9)


def test_about_half_of_the_images_are_mirrored():
    images = random_images(1, 1, 2, 1).repeat(10000, axis=0)
    images[:, 0, :, 0] = 1, 2
    mirrored = pad_crop_flip(images, np.random.default_rng(4), 10000, padding=0)[:, 0, 0, 0] == 2
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / 100


def test_images_are_left_as_they_were():
    images = random_images(32)
    before = images.copy()
    pad_crop_flip(images, np.random.default_rng(5), 32)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("process_count", [2, 4])
def test_slices_augmented_apart_are_the_batch_augmented_whole(name: str, process_count: int):
    images = random_images(32)
    augment = AUGMENTATIONS[name]
    whole = augment(images, np.random.default_rng(6), 32)
    share = 32 // process_count
    parts = [
        augment(images[start : start + share], np.random.default_rng(6), 32, start)
        for start in range(0, 32, share)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shape_and_type_stay(name: str):
    images = random_images(8, channels=1)
    augmented = AUGMENTATIONS[name](images, np.random.default_rng(7), 8)
    assert augmented.shape == images.shape
    assert augmented.dtype == np.uint8
