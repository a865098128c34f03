import io
from itertools import islice
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.augment import AUGMENTATIONS
from train.data import DataError, from_sequence, train_batches

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(12, 8, 8, 3), dtype=np.uint8)
LABELS = [i % 3 for i in range(12)]
NAMES = ("ape", "bee", "cow")


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


class Items:
    """Twelve examples, as other libraries hold them."""

    def __init__(self, make: Any, broken: tuple[int, ...] = ()) -> None:
        self._make, self._broken = make, broken

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> Any:
        if index in self._broken:
            raise OSError("it is damaged")
        return self._make(IMAGES[index], LABELS[index])


def as_tuple(image: np.ndarray, label: int) -> Any:
    return image, label


@pytest.mark.parametrize(
    "make",
    [
        as_tuple,
        lambda image, label: {"image": image, "label": np.int64(label), "id": "x"},  # TFDS
        lambda image, label: (Image.fromarray(image), label),  # torchvision
        lambda image, label: {"image": Image.fromarray(image), "label": label},  # Hugging Face
        lambda image, label: [png(image), np.array(label)],
    ],
)
def test_examples_of_any_library_are_the_same(make: Any):
    data = from_sequence(Items(make), Items(make), class_names=NAMES)
    for source in (data.train, data.test):
        images, labels = source.load(np.array([5, 0, 2]))
        np.testing.assert_array_equal(images, IMAGES[[5, 0, 2]])
        assert images.dtype == np.uint8
        assert labels.tolist() == [2, 0, 2]
        assert labels.dtype == np.int32
        assert (len(source), source.image_shape, source.class_names) == (12, (8, 8, 3), NAMES)
        assert source.labels.tolist() == LABELS
        np.testing.assert_array_equal(list(source.load_whole(np.array([1]))[0]), IMAGES[[1]])
    np.testing.assert_allclose(data.mean, (IMAGES / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(data.std, (IMAGES / 255).std(axis=(0, 1, 2)))


def test_keys_of_a_mapping_may_be_others():
    items = Items(lambda image, label: {"img": image, "fine_label": label})
    data = from_sequence(items, class_names=NAMES, keys=("img", "fine_label"))
    assert data.train.load(np.array([1]))[1].tolist() == [1]
    assert len(data.test) == 0
    with pytest.raises(DataError, match=r"training example 0 has no 'image' \(it has img, fine_label\)"):
        from_sequence(items, class_names=NAMES)


def test_grey_images_have_one_channel_and_images_are_resized_where_asked_for():
    grey = from_sequence(Items(lambda image, label: (image[..., 0], label)), class_names=NAMES)
    assert grey.train.image_shape == (8, 8, 1)
    pictures = Items(lambda image, label: (Image.fromarray(image[..., 0]), label))
    assert from_sequence(pictures, class_names=NAMES).train.image_shape == (8, 8, 1)
    small = from_sequence(Items(as_tuple), class_names=NAMES, image_size=4).train
    expected = np.asarray(Image.fromarray(IMAGES[3]).resize((4, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(small.load(np.array([3]))[0][0], expected)
    np.testing.assert_array_equal(next(iter(small.load_whole(np.array([3]))[0])), IMAGES[3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda image, label: image, "example 0 is a ndarray; it has to be"),
        (lambda image, label: (image / 255, label), r"the image is float64 \(8, 8, 3\)"),
        (lambda image, label: (image[0, 0], label), r"the image is uint8 \(3,\)"),
        (lambda image, label: (image, 3), "the label 3 is out of range; labels are whole numbers, 0 to 2"),
        (lambda image, label: (image, "ape"), "the label 'ape' is out of range"),
        (lambda image, label: (image, 0.5), "the label 0.5 is out of range"),
        (lambda image, label: (b"no picture", label), "training example 0 does not decode"),
        (
            lambda image, label: (image[: 4 + label], label),
            r"example 1 is \(5, 8, 3\) and others are \(4, 8, 3\)",
        ),
    ],
)
def test_unfit_examples_are_named(make: Any, message: str):
    with pytest.raises(DataError, match=message):
        from_sequence(Items(make), class_names=NAMES)


def test_examples_that_fail_are_named_or_skipped():
    items = Items(as_tuple, broken=(2, 7))
    with pytest.raises(DataError, match=r"training example 2 cannot be read \(OSError\('it is damaged'\)\)"):
        from_sequence(items, class_names=NAMES)
    data = from_sequence(items, Items(as_tuple), class_names=NAMES, skip_unreadable=True)
    assert len(data.train) == 10
    assert data.train.labels.tolist() == [label for i, label in enumerate(LABELS) if i not in (2, 7)]
    assert [name.split(" cannot")[0] for name in data.train.unreadable] == [
        "training example 2",
        "training example 7",
    ]
    with pytest.raises(DataError, match="none of the 12 training examples can be read"):
        from_sequence(Items(as_tuple, tuple(range(12))), class_names=NAMES, skip_unreadable=True)
    with pytest.raises(DataError, match="there are no training examples"):
        from_sequence([], class_names=NAMES)


def test_workers_read_a_sequence():
    data = from_sequence(Items(as_tuple), class_names=NAMES)
    crop = AUGMENTATIONS["crop"]
    here, there = (
        train_batches(data.train, batch_size=4, seed=0, augment=crop, workers=workers) for workers in (0, 1)
    )
    for batch, other in zip(islice(here, 4), islice(there, 4), strict=True):
        np.testing.assert_array_equal(batch["image"], other["image"])
    there.close()
