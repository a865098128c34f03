from itertools import islice

import numpy as np
import pytest

from train.augment import AUGMENTATIONS
from train.data import ArraySource, DataError, Dataset, Sampling, divide, train_batches
from train.data.split import stratified

LABELS = np.repeat(np.arange(4, dtype=np.int32), [40, 20, 10, 2])


def source_of(labels: np.ndarray) -> ArraySource:
    """Images whose first pixel is their own number."""
    images = np.zeros((len(labels), 12, 12, 3), np.uint8)
    images[:] = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return ArraySource(images, labels, tuple(map(str, range(labels.max() + 1))))


SOURCE = source_of(np.random.default_rng(0).permutation(LABELS))
PLAIN = AUGMENTATIONS["none"]


def numbers(batch: dict[str, np.ndarray]) -> list[int]:
    return batch["image"][:, 0, 0, 0].tolist()


# Which examples a batch holds


def test_balanced_classes_come_alike_however_large_they_are():
    batches = train_batches(SOURCE, batch_size=24, seed=0, augment=PLAIN, sampling=Sampling(balanced=True))
    labels = np.concatenate([batch["label"] for batch in islice(batches, 200)])
    np.testing.assert_allclose(np.bincount(labels) / len(labels), 0.25, atol=0.02)


def test_balanced_examples_of_a_class_come_alike():
    batches = train_batches(SOURCE, batch_size=24, seed=0, augment=PLAIN, sampling=Sampling(balanced=True))
    drawn = np.concatenate([numbers(batch) for batch in islice(batches, 300)])
    of_largest = np.bincount(drawn, minlength=len(LABELS))[SOURCE.labels == 0]
    assert of_largest.min() > 20  # 45 on average


def test_balanced_batches_belong_to_their_labels_and_differ_by_epoch():
    batches = train_batches(SOURCE, batch_size=24, seed=0, augment=PLAIN, sampling=Sampling(balanced=True))
    first_nine = list(islice(batches, 9))
    for batch in first_nine:
        assert batch["label"].tolist() == SOURCE.labels[numbers(batch)].tolist()
    assert numbers(first_nine[0]) != numbers(first_nine[3]) != numbers(first_nine[6])


def test_a_class_without_examples_is_never_drawn():
    source = source_of(np.array([0, 2, 2, 2], np.int32))
    batches = train_batches(source, batch_size=4, seed=0, augment=PLAIN, sampling=Sampling(balanced=True))
    labels = np.concatenate([batch["label"] for batch in islice(batches, 50)])
    assert set(labels.tolist()) == {0, 2}
    assert abs((labels == 0).mean() - 0.5) < 0.1


@pytest.mark.parametrize("repeats", [2, 3])
def test_a_batch_holds_each_image_so_many_times_and_each_copy_is_augmented_anew(repeats: int):
    augment = AUGMENTATIONS["crop"]
    batches = train_batches(
        SOURCE, batch_size=12, seed=0, augment=augment, sampling=Sampling(repeats=repeats)
    )
    for batch in islice(batches, 12):
        centres = batch["image"][:, 6, 6, 0]
        assert np.unique(centres, return_counts=True)[1].tolist() == [repeats] * (12 // repeats)
        copies = batch["image"].reshape(repeats, 12 // repeats, -1)
        assert (copies[0] != copies[1]).any()


def test_an_epoch_with_repeats_has_as_many_batches_of_fewer_images():
    batches = train_batches(SOURCE, batch_size=12, seed=0, augment=PLAIN, sampling=Sampling(repeats=3))
    epoch = np.concatenate([numbers(batch) for batch in islice(batches, 6)])
    assert len(np.unique(epoch)) == 72 // 3


def test_repeats_have_to_divide_the_batch():
    with pytest.raises(DataError, match="batch_size 8 does not hold 3 copies of each image"):
        train_batches(SOURCE, batch_size=8, seed=0, augment=PLAIN, sampling=Sampling(repeats=3))


@pytest.mark.parametrize("sampling", [Sampling(balanced=True), Sampling(repeats=2), Sampling(True, 2)])
def test_every_sampling_resumes_and_is_shared_by_processes(sampling: Sampling):
    crop = AUGMENTATIONS["crop_flip"]

    def images(start: int, index: int = 0, count: int = 1) -> list[np.ndarray]:
        batches = train_batches(
            SOURCE,
            batch_size=12,
            seed=1,
            augment=crop,
            sampling=sampling,
            start_step=start,
            process_index=index,
            process_count=count,
        )
        found = [batch["image"] for batch in islice(batches, 9 - start)]
        batches.close()
        return found

    whole = images(0)
    np.testing.assert_array_equal(images(7), whole[7:])
    np.testing.assert_array_equal(np.concatenate([images(0, 0, 2), images(0, 1, 2)], axis=1), whole)


# Parts of the training examples


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_a_share_is_that_of_each_class_to_the_nearest_example(share: float):
    chosen = stratified(SOURCE.labels, share, np.random.default_rng(0))
    assert len(np.unique(chosen)) == len(chosen) == round(share * len(LABELS))
    counts = np.bincount(SOURCE.labels[chosen], minlength=4)
    assert np.abs(counts - share * np.bincount(LABELS)).max() <= 1


def whole() -> Dataset:
    return Dataset(SOURCE, source_of(np.arange(4, dtype=np.int32)), (0.5,) * 3, (0.2,) * 3)


def members(dataset: Dataset) -> tuple[set[int], set[int]]:
    assert dataset.validation is not None
    loaded = [x.load(np.arange(len(x)))[0][:, 0, 0, 0].tolist() for x in (dataset.train, dataset.validation)]
    return set(loaded[0]), set(loaded[1])


def test_validation_and_training_share_no_example_and_leave_none_out():
    divided = divide(whole(), validation_share=0.25, train_share=1, seed=0)
    train, validation = members(divided)
    assert not train & validation
    assert train | validation == set(range(72))
    assert len(validation) == 18
    assert divided.test is not SOURCE
    assert len(divided.test) == 4


def test_the_seed_fixes_the_parts_and_the_share_to_train_on_moves_no_validation_example():
    full, same, other = (divide(whole(), validation_share=0.25, train_share=1, seed=s) for s in (0, 0, 1))
    assert members(full) == members(same) != members(other)
    less = divide(whole(), validation_share=0.25, train_share=0.5, seed=0)
    assert members(less)[1] == members(full)[1]
    assert members(less)[0] < members(full)[0]
    assert len(less.train) == 27


def test_parts_have_the_labels_of_their_examples():
    part = divide(whole(), validation_share=0, train_share=0.5, seed=0).train
    images, labels = part.load(np.arange(len(part)))
    np.testing.assert_array_equal(labels, part.labels)
    np.testing.assert_array_equal(labels, SOURCE.labels[images[:, 0, 0, 0]])
    np.testing.assert_array_equal(list(part.load_whole(np.array([3, 1]))[0]), images[[3, 1]])


def test_without_shares_the_source_is_the_source():
    divided = divide(whole(), validation_share=0, train_share=1, seed=0)
    assert divided.train is SOURCE
    assert divided.validation is None


@pytest.mark.parametrize(
    ("validation_share", "train_share", "message"),
    [
        (0.001, 1, r"validation_share 0.001 of 72 training images is 0 of them"),
        (0.999, 1, r"validation_share 0.999 of 72 training images is 72 of them"),
        (0, 0.001, r"train_share 0.001 of 72 training images is 0 of them"),
    ],
)
def test_a_share_that_leaves_nothing_is_an_error(validation_share: float, train_share: float, message: str):
    with pytest.raises(DataError, match=message):
        divide(whole(), validation_share=validation_share, train_share=train_share, seed=0)
