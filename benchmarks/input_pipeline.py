"""How many JPEG files a core turns into 224 x 224 crops in a second, and how long a device waits for them.

    python -m benchmarks.input_pipeline images.tar --keep

The tar holds JPEG files. Each decoder that is installed (Pillow; simplejpeg, OpenCV) takes turns with the
others, and a core's time is that of the one thread that works, so that other work on the machine counts
little; ratios to Pillow are of one run. The device is one that takes so many images a second and no core.
`--keep` writes `benchmarks/results/input_pipeline.json`.
"""

import argparse
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from flaxarch import pictures
from train.augment import AUGMENTATIONS, Draws
from train.data import decode, open_dataset, train_batches
from train.data.decode import Decoder, decode_picture, decode_pixels, installed, resize_and_crop
from train.data.pack import pack
from train.metrics import Stopwatch

KEPT = Path(__file__).parent / "results" / "input_pipeline.json"
SIZE = 224
AUGMENT = AUGMENTATIONS["inception_crop_flip"]
BATCH_SIZE = 32
DEVICE_RATES = (50, 100, 200, 400, 800)  # images a second


def main() -> None:
    """Measure, print, and keep if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tar", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    with tarfile.open(args.tar) as tar:
        files = [tar.extractfile(x).read() for x in tar if pictures.is_picture(x.name)]  # pyright: ignore
    shapes = [pictures.decode(content).size for content in files]
    found: dict[str, Any] = {
        "images": len(files),
        "mean_kilobytes": round(sum(map(len, files)) / len(files) / 1000, 1),
        "mean_megapixels": round(float(np.mean([width * height for width, height in shapes])) / 1e6, 3),
        "cores": os.cpu_count(),
        "versions": _versions(),
        "images_per_second_and_core": compare_decoders(files, args.rounds),
    }
    with tempfile.TemporaryDirectory() as folder:
        sources = write_sources(Path(folder), files)
        found["images_per_second_and_core_by_source"] = compare_sources(sources, args.rounds)
        found["input_wait"] = [input_wait(sources["packed"], rate) for rate in DEVICE_RATES]
    print(json.dumps(found, indent=1))
    if args.keep:
        KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    names = {"pillow": "pillow", "simplejpeg": "simplejpeg", "opencv": "opencv-python-headless"}
    here = {"pillow", *(decoder.name for decoder in installed())}
    return {name: version(package) for name, package in names.items() if name in here}


def compare_decoders(files: Sequence[bytes], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """By what is done to a file, then by decoder: images a second and core, and the ratio to Pillow's."""
    decoders = {"pillow": None, **{decoder.name: decoder for decoder in installed()}}
    for decoder in decoders.values():
        if decoder is not None:
            same = [np.array_equal(decoder.decode(x), np.asarray(pictures.decode(x))) for x in files]
            assert all(same), f"{decoder.name} has other pixels for {same.count(False)} files"
    work: dict[str, Callable[[bytes], object]] = {
        "decode": decode_pixels,
        "decode, random crop": random_crop,
        "decode, resize and crop": lambda content: np.asarray(resize_and_crop(decode_picture(content), SIZE)),
    }
    seconds = {(task, name): float("inf") for task in work for name in decoders}
    for _ in range(rounds):
        for task, do in work.items():
            for name, decoder in decoders.items():
                took = core_seconds(do, files, decoder)
                seconds[task, name] = min(seconds[task, name], took)
    return {
        task: {
            name: {
                "images_per_second": round(len(files) / seconds[task, name], 1),
                "ratio_to_pillow": round(seconds[task, "pillow"] / seconds[task, name], 3),
            }
            for name in decoders
        }
        for task in work
    }


def random_crop(content: bytes) -> np.ndarray:
    """As in training: a part of the whole image, resized."""
    draws = Draws(np.random.default_rng(len(content)), 1, slice(0, 1))
    assert AUGMENT.crop is not None
    return AUGMENT(AUGMENT.crop([decode_pixels(content)], draws), draws)


def core_seconds(do: Callable[[bytes], object], files: Sequence[bytes], decoder: Decoder | None) -> float:
    """Time of this thread for all files, one after the other, with `decoder` or, for None, Pillow."""

    def chosen() -> Decoder | None:
        return decoder

    with mock.patch.object(decode, "fastest", chosen):
        start = time.thread_time()
        for content in files:
            do(content)
        return time.thread_time() - start


def write_sources(folder: Path, files: Sequence[bytes]) -> dict[str, Path]:
    """The same images in the forms that are read: data_dir by the name of the data set."""
    for i, content in enumerate(files):
        for split in ("train", "test") if i % 50 < 2 else ("train",):
            path = folder / "folder" / split / f"{i % 2}" / f"{i:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    pack(folder / "folder", folder / "packed", workers=1, shards=4)
    (folder / "webdataset").mkdir()
    for split in ("train", "test"):
        with tarfile.open(folder / "webdataset" / f"{split}-0.tar", "w") as tar:
            for path in sorted((folder / "folder" / split).glob("*/*.jpg")):
                label = path.with_suffix(".cls")
                label.write_text(path.parent.name)
                tar.add(label, label.name)
                tar.add(path, path.name)
                label.unlink()
    return {name: folder / name for name in ("folder", "packed", "webdataset")}


def compare_sources(sources: dict[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Random crops by source, with the fastest decoder: images a second and core, ratio to the folder."""
    with mock.patch("train.data.folder.IN_MEMORY_BYTES", 0):
        opened = {name: open_dataset(name, path, image_size=SIZE).train for name, path in sources.items()}
    seconds = dict.fromkeys(opened, float("inf"))
    for _ in range(rounds):
        for name, source in opened.items():
            order = np.random.default_rng(0).permutation(len(source))
            draws = Draws(np.random.default_rng(0), len(order), slice(0, len(order)))
            start = time.thread_time()
            assert AUGMENT.crop is not None
            AUGMENT(AUGMENT.crop(source.load_whole(order)[0], draws), draws)
            seconds[name] = min(seconds[name], time.thread_time() - start)
    count = len(next(iter(opened.values())))
    return {
        name: {
            "images_per_second": round(count / took, 1),
            "ratio_to_folder": round(seconds["folder"] / took, 3),
        }
        for name, took in seconds.items()
    }


def input_wait(packed: Path, rate: float, num_steps: int = 24) -> dict[str, float]:
    """What a run's rows say of a device that takes `rate` images a second: all cores load."""
    with mock.patch("train.data.folder.IN_MEMORY_BYTES", 0):
        source = open_dataset("packed", packed, image_size=SIZE).train
    batches = train_batches(source, batch_size=BATCH_SIZE, seed=0, augment=AUGMENT)
    stopwatch = Stopwatch(BATCH_SIZE)
    for step in range(num_steps):
        stopwatch.next_of(batches)
        if step == 3:  # what was loaded ahead of the first step
            stopwatch.start()
        time.sleep(BATCH_SIZE / rate)
        stopwatch.step()
    stopwatch.stop()
    lap = stopwatch.lap()
    batches.close()
    return {
        "device_images_per_second": rate,
        "images_per_second": lap["images_per_second"] or 0.0,
        "input_wait": lap["input_wait"] or 0.0,
    }


if __name__ == "__main__":
    main()
