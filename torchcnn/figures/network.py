"""Networks and blocks as pictures: layers from left to right, parallel paths side by side."""

import copy
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
from torch import Tensor, nn

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
    net = copy.deepcopy(net).to("meta").eval()
    rows: list[tuple[str, list[Box]]] = []
    counts: list[int] = []
    x = torch.empty(1, *x_shape, device="meta")
    for name, part in parts(net):
        shape = tuple(x.shape[1:])
        if len(shape) == 3:
            boxes = block_graph(part, (shape[0], shape[1], shape[2]))
            with torch.no_grad():
                x = part(x)
        else:  # a vector, which `summary` does not take
            boxes, x = _chain(part, x)
        if len(boxes) > MOST_BOXES:
            layers = sum(not list(module.children()) for module in part.modules())
            whole = f"{type(part).__name__}\nof {layers} layers"
            boxes = [boxes[0], Box(whole, tuple(x.shape[1:]), (0,), 1)]
        labels = [box.label for box in boxes]
        if rows and labels == [box.label for box in rows[-1][1]] and shape == x.shape[1:]:
            counts[-1] += 1
            continue
        rows.append((name, boxes))
        counts.append(1)
    titles = [f"{name} × {n}" if n > 1 else name for (name, _), n in zip(rows, counts, strict=True)]
    return _plot([(title, boxes) for title, (_, boxes) in zip(titles, rows, strict=True)])


def parts(net: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks of a network, and the layers between them, in the order of computing.

    A chain of blocks is taken apart, as the stages of ResNet are; a chain of layers is one part.
    """
    if type(net).forward is not nn.Sequential.forward or not _holds_blocks(net):
        own = "" if type(net) is nn.Sequential else type(net).__name__
        yield name or own, net
        return
    chain: list[tuple[str, nn.Module]] = []
    for key, child in net.named_children():
        path = f"{name}.{key}".lstrip(".")
        if list(child.children()):
            yield from _joined(chain)
            yield from parts(child, path)
            chain = []
        elif name:
            chain.append((path, child))
        else:
            yield path, child
    yield from _joined(chain)


def _holds_blocks(net: nn.Module) -> bool:
    return any(list(child.children()) for child in net.children())


def _joined(chain: list[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    if chain:
        yield chain[0][0], nn.Sequential(*(layer for _, layer in chain))


def _chain(part: nn.Module, x: Tensor) -> tuple[list["Box"], Tensor]:
    """Return the boxes of a chain of layers that take vectors, and what it returns."""
    boxes = [Box("input", tuple(x.shape[1:]), (), 0)]
    for layer in part.children() if isinstance(part, nn.Sequential) else [part]:
        x = layer(x)
        boxes.append(Box(layer_label(layer), tuple(x.shape[1:]), (len(boxes) - 1,), len(boxes)))
    return boxes, x


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
        self.lefts, self.rights = _edges_of_columns(boxes, columns)
        step = max(box.height for box in boxes) + ROW_GAP
        self.y = {  # the middle of each column is at 0, and the first of its places is at the top
            stop: step * ((len(column) - 1) / 2 - i)
            for column in columns
            for i, stop in enumerate(column)
        }
        self.bottom, self.top = _bottom_and_top(boxes, self.y)


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


def _edges_of_columns(
    boxes: list[Box], columns: list[list[Stop]]
) -> tuple[list[float], list[float]]:
    """Return where each column begins and ends."""
    lefts, rights, x, previous = [], [], MARGIN, len(columns[0])
    for number, column in enumerate(columns):
        if number:
            x += GAP if len(column) == previous else WIDE_GAP
        lefts.append(x)
        x += max(boxes[stop.box].width for stop in column if stop.source is None)
        rights.append(x)
        previous = len(column)
    return lefts, rights


def _bottom_and_top(boxes: list[Box], y: dict[Stop, float]) -> tuple[float, float]:
    """Return the height of the lowest and of the highest point of the picture."""
    halves = {
        stop: MARGIN + (boxes[stop.box].height / 2 if stop.source is None else 0) for stop in y
    }
    return min(y[stop] - halves[stop] for stop in y), max(y[stop] + halves[stop] for stop in y)


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
