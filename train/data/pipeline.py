"""Sources to batches, prefetched by grain: batch k of a run is a pure function of the source, the seed and k.

A batch is a dict of arrays: `image` uint8 (n, H, W, C), `label` int32 (n,), `mask` float32 (n,). n is the
share of this process in the global batch, where the shares of processes 0, 1, ... follow one another.
"""

import os
import sys
from collections.abc import Iterable

import grain
import numpy as np
from absl import flags

from train.augment import Augmenter, Draws
from train.data.sampling import Sampler, Sampling
from train.data.sources import DataError, Source

Batch = dict[str, np.ndarray]

AUGMENT = 1  # beside the seed, so that the draws for step k's images differ from those for epoch k's order

PLAIN = Sampling()

# A thread for each core, since images on disk take long to decode. In the buffer wait whole batches.
_THREADS = min(os.cpu_count() or 1, 16)
_PREFETCH = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_THREADS + 2)


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    augment: Augmenter,
    sampling: Sampling = PLAIN,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
) -> grain.DatasetIterator[Batch]:
    """Endless training batches, from number `start_step` on; `close()` the iterator to end its workers.

    Each epoch has an order of its own and leaves out the len(source) % batch_size examples that come last in
    it. Neither a restart at `start_step` nor the number of workers or threads changes a bit of a batch.

    Args:
        source: the training examples.
        batch_size: global, over all processes.
        seed: of the orders and of the augmentation.
        augment: the random change of the images, or crops from whole ones.
        sampling: which examples an epoch holds.
        start_step: number of batches already used.
        process_index: this process among `process_count`.
        process_count: number of processes that share each batch.
        workers: processes that load and augment; 0: threads of this process do. Each worker gets a copy of
            the source, so they pay off only for images on disk.

    Raises:
        DataError: `batch_size` is above len(source), or `process_count` or `sampling.repeats` does not divide
            it.
    """
    share = _share(batch_size, process_count)
    start = process_index * share
    if batch_size > len(source):
        raise DataError(
            f"batch_size {batch_size} is above the {len(source)} training examples; "
            f"at most {len(source)} make one batch"
        )
    if batch_size % sampling.repeats:
        raise DataError(
            f"batch_size {batch_size} does not hold {sampling.repeats} copies of each image alike"
        )
    sampler = Sampler(source.labels if sampling.balanced else len(source), batch_size, seed, sampling)

    def load(step: int) -> Batch:
        here = slice(start, start + share)
        indices = sampler.batch(step)[here]
        rng = np.random.default_rng((seed, AUGMENT, step))
        draws = Draws(rng, batch_size, here, seed, sampler.epoch(step), indices, len(source))
        if augment.crop is None:
            images, labels = _load(source, indices)
        else:
            whole, labels = _load_whole(source, indices)
            images = augment.crop(whole, draws)
        images = augment(images, draws)
        return {"image": images, "label": labels, "mask": np.ones(share, np.float32)}

    # grain's own shuffle, batch and random_map would do, but they spend 1.5 ms on 128 indices, and how they
    # turn a seed into draws is private to grain: under its next version, a resumed run could change.
    stream = grain.MapDataset.range(start_step, sys.maxsize).map(load).to_iter_dataset(_PREFETCH)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads absl's flags, which only an absl application parses
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(stream)


def eval_batches(
    source: Source, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> grain.DatasetIterator[Batch]:
    """Every example of `source` exactly once over all processes, in order.

    Every process gets ceil(len(source) / batch_size) batches of batch_size / process_count examples; zeros
    with mask 0 fill up the last global batch.

    Raises:
        DataError: `process_count` does not divide `batch_size`, the global batch size.
    """
    share = _share(batch_size, process_count)

    def load(step: int) -> Batch:
        start = step * batch_size + process_index * share
        images, labels = source.load(np.arange(start, min(start + share, len(source))))
        missing = share - len(labels)
        return {
            "image": np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))),
            "label": np.pad(labels, (0, missing)),
            "mask": (np.arange(share) < len(labels)).astype(np.float32),
        }

    num_batches = -(-len(source) // batch_size)
    return iter(grain.MapDataset.range(num_batches).map(load).to_iter_dataset(_PREFETCH))


# What is in a batch several times is loaded once.


def _load(source: Source, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distinct, places = np.unique(indices, return_inverse=True)
    if len(distinct) == len(indices):
        return source.load(indices)
    images, labels = source.load(distinct)
    return images[places], labels[places]


def _load_whole(source: Source, indices: np.ndarray) -> tuple[Iterable[np.ndarray], np.ndarray]:
    distinct, places = np.unique(indices, return_inverse=True)
    if len(distinct) == len(indices):
        return source.load_whole(
            indices
        )  # one by one, so that whole images of a batch are never held at once
    images, labels = source.load_whole(distinct)
    held = list(images)
    return [held[place] for place in places], labels[places]


def _share(batch_size: int, process_count: int) -> int:
    """Examples of a global batch that each process holds."""
    if batch_size < 1 or batch_size % process_count:
        raise DataError(
            f"batch_size {batch_size} does not give {process_count} processes equal shares; "
            f"it has to be a positive multiple of {process_count}"
        )
    return batch_size // process_count
