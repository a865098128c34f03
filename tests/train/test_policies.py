"""The operations of AutoAugment and its kin, and the tables of their strengths."""

import inspect
from functools import partial
from typing import Any

import numpy as np
import pytest

from train.augment import Draws, pictures
from train.augment.pictures import to_array, to_picture
from train.augment.policies import (
    AUTOAUGMENT_CIFAR10,
    RANDAUGMENT,
    RANDAUGMENT_TIMM,
    TRIVIALAUGMENT_WIDE,
    auto_augment_cifar10,
    rand_augment,
    trivial_augment,
)

OPERATIONS = {
    name: operation
    for name, operation in inspect.getmembers(pictures, inspect.isfunction)
    if operation.__module__ == pictures.__name__ and not name.startswith(("to_", "_"))
}
# At these strengths an operation does nothing; the others have none.
NOTHING = dict.fromkeys(OPERATIONS, 0.0) | {"solarize": 256.0}
ALWAYS = ("auto_contrast", "equalize", "invert")


def random_image(channels: int = 3) -> np.ndarray:
    """Not at full contrast, so that every operation changes it."""
    return np.random.default_rng(0).integers(40, 200, (24, 20, channels), dtype=np.uint8)


def draws(batch_size: int, seed: int = 0) -> Draws:
    return Draws(np.random.default_rng(seed), batch_size, slice(0, batch_size))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_shape_and_type_and_do_nothing_at_no_strength(name: str, channels: int):
    image, fill = random_image(channels), (0,) * channels
    changed = to_array(OPERATIONS[name](to_picture(image), 0.4, fill))
    assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
    if name not in ALWAYS:
        same = to_array(OPERATIONS[name](to_picture(image), NOTHING[name], fill))
        np.testing.assert_array_equal(same, image)


def test_pictures_move_where_they_are_said_to():
    image = random_image()
    moved = to_array(pictures.translate_x(to_picture(image), 3.9, (1, 2, 3)))
    np.testing.assert_array_equal(moved[:, 3:], image[:, :-3])
    assert (moved[:, :3] == (1, 2, 3)).all()
    moved = to_array(pictures.translate_y_by_share(to_picture(image), -0.25, (0, 0, 0)))
    np.testing.assert_array_equal(moved[:-6], image[6:])
    turned = to_array(pictures.rotate(to_picture(image[:20]), 90, (0, 0, 0)))
    np.testing.assert_array_equal(turned, np.rot90(image[:20]))


def test_levels_change_as_they_are_said_to():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    picture = to_picture(levels)
    np.testing.assert_array_equal(to_array(pictures.posterize(picture, 3.7, (0,))), levels & 0b11111000)
    assert (to_array(pictures.posterize(picture, 8, (0,))) == 0).all()
    solarized = np.where(levels < 100, levels, 255 - levels)
    np.testing.assert_array_equal(to_array(pictures.solarize(picture, 100, (0,))), solarized)
    added = np.where(levels < 128, np.minimum(255, levels.astype(int) + 110), levels)
    np.testing.assert_array_equal(to_array(pictures.solarize_add(picture, 110.9, (0,))), added)


def test_tables_have_the_published_counts():
    assert len(RANDAUGMENT) == len(TRIVIALAUGMENT_WIDE) == 14
    assert len(RANDAUGMENT_TIMM) == 15
    assert len(AUTOAUGMENT_CIFAR10) == 25
    assert {len(pair) for pair in AUTOAUGMENT_CIFAR10} == {2}
    for table in (RANDAUGMENT, RANDAUGMENT_TIMM, TRIVIALAUGMENT_WIDE):
        assert len({row.operation for row in table}) == len(table)


@pytest.mark.parametrize("table", [RANDAUGMENT, RANDAUGMENT_TIMM, TRIVIALAUGMENT_WIDE], ids=len)
def test_every_row_is_drawn_about_equally_often(table: Any):
    images = np.zeros((2000, 1, 1, 1), np.uint8)
    drawn: list[int] = []
    noting = tuple(
        row._replace(operation=lambda picture, *_, i=i: drawn.append(i) or picture)
        for i, row in enumerate(table)
    )
    rand_augment(images, draws(2000), (0,), table=noting, probability=0.5)
    assert abs(len(drawn) - 2000) < 5 * np.sqrt(4000 / 4)
    counts = np.bincount(drawn)
    expected = len(drawn) / len(table)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_magnitude_spreads_by_its_deviation_and_stays_in_bounds():
    strengths: list[float] = []

    def note(picture: Any, strength: float, _: Any) -> Any:
        strengths.append(strength)
        return picture

    row = RANDAUGMENT[5]._replace(operation=note)  # rotate, by up to 30 degrees either way
    images = np.zeros((1000, 1, 1, 1), np.uint8)
    rand_augment(images, draws(1000), (0,), table=(row,), num_operations=1, magnitude=7.0, largest=10.0)
    assert set(np.round(strengths, 9)) == {-21.0, 21.0}
    strengths.clear()
    rand_augment(
        images, draws(1000), (0,), table=(row,), num_operations=1, magnitude=9.0, std=1.0, largest=10.0
    )
    sizes = np.abs(strengths)
    assert sizes.max() == 30
    assert np.median(sizes) == pytest.approx(27, abs=0.5)


@pytest.mark.parametrize(
    "policy",
    [partial(rand_augment, magnitude=15.0), trivial_augment, auto_augment_cifar10],
    ids=["RandAugment", "TrivialAugment", "AutoAugment"],
)
def test_policies_change_most_images_each_in_its_own_way(policy: Any):
    images = np.stack([random_image()] * 40)
    changed = policy(images, draws(40), fill=(0, 0, 0))
    assert (changed != images).any(axis=(1, 2, 3)).mean() > 0.5
    assert len(np.unique(changed.reshape(40, -1), axis=0)) > 15
