"""Crops from whole images, on their way from files to batches."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.augment import make_augmenter
from train.config import Config
from train.data import ArraySource, open_dataset, train_batches
from train.data import folder as folder_module
from train.data.sources import ResizedSource

SIZES = ((30, 20), (21, 40), (25, 25), (50, 33))  # width and height
CROP = make_augmenter(Config(augment="inception_crop_flip"), (16, 16, 3), (0.5,) * 3)


def write_folder(path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("ant", "bee"):
            (path / split / label).mkdir(parents=True)
            for i, (width, height) in enumerate(SIZES):
                image = Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8))
                image.save(path / split / label / f"{i}.png")
    return path


@pytest.mark.parametrize("in_memory", [True, False])
def test_files_are_cropped_at_their_own_size(
    in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if not in_memory:
        monkeypatch.setattr(folder_module, "IN_MEMORY_BYTES", 0)
    source = open_dataset("folder", write_folder(tmp_path), image_size=16).train
    assert isinstance(source, ArraySource) == in_memory
    images, labels = source.load_whole(np.array([3, 4, 1]))
    assert [image.shape for image in images] == [(33, 50, 3), (20, 30, 3), (40, 21, 3)]
    np.testing.assert_array_equal(labels, [0, 1, 0])


def test_batches_of_crops_resume_and_fall_into_slices(tmp_path: Path):
    source = open_dataset("folder", write_folder(tmp_path), image_size=16).train
    options = {"batch_size": 4, "seed": 1, "augment": CROP}
    unbroken = list(islice(train_batches(source, **options), 6))
    assert unbroken[0]["image"].shape == (4, 16, 16, 3)
    resumed = list(islice(train_batches(source, **options, start_step=3), 3))
    halves = [
        list(islice(train_batches(source, **options, process_index=i, process_count=2), 6)) for i in range(2)
    ]
    for step in range(6):
        if step >= 3:
            np.testing.assert_array_equal(resumed[step - 3]["image"], unbroken[step]["image"])
        parts = np.concatenate([half[step]["image"] for half in halves])
        np.testing.assert_array_equal(parts, unbroken[step]["image"])
    assert (unbroken[0]["image"] != unbroken[2]["image"]).any()


def test_arrays_are_cropped_before_they_are_resized():
    images = np.random.default_rng(0).integers(256, size=(4, 8, 8, 1), dtype=np.uint8)
    source = ResizedSource(ArraySource(images, np.zeros(4, np.int32), ("zero",)), 32)
    whole, _ = source.load_whole(np.arange(4))
    np.testing.assert_array_equal(np.stack(list(whole)), images)
    augment = make_augmenter(Config(augment="inception_crop"), (32, 32, 1), (0.5,))
    assert next(train_batches(source, batch_size=4, seed=0, augment=augment))["image"].shape == (4, 32, 32, 1)
