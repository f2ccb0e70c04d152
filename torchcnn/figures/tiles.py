"""A sheet of images, each above a few lines of text: inputs, answers, mistakes, heat maps."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from torchcnn.figures.draw import COLOURS, inches, shown, text_options
from torchcnn.files import printable

WRONG = COLOURS[1]
GRAY: dict[str, Any] = {"color": "0.35"}
SIDE, GAP, LINE = 1.8, 0.12, 0.15  # of an image, between images and of a line of text, in inches
WIDEST = 24.0  # a sheet; the images of a wider one would be smaller


class Tile(NamedTuple):
    """An image and what is written below it."""

    image: Tensor  # (c, h, w) uint8
    lines: Sequence[str]  # the first is bold
    wrong: bool = False  # then it has a frame


def plot_tiles(
    tiles: Sequence[Tile], heading: str = "", columns: int = 0, foot: float = 0.0
) -> Figure:
    """Show images in rows, all in one pair of axes, which is drawn in a fraction of a second.

    Args:
        heading: lines above them, the first of which is bold.
        columns: how many are in a row; if it is 0, they are about a square, and at least five.
        foot: leave so many inches free at the bottom.
    """
    columns = columns or min(len(tiles), max(5, math.ceil(math.sqrt(len(tiles))))) or 1
    size = min(1.0, WIDEST / (columns * (SIDE + GAP)))
    side, gap, line = SIDE * size, GAP * size, LINE * size
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    head = heading.splitlines()
    width = max([columns * (side + gap) + gap, *(inches(text, 10) + 2 * GAP for text in head)])
    top = 0.22 * len(head) + GAP
    shapes = [[tile.image.shape for tile in row] for row in rows]
    heights = [max(side * min(1.0, h / w) for _, h, w in row) for row in shapes]
    below = [max(len(tile.lines) for tile in row) * line + 1.5 * gap for row in rows]
    figure = Figure(figsize=(width, top + sum(heights) + sum(below) + foot))
    axes: Any = figure.add_axes((0, 0, 1, 1))
    options = text_options(heading, *(text for tile in tiles for text in tile.lines))
    for i, text in enumerate(head):
        style: dict[str, Any] = {"size": 10, "weight": "bold"} if i == 0 else GRAY | {"size": 9}
        axes.text(GAP, 0.2 + 0.22 * i, printable(text), va="center", **style, **options)
    for row, height, space in zip(rows, heights, below, strict=True):
        for i, tile in enumerate(row):
            middle = gap + i * (side + gap) + side / 2
            _place(axes, tile, middle, top + height, side)
            for j, text in enumerate(tile.lines):
                colour = WRONG if tile.wrong else "black"
                style = {"weight": "bold", "color": colour} if j == 0 else GRAY
                style = {"ha": "center", "va": "center", "size": 8 * size} | style | options
                axes.text(middle, top + height + (j + 0.75) * line, shown(text), **style)
        top += height + space
    axes.set(xlim=(0, width), ylim=(top + foot, 0))
    axes.set_axis_off()
    return figure


def _place(axes: Any, tile: Tile, middle: float, bottom: float, side: float) -> None:
    """Draw an image whose longer side is given, with its frame."""
    h, w = tile.image.shape[1:]
    width, height = side * w / max(h, w), side * h / max(h, w)
    left, top = middle - width / 2, bottom - height
    extent = left, left + width, bottom, top
    pixels = tile.image.permute(1, 2, 0).numpy()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
    if tile.wrong:
        axes.add_patch(Rectangle((left, top), width, height, fill=False, ec=WRONG, lw=2.5))
