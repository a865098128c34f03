"""A folder of images to ArrayRecord shards, in parallel.

Each shard is written under another name and renamed when it is whole; beside it, a note tells what is in it.
The index comes last, and without it nothing opens. A pack that was killed is finished by the same command,
which keeps the shards that are whole. The bytes of images and their places do not depend on the workers.
"""

import fcntl
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from flaxarch.pictures import UnreadablePicture
from train.data.array_record import FORMAT, INDEX, make_record, write_shard
from train.data.decode import decode_picture
from train.data.folder import TEST_SPLITS, find_split
from train.data.listing import Records, list_images
from train.data.sources import DataError
from train.workdir import write_atomically

IMAGES_PER_SHARD = 1000  # some 100 MB of ImageNet's
SHARD, PARTIAL, NOTE, LOCK = ".array_record", ".partial", ".done.json", "pack.lock"


class Shard(NamedTuple):
    """What one file is to hold: images `start` to `stop` of a split, in the order of the listing."""

    name: str
    split: str
    start: int
    stop: int
    digest: str  # of the names of the images and of how they are stored


class Form(NamedTuple):
    """How images are stored: as they are, or resized and encoded anew where `size` is given."""

    size: int | None
    quality: int


def pack(
    folder: Path,
    out: Path,
    *,
    size: int | None = None,
    quality: int = 95,
    shards: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Packs train and test (or val) of `folder` into `out`, and returns the index.

    Args:
        folder: what the data set `folder` reads: folders of class folders, or tars of them.
        out: a new or empty folder, or one in which the same pack was stopped.
        size: images whose shorter side is longer are resized to it, and stored as JPEG; None: none are.
        quality: of that JPEG, 1 to 100.
        shards: files of the training split, and as many images in each of the other; None: of 1000 images.
        workers: processes; None: one for each core.
        progress: told now and then how many images of how many are done.

    Raises:
        DataError: the folder is not one of images, or `out` holds something else.
        OSError: `out` cannot be written.
    """
    if (size is not None and size < 1) or not 1 <= quality <= 100:
        raise DataError(f"size {size} or quality {quality} is out of range; at least 1, and 1 to 100")
    if any(number is not None and number < 1 for number in (shards, workers)):
        raise DataError(f"shards {shards} or workers {workers} is below 1")
    form = Form(size, quality)
    splits = _find_splits(folder)
    plan = _plan(splits, form, shards)
    with _sole_pack(out):
        reports = _known_reports(out, plan)
        done = sum(shard.stop - shard.start for shard in plan if shard.name in reports)
        todo = [shard for shard in plan if shard.name not in reports]
        total = sum(shard.stop - shard.start for shard in plan)
        progress(done, total)
        if todo:
            workers = min(workers or os.cpu_count() or 1, len(todo))
            work = Work(splits, form, out)
            for report in _pack_all(todo, work, workers, lambda n: progress(done + n, total)):
                reports[report["name"]] = report
        index = _index(splits, form, [(shard, reports[shard.name]) for shard in plan])
        if not sum(index["splits"]["train"]["class_counts"]):
            raise DataError(f"{folder}: no training image decodes, so that there is nothing to pack")
        write_atomically(out / INDEX, json.dumps(index, indent=1) + "\n")
        for shard in plan:
            (out / f"{shard.name}{NOTE}").unlink(missing_ok=True)
    return index


def _find_splits(folder: Path) -> dict[str, Records]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    train, test = find_split(folder, "train"), find_split(folder, *TEST_SPLITS)
    if train is None:
        raise DataError(f"{folder} has no train, a folder of class folders or a tar of one")
    splits: dict[str, Records] = {"train": list_images(train)}
    if test is not None:
        splits["test"] = list_images(test)
        if splits["test"].class_names != splits["train"].class_names:
            different = sorted({*splits["test"].class_names} ^ {*splits["train"].class_names})
            raise DataError(f"only one of {train} and {test} has the class {', '.join(different)}")
    return splits


def _plan(splits: dict[str, Records], form: Form, num_shards: int | None) -> list[Shard]:
    num_train = len(splits["train"].names)
    size = IMAGES_PER_SHARD if num_shards is None else -(-num_train // num_shards)
    plan = []
    for split, records in splits.items():
        count = max(1, -(-len(records.names) // size))
        bounds = [len(records.names) * i // count for i in range(count + 1)]
        for i, (start, stop) in enumerate(itertools.pairwise(bounds)):
            names = [*form, *records.class_names, *(records.names[j] for j in range(start, stop))]
            digest = hashlib.sha256("\n".join(map(str, names)).encode(errors="surrogateescape")).hexdigest()
            plan.append(Shard(f"{split}-{i:05}-of-{count:05}{SHARD}", split, start, stop, digest))
    return plan


@contextmanager
def _sole_pack(out: Path) -> Iterator[None]:
    """Within this `out` exists, and no other process packs into it. DataError if it holds something else."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / INDEX).exists():
        raise DataError(f"{out} holds a whole pack; choose another folder, or remove it")
    ours = (SHARD, PARTIAL, NOTE, LOCK)
    others = sorted(entry.name for entry in os.scandir(out) if not entry.name.endswith(ours))
    if others:
        raise DataError(f"{out} holds {others[0]}, which is of no pack; choose a new or an empty folder")
    with (out / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another process packs into {out}; wait for it") from error
        except OSError:  # the file system has no locks
            pass
        for path in out.glob(f"*{PARTIAL}"):
            path.unlink()
        yield
        (out / LOCK).unlink()


def _known_reports(out: Path, plan: list[Shard]) -> dict[str, dict[str, Any]]:
    """Notes on the shards that an earlier start has finished. DataError where they are of another pack."""
    digests = {shard.name: shard.digest for shard in plan}
    reports = {}
    for path in out.glob(f"*{NOTE}"):
        report = json.loads(path.read_text(encoding="utf-8"))
        name = report["name"]
        if digests.get(name) != report["digest"]:
            raise DataError(
                f"{out} holds part of a pack of other images or flags ({name}); repeat those, or remove it"
            )
        if (out / name).is_file() and (out / name).stat().st_size == report["bytes"]:
            reports[name] = report
    return reports


def _index(
    splits: dict[str, Records], form: Form, packed: list[tuple[Shard, dict[str, Any]]]
) -> dict[str, Any]:
    def of_split(split: str) -> dict[str, Any]:
        reports = [report for shard, report in packed if shard.split == split]
        return {
            "class_counts": np.sum([report["class_counts"] for report in reports], axis=0).tolist(),
            "unreadable": [name for report in reports for name in report["unreadable"]],
            "shards": [{key: report[key] for key in ("name", "images", "bytes")} for report in reports],
        }

    return {
        "format": FORMAT,
        "class_names": list(splits["train"].class_names),
        "size": form.size,
        "quality": None if form.size is None else form.quality,
        "splits": {split: of_split(split) for split in splits},
    }


class Work(NamedTuple):
    """What is the same for all shards."""

    splits: dict[str, Records]
    form: Form
    out: Path


_work: dict[str, Any] = {}  # of a worker: what it was given at its start


def _start_worker(work: Work, counter: Any) -> None:
    _work.update(work=work, counter=counter)
    parent = multiprocessing.parent_process()
    if parent is not None:  # a worker whose parent was killed would wait for shards for ever
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _pack_in_worker(shard: Shard) -> dict[str, Any]:
    def count() -> None:
        with _work["counter"].get_lock():
            _work["counter"].value += 1

    return _pack_shard(shard, _work["work"], count)


def _pack_all(
    todo: list[Shard], work: Work, workers: int, progress: Callable[[int], None]
) -> list[dict[str, Any]]:
    if workers == 1:
        done = itertools.count(1)
        return [_pack_shard(shard, work, lambda: progress(next(done))) for shard in todo]
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (work, counter))
    try:
        futures = [pool.submit(_pack_in_worker, shard) for shard in todo]
        pending = set(futures)
        while pending:
            finished, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
            progress(counter.value)
            for future in finished:
                future.result()  # raises what the worker did
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise OSError("a process was killed, perhaps for want of memory; use fewer workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _pack_shard(shard: Shard, work: Work, count: Callable[[], None]) -> dict[str, Any]:
    """Writes a shard and the note on it; returns the note. Calls `count` after each image."""
    records, out = work.splits[shard.split], work.out
    counts, unreadable = [0] * len(records.class_names), []

    def packed() -> Iterator[bytes]:
        for index in range(shard.start, shard.stop):
            try:
                content = stored(records.read(index), work.form)
            except (OSError, UnreadablePicture) as error:
                unreadable.append(f"{records.where / records.names[index]} ({error})")
            else:
                label = int(records.labels[index])
                counts[label] += 1
                yield make_record(label, records.names[index], content)
            count()

    path, partial = out / shard.name, out / f"{shard.name}{PARTIAL}"
    write_shard(partial, packed())
    with partial.open("rb") as file:
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
    partial.replace(path)
    note = {
        "name": shard.name,
        "digest": shard.digest,
        "images": sum(counts),
        "bytes": size,
        "class_counts": counts,
        "unreadable": unreadable,
    }
    write_atomically(out / f"{shard.name}{NOTE}", json.dumps(note))
    return note


def stored(content: bytes, form: Form) -> bytes:
    """The file to store: as it is, or as smaller JPEG. Raises UnreadablePicture where it does not decode."""
    image = decode_picture(content)
    if form.size is None or min(image.size) <= form.size:
        return content
    width, height = (round(side * form.size / min(image.size)) for side in image.size)
    stream = io.BytesIO()
    image.resize((width, height), Image.Resampling.BILINEAR).save(stream, "JPEG", quality=form.quality)
    return stream.getvalue()
