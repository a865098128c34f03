import io
import json
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from train.augment import AUGMENTATIONS
from train.data import DataError, Dataset, Source, open_dataset, train_batches
from train.data import __main__ as command
from train.data import folder as folder_module
from train.data import pack as pack_module
from train.data.pack import pack

RNG = np.random.default_rng(0)


def encoded(pixels: np.ndarray, image_format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, image_format)
    return stream.getvalue()


def noise(height: int = 6, width: int = 8) -> np.ndarray:
    return RNG.integers(256, size=(height, width, 3), dtype=np.uint8)


def write_folder(folder: Path, counts: dict[str, int], splits: tuple[str, ...] = ("train", "test")) -> Path:
    """So many PNG files of each class, in each split."""
    for split in splits:
        for name, count in counts.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                (folder / split / name / f"{i:03}.png").write_bytes(encoded(noise()))
    return folder


def loaded(source: Source) -> tuple[np.ndarray, np.ndarray]:
    return source.load(np.arange(len(source)))


def assert_same_source(source: Source, expected: Source) -> None:
    for found, wanted in zip(loaded(source), loaded(expected), strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(source.labels, expected.labels)
    assert source.class_names == expected.class_names


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are decoded when they are asked for, as those of large sets are."""
    monkeypatch.setattr(folder_module, "IN_MEMORY_BYTES", 0)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_pack_is_the_same_source_as_its_folder(tmp_path: Path, shards: int, on_disk: None):
    folder = write_folder(tmp_path / "images", {"ape": 4, "bee": 3})
    seen: list[tuple[int, int]] = []
    out = tmp_path / "packed"
    index = pack(folder, out, shards=shards, workers=1, progress=lambda *x: seen.append(x))
    assert len(index["splits"]["train"]["shards"]) == shards
    assert seen[0] == (0, 14)
    assert seen[-1] == (14, 14)
    packed, expected = open_dataset("packed", out), open_dataset("folder", folder)
    assert_same_source(packed.train, expected.train)
    assert_same_source(packed.test, expected.test)
    names = sorted(os.listdir(out))
    assert names[0] == "index.json"
    assert all(name.endswith(".array_record") for name in names[1:])


def test_workers_read_a_pack_and_its_batches_are_those_of_the_folder(tmp_path: Path, on_disk: None):
    folder = write_folder(tmp_path / "images", {"ape": 4, "bee": 3})
    pack(folder, tmp_path / "packed", shards=2, workers=1)
    crop = AUGMENTATIONS["crop"]
    sources = open_dataset("packed", tmp_path / "packed"), open_dataset("folder", folder)
    packed, expected = (
        train_batches(data.train, batch_size=3, seed=0, augment=crop, workers=workers)
        for data, workers in zip(sources, (1, 0), strict=True)
    )
    for batch, other in zip(islice(packed, 5), islice(expected, 5), strict=True):
        np.testing.assert_array_equal(batch["image"], other["image"])
        np.testing.assert_array_equal(batch["label"], other["label"])
    packed.close()


def test_original_bytes_are_stored_unless_an_image_is_larger_than_asked():
    content = encoded(noise(40, 60), "JPEG")
    assert pack_module.stored(content, pack_module.Form(None, 95)) is content
    assert pack_module.stored(content, pack_module.Form(40, 95)) is content
    smaller = Image.open(io.BytesIO(pack_module.stored(content, pack_module.Form(20, 90))))
    assert (smaller.format, smaller.size) == ("JPEG", (30, 20))


def packed(folder: Path, out: Path, *, shards: int | None = None, size: int | None = None) -> Dataset:
    pack(folder, out, shards=shards, size=size, workers=1)
    return open_dataset("packed", out)


def test_unreadable_images_are_named_counted_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    folder = write_folder(tmp_path / "images", {"ape": 2, "bee": 3})
    bad = folder / "train/bee/001.png"
    bad.write_bytes(b"no picture")
    out = tmp_path / "packed"
    monkeypatch.setattr(sys, "argv", ["data", "pack", str(folder), str(out), "--workers", "1"])
    assert command.main() == 0
    said = capsys.readouterr().out
    assert "train: 4 images in 1 shard(s)" in said
    assert "train: 1 image(s) left out, for they cannot be read:\n" in said
    assert str(bad) in said
    train = open_dataset("packed", out).train
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert [name.split(" (")[0] for name in train.unreadable] == [str(bad)]


def test_a_test_split_may_be_missing_from_a_pack(tmp_path: Path):
    folder = write_folder(tmp_path / "images", {"ape": 2, "bee": 2}, ("train",))
    with pytest.raises(DataError, match="has no test images"):
        packed(folder, tmp_path / "packed")
    dataset = open_dataset("packed", tmp_path / "packed", without_test=True)
    assert (len(dataset.train), len(dataset.test)) == (4, 0)


def test_a_pack_that_was_stopped_keeps_the_shards_that_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, out = write_folder(tmp_path / "images", {"ape": 4, "bee": 4}), tmp_path / "packed"
    real, made = pack_module._pack_shard, []

    def stop_at_third(shard: pack_module.Shard, *arguments: Any) -> dict[str, Any]:
        if len(made) == 2:
            (out / f"{shard.name}.partial").write_bytes(b"half")
            raise KeyboardInterrupt
        made.append(shard.name)
        return real(shard, *arguments)

    monkeypatch.setattr(pack_module, "_pack_shard", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        packed(folder, out, shards=4)
    with pytest.raises(DataError, match=r"has no index\.json.*the same command finishes it"):
        open_dataset("packed", out)
    kept = {name: (out / name).stat().st_mtime_ns for name in made}

    monkeypatch.setattr(pack_module, "_pack_shard", real)
    for shards, size in ((4, 3), (2, None)):
        with pytest.raises(DataError, match="part of a pack of other images or flags"):
            packed(folder, out, shards=shards, size=size)
    assert_same_source(packed(folder, out, shards=4).train, open_dataset("folder", folder).train)
    assert {name: (out / name).stat().st_mtime_ns for name in made} == kept
    assert not list(out.glob("*.partial"))


def test_a_pack_killed_by_the_system_opens_only_once_it_is_finished(tmp_path: Path):
    folder, out = tmp_path / "images", tmp_path / "packed"
    for split in ("train", "test"):
        (folder / split / "ape").mkdir(parents=True)
    content = encoded(noise(300, 300))
    for i in range(150):
        (folder / "train/ape" / f"{i}.png").write_bytes(content)
    (folder / "test/ape/0.png").write_bytes(content)
    command_line = [sys.executable, "-m", "train.data", "pack", str(folder), str(out), "--shards", "50"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [*command_line, "--workers", "2"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while len(list(out.glob("*.done.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()  # and not its worker, which has to notice
    process.wait()
    with pytest.raises(DataError, match=r"has no index\.json"):
        open_dataset("packed", out)
    deadline = time.monotonic() + 20
    while group_is_alive(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert_same_source(packed(folder, out, shards=50).train, open_dataset("folder", folder).train)


def group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_is_no_pack_or_a_whole_one_is_left_alone(tmp_path: Path):
    folder, out = write_folder(tmp_path / "images", {"ape": 1}), tmp_path / "packed"
    packed(folder, out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError, match="holds a whole pack"):
        packed(folder, out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(DataError, match=r"holds test, which is of no pack"):
        packed(folder, folder)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["nowhere", "out"], "nowhere: no such folder"),
        (["images", "out", "--size", "0"], "size 0 or quality 95 is out of range"),
        (["images", "out", "--workers", "0"], "workers 0 is below 1"),
        (["images/train", "out"], "images/train has no train"),
    ],
)
def test_bad_input_is_one_sentence_and_makes_no_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    sentence: str,
):
    write_folder(tmp_path / "images", {"ape": 1})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["data", "pack", *flags])
    assert command.main() == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path):
    folder, out = write_folder(tmp_path / "images", {"ape": 1}), tmp_path / "packed"
    out.mkdir()
    os.symlink("/dev/full", out / "train-00000-of-00001.array_record.partial")
    with mock.patch.object(Path, "glob", return_value=[]), pytest.raises(OSError, match="No space left"):
        packed(folder, out)


# Damage to a pack


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    packed(write_folder(tmp_path / "images", {"ape": 3, "bee": 3}), tmp_path / "packed", shards=2)
    return tmp_path / "packed"


def edit(index: Path, **changed: object) -> None:
    index.write_text(json.dumps({**json.loads(index.read_text()), **changed}))


def test_a_shard_that_is_cut_off_or_missing_from_a_pack_is_named(whole: Path):
    shard = whole / "train-00001-of-00002.array_record"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"train-00001-of-00002.* has {len(content) - 1} bytes and"):
        open_dataset("packed", whole)
    shard.unlink()
    with pytest.raises(DataError, match="lacks the shard train-00001-of-00002"):
        open_dataset("packed", whole)


def test_an_index_that_is_not_one_is_named(whole: Path):
    index = whole / "index.json"
    edit(index, format=2)
    with pytest.raises(DataError, match="is of format 2, and this version reads 1"):
        open_dataset("packed", whole)
    edit(index, format=1, class_names=["ape"])
    with pytest.raises(DataError, match="contradicts itself in its counts"):
        open_dataset("packed", whole)
    for text in ("[]", "{", '{"format": 1}', '{"format": 1, "class_names": 3, "splits": {"train": []}}'):
        index.write_text(text)
        with pytest.raises(DataError, match=r"index\.json is not an index of packed images"):
            open_dataset("packed", whole)


def test_a_damaged_record_is_named_or_skipped(whole: Path):
    shard = whole / "train-00001-of-00002.array_record"
    content = bytearray(shard.read_bytes())
    at = content.find(b"bee/001.png")
    content[at + 40] ^= 255
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00001-of-00002\.array_record\[1\]"):
        open_dataset("packed", whole)
    train = open_dataset("packed", whole, skip_unreadable=True).train
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert len(train.unreadable) == 1


def test_shards_of_another_pack_are_refused(whole: Path):
    first, second = (whole / f"train-0000{i}-of-00002.array_record" for i in range(2))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(DataError, match=r"its label is 1 and in the index 0: the shard is of another pack"):
        open_dataset("packed", whole)
