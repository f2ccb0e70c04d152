"""Plots of a run: its inputs, its curves, the confusion matrix, the worst mistakes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from torchcnn.figures.draw import COLOURS, axes_at, inches, shown, text_options
from torchcnn.figures.tiles import Tile, plot_tiles
from torchcnn.files import printable

MAX_LABELS = 40  # with more classes, the axes of a confusion matrix show numbers
MAX_MISTAKES = 25  # in the picture of them
MAX_COUNTS = 20  # with more classes, its cells show no counts
OUTLIER = 3.0  # times what nine tenths of the values are below


def plot_curves(
    history: list[dict[str, Any]], split: str, title: str = "", best: int | None = None
) -> Figure:
    """Plot loss and accuracy by epoch, on the training images and on `split` ("val" or "test").

    A few values far from all others do not set the limits: a triangle at the edge has the number.

    Args:
        history: a dict for each epoch, with train_loss, train_acc and those of the split.
        best: the epoch whose weights are those of the run.
    """
    figure = Figure(figsize=(9, 3.8))
    # A layout engine draws everything twice; every run waits for this plot.
    margins = {"left": 0.07, "right": 0.985, "bottom": 0.13, "top": 0.83, "wspace": 0.16}
    both = figure.subplots(1, 2, gridspec_kw=margins)
    figure.suptitle(printable(title), size=11, weight="bold", y=0.97, **text_options(title))
    for axes, (kind, label) in zip(both, {"loss": "loss", "acc": "accuracy"}.items(), strict=True):
        parts = {part: [row[f"{part}_{kind}"] for row in history] for part in ("train", split)}
        pooled = [value for values in parts.values() for value in values]
        if kind == "loss":
            limits = -math.inf, usual_limit(pooled)
        else:  # an accuracy is as far from the others as its error is
            limits = 1 - usual_limit([1 - value for value in pooled]), math.inf
        for i, (part, values) in enumerate(parts.items()):
            _plot_within(axes, np.array(values, dtype=float), limits, "os"[i], COLOURS[i], part)
        if best is not None:
            axes.axvline(best, color="0.4", linestyle=":", label=f"best epoch: {best}", zorder=1)
        axes.set_title(label, size=10)
        axes.set_xlabel("epoch")
        axes.set_xlim(0.5, len(history) + 0.5)  # so that a single epoch has a whole number too
        ticks = MaxNLocator(integer=True).tick_values(1, len(history))
        axes.set_xticks([tick for tick in ticks if tick in range(1, len(history) + 1)])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    return figure


def usual_limit(values: Sequence[float]) -> float:
    """Return what all values are below but outliers, at most a tenth of them; infinity if all are.

    Outliers are more than three times as large as nine tenths of the values.
    """
    finite = [value for value in values if math.isfinite(value)]
    limit = OUTLIER * float(np.quantile(finite, 0.9)) if finite else 0.0
    return limit if 0 < limit < max(values) else math.inf


def _plot_within(
    axes: Any, values: np.ndarray, limits: tuple[float, float], marker: str, color: str, label: str
) -> None:
    """Plot a curve by epoch, and of what lies beyond the limits a triangle with the number."""
    epochs = np.arange(1, len(values) + 1)
    within = values.clip(*limits)
    size = 3 if len(values) > 1 else 7
    axes.plot(epochs, within, f"{marker}-", color=color, label=label, markersize=size)
    beyond = np.flatnonzero(within != values)
    beyond = beyond[~np.isnan(values[beyond])]
    if len(beyond):
        up = bool(values[beyond[0]] > within[beyond[0]])
        axes.plot(epochs[beyond], within[beyond], "^" if up else "v", color=color, markersize=7)
        far = beyond[values[beyond].argmax() if up else values[beyond].argmin()]
        axes.annotate(f"{values[far]:.3g}", (epochs[far], within[far]), (6, 0), color=color, size=8,
                      textcoords="offset points", va="center")  # fmt: skip


def plot_inputs(images: Sequence[Tensor], titles: Sequence[str]) -> Figure:
    """Show images (c, h, w) uint8 as the network sees them, with their classes."""
    return plot_tiles([Tile(i, [title]) for i, title in zip(images, titles, strict=True)])


def plot_confusion(confusion: Tensor, classes: list[str]) -> Figure:
    """Plot a confusion matrix (k, k): true classes are rows, predicted classes are columns.

    The colour of a cell is its share of the row, which is in the cell, below the count.
    """
    shares = (confusion / confusion.sum(1, keepdim=True).clamp(min=1)).tolist()
    k, right, total = len(classes), int(confusion.diag().sum()), int(confusion.sum())
    names = [shown(name) for name in classes] if k <= MAX_LABELS else []
    cell = min(0.62, 9 / k)  # all in inches, since a layout engine draws everything twice
    side = max(cell * k, 2.4)
    label = max((inches(name, 9) for name in names), default=0.3)
    left, below, above = label + 0.5, 0.72 * label + 0.6, 0.5
    figure = Figure(figsize=(left + side + 1.1, below + side + above))
    axes = axes_at(figure, left, below, side, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    bar = axes_at(figure, left + side + 0.15, below, 0.12, side)
    figure.colorbar(image, cax=bar, format="{x:.0%}", label="share of the true class")
    if names:
        options = {"size": 9} | text_options(*names)
        axes.set_xticks(range(k), names, rotation=45, ha="right", rotation_mode="anchor", **options)
        axes.set_yticks(range(k), names, **options)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(
        f"accuracy {right / max(total, 1):.4f}: {right:,} of {total:,}", size=11, weight="bold"
    )
    for i in range(k if k <= MAX_COUNTS else 0):
        for j in range(k):
            count = int(confusion[i, j])
            shade = "white" if shares[i][j] > 0.5 else "black" if count else "0.75"
            text = f"{count:,}\n{percent(shares[i][j])}" if count else "0"
            axes.text(j, i, text, ha="center", va="center", size=7.5, color=shade)
    return figure


def percent(share: float) -> str:
    """A share without decimals; only nothing is 0%, and only all is 100%."""
    return "<1%" if 0 < share < 0.005 else ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def plot_mistakes(
    images: Tensor,
    logits: Tensor,
    labels: Tensor,
    classes: list[str],
    names: Sequence[str] | None = None,
) -> Figure:
    """Show the wrong predictions with the highest probability, the highest first.

    `names` are those of the pictures' files, if they come from a folder.
    """
    probability, predicted = logits.softmax(1).max(1)
    wrong = (predicted != labels).nonzero()[:, 0]
    order = probability[wrong].argsort(descending=True, stable=True)
    worst = wrong[order][:MAX_MISTAKES].tolist()
    tiles = []
    for i in worst:
        lines = [f"{classes[predicted[i]]} {probability[i]:.0%}", f"true: {classes[labels[i]]}"]
        tiles.append(Tile(images[i], lines + ([Path(names[i]).name] if names else [])))
    if not worst:
        return plot_tiles([], f"no mistakes: {len(labels):,} of {len(labels):,} images are right")
    surest = f", the surest {len(worst)}" if len(worst) < len(wrong) else ", the surest first"
    count = f"{len(wrong):,} mistake{'s' * (len(wrong) > 1)} in {len(labels):,} images"
    return plot_tiles(tiles, count + (surest if len(wrong) > 1 else ""))
