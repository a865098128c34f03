"""Which earlier features a dense block's layers read: by their weights, and by the damage without them."""

from typing import Any

import numpy as np

from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.networks import SMALL, images, trained
from benchmarks.depth import spearman
from flaxarch.depth import as_matrices, connection_weights, connections, delete_each, evaluate_connections
from flaxarch.models.densenet import DenseNet, cifar_stem

LAYERS, GROWTH, IMAGES = 6, 8, 500
MODEL = DenseNet(GROWTH, (LAYERS,) * 3, 1.0, bottleneck=False, stem=cifar_stem, num_classes=10)


def measure(seed: int, places: Places) -> Measured:
    """Mean absolute weights of all connections, and the loss that grows where each is cut."""
    net = trained(MODEL, seed, places)
    found = connections(MODEL)
    weights = np.asarray(connection_weights(MODEL, net.variables["params"], fold_scale=True))
    n = len(found)
    rows = np.vstack([np.ones(n, np.float32), delete_each(n)])
    x, labels = images(places).test_set(IMAGES)
    loss = np.asarray(evaluate_connections(MODEL, net.variables, x, labels, rows).loss, np.float64)
    damage = loss[1:] - loss[0]
    is_far = np.array([c.reader - c.source >= 3 for c in found])
    last = [i for i, c in enumerate(found) if c.block == 3 and c.reader == LAYERS + 1]
    late = [i for i in last if found[i].source > LAYERS * 2 // 3]
    curves = {
        f"block {i}, {name}": list(np.nan_to_num(matrix, nan=-1.0).reshape(-1))
        for name, values in (("weight", weights), ("damage", damage))
        for i, matrix in enumerate(as_matrices(MODEL, values), start=1)
    }
    return Measured(
        {
            "rank correlation of weight and damage": spearman(weights, damage),
            "share of weight on sources three or more layers back": float(
                weights[is_far].sum() / weights.sum()
            ),
            "mean weight of the classifier on the last third over that on all": float(
                weights[late].mean() / weights[last].mean()
            ),
            "test loss": loss[0],
        },
        curves,
    )


def draw(axes: Any, kept: Any) -> None:
    """The first seed's weights, sources down and readers across, the three blocks side by side."""
    curves = next(iter(kept["seeds"].values()))["curves"]
    size = LAYERS + 1
    matrices = [np.array(curves[f"block {i}, weight"]).reshape(size, size) for i in (1, 2, 3)]
    gap = np.full((size, 1), -1.0)
    picture = np.hstack([matrices[0], gap, matrices[1], gap, matrices[2]])
    shown = axes.imshow(np.ma.masked_less(picture, 0), cmap="viridis")
    axes.figure.colorbar(shown, ax=axes, label="mean |weight|")


CLAIM = Claim(
    "Layers of a DenseNet read what stands far before them, and the weights tell which of it they need.",
    "Huang et al. 2017, Sec. 5 (feature reuse) and Fig. 5",
    f"A DenseNet of three blocks of {LAYERS} layers, k = {GROWTH}, where the paper's has 40 layers, k = 12. "
    "Weights are means of absolute values with batch norm's scale folded in; damage is what the loss of "
    f"{IMAGES} test images grows by where one connection is cut. {SMALL.in_words}",
    measure,
    (
        Check("rank correlation of weight and damage", 0.5),
        Check("share of weight on sources three or more layers back", 0.4),
        Check("mean weight of the classifier on the last third over that on all", 1.0),
    ),
    seeds=3,
    needs=("cifar10",),
    calibrated="0.5 and 0.4.",
    x="reader, block by block",
    y="source",
    draw=draw,
)
