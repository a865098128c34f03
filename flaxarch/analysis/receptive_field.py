"""Receptive fields, propagated through the equations of a jaxpr: what each unit of a map sees of the image.

Height and width are followed separately, as exact intervals of pixels: Araujo, Norris & Sim, Distill 2019,
"Computing receptive fields of convolutional neural networks", https://doi.org/10.23915/distill.00021, whose
recurrence this is where no map is upsampled. The image has no border here: a field may be larger than it.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

Interval = tuple[float, float]  # first and last pixel
NOTHING, EVERYTHING = (math.inf, -math.inf), (-math.inf, math.inf)
Known = Callable[[], Any] | None  # value of an operand that no image and no parameter enters; None: not known


class View(NamedTuple):
    """What the units along an array's axis see of one side of the image, its height or its width.

    Unit `q * len(windows) + i` sees the pixels `windows[i]`, moved by `q * span`. One window, and a span that
    is the stride, until upsampling makes neighbours differ.
    """

    side: int  # pixels of the image
    span: int
    windows: tuple[Interval, ...]
    at: int | None  # the array's axis; None where it has none, as behind global pooling

    def seen_by(self, unit: int) -> Interval:
        """First and last pixel that one unit sees."""
        q, i = divmod(unit, len(self.windows))
        return self.windows[i][0] + q * self.span, self.windows[i][1] + q * self.span

    @property
    def extent(self) -> float:
        """Pixels that the unit which sees most sees; infinite where it sees all of any image."""
        return max(last - first + 1 for first, last in self.windows)

    @property
    def size(self) -> int:
        """`extent`, with the image's own side for an infinite one."""
        return self.side if self.extent == math.inf else max(0, int(self.extent))

    @property
    def stride(self) -> Fraction:
        """Pixels from one unit to the next; the image's own where there is but one unit."""
        return Fraction(self.side) if self.at is None else Fraction(self.span, len(self.windows))


def pixels(side: int, at: int) -> View:
    """The image itself: each unit sees one pixel."""
    return View(side, 1, ((0, 0),), at)


def propagate(eqn: Any, views: Sequence[View | None], known: Sequence[Known]) -> View:
    """The view of an equation's outputs, from those of its operands.

    `views` has None for operands that no image enters. What is not listed here is taken as elementwise where
    shapes allow it, and else as seeing the whole image.
    """
    name = eqn.primitive.name
    if name not in _RULES:
        rule = {"dot_general": _dot_general, "gather": _gather, "concatenate": _concatenate}
        return rule.get(name, _elementwise)(eqn, views, known)
    view = views[0]
    if view is None:  # the image is in another operand, as the kernel of a convolution
        return _whole(next(v for v in views if v is not None), None)
    return view if view.at is None else _RULES[name](eqn, view, view.at)


def _hull(intervals: Sequence[Interval]) -> Interval:
    firsts, lasts = zip(NOTHING, *intervals, strict=True)
    return min(firsts), max(lasts)


def _whole(view: View, at: int | None) -> View:
    return view._replace(windows=(EVERYTHING,) * len(view.windows), at=at)


def _window(
    view: View, size: int = 1, strides: int = 1, pad: int = 0, dilation: int = 1, input_dilation: int = 1
) -> View:
    """A window of `size` taps, `dilation` apart, that moves by `strides`.

    `input_dilation` - 1 zeros, which see nothing, stand between two inputs.
    """
    inputs = input_dilation * len(view.windows)  # after so many steps, and a span, windows repeat
    period = inputs // math.gcd(inputs, strides)

    def taps(unit: int) -> list[Interval]:
        first = unit * strides - pad
        steps = range(first, first + size * dilation, dilation)
        return [view.seen_by(step // input_dilation) for step in steps if step % input_dilation == 0]

    windows = tuple(_hull(taps(unit)) for unit in range(period))
    return view._replace(span=view.span * period * strides // inputs, windows=windows)


def _resampled(view: View, reads: Sequence[tuple[int, int]], num_inputs: int, at: int) -> View:
    """Unit i reads inputs `reads[i][0]` to `reads[i][1]`: `num_inputs / len(reads)` a step, on average."""
    ratio = Fraction(num_inputs, len(reads))
    period = ratio.denominator * (len(view.windows) // math.gcd(len(view.windows), ratio.numerator))
    span = int(view.span * period * ratio) // len(view.windows)
    skipped = len(reads) // 2 // period  # windows are read in the middle: the ends are cut

    def seen(unit: int) -> Interval:
        turns, unit = divmod(unit, len(reads))
        first, last = (read + turns * num_inputs for read in reads[unit])
        return view.seen_by(first)[0] - skipped * span, view.seen_by(last)[1] - skipped * span

    return View(view.side, span, tuple(seen(skipped * period + i) for i in range(period)), at)


def _union(views: Sequence[View], at: int | None) -> View:
    """What units see that read one unit of each view."""
    if at is None:
        return View(views[0].side, views[0].side, (_hull([v.seen_by(0) for v in views]),), None)
    if len({v.stride for v in views}) > 1:  # maps that drift against each other have no common window
        views = [max(views, key=lambda view: view.extent)]
    period = math.lcm(*(len(v.windows) for v in views))
    windows = tuple(_hull([v.seen_by(unit) for v in views]) for unit in range(period))
    return View(views[0].side, views[0].span * period // len(views[0].windows), windows, at)


def _elementwise(eqn: Any, views: Sequence[View | None], known: Sequence[Known]) -> View:
    del known
    shape = eqn.outvars[0].aval.shape
    operands = [(v, x.aval.shape) for v, x in zip(views, eqn.invars, strict=True) if v is not None]
    full = [v for v, s in operands if v.at is not None and len(s) == len(shape) and s[v.at] == shape[v.at]]
    if not full:
        is_spread = any(v.at is not None for v, _ in operands)
        views = [v for v, _ in operands]
        return _whole(views[0], None) if is_spread else _union(views, None)
    if len({v.at for v in full}) > 1:
        return _whole(full[0], None)
    view = _union(full, full[0].at)
    return view if len(full) == len(operands) else _whole(view, view.at)  # one value for all units


def _concatenate(eqn: Any, views: Sequence[View | None], known: Sequence[Known]) -> View:
    del known
    given = [v for v in views if v is not None]
    view = _union(given, given[0].at)
    return _whole(view, view.at) if view.at == eqn.params["dimension"] else view


def _dot_general(eqn: Any, views: Sequence[View | None], known: Sequence[Known]) -> View:
    contracted, batch = eqn.params["dimension_numbers"]
    shapes = [x.aval.shape for x in eqn.invars]
    free = [[a for a in range(len(shapes[i])) if a not in (*contracted[i], *batch[i])] for i in (0, 1)]
    first_free = (len(batch[0]), len(batch[0]) + len(free[0]))  # of each operand, in the output

    def follow(i: int, view: View) -> View:
        if view.at is None:
            return view
        if view.at in batch[i]:
            return view._replace(at=tuple(batch[i]).index(view.at))
        if view.at in free[i]:
            return view._replace(at=first_free[i] + free[i].index(view.at))
        matrix = known[1 - i]
        if matrix is None or len(contracted[i]) > 1 or len(free[1 - i]) != 1 or batch[i]:
            return _whole(view, None)
        # pooling or interpolation, written as a product with a constant matrix
        rows = np.moveaxis(np.asarray(matrix()), contracted[1 - i][0], -1)
        reads = [(int(units.min()), int(units.max())) for units in map(np.flatnonzero, rows) if len(units)]
        if len(reads) != len(rows):
            return _whole(view, None)
        return _resampled(view, reads, shapes[i][view.at], at=first_free[1 - i])

    followed = [follow(i, view) for i, view in enumerate(views) if view is not None]
    return followed[0] if len(followed) == 1 else _whole(followed[0], None)


def _gather(eqn: Any, views: Sequence[View | None], known: Sequence[Known]) -> View:
    view, numbers, sizes = views[0], eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if view is None or view.at is None:
        return _whole(next(v for v in views if v is not None), None)
    shape, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    kept = [axis for axis in range(len(shape)) if axis not in numbers.collapsed_slice_dims]
    if view.at in kept and sizes[view.at] == shape[view.at]:
        return view._replace(at=numbers.offset_dims[kept.index(view.at)])
    places = [axis for axis in range(len(out)) if axis not in numbers.offset_dims]
    indices = known[1]
    if numbers.start_index_map != (view.at,) or view.at in kept or len(places) != 1 or indices is None:
        return _whole(view, None)
    reads = [(int(i), int(i)) for i in np.ravel(indices())]  # nearest neighbours
    return _resampled(view, reads, shape[view.at], at=places[0])


def _convolution(eqn: Any, view: View, at: int) -> View:
    p = eqn.params
    (lhs, rhs, out), kernel = p["dimension_numbers"], eqn.invars[1].aval.shape
    if at not in lhs[2:]:
        return _whole(view, None)
    i = lhs[2:].index(at)
    taps = kernel[rhs[2 + i]], p["window_strides"][i], p["padding"][i][0]
    return _window(view, *taps, p["rhs_dilation"][i], p["lhs_dilation"][i])._replace(at=out[2 + i])


def _reduce_window(eqn: Any, view: View, at: int) -> View:
    p = eqn.params
    taps = p["window_dimensions"][at], p["window_strides"][at], p["padding"][at][0]
    return _window(view, *taps, p["window_dilation"][at], p["base_dilation"][at])


def _slice(eqn: Any, view: View, at: int) -> View:
    strides = eqn.params["strides"] or (1,) * (at + 1)
    return _window(view, 1, strides[at], -eqn.params["start_indices"][at])


def _pad(eqn: Any, view: View, at: int) -> View:
    low, _, between = eqn.params["padding_config"][at]
    return _window(view, pad=low, input_dilation=between + 1)


def _transpose(eqn: Any, view: View, at: int) -> View:
    return view._replace(at=eqn.params["permutation"].index(at))


def _broadcast(eqn: Any, view: View, at: int) -> View:
    new = eqn.params["broadcast_dimensions"][at]
    is_spread = eqn.invars[0].aval.shape[at] != eqn.outvars[0].aval.shape[new]
    return _whole(view, new) if is_spread else view._replace(at=new)


def _squeeze(eqn: Any, view: View, at: int) -> View:
    gone = eqn.params["dimensions"]
    return view._replace(at=None if at in gone else at - sum(axis < at for axis in gone))


def _reduce(eqn: Any, view: View, at: int) -> View:
    gone = eqn.params.get("axes", eqn.params.get("dimensions"))
    return _whole(view, None) if at in gone else view._replace(at=at - sum(axis < at for axis in gone))


def _reshape(eqn: Any, view: View, at: int) -> View:
    """An axis that stays, is merged with those behind it (a pixel shuffle) or is split (space to depth)."""
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    n = old[at]
    if n == 1:
        return view._replace(at=at if len(old) == len(new) and new[at] == 1 else None)
    for axis, m in enumerate(new):
        if m > 1 and math.prod(new[:axis]) == math.prod(old[:at]):
            if m % n == 0:  # each unit becomes m / n
                windows = tuple(window for window in view.windows for _ in range(m // n))
                return view._replace(windows=windows, at=axis)
            if n % m == 0:
                return _window(view, n // m, n // m)._replace(at=axis)
    return _whole(view, None)


def _mix(eqn: Any, view: View, at: int) -> View:
    p = eqn.params
    axes = np.ravel(p.get("axis", p.get("dimension", p.get("dimensions", at))))
    return _whole(view, at) if at in axes else view


_RULES: dict[str, Callable[[Any, View, int], View]] = {
    "conv_general_dilated": _convolution,
    "slice": _slice,
    "pad": _pad,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "reshape": _reshape,
    **dict.fromkeys((f"reduce_window{s}" for s in ("", "_max", "_min", "_sum")), _reduce_window),
    **dict.fromkeys(("argmax", "argmin", *(f"reduce_{s}" for s in ("sum", "max", "min", "prod"))), _reduce),
    **dict.fromkeys(("sort", "rev", "split", "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _mix),
}
