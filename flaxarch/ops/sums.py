"""Sums over pixels, in loops that XLA's CPU backend computes for many channels at once."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# So many pixels of a row are summed up before the sums are. LLVM writes out a loop of so few steps, and then
# takes 16 channels at once; a longer one it leaves as XLA writes it, channel by channel. 16 are too many for
# some shapes with two sums: `python -m benchmarks.batch_norm`.
_PIECE = 14


def over_pixels(terms: Sequence[jax.Array]) -> list[jax.Array]:
    """The sum of each over all its axes but the last, (..., W, C) -> (C,); all are read in one loop."""
    *_, width, _ = terms[0].shape
    if not isinstance(width, int):  # not known, in an exported program
        return [term.sum(range(term.ndim - 1)) for term in terms]
    in_pieces = width // _PIECE * _PIECE
    rest = _over_rows([term[..., in_pieces:, :] for term in terms])
    if not in_pieces:
        return rest
    of_pieces = _over_rows([_pieces(term[..., :in_pieces, :]) for term in terms])
    return [a + b for a, b in zip(of_pieces, rest, strict=True)]


def _pieces(term: jax.Array) -> jax.Array:
    *outer, width, channels = term.shape
    return term.reshape(*outer, width // _PIECE, _PIECE, channels)


def _over_rows(terms: Sequence[jax.Array]) -> list[jax.Array]:
    """In one loop along the last axis of pixels, which is most of the work, and the rest one by one."""
    zero = jnp.zeros((), terms[0].dtype)

    def add(a: Any, b: Any) -> Any:
        return [one + other for one, other in zip(a, b, strict=True)]

    rows = lax.reduce(list(terms), [zero] * len(terms), add, (terms[0].ndim - 2,))
    return [row.sum(range(row.ndim - 1)) for row in rows]
