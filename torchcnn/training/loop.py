"""The training loop, the only one: five visible lines, and nothing that makes a GPU wait."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from torchcnn.training.ema import MovingAverage

Batch = tuple[Tensor, Tensor]
NOTHING: AbstractContextManager[Any] = nullcontext()
UNSCALED = torch.amp.GradScaler(enabled=False)


class EpochResult(NamedTuple):
    """What one pass over the training data gave."""

    loss: float  # mean over the images
    accuracy: float  # share of the images, judged by the weights before their step
    images: int
    seconds: float
    step_losses: Tensor  # (steps,) float32 on the CPU


class Step(NamedTuple):
    """What one step of training gave; the tensors stay on the device until the epoch ends."""

    loss: Tensor  # (), mean over the batch
    hits: Tensor  # (), right answers of the weights before the step
    images: int


def train_steps(
    net: nn.Module,
    train_iter: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    device: torch.device | str | None = None,
    *,
    learning_rates: Iterable[float] | None = None,
    label_smoothing: float = 0.0,
    clip: float = math.inf,
    parts: int = 1,
    autocast: AbstractContextManager[Any] = NOTHING,
    scaler: torch.amp.GradScaler = UNSCALED,
    average: MovingAverage | None = None,
) -> Iterator[Step]:
    """Train on one batch after another, with cross-entropy; see `train_epoch`.

    Args:
        learning_rates: that of each step; None leaves the optimizer's.
        label_smoothing: the share of the target that all classes have in equal parts.
        clip: the largest norm of all gradients together.
        parts: into so many a batch is cut, whose gradients add up: less memory, the same step, but
            for what looks at the batch as a whole, as batch norm does.
        autocast: a context for the forward pass, `torch.autocast(...)`, that may be entered again.
        scaler: lifts the gradients into the range of float16, and leaves out steps that overflow.
        average: takes the weights in after every step.
    """
    device = device or _device_of(net)
    net.train()
    rates = iter(learning_rates) if learning_rates is not None else None
    for x, y in train_iter:
        if rates:
            rate = next(rates)
            for group in optimizer.param_groups:
                group["lr"] = rate
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        optimizer.zero_grad()
        losses, hits = [], []
        for x_part, y_part in zip(x.chunk(parts), y.chunk(parts), strict=True):
            with autocast:
                y_hat = net(x_part)
                loss = F.cross_entropy(y_hat, y_part, label_smoothing=label_smoothing)
            if parts > 1:
                loss = loss * (len(y_part) / len(y))
            scaler.scale(loss).backward()
            losses.append(loss.detach())
            labels = y_part if y_part.dim() == 1 else y_part.argmax(1)  # of mixed images
            hits.append((y_hat.detach().argmax(1) == labels).sum())
        if clip < math.inf:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        scaler.step(optimizer)
        scaler.update()
        if average:
            average.update(net)
        yield Step(reduce(torch.add, losses), reduce(torch.add, hits), len(y))


def train_epoch(
    net: nn.Module,
    train_iter: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    device: torch.device | str | None = None,
    **options: Any,
) -> EpochResult:
    """Train for one pass over `train_iter`, any iterable of `(x, y)`, with cross-entropy.

    `device` is by default the one that the parameters are on; `options` are those of
    `train_steps`. Losses and hits stay on the device and are read at the end.

    Raises:
        FloatingPointError: the loss became infinite or NaN; the message says at which step.
        ValueError: `train_iter` gave no batch, as a generator does that was used up before.
    """
    began = time.perf_counter()
    steps = list(progress(train_steps(net, train_iter, optimizer, device, **options), train_iter))
    return epoch_result(steps, lambda: time.perf_counter() - began)


def progress(
    steps: Iterator[Step], train_iter: Iterable[Batch], done: int = 0, hidden: bool = False
) -> Iterable[Step]:
    """Steps under a progress bar, unless stderr is no terminal. `done` were made before."""
    total = len(train_iter) if isinstance(train_iter, Sized) else None
    silent = None if sys.stderr and not hidden else True  # None: unless stderr is a terminal
    return tqdm(steps, total=total, initial=done, disable=silent, leave=False, unit="batch")


def epoch_result(
    steps: Sequence[Step], seconds: Callable[[], float], planned: int | None = None
) -> EpochResult:
    """The sums of an epoch, read from the device only here, and only then the time is taken.

    `planned` is how many steps the epoch was to have; without it, as many as these.

    Raises:
        FloatingPointError, ValueError: as `train_epoch` does.
    """
    if not steps:
        raise ValueError("the training data gave no batch")
    step_losses = torch.stack([step.loss for step in steps]).float().cpu()
    sizes = [step.images for step in steps]
    images = sum(sizes)
    accuracy = int(torch.stack([step.hits for step in steps]).sum()) / images
    if not step_losses.isfinite().all():
        step = int(step_losses.isfinite().logical_not().nonzero()[0])
        raise FloatingPointError(
            f"the loss became {step_losses[step]} at step {step + 1} of {planned or len(sizes)}"
        )
    mean = float(step_losses.double() @ torch.tensor(sizes).double()) / images
    return EpochResult(mean, accuracy, images, seconds(), step_losses)


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


def judge(
    net: nn.Module | Callable[[Tensor], Tensor],
    data_iter: Iterable[Batch],
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """The sum of all images' losses, () float64, and the confusion matrix, both on the CPU."""
    logits, labels = (t.cpu() for t in predict_logits(net, data_iter, device))
    loss = F.cross_entropy(logits.double(), labels, reduction="sum")
    return loss, confusion_matrix(logits, labels)


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """How often class i (row) was taken for class j (column): -> (num_classes, num_classes)."""
    k = logits.shape[1]
    pairs = (labels * k + logits.argmax(1)).cpu()
    return torch.bincount(pairs, minlength=k * k).view(k, k)


def accuracy(confusion: Tensor) -> float:
    """The share of images that were taken for what they are."""
    return int(confusion.diag().sum()) / int(confusion.sum())


def evaluate_accuracy(
    data_iter: Iterable[Batch],
    net: nn.Module | Callable[[Tensor], Tensor],
    device: torch.device | str | None = None,
) -> float:
    """The accuracy on any iterable of `(X, y)`; a module is judged in eval mode and left as it was.

    `device` is by default the one that the parameters are on.
    """
    return accuracy(judge(net, data_iter, device)[1])


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
        loss_sum, confusion = judge(net, test_iter, device)
        test_loss, test_acc = float(loss_sum / confusion.sum()), accuracy(confusion)
        print(epoch_line(epoch, result, "test", test_acc, time.perf_counter() - began), flush=True)
        history.append({
            "epoch": epoch, "train_loss": result.loss, "train_acc": result.accuracy,
            "test_loss": test_loss, "test_acc": test_acc,
        })  # fmt: skip
    return history
