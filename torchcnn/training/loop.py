"""The training loop: zero_grad, forward, loss, backward, step, and nothing a GPU would wait for."""

import inspect
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torchcnn.models.weights import train_mode
from torchcnn.training.ema import MovingAverage

with warnings.catch_warnings():  # a notebook without ipywidgets has no bar, and is not warned
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

Batch = tuple[Tensor, Tensor]
Network = nn.Module | Callable[[Tensor], Tensor]
NO_AUTOCAST: AbstractContextManager[Any] = nullcontext()
NO_SCALER = torch.amp.GradScaler(enabled=False)


@dataclass(frozen=True)
class StepOptions:
    """What a step of training may do beside the five lines; the defaults do nothing.

    Args:
        learning_rates: the learning rate of each step; None leaves the optimizer's as it is.
        loss: of logits and labels, () each; by default the cross-entropy, the mean over the batch.
        clip: the largest norm of all gradients together.
        accumulation_steps: into how many parts a batch is cut, whose gradients are added: less
            memory, the same step, except for layers that look at the whole batch, as batch norm.
        autocast: a context for the forward pass, `torch.autocast(...)`, that is entered each time.
        scaler: scales the loss for float16, and skips steps whose gradients overflow.
        ema: is updated after every step.
    """

    learning_rates: Iterable[float] | None = None
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    clip: float = math.inf
    accumulation_steps: int = 1
    autocast: AbstractContextManager[Any] = NO_AUTOCAST
    scaler: torch.amp.GradScaler = NO_SCALER
    ema: MovingAverage | None = None


PLAIN = StepOptions()


class Step(NamedTuple):
    """One step of training; its tensors stay on the device until the epoch ends."""

    loss: Tensor  # (), mean over the batch
    correct: Tensor  # (), images that the weights before the step classified correctly
    images: int
    logged: dict[str, Tensor]  # () each: further numbers, whose means are logged after the epoch


class EpochResult(NamedTuple):
    """What one pass over the training data gave."""

    loss: float  # mean over the images
    accuracy: float  # of the weights before each step
    images: int
    seconds: float
    step_losses: Tensor  # (steps,) float32 on the CPU
    logged: dict[str, float]  # means over the steps


def train_steps(
    net: nn.Module,
    train_iter: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    device: torch.device | str | None = None,
    options: StepOptions = PLAIN,
) -> Iterator[Step]:
    """Train on one batch after another, and yield each step; see `train_epoch`.

    To log another number of every step, put it into `logged`: a tensor () on the device, detached.
    Its mean over the steps, and over the ranks, is logged after the epoch.
    """
    device = device or _device_of(net)
    train_mode(net)
    scaler, parts = options.scaler, options.accumulation_steps
    no_sync = net.no_sync if isinstance(net, DistributedDataParallel) else nullcontext
    rates = None if options.learning_rates is None else iter(options.learning_rates)
    for x, y in train_iter:
        if rates:
            rate = next(rates)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("scale", 1.0)
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        optimizer.zero_grad()
        losses, correct = [], []
        cut = list(zip(x.chunk(parts), y.chunk(parts), strict=True))  # a small batch into fewer
        for i, (x_part, y_part) in enumerate(cut, start=1):
            # Ranks average the sum of their gradients, once, with those of the last part.
            with options.autocast, no_sync() if i < len(cut) else nullcontext():
                y_hat = net(x_part)
                loss = options.loss(y_hat, y_part)
            if parts > 1:
                loss = loss * (len(y_part) / len(y))
            scaler.scale(loss).backward()
            losses.append(loss.detach())
            labels = y_part if y_part.dim() == 1 else y_part.argmax(1)  # of mixed images
            correct.append((y_hat.detach().argmax(1) == labels).sum())
        logged = {}
        if options.clip < math.inf:
            scaler.unscale_(optimizer)
            logged["gradient_norm"] = nn.utils.clip_grad_norm_(net.parameters(), options.clip)
        scaler.step(optimizer)
        scaler.update()
        if options.ema:
            options.ema.update(net)
        yield Step(reduce(torch.add, losses), reduce(torch.add, correct), len(y), logged)


def train_epoch(
    net: nn.Module,
    train_iter: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    device: torch.device | str | None = None,
    **options: Any,
) -> EpochResult:
    """Train for one pass over `train_iter`, any iterable of `(x, y)`, with cross-entropy.

    `device` is by default that of the parameters; `options` are those of `StepOptions`. Losses and
    numbers of correct images stay on the device and are read at the end.

    Raises:
        FloatingPointError: the loss became infinite or NaN; the message says at which step.
        ValueError: `train_iter` gave no batch, as a generator does that is used up.
    """
    began = time.perf_counter()
    taken = train_steps(net, train_iter, optimizer, device, StepOptions(**options))
    steps = list(progress_bar(taken, train_iter))
    return epoch_result(steps, began)


def progress_bar(
    steps: Iterator[Step],
    train_iter: Iterable[Batch],
    title: str = "",
    done: int = 0,
    hidden: bool = False,
) -> Iterator[Step]:
    """Show a progress bar in a terminal and in a notebook; `done` steps were made before.

    Once a second it reads the loss and the accuracy of the steps of that second from the device.
    """
    n = len(train_iter) if isinstance(train_iter, Sized) else None
    off = None if sys.stderr and not hidden else True  # None: unless stderr is a terminal
    bar = _Bar(steps, title, n, initial=done, disable=off, leave=False, unit="batch", miniters=1)
    recent, shown = [], time.perf_counter()
    for step in bar:
        yield step
        recent.append(step)
        if not bar.disable and time.perf_counter() > shown + 1:
            losses, correct, images, _ = stack_steps(recent)
            acc = int(correct.sum()) / sum(images)
            bar.set_postfix_str(f"loss {float(losses.mean()):.3f}, acc {acc:.3f}", refresh=False)
            recent, shown = [], time.perf_counter()


class _Bar(tqdm):
    monitor_interval = 0  # no thread that would outlive the run; with `miniters` there is no need


def epoch_result(steps: Sequence[Step], began: float, planned: int | None = None) -> EpochResult:
    """Sum up an epoch. The device is read only here, and the time is taken only after it.

    It began when `time.perf_counter()` was `began`. `planned` is how many steps it was to have; by
    default as many as there are.

    Raises:
        FloatingPointError, ValueError: as `train_epoch` does.
    """
    if not steps:
        raise ValueError("the training data gave no batch")
    losses, correct, sizes, columns = stack_steps(steps)
    step_losses, images = losses.float().cpu(), sum(sizes)
    acc = int(correct.sum()) / images
    if not step_losses.isfinite().all():
        step = int(step_losses.isfinite().logical_not().nonzero()[0])
        raise FloatingPointError(
            f"the loss became {step_losses[step]} at step {step + 1} of {planned or len(sizes)}"
        )
    mean = float(step_losses.double() @ torch.tensor(sizes).double()) / images
    # Steps of float16 that overflowed, and were skipped, do not count.
    finite = {name: values.cpu()[values.cpu().isfinite()] for name, values in columns.items()}
    logged = {name: float(values.double().mean()) for name, values in finite.items() if len(values)}
    seconds = time.perf_counter() - began
    return EpochResult(mean, acc, images, seconds, step_losses, logged)


def stack_steps(steps: Sequence[Step]) -> tuple[Tensor, Tensor, list[int], dict[str, Tensor]]:
    """Return what each number of a `Step` was in all of them: tensors (steps,), on their device.

    Of further numbers, those that all of the steps have logged.
    """
    losses, correct, images, logged = zip(*steps, strict=True)
    names = [name for name in logged[0] if all(name in numbers for numbers in logged)]
    columns = {name: torch.stack([numbers[name] for numbers in logged]) for name in names}
    return torch.stack(losses), torch.stack(correct), list(images), columns


def unstack_steps(
    losses: Tensor, correct: Tensor, images: list[int], logged: dict[str, Tensor]
) -> list[Step]:
    """Return the steps of which `stack_steps` made these."""
    return [
        Step(losses[i], correct[i], n, {name: values[i] for name, values in logged.items()})
        for i, n in enumerate(images)
    ]


def as_module(net: Network) -> nn.Module:
    """Return a module as it is, and a function of images that returns logits as a module.

    A function that takes `is_training`, as the tutorials' dropout by hand does, is told whether the
    module is in training mode.
    """
    if isinstance(net, nn.Module):
        return net
    try:
        is_told = "is_training" in inspect.signature(net).parameters
    except (TypeError, ValueError):  # of what is not written in Python
        is_told = False
    module, function = nn.Module(), cast(Any, net)
    module.forward = (lambda x: function(x, is_training=module.training)) if is_told else function
    return module


def _device_of(net: nn.Module) -> torch.device | None:
    return next((p.device for p in net.parameters()), None)


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Put a network into eval mode; afterwards every layer is in the mode it was in before."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def predict_logits(
    net: Network, data_iter: Iterable[Batch], device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Return all logits (n, num_classes) and labels (n,) of `data_iter`, in eval mode.

    Both are on the device; loss, accuracy and confusion matrix follow from them.

    Raises:
        ValueError: `data_iter` gave no batch.
    """
    net = as_module(net)
    device = device or _device_of(net)
    with eval_mode(net):
        # The next pass of a compiled network may overwrite what the last one returned.
        pairs = [(net(x.to(device)).clone(), y.to(device)) for x, y in data_iter]
    if not pairs:
        raise ValueError("the data to evaluate on gave no batch")
    logits, labels = zip(*pairs, strict=True)
    return torch.cat(logits), torch.cat(labels)


def evaluate(
    net: Network, data_iter: Iterable[Batch], device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Return the sum of the images' losses, () float64, and the confusion matrix, on the CPU."""
    logits, labels = (t.cpu() for t in predict_logits(net, data_iter, device))
    targets = labels if labels.dim() == 1 else labels.double()  # (n, k): a probability a class
    loss = F.cross_entropy(logits.double(), targets, reduction="sum")
    return loss, confusion_matrix(logits, labels if labels.dim() == 1 else labels.argmax(1))


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Count how often class i (row) was predicted as class j: -> (num_classes, num_classes)."""
    k = logits.shape[1]
    pairs = (labels * k + logits.argmax(1)).cpu()
    return torch.bincount(pairs, minlength=k * k).view(k, k)


def accuracy(confusion: Tensor) -> float:
    """The share of images that were predicted correctly."""
    return int(confusion.diag().sum()) / int(confusion.sum())


def evaluate_accuracy(
    data_iter: Iterable[Batch], net: Network, device: torch.device | str | None = None
) -> float:
    """Return the accuracy on any iterable of `(X, y)`.

    A module is evaluated in eval mode and left as it was; `device` is by default that of its
    parameters. A function that takes `is_training` is told False.
    """
    return accuracy(evaluate(net, data_iter, device)[1])


def epoch_line(epoch: int, train: EpochResult, split: str, acc: float, seconds: float) -> str:
    """The line that the tutorials print after an epoch."""
    return (
        f"epoch {epoch}, loss {train.loss:.4f}, train acc {train.accuracy:.3f}, "
        f"{split} acc {acc:.3f}, time {seconds:.1f} sec"
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
    """Train and print a line for each epoch, as the tutorials do; return a dict for each epoch.

    `train_iter` and `test_iter` are any iterables of `(X, y)` that can be passed over again.
    `batch_size` is there because the tutorials pass it; it is not used.
    The loss is the mean over the images. The book in its PyTorch version divides the sum of the
    batches' means by the number of images, and so prints about 1 / batch_size of it.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
    """
    net.to(device)
    print("training on", device)
    history = []
    for epoch in range(1, num_epochs + 1):
        began = time.perf_counter()
        result = train_epoch(net, train_iter, optimizer, device)
        loss_sum, confusion = evaluate(net, test_iter, device)
        test_loss, test_acc = float(loss_sum / confusion.sum()), accuracy(confusion)
        print(epoch_line(epoch, result, "test", test_acc, time.perf_counter() - began), flush=True)
        scores = {"train_loss": result.loss, "train_acc": result.accuracy}
        history.append({"epoch": epoch, **scores, "test_loss": test_loss, "test_acc": test_acc})
    return history
