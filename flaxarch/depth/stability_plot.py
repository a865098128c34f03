"""A certificate as a picture: eigenvalues in the regions of the solvers, norms, and growth, over depth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxarch.depth.regions import METHODS, amplification
from flaxarch.depth.stability import Certificate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_certificate(
    certificate: Certificate, methods: Sequence[str] = tuple(METHODS), *, h: float = 1.0
) -> "Figure":
    """A matplotlib figure of three: needs the extra `report`.

    >>> plot_certificate(certify(model, variables, images)).savefig("stability.png")

    Left, h lambda of all blocks and images, colours from the first block to the last, in the regions of
    `methods`, of `METHODS`; the leapfrog's is a line. Middle, over the blocks, what bounds growth: h mu, and
    ln of the step's norm and of its spectral radius, of the worst image. Right, how the perturbation that
    grows most has grown in each row of blocks, from its first block on, and what the steps' norms allow.

    Args:
      certificate: what `certify` found.
      methods: whose regions are drawn.
      h: length of their steps, in blocks.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    plane, bounds, growth = figure.subplots(1, 3)
    _draw_plane(plane, certificate, methods, h)
    rows = certificate.rows
    first = 1
    for number, row in enumerate(rows):
        n = len(row.log_norm)
        x, names = np.arange(first, first + n), number == 0
        radius = np.log(np.nanmax(amplification(row.eigenvalues), axis=-1))
        for values, color, label in (
            (row.log_norm, "C0", "h µ, the logarithmic norm"),
            (np.log(row.step_norm), "C1", "ln of the step's norm"),
            (radius, "C2", "ln of the step's spectral radius"),
        ):
            bounds.plot(x, values.max(axis=1), ".-", color=color, label=label if names else None)
        x = np.arange(first - 1, first + n)
        for values, color, label in (
            (row.log_growth[..., 0], "C3", "the most growing perturbation"),
            (np.log(row.step_norm), "C1", "bound by the steps' norms"),
        ):
            worst = values[:, values.sum(axis=0).argmax()]
            total = np.append(0, np.cumsum(worst)) / np.log(10)
            growth.plot(x, total, ".-", color=color, label=label if names else None)
        first += n
    plane.set(title=f"{certificate.verdict}: hλ, and where solvers are stable", xlabel="Re", ylabel="Im")
    bounds.set(title="each block", xlabel="block")
    growth.set(title="growth in each row of blocks, log10", xlabel="block")
    for axes in (plane, bounds, growth):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def _draw_plane(axes: Any, certificate: Certificate, methods: Sequence[str], h: float) -> None:
    """Eigenvalues over the regions."""
    z = h * np.concatenate([row.eigenvalues.reshape(len(row.eigenvalues), -1) for row in certificate.rows])
    block = np.repeat(np.arange(len(z)), z.shape[1])
    dots = z.ravel()
    keep = ~np.isnan(dots)
    left, right = min(-3.2, dots[keep].real.min()), max(1.2, dots[keep].real.max())
    top = max(3.2, abs(dots[keep].imag).max())
    x, y = np.meshgrid(np.linspace(left, right, 241), np.linspace(-top, top, 241))
    for number, name in enumerate(methods):
        color = f"C{number}"
        axes.plot([], [], color=color, label=name)
        if name == "leapfrog":
            axes.plot([0, 0], [-2, 2], color=color, linewidth=2)
            continue
        factor = amplification(x + 1j * y, METHODS[name])
        axes.contour(x, y, factor, levels=[1.0], colors=[color], linewidths=1)
    axes.scatter(dots[keep].real, dots[keep].imag, c=block[keep], s=4, cmap="viridis", zorder=3)
    axes.axvline(0, color="black", linewidth=0.5)
    axes.set_aspect("equal")
