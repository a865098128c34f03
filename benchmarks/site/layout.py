"""Where the nodes of a graph stand in its picture: in ranks from above, as little bent as may be.

As Sugiyama et al. 1981 do it: a rank is one more than the lowest before it, and edges over several ranks have
a place in each. The order within ranks is that of execution; given the order, places are the least squares
that keep it. What is but one chain of layers is broken into columns.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.site.graph import Node

CHARACTER, LINE = 6.1, 14.0  # width of a letter, and height of a line, in pixels
GAP_ACROSS, GAP_DOWN, LANE = 16.0, 22.0, 14.0
COLUMN = 480.0  # pixels, at most, of a chain
DISC = 22.0  # diameter of a sum
_STRIPS = ("norm", "act")  # stand directly under what they follow
_ALONE = ("input", "sum", "join")  # but under these


@dataclass
class Box:
    """Nodes that stand directly under one another."""

    nodes: list[Node]
    heights: list[float]
    width: float
    x: float = 0.0  # of the middle
    y: float = 0.0  # of the upper edge

    @property
    def height(self) -> float:
        """Of all nodes together."""
        return sum(self.heights)


@dataclass
class Layout:
    """Boxes, and for each edge the points that it goes through, from above."""

    boxes: list[Box]
    edges: list[list[tuple[float, float]]]
    width: float
    height: float


def lines_of(node: Node) -> list[str]:
    """The text in a node."""
    if node.kind in ("input", "output", "part"):
        size = " × ".join(f"{n}" for n in node.shape)
        return [size] if node.kind != "part" else [node.title, size]
    lines: list[str] = []
    for word in node.details:
        if lines and len(lines[-1]) + len(word) < 18:
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return [node.title, *lines]


@dataclass
class _Item:
    """A box in its rank, or the place of an edge that passes through it (box None)."""

    box: Box | None
    rank: int
    order: int  # from the left, within the rank
    above: list["_Item"] = field(default_factory=list)
    below: list["_Item"] = field(default_factory=list)
    x: float = 0.0

    @property
    def width(self) -> float:
        return self.box.width if self.box else 0.0

    @property
    def is_light(self) -> bool:
        """Whether it may stand aside: it only passes by, or moves numbers about."""
        return self.box is None or self.box.nodes[0].kind == "scale"


def place(nodes: Sequence[Node]) -> Layout:
    """The layout of a graph whose nodes stand behind their inputs."""
    boxes, home = _boxed(nodes)
    pairs = dict.fromkeys(
        (home[i], home[j]) for j, node in enumerate(nodes) for i in node.inputs if home[i] != home[j]
    )
    chains, ranks = _ranked(boxes, list(pairs))
    _align(ranks, chains)
    return _breadths(_heights(boxes, chains, ranks))


def _boxed(nodes: Sequence[Node]) -> tuple[list[Box], list[int]]:
    """The nodes in boxes, and the number of each node's box."""
    boxes: list[Box] = []
    home: list[int] = []
    num_uses = Counter(i for node in nodes for i in node.inputs)
    for node in nodes:
        only = node.inputs[0] if len(node.inputs) == 1 else None
        if (
            node.kind in _STRIPS
            and only is not None
            and num_uses[only] == 1
            and nodes[only].kind not in _ALONE
        ):
            home.append(home[only])
        else:
            home.append(len(boxes))
            boxes.append(Box([], [], 0.0))
        box, lines, is_sum = boxes[home[-1]], lines_of(node), node.kind == "sum"
        box.nodes.append(node)
        box.heights.append(DISC if is_sum else LINE * len(lines) + 6)
        box.width = max(box.width, DISC if is_sum else CHARACTER * max(map(len, lines)) + 16)
    return boxes, home


def _ranked(boxes: list[Box], pairs: list[tuple[int, int]]) -> tuple[list[list[_Item]], list[list[_Item]]]:
    """Each edge as a chain of items, and all items by rank."""
    rank = [0] * len(boxes)
    for i, j in sorted(pairs, key=lambda pair: pair[1]):  # boxes stand behind those before them
        rank[j] = max(rank[j], rank[i] + 1)
    items = [_Item(box, rank[i], i) for i, box in enumerate(boxes)]
    ranks: list[list[_Item]] = [[] for _ in range(max(rank) + 1)]
    for item in items:
        ranks[item.rank].append(item)
    chains = []
    for i, j in pairs:
        # one of several uses, such as a shortcut, stands right of what happens meanwhile
        order = j if sum(source == i for source, _ in pairs) > 1 else i
        between = [_Item(None, r, order) for r in range(rank[i] + 1, rank[j])]
        for item in between:
            ranks[item.rank].append(item)
        chain = [items[i], *between, items[j]]
        for upper, lower in pairwise(chain):
            upper.below.append(lower)
            lower.above.append(upper)
        chains.append(chain)
    return chains, ranks


def _align(ranks: list[list[_Item]], chains: list[list[_Item]]) -> None:
    """Places across: near the neighbours', in order, and as far apart as the widths need."""
    for rank in ranks:
        rank.sort(key=lambda item: item.order)
        x = 0.0
        for item in rank:
            item.x = x + item.width / 2
            x += item.width + GAP_ACROSS
    for sweep in range(60):
        for rank in ranks if sweep % 2 else ranks[::-1]:
            targets, weights = [], []
            for item in rank:
                others = item.above + item.below
                # what passes by goes straight; a box is drawn by boxes more than by what passes
                shares = [4.0 if item.is_light == other.is_light else 0.02 for other in others]
                total = sum(shares)
                aims = [other.x * share for other, share in zip(others, shares, strict=True)]
                targets.append(sum(aims) / total if total else item.x)
                weights.append(total or 1.0)
            for item, x in zip(rank, _in_order(rank, targets, weights), strict=True):
                item.x = x
    for _ in range(3):  # what passes by is straight at last
        for chain in chains:
            if len(chain) > 2:
                furthest = max(item.x for item in chain[1:-1])
                for item in chain[1:-1]:
                    item.x = furthest
        for rank in ranks:
            for left, right in pairwise(rank):
                right.x = max(right.x, left.x + _apart(left, right))


def _apart(left: _Item, right: _Item) -> float:
    """The least distance of two neighbours' middles."""
    gap = LANE if left.box is None and right.box is None else GAP_ACROSS
    return (left.width + right.width) / 2 + gap


def _in_order(rank: list[_Item], targets: list[float], weights: list[float]) -> list[float]:
    """The places nearest to the targets, by weighted squares, that are in order and far enough apart."""
    offsets = [0.0]
    for left, right in pairwise(rank):
        offsets.append(offsets[-1] + _apart(left, right))
    pools: list[tuple[float, float, int]] = []  # mean, weight, number: isotonic regression
    for target, offset, weight in zip(targets, offsets, weights, strict=True):
        mean, total, number = target - offset, weight, 1
        while pools and pools[-1][0] > mean:
            before, other, count = pools.pop()
            mean = (mean * total + before * other) / (total + other)
            total, number = total + other, number + count
        pools.append((mean, total, number))
    flat = [mean for mean, _, number in pools for _ in range(number)]
    return [x + offset for x, offset in zip(flat, offsets, strict=True)]


def _heights(boxes: list[Box], chains: list[list[_Item]], ranks: list[list[_Item]]) -> Layout:
    """Places down, and the way of each edge; a chain of one box a rank goes on in a further column."""
    tops, columns, y = [], [], 0.0
    shift, widest = 0.0, 0.0
    for rank in ranks:
        height = max((item.box.height for item in rank if item.box), default=0.0)
        is_chain = all(len(r) == 1 for r in ranks)
        if is_chain and y + height > COLUMN:
            shift += widest + 3 * GAP_ACROSS
            y, widest = 0.0, 0.0
        widest = max(widest, *(item.width for item in rank))
        tops.append(y)
        columns.append(shift)
        for item in rank:
            item.x += shift
            if item.box:
                item.box.x, item.box.y = item.x, y
        y += height + GAP_DOWN
    bottoms = [
        top + max((item.box.height for item in rank if item.box), default=0.0)
        for top, rank in zip(tops, ranks, strict=True)
    ]
    edges = []
    for chain in chains:
        first, last = chain[0], chain[-1]
        if first.box is None or last.box is None:
            continue
        points = [(first.x, first.box.y + first.box.height)]
        if columns[first.rank] != columns[last.rank]:  # around, to the top of the next column
            middle = last.x - last.width / 2 - GAP_ACROSS * 1.5
            low, high = points[0][1] + GAP_DOWN / 2, -GAP_DOWN / 2
            points += [(first.x, low), (middle, low), (middle, high), (last.x, high)]
        for item in chain[1:-1]:
            points += [(item.x, tops[item.rank]), (item.x, bottoms[item.rank])]
        edges.append([*points, (last.x, last.box.y)])
    return Layout(boxes, edges, 0.0, 0.0)


def _breadths(layout: Layout) -> Layout:
    """The same with the left upper corner at zero, and width and height."""
    xs = [x for edge in layout.edges for x, _ in edge]
    ys = [y for edge in layout.edges for _, y in edge]
    left = min([*xs, *(box.x - box.width / 2 for box in layout.boxes)])
    right = max([*xs, *(box.x + box.width / 2 for box in layout.boxes)])
    top, bottom = min([0.0, *ys]), max([*ys, *(box.y + box.height for box in layout.boxes)])
    for box in layout.boxes:
        box.x, box.y = box.x - left, box.y - top
    edges = [[(x - left, y - top) for x, y in edge] for edge in layout.edges]
    return Layout(layout.boxes, edges, right - left, bottom - top)
