"""Networks and blocks as pictures: layers from left to right, parallel paths side by side."""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from torch import nn

from torchcnn.models.analysis import trace

# All lengths are in inches.
FONT_SIZE = 9  # in points
LINE = 0.16  # height of a line of text
PADDING = 0.08  # between the text and the edge of its box
GAP, WIDE_GAP = 0.25, 0.45  # between two columns; the wide one where paths part or join
ROW_GAP = 0.2
MARGIN = 0.1
MOST_BOXES = 40  # of a block that is drawn
COLORS = {  # the first whose word is in a label
    "input": "white",
    "conv": "#cfe2f3",
    "dense": "#cfe2f3",
    "pool": "#d9ead3",
    "norm": "#eeeeee",
    "+": "#fff2cc",
    "concat": "#fff2cc",
    "": "#fce5cd",
}
FUNCTIONS = {"add": "+", "iadd": "+", "mul": "×", "imul": "×", "cat": "concat", "relu": "ReLU"}


@dataclass(frozen=True)
class Box:
    """A layer or function of a block, as it is drawn."""

    label: str
    shape: tuple[int, ...]  # of its output, without the batch; empty if that is not a tensor
    inputs: tuple[int, ...]  # the boxes from which arrows lead to it, by their index
    column: int  # one more than that of the last of its inputs

    @property
    def text(self) -> str:
        """The label and the shape, each on lines of its own."""
        return "\n".join([self.label, *(["×".join(map(str, self.shape))] if self.shape else [])])

    @property
    def width(self) -> float:
        return max(map(_text_width, self.text.split("\n"))) + 2 * PADDING

    @property
    def height(self) -> float:
        return LINE * (self.text.count("\n") + 1) + 2 * PADDING


@dataclass(frozen=True)
class Stop:
    """A place in a column: a box, or a point that an arrow passes on its way to a later column."""

    column: int
    box: int  # the box, or the one to which the arrow leads
    source: int | None = None  # the box from which the arrow comes


def plot_block(block: nn.Module, x_shape: tuple[int, int, int]) -> Figure:
    """Draw the layers of a block from left to right, each with the shape of its output.

    Layers that depend on each other stand in different columns, and parallel paths run side by
    side. An arrow leads from each layer to those that take its output.

    Args:
        x_shape: (channels, height, width) of the block's input for one image.

    Raises:
        ValueError: If the block does not take such an input or cannot be traced, as for `summary`.
    """
    return _plot([("", block_graph(block, x_shape))])


def plot_network(net: nn.Module, x_shape: tuple[int, int, int]) -> Figure:
    """Draw a network by its stages, from top to bottom, each block as `plot_block` does.

    Neighbours with the same layers are drawn once, with their number. A block of more than 40 boxes
    is one box.

    Args:
        x_shape: (channels, height, width) of an image.

    Raises:
        ValueError: As for `plot_block`.
    """
    rows: list[tuple[str, list[Box]]] = []
    counts: list[int] = []
    shape: Any = x_shape  # or that of a vector
    for name, part in parts(net):
        boxes = block_graph(nn.Sequential(part), shape)
        if len(boxes) > MOST_BOXES:
            layers = sum(not list(module.children()) for module in part.modules())
            whole = f"{type(part).__name__}\nof {layers} layers"
            boxes = [boxes[0], Box(whole, boxes[-1].shape, (0,), 1)]
        before, shape = shape, boxes[-1].shape
        if rows and before == shape and [b.label for b in boxes] == [b.label for b in rows[-1][1]]:
            counts[-1] += 1
        else:
            rows.append((name, boxes))
            counts.append(1)
    return _plot([
        (f"{name} × {n}" if n > 1 else name, boxes)
        for (name, boxes), n in zip(rows, counts, strict=True)
    ])  # fmt: skip


def parts(net: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks of a network, and the layers between them, in the order of computing.

    A chain of blocks is taken apart, as the stages of ResNet are; a chain of layers is one part.
    """
    has_blocks = any(list(child.children()) for child in net.children())
    if type(net).forward is not nn.Sequential.forward or not has_blocks:
        yield name or ("" if type(net) is nn.Sequential else type(net).__name__), net
        return
    children = [(f"{name}.{key}".lstrip("."), child) for key, child in net.named_children()]
    for is_block, group in itertools.groupby(children, lambda pair: bool([*pair[1].children()])):
        chain = list(group)
        if name and not is_block:
            yield chain[0][0], nn.Sequential(*(layer for _, layer in chain))
            continue
        for path, child in chain:
            yield from parts(child, path)


def _plot(rows: list[tuple[str, list[Box]]]) -> Figure:
    """Draw rows of boxes below each other, each under its title."""
    layouts = [_Layout(boxes) for _, boxes in rows]
    width = max(math.ceil(10 * (layout.rights[-1] + MARGIN)) / 10 for layout in layouts)
    titled = [LINE + PADDING if title else 0 for title, _ in rows]
    height = sum(layout.top - layout.bottom for layout in layouts) + sum(titled)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    for (title, boxes), layout, above in zip(rows, layouts, titled, strict=True):
        if title:
            axes.text(MARGIN, height - PADDING, title, va="top", fontsize=FONT_SIZE, weight="bold")
        height -= above + layout.top - layout.bottom
        _draw(axes, boxes, layout, height - layout.bottom)
    return figure


class _Layout:
    """Where the boxes of a row are: the edges of its columns, and the height of each stop."""

    def __init__(self, boxes: list[Box]) -> None:
        columns = arrange(boxes)
        own = [[boxes[stop.box] for stop in column if stop.source is None] for column in columns]
        widths = [max(box.width for box in column) for column in own]
        pairs = itertools.pairwise(map(len, columns))
        gaps = [MARGIN, *(GAP if before == after else WIDE_GAP for before, after in pairs)]
        self.rights = list(itertools.accumulate(map(sum, zip(gaps, widths, strict=True))))
        self.lefts = [right - width for right, width in zip(self.rights, widths, strict=True)]
        step = max(box.height for box in boxes) + ROW_GAP
        self.y = {  # the middle of each column is at 0, and the first of its places is at the top
            stop: step * ((len(column) - 1) / 2 - i)
            for column in columns
            for i, stop in enumerate(column)
        }
        halves = {
            stop: MARGIN + (boxes[stop.box].height / 2 if stop.source is None else 0)
            for stop in self.y
        }
        self.bottom = min(self.y[stop] - half for stop, half in halves.items())
        self.top = max(self.y[stop] + half for stop, half in halves.items())


def _draw(axes: Any, boxes: list[Box], layout: _Layout, up: float) -> None:
    lefts, rights, y = layout.lefts, layout.rights, layout.y
    for i, box in enumerate(boxes):
        middle = (lefts[box.column] + rights[box.column]) / 2
        level = up + y[Stop(box.column, i)]
        axes.add_patch(_frame(box, middle, level))
        axes.text(middle, level, box.text, ha="center", va="center", fontsize=FONT_SIZE)
        for source in box.inputs:
            stops = way(boxes, source, i)
            sides = [side for stop in stops for side in (lefts[stop.column], rights[stop.column])]
            start = (sides[0] + sides[1] + boxes[source].width) / 2  # the right side of the box
            points = [start, *sides[1:-1], middle - box.width / 2]
            heights = [up + y[stop] for stop in stops for _ in range(2)]
            axes.add_patch(_arrow(list(zip(points, heights, strict=True))))


# --- the graph ----------------------------------------------------------------------------------


def block_graph(block: nn.Module, x_shape: tuple[int, int, int]) -> list[Box]:
    """Return the boxes of a block in the order in which they are computed; the input is first."""
    graph = trace(block, x_shape)
    nodes = [node for node in graph.nodes if node.op != "output"]
    index = {node: i for i, node in enumerate(nodes)}
    boxes: list[Box] = []
    for node in nodes:
        inputs = tuple(index[source] for source in node.all_input_nodes)
        column = 1 + max((boxes[i].column for i in inputs), default=-1)
        boxes.append(Box(_label(block, node), node.meta["shape"], inputs, column))
    return boxes


def _label(block: nn.Module, node: torch.fx.Node) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op == "get_attr":
        return "constant"
    if node.op == "call_module":
        return layer_label(block.get_submodule(str(node.target)))
    name = str(getattr(node.target, "__name__", node.target)).strip("_")
    return FUNCTIONS.get(name, name.replace("_", " "))


def layer_label(layer: Any) -> str:
    """Describe a layer in a few words, with what is unusual about it on a second line."""
    kind = type(layer).__name__
    if isinstance(layer, nn.Linear):
        return f"dense, {layer.out_features}"
    if isinstance(layer, nn.Conv2d):
        label = f"{_size(layer.kernel_size)} conv, {layer.out_channels}"
        groups = [f"{layer.groups} groups"] if layer.groups > 1 else []
        return "\n".join([label, *_stride(layer.stride), *groups])
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        size, what = layer.kernel_size, "max" if isinstance(layer, nn.MaxPool2d) else "average"
        return "\n".join([f"{_size(size)} {what} pool", *_stride(layer.stride)])
    if "GlobalAvgPool" in kind or getattr(layer, "output_size", 0) in (1, (1, 1)):
        return "global\naverage pool"
    if "norm" in kind.lower():
        return "norm"
    kind = kind.removesuffix("Layer")
    return kind.lower() if kind.istitle() else kind  # sigmoid, but ReLU


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else size


def _size(size: int | tuple[int, ...]) -> str:
    return "×".join(map(str, _pair(size)))


def _stride(stride: int | tuple[int, ...]) -> list[str]:
    h, w = _pair(stride)
    return [] if h == w == 1 else [f"stride {h}" if h == w else f"stride {h}×{w}"]


# --- the layout ---------------------------------------------------------------------------------


def arrange(boxes: list[Box]) -> list[list[Stop]]:
    """Return what stands in each column, from top to bottom.

    An arrow that skips columns has a place in each of them, so that it passes no box. What follows
    one box stays together, in the order of the boxes.
    """
    columns: list[list[Stop]] = [[] for _ in range(1 + max(box.column for box in boxes))]
    before: dict[Stop, list[Stop]] = {}
    for i, box in enumerate(boxes):
        before[Stop(box.column, i)] = []
        for source in box.inputs:
            for previous, stop in itertools.pairwise(way(boxes, source, i)):
                before.setdefault(stop, []).append(previous)
    for stop in before:
        columns[stop.column].append(stop)
    place: dict[Stop, float] = {}
    for column in columns:
        keys = {  # the mean place of what is before it, and the box to which it leads
            stop: (sum(place[p] for p in before[stop]) / max(len(before[stop]), 1), stop.box)
            for stop in column
        }
        column.sort(key=keys.__getitem__)
        place |= {stop: i - (len(column) - 1) / 2 for i, stop in enumerate(column)}
    return columns


def way(boxes: list[Box], source: int, target: int) -> list[Stop]:
    """Return the stops of an arrow: a box, one place in each column that it skips, and a box."""
    start, end = boxes[source].column, boxes[target].column
    skipped = [Stop(column, target, source) for column in range(start + 1, end)]
    return [Stop(start, source), *skipped, Stop(end, target)]


# --- the drawing --------------------------------------------------------------------------------


@functools.cache
def _text_width(line: str) -> float:
    extents = TextPath((0, 0), line, prop=FontProperties(size=FONT_SIZE)).get_extents()
    return float(extents.width) / 72  # from points


def _frame(box: Box, x: float, y: float) -> FancyBboxPatch:
    color = next(color for word, color in COLORS.items() if word in box.label)
    corner = x - box.width / 2, y - box.height / 2
    style = f"round,pad=0,rounding_size={PADDING}"
    return FancyBboxPatch(
        corner, box.width, box.height, style, facecolor=color, edgecolor="#444444", linewidth=0.8
    )


def _arrow(points: list[tuple[float, float]]) -> FancyArrowPatch:
    """Connect points: level ones by straight lines, others by curves that begin and end level."""
    vertices, codes = [points[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 - x0 < 1e-6:  # a box as wide as its column; the arrow's head needs a direction
            continue
        middle = (x0 + x1) / 2
        vertices += [(middle, y0), (middle, y1), (x1, y1)]
        codes += [Path.CURVE4] * 3
    path = Path(vertices, codes)
    return FancyArrowPatch(
        path=path, arrowstyle="-|>", mutation_scale=9, color="#444444", linewidth=1, capstyle="butt"
    )
