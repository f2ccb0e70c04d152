"""The figures of a look inside a network: its first weights, its feature maps, where it looks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from torchcnn.figures.draw import axes_at, inches, text_options
from torchcnn.figures.tiles import GRAY, Tile, plot_tiles
from torchcnn.files import printable
from torchcnn.models.attention import enlarge, is_map, strongest

CHANNELS = 8  # that are shown of each stage
SMOOTH = 300  # pixels of the longer side that a heat map has at least
OUTSIDE = 0.3  # brightness of what the network did not see
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def plot_filters(weights: Tensor, name: str) -> Figure:
    """Show weights (k, c, h, w) as k tiles, on one scale that is symmetric about 0.

    Three channels are red, green and blue, where grey is 0. Any other number of channels is
    averaged, with negative weights in blue and positive ones in red. Weights without structure, as
    those of a new network, are said to have none.
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
    structure = "" if is_structured(weights) else f"\n{NOISE}"
    _title(axes, f"{name}: {k} × {h}×{w}\n{what}{structure}")
    return figure


NOISE = "no structure: neighbouring weights are uncorrelated, as before training"


def is_structured(weights: Tensor) -> bool:
    """Whether neighbouring weights are correlated, which those drawn at random are not.

    The correlation of n random pairs has a standard deviation of 1/√n: more than three times as
    much is structure. Kernels of one pixel have no neighbours.
    """
    pairs = torch.stack([
        torch.cat([weights[..., 1:, :].flatten(), weights[..., 1:].flatten()]),
        torch.cat([weights[..., :-1, :].flatten(), weights[..., :-1].flatten()]),
    ]).double().cpu()  # fmt: skip
    count = pairs.shape[1]
    return count < 2 or not abs(float(torch.corrcoef(pairs)[0, 1])) <= 3 / math.sqrt(count)


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


def plot_features(image: Tensor, outputs: Mapping[str, Tensor], heading: str) -> Figure:
    """Show the feature maps (1, c, h, w) of each stage in a row, beside the input (c, h, w) uint8.

    These are up to eight channels, with the largest mean absolute activation, on one scale. Maps of
    one pixel are left out.
    """
    stages = {name: output[0].float().cpu() for name, output in outputs.items() if is_map(output)}
    top, row, left, wide = 0.85, 1.22, 2.15, 7.2  # in inches
    height = top + row * max(len(stages), 1.4)
    figure = Figure(figsize=(10, height))
    _heading(figure, heading, "the strongest channels of each stage: those whose activations "
             "are largest in the mean")  # fmt: skip
    axes = axes_at(figure, 0.25, height - top - 1.6, 1.6, 1.6)
    axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    _title(axes, "input: " + "×".join(map(str, image.shape)))
    for i, (name, maps) in enumerate(stages.items()):
        chosen = strongest(maps, CHANNELS)
        # A stage of few channels leaves the rest of its row empty, so that all maps are as large.
        grid = torch.full((CHANNELS, 1, *maps.shape[1:]), math.nan)
        grid[: len(chosen), 0] = maps[chosen]
        tiles = _tiles(grid, CHANNELS)[0].numpy()
        high = wide * tiles.shape[0] / tiles.shape[1]
        bottom = height - top - row * i - high
        axes = axes_at(figure, left, bottom, wide, high)
        bar = axes_at(figure, left + wide + 0.08, bottom, 0.1, high)
        figure.colorbar(axes.imshow(tiles, cmap="viridis", interpolation="nearest"), cax=bar)
        bar.tick_params(labelsize=7)
        axes.set_axis_off()
        shape = "×".join(map(str, maps.shape))
        _title(axes, f"{name}: {shape}, channels {', '.join(map(str, chosen))}")
    return figure


def plot_attention(
    photo: Tensor, heats: Mapping[str, Tensor], heading: str, box: Box | None = None
) -> Figure:
    """Show a photo (c, h, w) uint8, and beside it where the network looked, by each map's title.

    See `heat_map`. The bar below each map has its numbers.
    """
    h, w = photo.shape[1:]
    lines = heading.splitlines()
    count, gap, bottom, top = 1 + len(heats), 0.25, 0.55, 0.42 + 0.23 * len(lines)  # in inches
    high = min(4.2, 16 / count * h / w)  # of a picture
    wide = max(high * w / h, 1.8)
    text = max(inches(line, 11) for line in lines)
    figure = Figure(figsize=(max(count * (wide + gap), text + gap) + gap, top + high + bottom))
    _heading(figure, *lines)
    pictures = {title: heat_map(photo, heat, box) for title, heat in heats.items()}
    for i, (title, picture) in enumerate([("the picture", photo), *pictures.items()]):
        left = gap + i * (wide + gap)
        axes = axes_at(figure, left, bottom, wide, high)
        axes.imshow(picture.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        _title(axes, title)
        if i > 0:
            _bar(axes_at(figure, left, 0.33, wide, 0.12), heats[title])
    return figure


def plot_attention_sheet(tiles: Sequence[Tile], heading: str, columns: int = 0) -> Figure:
    """Show many heat maps as one sheet, with one bar for all: each has a scale of its own."""
    figure = plot_tiles(tiles, heading, columns, foot=0.85)
    bar = axes_at(figure, 0.12, 0.6, 3.3, 0.12)
    _bar(bar, torch.tensor([-1.0, 1.0]), ["against the class", "counts least", "for it"])
    text = "each picture has its own scale, from the first number below it to the second"
    figure.text(0.12 / figure.get_figwidth(), 0.2 / figure.get_figheight(), text, size=8,
                color="0.35", va="center")  # fmt: skip
    return figure


def heat_map(photo: Tensor, heat: Tensor, box: Box | None = None) -> Tensor:
    """Lay a map (h', w') over a photo (c, h, w) uint8 in gray: (3, n·h, n·w) uint8.

    What speaks for the class glows from purple to yellow, what speaks against it is blue, and the
    less it counts, the more is seen of the photo. What lies outside of the box that the network saw
    is dim. Each pixel of a small photo becomes n × n ones, so that the map is smooth.
    """
    times = math.ceil(SMOOTH / max(photo.shape[1:]))
    gray = photo.float().mean(0).div(255).repeat_interleave(times, 0).repeat_interleave(times, 1)
    h, w = gray.shape
    left, top, right, bottom = (round(times * x) for x in box) if box else (0, 0, w, h)
    right, bottom = max(right, left + 1), max(bottom, top + 1)  # of a thin photo
    shown = (gray * OUTSIDE)[..., None].repeat(1, 1, 3)
    large = enlarge(heat.float().cpu(), (bottom - top, right - left)).numpy()
    colours = torch.from_numpy(evidence(large, float(heat.min()), float(heat.max())))
    inside, alpha = gray[top:bottom, left:right, None], colours[..., 3:]
    shown[top:bottom, left:right] = inside * (1 - alpha) + colours[..., :3] * alpha
    return (shown * 255).round().byte().permute(2, 0, 1)


def evidence(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the colour and opacity of values between the least and the largest, (..., 4).

    0 is transparent, or the value next to it, if all have one sign: blue against, inferno for.
    """
    nothing = min(max(0.0, low), high)
    scale = max(high - nothing, nothing - low) or 1.0
    share = np.rint(((values - nothing) / scale).clip(-1, 1) * 255) / 255
    pro, con = colormaps["inferno"](0.3 + 0.68 * share), colormaps["Blues"](1 + 0.75 * share)
    colours = np.where(share[..., None] < 0, con, pro).astype(np.float32)
    colours[..., 3] = 0.9 * np.abs(share) ** 1.3
    return colours


def _bar(axes: Any, heat: Tensor, names: Sequence[str] = ()) -> None:
    """Draw the colours of a map from its least to its largest value, over gray as on a photo."""
    low, high = float(heat.min()), float(heat.max())
    axes.set(xticks=[], yticks=[])
    if low == high:
        return
    colours = evidence(np.linspace(low, high, 256)[None], low, high)
    alpha = colours[..., 3:]
    over_gray = 0.5 * (1 - alpha) + colours[..., :3] * alpha
    axes.imshow(over_gray, aspect="auto", extent=(low, high, 0, 1))
    has_room = 0.15 * (high - low) < min(-low, high)
    ticks = [low, 0.0, high] if has_room else [low, high]
    axes.set_xticks(ticks, names or [f"{x:.3g}".replace("-", "−") for x in ticks], size=8)
    axes.get_xticklabels()[0].set_ha("left")
    axes.get_xticklabels()[-1].set_ha("right")


def _heading(figure: Figure, first: str, *others: str) -> None:
    """Write lines at the top left, the first of which is bold."""
    width, height = figure.get_size_inches()
    for i, line in enumerate((first, *others)):
        style: dict[str, Any] = {"size": 11, "weight": "bold"} if i == 0 else GRAY | {"size": 9}
        x, y = 0.25 / width, 1 - (0.22 + 0.23 * i) / height
        figure.text(x, y, printable(line), va="center", **style, **text_options(line))


def _title(axes: Any, text: str) -> None:
    axes.set_title(printable(text), fontsize=9, **text_options(text))
