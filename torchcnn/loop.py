"""The training loop, the only one: five visible lines, and nothing that makes a GPU wait."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

Batch = tuple[Tensor, Tensor]


class EpochResult(NamedTuple):
    """What one pass over the training data gave."""

    loss: float  # mean over the images
    accuracy: float  # share of the images, judged by the weights before their step
    images: int
    seconds: float
    step_losses: Tensor  # (steps,) float32 on the CPU


def train_epoch(
    net: nn.Module,
    train_iter: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    device: torch.device | str | None = None,
) -> EpochResult:
    """Train for one pass over `train_iter`, any iterable of `(x, y)`, with cross-entropy.

    `device` is by default the one that the parameters are on. Losses and hits stay there and are
    read once, at the end.

    Raises:
        FloatingPointError: the loss became infinite or NaN; the message says at which step.
        ValueError: `train_iter` gave no batch, as a generator does that was used up before.
    """
    device = device or _device_of(net)
    net.train()
    began = time.perf_counter()
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    sizes: list[int] = []
    silent = None if sys.stderr else True  # None: unless stderr is a terminal
    for x, y in tqdm(train_iter, disable=silent, leave=False, unit="batch"):
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        y_hat = net(x)
        loss = F.cross_entropy(y_hat, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        hits.append((y_hat.detach().argmax(1) == y).sum())
        sizes.append(len(y))
    if not sizes:
        raise ValueError("the training data gave no batch")
    step_losses = torch.stack(losses).float().cpu()  # the one read
    images = sum(sizes)
    accuracy = int(torch.stack(hits).sum()) / images
    seconds = time.perf_counter() - began
    if not step_losses.isfinite().all():
        step = int(step_losses.isfinite().logical_not().nonzero()[0])
        raise FloatingPointError(
            f"the loss became {step_losses[step]} at step {step + 1} of {len(sizes)}"
        )
    mean = float(step_losses.double() @ torch.tensor(sizes).double()) / images
    return EpochResult(mean, accuracy, images, seconds, step_losses)


def _device_of(net: nn.Module | Callable[[Tensor], Tensor]) -> torch.device | None:
    parameters = net.parameters() if isinstance(net, nn.Module) else iter(())
    return next((p.device for p in parameters), None)


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every layer is in the mode it was in."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def predict_logits(
    net: nn.Module | Callable[[Tensor], Tensor],
    data_iter: Iterable[Batch],
    device: torch.device | str | None = None,
) -> Batch:
    """All logits (n, num_classes) and labels (n,) of `data_iter`, in eval mode, on the device.

    Loss, accuracy and confusion matrix all follow from these two.

    Raises:
        ValueError: `data_iter` gave no batch.
    """
    device = device or _device_of(net)
    with eval_mode(net if isinstance(net, nn.Module) else nn.Identity()):
        pairs = [(net(x.to(device)), y.to(device)) for x, y in data_iter]
    if not pairs:
        raise ValueError("the data to evaluate on gave no batch")
    logits, labels = zip(*pairs, strict=True)
    return torch.cat(logits), torch.cat(labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of rows whose largest logit is the label's: (n, num_classes), (n,) -> [0, 1]."""
    return int((logits.argmax(1) == labels).sum()) / len(labels)


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """How often class i (row) was taken for class j (column): -> (num_classes, num_classes)."""
    k = logits.shape[1]
    pairs = (labels * k + logits.argmax(1)).cpu()
    return torch.bincount(pairs, minlength=k * k).view(k, k)


def evaluate_accuracy(
    data_iter: Iterable[Batch],
    net: nn.Module | Callable[[Tensor], Tensor],
    device: torch.device | str | None = None,
) -> float:
    """The accuracy on any iterable of `(X, y)`; a module is judged in eval mode and left as it was.

    `device` is by default the one that the parameters are on.
    """
    return accuracy(*predict_logits(net, data_iter, device))


def epoch_line(
    epoch: int, train: EpochResult, held_out: str, held_out_acc: float, seconds: float
) -> str:
    """The line that the tutorials print after an epoch."""
    return (
        f"epoch {epoch}, loss {train.loss:.4f}, train acc {train.accuracy:.3f}, "
        f"{held_out} acc {held_out_acc:.3f}, time {seconds:.1f} sec"
    )


def train_ch5(
    net: nn.Module,
    train_iter: Iterable[Batch],
    test_iter: Iterable[Batch],
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
    num_epochs: int,
) -> list[dict[str, float]]:
    """Train and print a line an epoch, as the tutorials do; returns the history, a dict an epoch.

    `train_iter` and `test_iter` are any iterables of `(X, y)` that can be passed over again;
    `batch_size` is the tutorials' and not needed: the batches know their size.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
    """
    net.to(device)
    print("training on", device)
    history = []
    for epoch in range(1, num_epochs + 1):
        began = time.perf_counter()
        result = train_epoch(net, train_iter, optimizer, device)
        logits, labels = predict_logits(net, test_iter, device)
        test_loss, test_acc = float(F.cross_entropy(logits, labels)), accuracy(logits, labels)
        print(epoch_line(epoch, result, "test", test_acc, time.perf_counter() - began), flush=True)
        history.append({
            "epoch": epoch, "train_loss": result.loss, "train_acc": result.accuracy,
            "test_loss": test_loss, "test_acc": test_acc,
        })  # fmt: skip
    return history
