"""The figures of a look inside a network: its first weights, its feature maps, where it looks."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from torchcnn.figures.draw import text_options
from torchcnn.files import printable
from torchcnn.models.attention import enlarge, strongest

CHANNELS = 8  # that are shown of each stage


def plot_filters(weights: Tensor, name: str) -> Figure:
    """Show weights (k, c, h, w) as k tiles, on one scale that is symmetric about 0.

    Three channels are red, green and blue, where grey is 0. Any other number of channels is
    averaged, with negative weights in blue and positive ones in red.
    """
    k, c, h, w = weights.shape
    scale = float(weights.abs().max()) or 1.0
    columns = math.ceil(math.sqrt(k * h / w))
    rows = math.ceil(k / columns)
    side = min(1.0, 9 / max(rows, columns))  # of a tile, in inches
    figure = Figure(figsize=(max(4.5, side * columns + 1), side * rows + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    if c == 3:
        rgb = _tiles((weights / scale + 1) / 2, columns, 1.0)
        axes.imshow(rgb.permute(1, 2, 0).numpy(), interpolation="nearest")
        what = f"RGB, grey is 0, black and white are ±{scale:.2g}"
    else:
        grid = _tiles(weights.mean(1, keepdim=True), columns)[0]
        shown = axes.imshow(
            grid.numpy(), cmap="RdBu_r", vmin=-scale, vmax=scale, interpolation="nearest"
        )
        figure.colorbar(shown, ax=axes, shrink=0.8)
        what = "one channel" if c == 1 else f"mean of {c} channels"
    _title(axes, f"{name}: {k} × {h}×{w}\n{what}")
    return figure


def _tiles(images: Tensor, columns: int, gap: float = math.nan) -> Tensor:
    """Lay (k, c, h, w) out in rows of `columns`, with a gap between them: (c, height, width)."""
    k, c, h, w = images.shape
    between = 1 + min(h, w) // 12
    rows = math.ceil(k / columns)
    height, width = rows * (h + between) - between, columns * (w + between) - between
    grid = torch.full((c, height, width), gap)
    for i, image in enumerate(images.float().cpu()):
        top, left = i // columns * (h + between), i % columns * (w + between)
        grid[:, top : top + h, left : left + w] = image
    return grid


def plot_features(outputs: Mapping[str, Tensor], heading: str) -> Figure:
    """Show the feature maps (1, c, h, w) of each stage in a row: its most active channels.

    These are up to eight with the largest mean absolute activation, on one scale.
    """
    figure = Figure(figsize=(9, 1.4 * len(outputs) + 0.4), layout="constrained")
    figure.suptitle(printable(heading), fontsize=10, **text_options())
    rows = figure.subplots(len(outputs), 1, squeeze=False)[:, 0]
    for axes, (name, output) in zip(rows, outputs.items(), strict=True):
        maps = output[0]
        chosen = strongest(maps, CHANNELS)
        # A stage of few channels leaves the rest of its row empty, so that all maps are as large.
        grid = torch.full((CHANNELS, 1, *maps.shape[1:]), math.nan)
        grid[: len(chosen), 0] = maps[chosen].float().cpu()
        shown = axes.imshow(
            _tiles(grid, CHANNELS)[0].numpy(), cmap="viridis", interpolation="nearest"
        )
        figure.colorbar(shown, ax=axes, pad=0.01, aspect=8)
        axes.set_axis_off()
        shape = "×".join(map(str, maps.shape))
        _title(axes, f"{name}: {shape}, channels {', '.join(map(str, chosen))}")
    return figure


def plot_attention(image: Tensor, heat: Tensor, title: str) -> Figure:
    """Show a picture (c, h, w) uint8, and beside it where the network looked, a map (h', w').

    What speaks for the class is red, what speaks against it is blue, and the stronger it is, the
    less of the picture is seen through it. The colour bar has the values of the map.
    """
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    figure.suptitle(printable(title), fontsize=10, **text_options())
    large = enlarge(heat.float().cpu(), (image.shape[1], image.shape[2]))
    scale = float(large.abs().max()) or 1.0
    pair = figure.subplots(1, 2)
    for axes in pair:
        axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
    ends = [(0.0, (0, 0, 1, 0.8)), (0.5, (0, 0, 1, 0)), (0.5, (1, 0, 0, 0)), (1.0, (1, 0, 0, 0.8))]
    colours = LinearSegmentedColormap.from_list("evidence", ends)  # transparent at 0
    shown = pair[1].imshow(large.numpy(), cmap=colours, vmin=-scale, vmax=scale)
    figure.colorbar(shown, ax=pair[1], shrink=0.8)
    return figure


def _title(axes: Any, text: str) -> None:
    axes.set_title(printable(text), fontsize=9, **text_options())
