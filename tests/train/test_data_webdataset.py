import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.data import DataError, Source, open_dataset, webdataset
from train.data import folder as folder_module

RNG = np.random.default_rng(0)


def encoded(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def noise() -> np.ndarray:
    return RNG.integers(256, size=(6, 8, 3), dtype=np.uint8)


def loaded(source: Source) -> tuple[np.ndarray, np.ndarray]:
    return source.load(np.arange(len(source)))


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are decoded when they are asked for, as those of large sets are."""
    monkeypatch.setattr(folder_module, "IN_MEMORY_BYTES", 0)


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_shards(folder: Path, names: list[str]) -> dict[str, tuple[list[np.ndarray], list[int]]]:
    """Three examples a tar, and names of classes; returns each tar's images and labels."""
    folder.mkdir(exist_ok=True)
    (folder / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    written = {}
    for name in names:
        images, labels = [noise() for _ in range(3)], RNG.integers(5, size=3).tolist()
        files = {}
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            files[f"./part.a/{i:04}.json"] = b'{"more": 1}'
            files[f"./part.a/{i:04}.cls"] = str(label).encode()
            files[f"./part.a/{i:04}.png"] = encoded(image)
        write_tar(folder / name, files)
        written[name] = images, labels
    return written


@pytest.mark.parametrize(
    ("train_names", "test_names"),
    [
        (["set-train-2.tar", "set-train-10.tar"], ["set-validation-0.tar"]),
        (["train/02.tar", "train/10.tar"], ["val/0.tar"]),
        (["train000.tar", "train001.tar"], ["test000.tar"]),
    ],
)
def test_tars_are_indexed_and_read_in_the_order_of_their_numbers(
    tmp_path: Path, train_names: list[str], test_names: list[str], on_disk: None
):
    written = write_shards(tmp_path, [*train_names, *test_names])
    dataset = open_dataset("webdataset", tmp_path)
    assert dataset.train.class_names == ("a", "b", "c", "d", "e")
    for source, names in ((dataset.train, train_names), (dataset.test, test_names)):
        np.testing.assert_array_equal(loaded(source)[0], np.stack([x for n in names for x in written[n][0]]))
        np.testing.assert_array_equal(loaded(source)[1], [x for n in names for x in written[n][1]])
        np.testing.assert_array_equal(source.load(np.array([2, 0]))[0], loaded(source)[0][[2, 0]])


def test_without_names_the_largest_training_label_tells_the_number_of_classes(tmp_path: Path):
    write_tar(tmp_path / "train.tar", {"a.cls": b"2\n", "a.png": encoded(noise())})
    write_tar(tmp_path / "test.tar", {"a.cls": b"1", "a.png": encoded(noise())})
    assert open_dataset("webdataset", tmp_path).train.class_names == ("0", "1", "2")
    write_tar(tmp_path / "test.tar", {"a.cls": b"3", "a.png": encoded(noise())})
    with pytest.raises(DataError, match="label 3 of example 0 is out of range"):
        open_dataset("webdataset", tmp_path)


PICTURE = encoded(noise())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": PICTURE}, r"a has an image and no a\.cls; each example needs both"),
        ({"a.png": PICTURE, "a.cls": b"0", "b.cls": b"0"}, r"b has a \.cls and no b\.jpg"),
        ({"a.png": PICTURE, "a.cls": b"cat"}, r"a\.cls is b'cat'; a label is a whole number"),
        ({"a.png": PICTURE, "a.jpg": PICTURE, "a.cls": b"0"}, "two images of the key a: a.png and a.jpg"),
        ({"a.txt": b""}, r"no shard \(train-0\.tar, \.\.\.\) has an image"),
        ({"a.png": PICTURE, "a.cls": b"-1"}, "label -1 of example 0 is out of range"),
    ],
)
def test_unfit_shards_are_named(tmp_path: Path, files: dict[str, bytes], message: str):
    write_tar(tmp_path / "train-0.tar", files)
    with pytest.raises(DataError, match=message):
        open_dataset("webdataset", tmp_path)


def test_a_shard_that_is_cut_off_or_missing_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="has no shards of train"):
        open_dataset("webdataset", tmp_path)
    write_shards(tmp_path, ["train-0.tar", "train-1.tar"])
    with pytest.raises(DataError, match="has no test images"):
        open_dataset("webdataset", tmp_path)
    path = tmp_path / "train-1.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"train-1\.tar is not a whole tar file"):
        open_dataset("webdataset", tmp_path)


def test_a_shard_that_vanishes_in_a_run_is_named(tmp_path: Path, on_disk: None):
    write_shards(tmp_path, ["train-0.tar", "train-1.tar", "test-0.tar"])
    source = open_dataset("webdataset", tmp_path).train
    (tmp_path / "train-1.tar").unlink()
    assert loaded_alone(source, 0).shape == (1, 6, 8, 3)
    with pytest.raises(DataError, match=r"train-1\.tar/part\.a/0001\.png is gone"):
        loaded_alone(source, 4)


def loaded_alone(source: Source, index: int) -> np.ndarray:
    return source.load(np.array([index]))[0]


def test_an_unreadable_image_in_a_shard_is_named_or_skipped(tmp_path: Path):
    files = {"a.png": PICTURE[:50], "a.cls": b"0", "b.png": PICTURE, "b.cls": b"1"}
    write_tar(tmp_path / "train-0.tar", files)
    write_tar(tmp_path / "test-0.tar", {"b.png": PICTURE, "b.cls": b"1"})
    with pytest.raises(DataError, match=r"train-0\.tar/a\.png does not decode"):
        open_dataset("webdataset", tmp_path)
    source = open_dataset("webdataset", tmp_path, skip_unreadable=True).train
    assert source.unreadable == (str(tmp_path / "train-0.tar/a.png"),)
    assert source.labels.tolist() == [1]


def test_a_large_index_is_kept_until_a_shard_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(webdataset, "KEPT_FROM", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    write_shards(data, ["train-0.tar", "train-1.tar", "test-0.tar"])
    first = loaded(open_dataset("webdataset", data).train)
    with monkeypatch.context() as patch:
        patch.setattr(webdataset, "_list_tar", None)  # is not needed
        again = loaded(open_dataset("webdataset", data).train)
    for found, expected in zip(again, first, strict=True):
        np.testing.assert_array_equal(found, expected)

    files = sorted((tmp_path / "cache").rglob("*.npz"))
    assert len(files) == 2
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(loaded(open_dataset("webdataset", data).train)[0], first[0])
    changed = write_shards(data, ["train-1.tar"])["train-1.tar"]
    np.testing.assert_array_equal(loaded(open_dataset("webdataset", data).train)[1][3:], changed[1])


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(webdataset, "KEPT_FROM", 1)
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_shards(tmp_path, ["train-0.tar", "test-0.tar"])
    assert len(open_dataset("webdataset", tmp_path).train) == 3
