"""Veit et al. 2016 on a released network: lesions, deletions, orders, paths, and what each of them costs.

    python -m benchmarks.depth resnet32.th images.npz --keep

`images.npz` has `images`, uint8 (N, H, W, 3), and `labels`, (N,). `--keep` adds the figures, under the names
of both files, to `benchmarks/results/depth.json`.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from math import comb
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxarch
from flaxarch import depth

KEPT = Path(__file__).parent / "results" / "depth.json"


def main() -> None:
    """Measure what `--study` names, or all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--name", default="resnet32", help="the row that says how images are normalised")
    parser.add_argument("--num-images", type=int, help="the first so many; all if not given")
    parser.add_argument("--study", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument(
        "--draws", type=int, default=20, help="random rows for each number of blocks or swaps"
    )
    parser.add_argument("--samples", type=int, default=1000, help="paths for each length")
    parser.add_argument("--path-images", type=int, default=10, help="images whose gradient is followed")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()

    model, variables = flaxarch.load(args.weights)
    row, data = flaxarch.published(args.name), np.load(args.images, allow_pickle=False)
    images = (data["images"] / 255 - np.array(row.mean)) / np.array(row.std)
    labels, first = data["labels"], slice(args.num_images)
    batch = jnp.asarray(images[first], jnp.float32), jnp.asarray(labels[first], jnp.int32)
    found: dict[str, Any] = {"num_images": len(batch[0]), "cores": os.cpu_count(), "jax": version("jax")}
    found |= {"machine": platform.machine(), "draws": args.draws}
    for study in args.study:
        found[study] = STUDIES[study](model, variables, batch, args)
        print(study, json.dumps(found[study]), flush=True)

    if args.keep:
        name = f"{args.weights.name}, {args.images.name}"
        kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
        kept[name] = kept.get(name, {}) | found
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def seconds(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a function returns, and its time at first and again, once it is compiled."""
    start = time.monotonic()
    jax.block_until_ready(function())
    middle = time.monotonic()
    result = jax.block_until_ready(function())
    return result, round(middle - start, 3), round(time.monotonic() - middle, 3)


def rounded(values: Any, digits: int = 4) -> list[float]:
    """For JSON."""
    return [float(f"{float(x):.{digits}g}") for x in np.asarray(values)]


def lesions(model: Any, variables: Any, batch: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Sec. 4.1: each block deleted."""
    del args
    blocks = depth.deletable(model, batch[0].shape[1:])
    whole = depth.evaluate(model, variables, *batch)
    gates = depth.delete_each(len(blocks))
    score = partial(depth.evaluate, model, variables, *batch)
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    start = time.monotonic()
    scores = jax.block_until_ready(score(gates=gates))
    first, num_first = time.monotonic() - start, sum("backend_compile" in event for event in compiled)
    start = time.monotonic()
    jax.block_until_ready(score(gates=np.roll(gates, 1)))  # others
    again, num_again = time.monotonic() - start, sum("backend_compile" in event for event in compiled)
    return {
        "whole": rounded([whole.accuracy[0], whole.loss[0]]),
        "blocks": [block.name for block in blocks],
        "accuracy": rounded(scores.accuracy),
        "loss": rounded(scores.loss),
        "seconds": rounded([first, again], 3),
        "lesions_per_second": round(len(gates) / again, 2),
        "compilations": [num_first, num_again - num_first],
    }


def deletions(model: Any, variables: Any, batch: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Sec. 4.2: k random blocks deleted."""
    n = len(depth.deletable(model, batch[0].shape[1:]))
    score = partial(depth.evaluate, model, variables, *batch)
    errors = []
    for k in range(1, n + 1):
        gates = depth.keep_random(jax.random.key(k), n, n - k, args.draws)
        errors.append(1 - np.asarray(score(gates=gates).accuracy))
    means = np.mean(errors, axis=1)
    return {
        "error": rounded(means),
        "std": rounded(np.std(errors, axis=1)),
        "largest_step": rounded([np.diff(means).max()])[0],
        "spearman_with_k": rounded([spearman(np.arange(n), means)])[0],
    }


def orders(model: Any, variables: Any, batch: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Sec. 4.3: k random swaps of blocks that are alike."""
    blocks = depth.blocks(model, batch[0].shape[1:])
    rows = []
    for k in (1, 2, 3, 4, 6, 9, 13, 20):
        drawn = depth.swap_random(jax.random.key(k), blocks, k, args.draws)
        error = 1 - np.asarray(depth.evaluate(model, variables, *batch, orders=drawn).accuracy)
        rows += [
            {"swaps": k, "tau": t, "error": e} for t, e in zip(depth.kendall_tau(drawn), error, strict=True)
        ]
    taus, errors = (np.array([row[key] for row in rows]) for key in ("tau", "error"))
    edges = np.quantile(taus, [0, 0.2, 0.4, 0.6, 0.8, 1])
    bins = [
        rounded([low, high, errors[(taus >= low) & (taus <= high)].mean()]) for low, high in pairwise(edges)
    ]
    return {
        "num_orders": len(rows),
        "tau_from_to_error": bins[::-1],
        "spearman_of_error_with_1_minus_tau": rounded([spearman(1 - taus, errors)])[0],
    }


def paths(model: Any, variables: Any, batch: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Sec. 5: the gradient by path length, in full and by samples."""
    images, labels = (x[: args.path_images] for x in batch)
    n = len(depth.blocks(model, images.shape[1:]))
    exact, first, again = seconds(lambda: depth.path_gradients(model, variables, images, labels))
    gradient = jax.jit(jax.grad(partial(_loss, model, variables, labels)))(images)
    sums = norms_per_image(exact)
    singles, means = [], []
    start = time.monotonic()
    for k in range(n + 1):
        rows = depth.keep_random(jax.random.key(k), n, k, args.samples)
        along = np.asarray(depth.gradients_along(model, variables, images, labels, rows))
        singles.append(norms_per_image(along).mean(axis=0))  # of one path, per image
        means.append(along.mean(axis=0))
    sampling = time.monotonic() - start
    counts = np.array([comb(n, k) for k in range(n + 1)], float)[:, None]
    estimates = norms_per_image(counts[:, :, None, None, None] * np.stack(means) - np.asarray(exact)) / sums
    of_one = np.mean(singles, axis=1)
    rho, r_squared = depth.fit_decay(range(n + 1), of_one)
    shares, shares_exact = depth.effective_lengths(of_one), sums.mean(axis=1) / sums.mean(axis=1).sum()
    lengths = np.arange(n + 1)
    return {
        "num_images": len(images),
        "sum_against_autodiff": float(
            jnp.linalg.norm(exact.sum(axis=0) - gradient) / jnp.linalg.norm(gradient)
        ),
        "norm_of_sum": rounded(sums.mean(axis=1)),
        "norm_of_one_path": rounded(of_one),
        "interference": rounded((sums / (counts * np.stack(singles))).mean(axis=1)),
        "samples_against_exact": rounded(np.median(estimates, axis=1)),
        "rho": rounded([rho, r_squared]),
        "mean_length": {
            "sampled": rounded([shares @ lengths])[0],
            "exact": rounded([shares_exact @ lengths])[0],
            "law": rounded([depth.effective_length(n, rho)])[0],
        },
        "blocks_to_train": rounded([depth.num_effective_blocks(n, rho)])[0],
        "exact_seconds": [first, again],
        "samples_per_length": args.samples,
        "sampling_seconds": round(sampling, 1),
    }


def subnetworks(model: Any, variables: Any, batch: Any, args: argparse.Namespace) -> dict[str, Any]:
    """All 2^n subnetworks of a network of few blocks: together, row by row, and mapped over gates."""
    del args
    n = len(depth.deletable(model, batch[0].shape[1:]))
    if n > depth.MAX_BLOCKS:
        return {"left out": f"{n} blocks"}
    few = tuple(x[:8] for x in batch)
    found, first, again = seconds(partial(depth.subnetworks, model, variables, *batch))
    _, _, few_again = seconds(partial(depth.subnetworks, model, variables, *few))
    _, _, row_again = seconds(partial(depth.evaluate, model, variables, *few, gates=depth.subsets(n)))
    together = jax.jit(jax.vmap(partial(depth.apply_gated, model, variables, few[0])))
    _, _, mapped_again = seconds(partial(together, jnp.asarray(depth.subsets(n))))
    kept, accuracy = depth.subsets(n).sum(axis=1), np.asarray(found.accuracy)
    return {
        "num_subnetworks": 2**n,
        "seconds": [first, again],
        "seconds_for_8_images": {"doubling": few_again, "row by row": row_again, "vmap": mapped_again},
        "accuracy_by_kept": rounded([accuracy[kept == k].mean() for k in range(n + 1)]),
        "variance_by_order": rounded(depth.variance_by_order(accuracy)),
        "variance_by_order_of_loss": rounded(depth.variance_by_order(found.loss)),
        "shapley": rounded(depth.shapley(accuracy)),
    }


STUDIES = {
    "lesions": lesions,
    "deletions": deletions,
    "orders": orders,
    "paths": paths,
    "subnetworks": subnetworks,
}


def _loss(model: Any, variables: Any, labels: jax.Array, images: jax.Array) -> jax.Array:
    logits = model.apply(variables, images, train=False)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).sum()


def norms_per_image(gradients: Any) -> np.ndarray:
    """(..., N, H, W, C) -> (..., N)."""
    return np.sqrt((np.asarray(gradients, np.float64) ** 2).sum(axis=(-3, -2, -1)))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation; equal values share the mean of their ranks."""

    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


if __name__ == "__main__":
    main()
