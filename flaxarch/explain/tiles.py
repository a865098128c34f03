"""Maps as pictures: each method's result for one image as a tile, with its colour scale. Needs matplotlib."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from flaxarch.explain.filters import filter_grid
from flaxarch.variant import Variant

MIN_SIDE = 224  # pixels of a tile: smaller images are enlarged by a whole number
_OPACITY = 0.6  # of a map over its picture
_STRONGEST = 16  # channels of a layer that are shown


class Scale(NamedTuple):
    """What the colours of a tile mean."""

    colours: str  # a colour map of matplotlib
    low: float
    high: float
    unit: str


class Tile(NamedTuple):
    """A picture of a report."""

    picture: np.ndarray  # uint8 (H, W, 3)
    scale: Scale | None = None
    note: str = ""  # what belongs to this picture alone


def shown(image: np.ndarray, row: Variant) -> np.ndarray:
    """What the network reads (H, W, C), as a picture again: uint8 RGB, enlarged to at least `MIN_SIDE`."""
    pixels = image * np.asarray(row.std, np.float32) + np.asarray(row.mean, np.float32)
    pixels = as_rgb(pixels, row)
    return enlarged((255 * np.clip(pixels, 0, 1)).round().astype(np.uint8))


def as_rgb(values: np.ndarray, row: Variant) -> np.ndarray:
    """(..., C) in the row's order of channels as (..., 3) in RGB."""
    if values.shape[-1] == 1:
        return np.repeat(values, 3, axis=-1)
    return values[..., ::-1] if row.channels == "BGR" else values


def enlarged(picture: np.ndarray, side: int = MIN_SIDE) -> np.ndarray:
    """Each pixel as a square of pixels, so that the shorter side has at least `side`."""
    factor = -(-side // min(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def resized(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A map (h, w) brought to height and width: enlarged smoothly, for a unit speaks for a patch."""
    height, width = shape[:2]
    image = Image.fromarray(np.asarray(values, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def coloured(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Values as the colours of a scale, floats (..., 3) from 0 to 1."""
    import matplotlib

    span = scale.high - scale.low
    parts = (np.asarray(values, np.float64) - scale.low) / (span if span > 0 else 1.0)
    return matplotlib.colormaps[scale.colours](np.clip(parts, 0, 1))[..., :3]


def over(values: np.ndarray, picture: np.ndarray, scale: Scale) -> np.ndarray:
    """A map in colours over a picture in grey, whose size it takes."""
    grey = np.asarray(Image.fromarray(picture).convert("L"), np.float64)[..., None] / 255
    grey = grey if scale.low == 0 else (1 + grey) / 2  # a scale with white in its middle has light colours
    colours = coloured(resized(values, picture.shape), scale)
    return _uint8(_OPACITY * colours + (1 - _OPACITY) * grey)


def positive(values: np.ndarray, unit: str) -> Scale:
    """From zero to the largest value."""
    return Scale("inferno", 0.0, float(max(np.max(values), 0.0)), unit)


def signed(values: np.ndarray, unit: str, percentile: float = 100.0) -> Scale:
    """Around zero, which is white; red speaks for the class, blue against it."""
    most = float(np.percentile(np.abs(values), percentile))
    return Scale("RdBu_r", -most, most, unit)


def place_map(values: np.ndarray, picture: np.ndarray, *, is_signed: bool) -> Tile:
    """A map of places, in logits, over its picture."""
    scale = (signed if is_signed else positive)(values, "logits")
    note = "" if np.any(values) else "zero everywhere: nothing here speaks for the class"
    return Tile(over(values, picture, scale), scale, note)


def pixel_map(values: np.ndarray, scale: Scale, note: str = "") -> Tile:
    """A map of single pixels (H, W)."""
    return Tile(enlarged(_uint8(coloured(values, scale))), scale, note)


def colour_map(values: np.ndarray, row: Variant) -> Tile:
    """A gradient (H, W, C) in colours; the strongest 0.5 % of values are cut off."""
    values = as_rgb(np.asarray(values, np.float64), row)
    most = np.percentile(np.abs(values), 99.5)
    picture = 0.5 + values / (2 * most if most > 0 else 1.0)
    return Tile(enlarged(_uint8(np.clip(picture, 0, 1))), None, "grey is zero")


def channels(values: np.ndarray, layer: str) -> Tile:
    """A layer's strongest channels, of (H, W, C), on one scale; of one that is flat, (C,), all its units."""
    if values.ndim == 1:
        side = math.ceil(len(values) ** 0.5)
        filled = np.append(values, np.zeros(side * side - len(values), values.dtype))
        scale = _range(values)
        note = f"{layer}: {len(values)} units, row by row"
        return Tile(enlarged(_uint8(coloured(filled.reshape(side, side), scale))), scale, note)
    height, width, count = values.shape
    strongest = np.argsort(-np.abs(values).mean(axis=(0, 1)), kind="stable")[:_STRONGEST]
    scale = _range(values[..., strongest])
    each = coloured(np.moveaxis(values[..., strongest], -1, 0), scale)
    note = f"{layer}: {len(strongest)} of {count} channels, {height}x{width}"
    return Tile(_grid(each), scale, note)


def filters(values: np.ndarray, row: Variant) -> Tile:
    """The first layer's filters (n, h, w, C)."""
    count, height, width, _ = values.shape
    note = f"{count} filters, {height}x{width}; grey is zero"
    return Tile(_grid(as_rgb(values, row)), None, note)


def _grid(pictures: np.ndarray) -> np.ndarray:
    """Small pictures (n, h, w, 3) side by side, enlarged to at least `MIN_SIDE` together."""
    across = math.ceil(math.sqrt(len(pictures)))
    factor = -(-MIN_SIDE // (across * min(pictures.shape[1:3])))
    large = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    return _uint8(filter_grid(np.pad(large, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1.0)))


def _range(values: np.ndarray) -> Scale:
    low, high = float(np.min(values)), float(np.max(values))
    return Scale("viridis", min(low, 0.0), max(high, 0.0), "activation")


def _uint8(picture: np.ndarray) -> np.ndarray:
    return (255 * picture).round().astype(np.uint8)
