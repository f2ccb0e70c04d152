"""The names of *Dive into Deep Learning* for its chapters on linear networks and on CNNs.

    from torchcnn import d2l

It has all names of `torchcnn`, and the book's functions for softmax regression and perceptrons,
with the book's arguments (https://tangshusen.me/Dive-into-DL-PyTorch, chapter 3). It imports
Matplotlib, which `torchcnn` does not.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from torchcnn import *  # noqa: F403
from torchcnn.data.datasets import FASHION_MNIST_CLASSES
from torchcnn.training.loop import Batch, StepOptions, as_module, evaluate_accuracy, train_steps


def train_ch3(
    net: nn.Module | Callable[[Tensor], Tensor],
    train_iter: Iterable[Batch],
    test_iter: Iterable[Batch],
    loss: Callable[[Tensor, Tensor], Tensor],
    num_epochs: int,
    batch_size: int,
    params: Sequence[Tensor] | None = None,
    lr: float = math.nan,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Train a module or a function, and print a line for each epoch.

    The sum of what `loss(y_hat, y)` returns is minimized by `optimizer`; or, if `params` are given,
    by steps of `lr` times the gradient over `batch_size`, as those of `torchcnn.sgd`. The loss that
    is printed is this sum over the images. A function that takes `is_training` is told whether it
    is trained.
    """
    divisor = 1 if optimizer else batch_size
    optimizer = optimizer or torch.optim.SGD(params or (), lr)
    module = as_module(net)
    options = StepOptions(loss=lambda y_hat, y: loss(y_hat, y).sum() / divisor)
    for epoch in range(1, num_epochs + 1):
        steps = list(train_steps(module, train_iter, optimizer, options=options))
        n = sum(step.images for step in steps)
        train_loss = divisor * float(torch.stack([step.loss for step in steps]).sum()) / n
        train_acc = int(torch.stack([step.correct for step in steps]).sum()) / n
        test_acc = evaluate_accuracy(test_iter, module)
        print(
            f"epoch {epoch}, loss {train_loss:.4f}, train acc {train_acc:.3f}, "
            f"test acc {test_acc:.3f}",
            flush=True,
        )


def get_fashion_mnist_labels(labels: Iterable[int] | Tensor) -> list[str]:
    """Return the names of the classes: t-shirt for 0, to ankle boot for 9."""
    return [FASHION_MNIST_CLASSES[int(i)] for i in labels]


def show_fashion_mnist(images: Sequence[Tensor], labels: Sequence[str]) -> None:
    """Show images of 28×28 pixels in a row, each under its label."""
    use_svg_display()
    _, row = plt.subplots(1, len(images), figsize=(12, 12), squeeze=False)
    for axes, image, label in zip(row[0], images, labels, strict=False):
        axes.imshow(image.view(28, 28).numpy())
        axes.set_title(label)
        axes.set_axis_off()


def semilogy(
    x_vals: Sequence[float],
    y_vals: Sequence[float],
    x_label: str,
    y_label: str,
    x2_vals: Sequence[float] | None = None,
    y2_vals: Sequence[float] | None = None,
    legend: Sequence[str] | None = None,
    figsize: tuple[float, float] = (3.5, 2.5),
) -> None:
    """Plot one or two curves with a logarithmic scale for y; the second one is dotted."""
    set_figsize(figsize)
    plt.xlabel(x_label)
    plt.ylabel(y_label)
    plt.semilogy(x_vals, y_vals)
    if x2_vals is not None and y2_vals is not None:
        plt.semilogy(x2_vals, y2_vals, linestyle=":")
    if legend:
        plt.legend(legend)


def set_figsize(figsize: tuple[float, float] = (3.5, 2.5)) -> None:
    """Set the size of figures from now on, in inches."""
    use_svg_display()
    plt.rcParams["figure.figsize"] = figsize


def use_svg_display() -> None:
    """Show figures of a notebook as SVG; elsewhere it does nothing."""
    with suppress(ImportError):
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        if get_ipython():
            set_matplotlib_formats("svg")
