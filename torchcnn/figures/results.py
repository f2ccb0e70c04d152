"""Plots of a run: its curves, the confusion matrix, images with predictions, the worst mistakes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from torchcnn.figures.draw import shown, text_options
from torchcnn.files import printable

MAX_LABELS = 40  # with more classes, the axes of a confusion matrix show numbers
MAX_MISTAKES = 25  # in the picture of them
MAX_COUNTS = 20  # with more classes, its cells show no counts


def plot_curves(history: list[dict[str, Any]], split: str) -> Figure:
    """Plot loss and accuracy by epoch, on the training images and on `split` ("val" or "test").

    `history` has a dict for each epoch, with train_loss, train_acc and those of the split.
    """
    figure = Figure(figsize=(9, 3.5))
    epochs = [record["epoch"] for record in history]
    labels = {"loss": "loss", "acc": "accuracy"}
    # A layout engine draws everything twice; every run waits for this plot.
    margins = {"left": 0.08, "right": 0.985, "bottom": 0.14, "top": 0.91, "wspace": 0.2}
    both = figure.subplots(1, 2, gridspec_kw=margins)
    for axes, (kind, label) in zip(both, labels.items(), strict=True):
        for part in ("train", split):
            axes.plot(epochs, [record[f"{part}_{kind}"] for record in history], "o-", label=part)
        axes.set(xlabel="epoch", title=label)  # beside numbers of any length
        axes.set_xlim(0.5, len(epochs) + 0.5)  # so that a single epoch has a whole number too
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def plot_confusion(confusion: Tensor, classes: list[str]) -> Figure:
    """Plot a confusion matrix (k, k): true classes are rows, predicted classes are columns."""
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    k = len(classes)
    size = min(max(4.0, 0.6 * k), 12.0)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    if k <= MAX_LABELS:
        names = [shown(name) for name in classes]
        axes.set_xticks(range(k), names, rotation=45, ha="right", **text_options())
        axes.set_yticks(range(k), names, **text_options())
    axes.set(xlabel="predicted", ylabel="true")
    for i in range(k if k <= MAX_COUNTS else 0):
        for j in range(k):
            shade = "white" if shares[i, j] > 0.5 else "black"
            count = str(int(confusion[i, j]))
            text = axes.text(j, i, count, ha="center", va="center", fontsize=8, color=shade)
            text.set_in_layout(False)  # inside the axes: not to be measured, which takes as long
    return figure


def plot_images(images: list[Tensor], titles: list[str], heading: str = "") -> Figure:
    """Show images (c, h, w) uint8, five in a row, each under its title."""
    rows = -(-len(images) // 5) or 1
    figure = Figure(figsize=(10, 2.2 * rows + 0.3), layout="constrained")
    figure.suptitle(heading)
    for place, (image, title) in enumerate(zip(images, titles, strict=True), start=1):
        axes = figure.add_subplot(rows, 5, place)
        axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        axes.set_title(printable(title), fontsize=9, **text_options())
    return figure


def plot_grid(images: list[Tensor], titles: list[str]) -> Figure:
    """Show images (c, h, w) uint8 of one size in a square, each above its title.

    They are one picture in one pair of axes, which is drawn in a fraction of a second.
    """
    columns = math.ceil(math.sqrt(len(images)))
    rows, (c, h, w) = math.ceil(len(images) / columns), images[0].shape
    gap, line = max(1, w // 16), max(4, h // 5)
    grid = torch.full((rows * (h + line), columns * (w + gap), c), 255, dtype=torch.uint8)
    figure = Figure(figsize=(1.6 * columns, 1.6 * rows * (h + line) / (w + gap)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        y, x = i // columns * (h + line), i % columns * (w + gap)
        grid[y : y + h, x : x + w] = image.permute(1, 2, 0)
        place = (x + w / 2, y + h + line / 2)
        axes.text(*place, shown(title), ha="center", va="center", fontsize=8, **text_options())
    axes.imshow(grid.numpy(), cmap="gray", vmin=0, vmax=255)
    return figure


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
    titles = [
        f"{classes[predicted[i]]} {probability[i]:.0%}\n({classes[labels[i]]})"
        + (f"\n{Path(names[i]).name}" if names else "")
        for i in worst
    ]
    heading = f"the surest {len(worst)} of {len(wrong):,} mistakes: predicted (true)"
    return plot_images([images[i] for i in worst], titles, heading)
