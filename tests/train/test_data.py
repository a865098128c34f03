import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.augment import AUGMENTATIONS
from train.data import (
    ArraySource,
    Batch,
    DataError,
    Dataset,
    eval_batches,
    open_dataset,
    train_batches,
)
from train.data import folder as folder_module
from train.data import listing as listing_module
from train.data.cifar import CIFAR10, CIFAR100, Cifar
from train.data.folder import FolderSource, decode

RNG = np.random.default_rng(0)
CROP_FLIP = AUGMENTATIONS["crop_flip"]


def numbered_source(num_examples: int) -> ArraySource:
    """Random images, each labelled with its own index."""
    images = np.random.default_rng(1).integers(256, size=(num_examples, 6, 6, 3), dtype=np.uint8)
    return ArraySource(images, np.arange(num_examples, dtype=np.int32), tuple(map(str, range(num_examples))))


def assert_same_batches(batches: list[Batch], expected: list[Batch]) -> None:
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for key, value in batch.items():
            np.testing.assert_array_equal(value, other[key])


# Batches


def test_a_batch_holds_images_labels_and_a_mask():
    batch = next(train_batches(numbered_source(20), batch_size=8, seed=0, augment=CROP_FLIP))
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "image": ("uint8", (8, 6, 6, 3)),
        "label": ("int32", (8,)),
        "mask": ("float32", (8,)),
    }
    assert batch["mask"].all()


@pytest.mark.parametrize("start_step", [1, 2, 3, 7])  # an epoch has two batches
def test_batches_after_a_resume_are_those_of_an_unbroken_run(start_step: int):
    source = numbered_source(20)
    unbroken = list(islice(train_batches(source, batch_size=8, seed=3, augment=CROP_FLIP), 10))
    resumed = train_batches(source, batch_size=8, seed=3, augment=CROP_FLIP, start_step=start_step)
    assert_same_batches(list(islice(resumed, 10 - start_step)), unbroken[start_step:])


def test_worker_processes_change_no_batch():
    source = numbered_source(20)
    expected = list(islice(train_batches(source, batch_size=8, seed=3, augment=CROP_FLIP, start_step=1), 5))
    batches = train_batches(source, batch_size=8, seed=3, augment=CROP_FLIP, start_step=1, workers=2)
    assert_same_batches(list(islice(batches, 5)), expected)
    batches.close()


def test_slices_of_two_processes_make_the_batch_of_one():
    source = numbered_source(20)
    whole, first, second = (
        list(
            islice(
                train_batches(
                    source, batch_size=8, seed=5, augment=CROP_FLIP, process_index=index, process_count=count
                ),
                6,
            )
        )
        for index, count in ((0, 1), (0, 2), (1, 2))
    )
    joined = [
        {key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(first, second, strict=True)
    ]
    assert_same_batches(joined, whole)


def test_epochs_differ_in_order_and_each_holds_every_example_but_the_remainder():
    source = numbered_source(22)
    batches = train_batches(source, batch_size=5, seed=0, augment=AUGMENTATIONS["none"])
    epochs = [np.concatenate([batch["label"] for batch in islice(batches, 4)]) for _ in range(3)]
    for epoch in epochs:
        assert len(np.unique(epoch)) == 20
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    assert not np.array_equal(epochs[0], np.sort(epochs[0]))


def test_seeds_differ_in_order():
    source = numbered_source(20)
    first, second = (
        next(train_batches(source, batch_size=20, seed=seed, augment=AUGMENTATIONS["none"]))
        for seed in (0, 1)
    )
    assert not np.array_equal(first["label"], second["label"])


def test_the_same_example_is_augmented_anew_in_each_epoch():
    source = numbered_source(8)
    batches = train_batches(source, batch_size=8, seed=0, augment=AUGMENTATIONS["crop"])
    first, second = (batch["image"][np.argsort(batch["label"])] for batch in islice(batches, 2))
    assert not np.array_equal(first, second)


def test_without_augmentation_images_belong_to_their_labels():
    source = numbered_source(20)
    batch = next(train_batches(source, batch_size=8, seed=0, augment=AUGMENTATIONS["none"]))
    np.testing.assert_array_equal(batch["image"], source.images[batch["label"]])


@pytest.mark.parametrize("num_examples", [1, 8, 21])
@pytest.mark.parametrize(("batch_size", "process_count"), [(1, 1), (4, 1), (4, 2), (8, 4), (64, 2)])
def test_evaluation_meets_every_example_once(num_examples: int, batch_size: int, process_count: int):
    source = numbered_source(num_examples)
    shares = [
        list(eval_batches(source, batch_size=batch_size, process_index=index, process_count=process_count))
        for index in range(process_count)
    ]
    assert len({len(batches) for batches in shares}) == 1
    seen = []
    for batch in (batch for batches in shares for batch in batches):
        assert batch["image"].shape == (batch_size // process_count, 6, 6, 3)
        real = batch["mask"] == 1
        np.testing.assert_array_equal(batch["image"][real], source.images[batch["label"][real]])
        assert not batch["image"][~real].any()
        assert not batch["mask"][~real].any()
        seen += batch["label"][real].tolist()
    assert sorted(seen) == list(range(num_examples))


def test_a_batch_larger_than_the_source_is_an_error():
    with pytest.raises(DataError, match="batch_size 30 is above the 20 training examples"):
        train_batches(numbered_source(20), batch_size=30, seed=0, augment=CROP_FLIP)


def test_a_batch_that_processes_cannot_share_is_an_error():
    with pytest.raises(DataError, match="batch_size 8 does not give 3 processes equal shares"):
        train_batches(numbered_source(20), batch_size=8, seed=0, augment=CROP_FLIP, process_count=3)
    with pytest.raises(DataError, match="positive multiple of 3"):
        eval_batches(numbered_source(20), batch_size=8, process_count=3)


# Data sets by name


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(DataError, match="no data set 'cifar-10'; the nearest name is 'cifar10'"):
        open_dataset("cifar-10", None)


def test_a_missing_data_dir_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="'mnist' needs data_dir"):
        open_dataset("mnist", None)
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        open_dataset("mnist", tmp_path / "nowhere")


def test_digits_split_each_class_alike():
    dataset = open_dataset("digits", None)
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.train.image_shape == (8, 8, 1)
    images, labels = dataset.train.load(np.arange(1437))
    test_images, test_labels = dataset.test.load(np.arange(360))
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    counts, test_counts = np.bincount(labels), np.bincount(test_labels)
    assert np.abs(test_counts - (counts + test_counts) / 5).max() < 1
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in test_images}
    np.testing.assert_allclose(dataset.mean, [(images / 255).mean()])
    np.testing.assert_allclose(dataset.std, [(images / 255).std()])


def test_images_of_any_set_are_resized_where_asked_for():
    dataset, small = open_dataset("digits", None, image_size=32), open_dataset("digits", None)
    assert dataset.train.image_shape == dataset.test.image_shape == (32, 32, 1)
    assert (len(dataset.train), dataset.train.class_names) == (len(small.train), small.train.class_names)
    images, labels = dataset.train.load(np.array([3, 1, 2]))
    originals, expected = small.train.load(np.array([3, 1, 2]))
    np.testing.assert_array_equal(labels, expected)
    assert images.dtype == np.uint8
    means = images.reshape(3, 8, 4, 8, 4).mean(axis=(2, 4))  # enlarged, a pixel is a block again, softened
    assert np.abs(means - originals[..., 0]).mean() < 20
    assert open_dataset("digits", None, image_size=8).train.image_shape == (8, 8, 1)


# IDX


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Plain training files and gzipped test files, each with the same 12 examples."""
    images = RNG.integers(256, size=(12, 28, 28), dtype=np.uint8)
    labels = RNG.integers(10, size=12, dtype=np.uint8)
    for name, values in (("images-idx3", images), ("labels-idx1", labels)):
        (folder / f"train-{name}-ubyte").write_bytes(idx(values))
        (folder / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    return images, labels


@pytest.mark.parametrize(("name", "first_class"), [("mnist", "0"), ("fashion_mnist", "T-shirt/top")])
def test_idx_files_are_read_plain_and_gzipped(tmp_path: Path, name: str, first_class: str):
    images, labels = write_mnist(tmp_path)
    dataset = open_dataset(name, tmp_path)
    for source in (dataset.train, dataset.test):
        assert source.num_classes == 10
        assert source.class_names[0] == first_class
        loaded_images, loaded_labels = source.load(np.arange(12))
        np.testing.assert_array_equal(loaded_images, images[..., np.newaxis])
        np.testing.assert_array_equal(loaded_labels, labels)
        assert loaded_labels.dtype == np.int32


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", None, "has neither train-images-idx3-ubyte nor"),
        ("train-images-idx3-ubyte", idx(np.zeros(3, np.uint8)), "starts with the bytes 00000801;.*00000803"),
        (
            "train-images-idx3-ubyte",
            idx(np.zeros((12, 28, 28), np.uint8))[:-1],
            "holds 9423 bytes.*takes 9424",
        ),
        ("train-images-idx3-ubyte", idx(np.zeros((12, 28, 28), np.uint8))[:9], "ends within its header"),
        ("train-images-idx3-ubyte", idx(np.zeros((0, 28, 28), np.uint8)), r"announces \(0, 28, 28\)"),
        ("train-labels-idx1-ubyte", idx(np.zeros(11, np.uint8)), "12 images and .* 11 labels"),
        ("train-labels-idx1-ubyte", idx(np.full(12, 10, np.uint8)), "label 10 of example 0 is out of range"),
        ("t10k-labels-idx1-ubyte.gz", b"no gzip", "not a whole gzip file"),
        ("t10k-labels-idx1-ubyte.gz", gzipped(idx(np.zeros(12, np.uint8)))[:-9], "not a whole gzip file"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str):
    write_mnist(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_dataset("mnist", tmp_path)


# npz


@pytest.mark.parametrize("layout", ["file", "folder"])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_npz_is_read_from_one_file_or_two(tmp_path: Path, layout: str, channels: tuple[int, ...]):
    images = RNG.integers(256, size=(6, 5, 4, *channels), dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2])
    if layout == "file":
        path = tmp_path / "all.npz"
        np.savez(
            path, train_images=images, train_labels=labels, test_images=images[:2], test_labels=labels[:2]
        )
    else:
        path = tmp_path
        np.savez(path / "train.npz", images=images, labels=labels)
        np.savez(path / "test.npz", images=images[:2], labels=labels[:2])
    dataset = open_dataset("npz", path)
    assert (len(dataset.train), len(dataset.test), dataset.train.num_classes) == (6, 2, 3)
    assert dataset.train.image_shape == (5, 4, *(channels or (1,)))
    loaded_images, loaded_labels = dataset.train.load(np.array([5, 0]))
    np.testing.assert_array_equal(loaded_images.reshape(2, 5, 4, *channels), images[[5, 0]])
    np.testing.assert_array_equal(loaded_labels, [2, 0])
    pixels = images.reshape(-1, *(channels or (1,))) / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=0))
    np.testing.assert_allclose(dataset.std, pixels.std(axis=0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_images": np.zeros((4, 2, 2, 3), np.float32)}, r"'train_images' is float32 \(4, 2, 2, 3\)"),
        ({"train_images": np.zeros((4, 2), np.uint8)}, r"has to be uint8 \(N, H, W, C\) or"),
        ({"train_labels": np.zeros((4, 1), np.int64)}, r"'train_labels' is int64 \(4, 1\)"),
        ({"train_labels": np.zeros(4)}, "'train_labels' is float64"),
        ({"train_labels": np.array([0, 1, -1, 0])}, "training labels: label -1 of example 2"),
        (
            {"test_labels": np.array([0, 5, 0, 0])},
            "test labels: label 5 of example 1 is out of range.*0 to 1",
        ),
        ({"test_images": np.zeros((4, 3, 2, 3), np.uint8)}, r"test images \(3, 2, 3\)"),
        ({"train_images": np.zeros((4, 2, 2, 3), np.uint8)}, "channel 0 has one value"),
        ({"test_labels": None}, r"lacks the arrays \['test_labels'\]"),
    ],
)
def test_unfit_npz_arrays_are_named(tmp_path: Path, changed: dict[str, np.ndarray | None], message: str):
    images = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    labels = np.array([0, 1, 0, 1])
    arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    arrays = {key: value for key, value in {**arrays, **changed}.items() if value is not None}
    np.savez(tmp_path / "all.npz", allow_pickle=False, **arrays)
    with pytest.raises(DataError, match=message):
        open_dataset("npz", tmp_path / "all.npz")


def test_npz_of_objects_is_refused_and_a_missing_one_named(tmp_path: Path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (4,)})
    with zipfile.ZipFile(tmp_path / "train.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + b"\x80\x04N.")
        archive.writestr("labels.npy", header.getvalue() + b"\x80\x04N.")
    with pytest.raises(DataError, match=r"train.npz is not a whole .npz file of plain arrays"):
        open_dataset("npz", tmp_path)
    (tmp_path / "train.npz").unlink()
    with pytest.raises(DataError, match=r"train.npz: no such file; 'npz' reads one .npz file or a folder"):
        open_dataset("npz", tmp_path)


# CIFAR


def python_batch(pixels: np.ndarray, labels: list[int], label_key: str, *, bytes_keys: bool) -> bytes:
    """A pickled batch, opcode by opcode as Python 2 wrote CIFAR's; with `bytes_keys`, as Python 3 would."""

    def key(name: str) -> bytes:
        return (b"C" if bytes_keys else b"U") + bytes([len(name)]) + name.encode()

    rows, columns = (b"M" + struct.pack("<H", size) for size in pixels.shape)
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    array += b"(K\x01" + rows + columns + b"\x86" + dtype + b"\x89T" + struct.pack("<i", pixels.size)
    array += pixels.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x03}(" + key("data") + array + key(label_key) + numbers + b"u."


def write_cifar(
    folder: Path, name: str, version: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Writes a data set of 3 examples a file; returns training images and labels, test images and labels."""
    if name == "cifar10":
        files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    else:
        files = ["train", "test"]
    images = RNG.integers(256, size=(3 * len(files), 32, 32, 3), dtype=np.uint8)
    labels = RNG.integers(10 if name == "cifar10" else 100, size=len(images), dtype=np.uint8)
    pixels = images.transpose(0, 3, 1, 2).reshape(-1, 3072)
    folder.mkdir(exist_ok=True)
    for i, file in enumerate(files):
        here = slice(3 * i, 3 * i + 3)
        if version == "binary":
            columns = [labels[here, np.newaxis], pixels[here]]
            if name == "cifar100":
                columns.insert(0, np.full((3, 1), 19, np.uint8))  # the coarse label
            (folder / f"{file}.bin").write_bytes(np.concatenate(columns, axis=1).tobytes())
        else:
            label_key = "labels" if name == "cifar10" else "fine_labels"
            content = python_batch(
                pixels[here], labels[here].tolist(), label_key, bytes_keys=version == "python3"
            )
            (folder / file).write_bytes(content)
    return images[:-3], labels[:-3], images[-3:], labels[-3:]


@pytest.mark.parametrize(
    ("name", "version", "subfolder"),
    [
        ("cifar10", "binary", ""),
        ("cifar10", "binary", "cifar-10-batches-bin"),
        ("cifar10", "python2", ""),
        ("cifar10", "python3", "cifar-10-batches-py"),
        ("cifar100", "binary", "cifar-100-binary"),
        ("cifar100", "python2", "cifar-100-python"),
        ("cifar100", "python2", ""),
    ],
)
def test_cifar_is_read_in_either_version(tmp_path: Path, name: str, version: str, subfolder: str):
    images, labels, test_images, test_labels = write_cifar(tmp_path / subfolder, name, version)
    dataset = open_dataset(name, tmp_path)
    assert dataset.train.num_classes == len(dataset.test.class_names) == (10 if name == "cifar10" else 100)
    for source, expected_images, expected_labels in (
        (dataset.train, images, labels),
        (dataset.test, test_images, test_labels),
    ):
        loaded_images, loaded_labels = source.load(np.arange(len(source)))
        np.testing.assert_array_equal(loaded_images, expected_images)
        np.testing.assert_array_equal(loaded_labels, expected_labels)
        assert loaded_labels.dtype == np.int32


@pytest.mark.parametrize(("cifar", "num_classes"), [(CIFAR10, 10), (CIFAR100, 100)])
def test_cifar_classes_are_in_alphabetical_order(cifar: Cifar, num_classes: int):
    assert len(set(cifar.class_names)) == num_classes
    assert list(cifar.class_names) == sorted(cifar.class_names)


def test_cifar_as_folders_of_images(tmp_path: Path):
    write_images(tmp_path, {"train": 2, "test": 1}, CIFAR10.class_names, size=(32, 32))
    dataset = open_dataset("cifar10", tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (20, 10)
    assert dataset.train.class_names == CIFAR10.class_names
    assert dataset.mean == (0.4914, 0.4822, 0.4465)


def test_unfit_cifar_files_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"has no test_batch\.bin"):
        open_dataset("cifar10", tmp_path)

    write_images(tmp_path, {"train": 1, "test": 1}, ["cat", "dog"], size=(32, 32))
    with pytest.raises(DataError, match=r"2 classes \(cat, dog, ...\), which are not this CIFAR's"):
        open_dataset("cifar10", tmp_path)

    write_cifar(tmp_path, "cifar10", "binary")
    path = tmp_path / "data_batch_3.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"data_batch_3.bin holds 9218 bytes.*multiple of the 3073"):
        open_dataset("cifar10", tmp_path)
    path.write_bytes(b"\x0a" + content[1:])
    with pytest.raises(DataError, match=r"data_batch_3.bin: label 10 of example 0 is out of range"):
        open_dataset("cifar10", tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_3.bin, but has other files"):
        open_dataset("cifar10", tmp_path)


def test_a_cifar_pickle_that_calls_a_function_is_refused(tmp_path: Path):
    write_cifar(tmp_path, "cifar100", "python2")
    (tmp_path / "train").write_bytes(b"cos\nmkdir\n(V" + str(tmp_path / "made").encode() + b"\ntR.")
    with pytest.raises(DataError, match=r"train.*os.mkdir"):
        open_dataset("cifar100", tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02].",
        b"\x80\x02}U\x04dataK\x01s.",
        python_batch(np.zeros((2, 3072), np.uint8), [1], "fine_labels", bytes_keys=False),
        python_batch(np.zeros((2, 3072), np.uint8), [1, 2], "labels", bytes_keys=False),
    ],
)
def test_a_cifar_pickle_of_something_else_is_named(tmp_path: Path, content: bytes):
    write_cifar(tmp_path, "cifar100", "python2")
    (tmp_path / "train").write_bytes(content)
    with pytest.raises(DataError, match=r"train is not a dict of 'data'.* 'fine_labels'"):
        open_dataset("cifar100", tmp_path)


# Folders and tars of images


def encoded(image: np.ndarray, image_format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, image_format)
    return stream.getvalue()


def write_images(
    folder: Path, splits: dict[str, int], classes: Sequence[str], *, size: tuple[int, int] = (6, 8)
) -> dict[str, np.ndarray]:
    """Writes so many PNG files a class and split; returns each split's images in order of class and name."""
    images = {}
    for split, count in splits.items():
        images[split] = RNG.integers(256, size=(len(classes) * count, *size, 3), dtype=np.uint8)
        for i, image in enumerate(images[split]):
            path = folder / split / classes[i // count] / f"{i % count:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(image))
    return images


def pack(folder: Path, split: str, suffix: str, *, with_top: bool) -> None:
    """Replaces the folder of a split by a tar of it; members are added in reverse order."""
    with tarfile.open(folder / f"{split}{suffix}", "w" if suffix == ".tar" else "w:gz") as tar:
        for path in sorted((folder / split).rglob("*"), reverse=True):
            tar.add(path, path.relative_to(folder if with_top else folder / split), recursive=False)
    (folder / split).rename(folder / f"unpacked_{split}")


def loaded(source: folder_module.Source) -> tuple[np.ndarray, np.ndarray]:
    return source.load(np.arange(len(source)))


@pytest.fixture(params=["in memory", "on disk"])
def keeping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether images are decoded on opening or when they are asked for."""
    if request.param == "on disk":
        monkeypatch.setattr(folder_module, "IN_MEMORY_BYTES", 0)
    return request.param


@pytest.mark.parametrize("test_split", ["test", "val"])
@pytest.mark.parametrize("suffix", ["", ".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("with_top", [False, True])
def test_a_folder_and_its_tars_are_the_same_source(
    tmp_path: Path, keeping: str, suffix: str, with_top: bool, test_split: str
):
    images = write_images(tmp_path, {"train": 3, test_split: 2}, ["ape", "bee"])
    (tmp_path / "train" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "ape" / "._000.png").write_text("what macOS adds")
    if suffix:
        pack(tmp_path, "train", suffix, with_top=with_top)
        pack(tmp_path, test_split, suffix, with_top=with_top)
    dataset = open_dataset("folder", tmp_path)
    assert isinstance(dataset.train, ArraySource if keeping == "in memory" else FolderSource)
    assert dataset.train.class_names == ("ape", "bee")
    assert dataset.train.num_classes == 2
    assert dataset.train.image_shape == (6, 8, 3)
    for source, split, labels in (
        (dataset.train, "train", [0, 0, 0, 1, 1, 1]),
        (dataset.test, test_split, [0, 0, 1, 1]),
    ):
        np.testing.assert_array_equal(loaded(source)[0], images[split])
        np.testing.assert_array_equal(loaded(source)[1], labels)
        np.testing.assert_array_equal(source.load(np.array([3, 0]))[0], images[split][[3, 0]])
        assert source.unreadable == ()


def test_worker_processes_read_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path, {"train": 4, "test": 1}, ["ape", "bee"])
    pack(tmp_path, "train", ".tar", with_top=False)
    monkeypatch.setattr(folder_module, "IN_MEMORY_BYTES", 0)
    source = open_dataset("folder", tmp_path).train
    expected = list(islice(train_batches(source, batch_size=4, seed=0, augment=CROP_FLIP), 4))
    batches = train_batches(source, batch_size=4, seed=0, augment=CROP_FLIP, workers=1)
    assert_same_batches(list(islice(batches, 4)), expected)
    batches.close()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_of_every_format_become_rgb(image_format: str, mode: str):
    image = np.full((6, 8) if mode == "L" else (6, 8, 3), 100, np.uint8)
    decoded = decode(encoded(image, image_format), None)
    assert decoded.shape == (6, 8, 3)
    assert np.abs(decoded.astype(int) - 100).max() <= 2  # JPEG and WebP are lossy


def test_images_are_resized_by_the_shorter_side_and_cropped_at_the_centre():
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 200  # the centre square
    np.testing.assert_array_equal(decode(encoded(image), 20), np.full((20, 20, 3), 200, np.uint8))
    assert decode(encoded(image), 5).shape == (5, 5, 3)
    assert decode(encoded(image.transpose(1, 0, 2)), 33).shape == (33, 33, 3)


def test_images_of_different_sizes_need_an_image_size(tmp_path: Path, keeping: str):
    write_images(tmp_path, {"train": 2, "test": 1}, ["ape", "bee"])
    (tmp_path / "train" / "bee" / "001.png").write_bytes(encoded(np.zeros((9, 7, 3), np.uint8)))
    with pytest.raises(DataError, match=r"bee/001.png is 9x7 pixels and others are 6x8; give an image_size"):
        loaded(open_dataset("folder", tmp_path).train)
    dataset = open_dataset("folder", tmp_path, image_size=5)
    assert loaded(dataset.train)[0].shape == (4, 5, 5, 3)
    assert loaded(dataset.test)[0].shape == (2, 5, 5, 3)


@pytest.mark.parametrize(
    "damage", [lambda content: content[:60], lambda content: b"", lambda content: b"x" * 99]
)
def test_an_unreadable_image_is_named_or_skipped(
    tmp_path: Path, keeping: str, damage: Callable[[bytes], bytes]
):
    images = write_images(tmp_path, {"train": 3, "test": 1}, ["ape", "bee"])
    for name in ("ape/000.png", "bee/001.png"):
        path = tmp_path / "train" / name
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"ape/000.png does not decode"):
        open_dataset("folder", tmp_path)
    source = open_dataset("folder", tmp_path, skip_unreadable=True).train
    assert source.unreadable == (str(tmp_path / "train/ape/000.png"), str(tmp_path / "train/bee/001.png"))
    assert len(source) == 4
    np.testing.assert_array_equal(loaded(source)[0], images["train"][[1, 2, 3, 5]])
    np.testing.assert_array_equal(loaded(source)[1], [0, 0, 1, 1])


def test_an_unreadable_image_in_a_tar_is_skipped(tmp_path: Path, keeping: str):
    images = write_images(tmp_path, {"train": 3, "test": 1}, ["ape", "bee"])
    (tmp_path / "train" / "bee" / "000.png").write_bytes(b"")
    pack(tmp_path, "train", ".tar", with_top=False)
    source = open_dataset("folder", tmp_path, skip_unreadable=True).train
    assert source.unreadable == (str(tmp_path / "train.tar/bee/000.png"),)
    np.testing.assert_array_equal(loaded(source)[0], images["train"][[0, 1, 2, 4, 5]])


def test_nothing_but_unreadable_images_is_an_error(tmp_path: Path):
    write_images(tmp_path, {"train": 1, "test": 1}, ["ape"])
    (tmp_path / "test" / "ape" / "000.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 1 images decodes"):
        open_dataset("folder", tmp_path, image_size=4, skip_unreadable=True)


def test_an_image_that_breaks_during_a_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path, {"train": 3, "test": 1}, ["ape", "bee"])
    monkeypatch.setattr(folder_module, "IN_MEMORY_BYTES", 0)
    source = open_dataset("folder", tmp_path).train
    (tmp_path / "train" / "bee" / "001.png").unlink()
    with pytest.raises(DataError, match=r"bee/001.png is gone since the images were listed; put it back"):
        next(train_batches(source, batch_size=6, seed=0, augment=CROP_FLIP))


def test_a_sixteen_bit_image_is_unreadable_rather_than_white(tmp_path: Path):
    write_images(tmp_path, {"train": 1, "test": 1}, ["ape"])
    (tmp_path / "train" / "ape" / "000.png").write_bytes(encoded(np.full((6, 8), 1000, np.uint16)))
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        open_dataset("folder", tmp_path)


def test_unfit_folders_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="has no train; a folder of images has"):
        open_dataset("folder", tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="train has no class folders"):
        open_dataset("folder", tmp_path)
    write_images(tmp_path, {"train": 1}, ["ape", "bee"])
    with pytest.raises(DataError, match=r"has no test images \(test or val\).*validation_share"):
        open_dataset("folder", tmp_path)
    write_images(tmp_path, {"test": 1}, ["ape", "bee"])
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(DataError, match="in class folder cow"):
        open_dataset("folder", tmp_path)
    write_images(tmp_path, {"train": 1}, ["cow"])
    with pytest.raises(DataError, match="classes differ; only one of the two has cow"):
        open_dataset("folder", tmp_path)


def tar_with(member: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        content = encoded(np.zeros((6, 8, 3), np.uint8))
        image = tarfile.TarInfo("ape/000.png")
        image.size = len(content)
        tar.addfile(image, io.BytesIO(content))
        tar.addfile(member)
    return stream.getvalue()


def tar_member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = "ape/000.png" if kind != tarfile.REGTYPE else ""
    return member


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_with(tar_member("../ape/001.png")), "member ../ape/001.png lies outside"),
        (tar_with(tar_member("/ape/001.png")), "member /ape/001.png lies outside"),
        (tar_with(tar_member("ape/001.png", tarfile.SYMTYPE)), "member ape/001.png is a link"),
        (tar_with(tar_member("ape/001.png", tarfile.LNKTYPE)), "member ape/001.png is a link"),
        (
            tar_with(tar_member("ape/001.png", tarfile.FIFOTYPE)),
            "member ape/001.png is a link or a special file",
        ),
        (tar_with(tar_member("bee", tarfile.DIRTYPE)), "in class folder bee"),
        (tar_with(tar_member("ape/001.txt"))[:600], "is not a whole tar file"),
        (b"no tar", "is not a whole tar file"),
    ],
)
def test_unfit_tars_are_named(tmp_path: Path, content: bytes, message: str):
    write_images(tmp_path, {"test": 1}, ["ape"])
    (tmp_path / "train.tar").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_dataset("folder", tmp_path)


def test_unfit_gzipped_tars_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path, {"test": 1}, ["ape"])
    content = gzip.compress(tar_with(tar_member("ape/001.txt")))
    (tmp_path / "train.tar.gz").write_bytes(content[:-20])
    with pytest.raises(DataError, match="is not a whole gzip file"):
        open_dataset("folder", tmp_path)
    (tmp_path / "train.tar.gz").write_bytes(content)
    assert len(open_dataset("folder", tmp_path).train) == 1
    monkeypatch.setattr(listing_module, "UNPACKED_BYTES", 1000)
    with pytest.raises(DataError, match=r"unpacks to more than 1000 bytes.*gunzip it to a plain tar"):
        open_dataset("folder", tmp_path)


def test_a_class_may_have_the_name_of_its_split(tmp_path: Path):
    write_images(tmp_path, {"train": 2, "test": 1}, ["ape", "train"])
    pack(tmp_path, "train", ".tar", with_top=False)
    assert open_dataset("folder", tmp_path).train.class_names == ("ape", "train")


def test_of_two_tar_members_with_one_name_the_later_counts(tmp_path: Path):
    images = write_images(tmp_path, {"train": 1, "test": 1}, ["ape"])
    pack(tmp_path, "train", ".tar", with_top=False)
    newer = encoded(255 - images["train"][0])
    with tarfile.open(tmp_path / "train.tar", "a") as tar:
        member = tarfile.TarInfo("ape/000.png")
        member.size = len(newer)
        tar.addfile(member, io.BytesIO(newer))
    dataset: Dataset = open_dataset("folder", tmp_path)
    np.testing.assert_array_equal(loaded(dataset.train)[0], 255 - images["train"])


def test_share_of_a_last_batch_that_has_no_images_can_be_resized():
    source = open_dataset("digits", None, image_size=16).test
    images, labels = source.load(np.arange(0))
    assert (images.shape, images.dtype, labels.shape) == ((0, 16, 16, 1), np.uint8, (0,))
