"""Train a network on images: `python -m torchcnn.train --arch densenet --device cuda`."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from torchcnn import cli
from torchcnn.augment import AUGMENTATIONS
from torchcnn.batches import Batches, hold_out, mix_seed
from torchcnn.checkpoint import build_model, load_checkpoint, restore, restore_training
from torchcnn.config import Config, check_steps, describe, print_config, resumed_config
from torchcnn.data import ImageData
from torchcnn.images import load_images
from torchcnn.loop import (
    EpochResult,
    accuracy,
    confusion_matrix,
    epoch_line,
    epoch_result,
    predict_logits,
    progress,
    train_steps,
)
from torchcnn.models import find_model
from torchcnn.run import (
    RUNS,
    Run,
    check_out,
    claim_folder,
    pack_steps,
    unpack_steps,
)
from torchcnn.schedule import learning_rate
from torchcnn.scratch import from_scratch

PROG = "python -m torchcnn.train"


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        given = cli.parse(Config, PROG, argv)
        if "resume" in given:
            path = Path(given["resume"]).expanduser()
            path = path.parent if path.name == "last.pt" else path
            checkpoint = load_checkpoint(path / "last.pt")
            train(resumed_config(path, checkpoint, given), given, checkpoint)
        else:
            recipe = find_model(given.get("arch", Config.arch)).recipe
            config = Config(**(asdict(recipe) | given))
            config.out = str(Path(config.out).expanduser()) if config.out else ""
            train(config, given)


def train(config: Config, given: dict[str, Any], checkpoint: dict[str, Any] | None = None) -> None:
    """Images, batches, loop, run. All that can fail beforehand fails before the folder is made."""
    if not checkpoint:
        check_out(Path(config.out or RUNS / "new"))
    device = cli.pick_device(config.device)
    check_steps(config, find_model(config.arch).input[0], 10)  # before a set is read, or downloaded
    data = load_images(config.data, config.root, config.input_size, config.seed)
    config.device, config.data = str(device), data.name
    channels, classes = data.train_images.shape[1], len(data.classes)
    check_steps(config, channels, classes, len(data.train_labels))

    train_iter, held_out_iter = make_batches(config, data, device)
    model = describe(config, channels, classes)
    learner = make_learner(config, model, device)
    if checkpoint:
        restore_training(checkpoint, *learner)
    else:
        config.out = str(claim_folder(config.out, f"{config.arch}-{Path(data.name).name}"))
    if config.compile:
        learner.net.compile()  # in place: the names of the weights stay
    print_config(config, given, data.note)
    history, partial = (checkpoint["history"], checkpoint["partial"]) if checkpoint else ([], None)
    if checkpoint:
        steps = f", step {len(partial['images'])}" if partial else ""
        print(f"going on after epoch {len(history)}{steps}", flush=True)
    run = Run(Path(config.out), asdict(config), model, list(data.classes), history)
    try:
        if not checkpoint:
            run.save(*learner)
        run.log_inputs(learner.net, next(iter(held_out_iter))[0])
        train_epochs(config, run, learner, train_iter, held_out_iter, partial)
        test(config, data, run, learner.judged)
    except (KeyboardInterrupt, cli.Stopped):
        print(f"stopped in epoch {len(run.history) + 1}; --resume {run.path} goes on", flush=True)
        raise
    except FloatingPointError as error:
        raise FloatingPointError(
            f"epoch {len(run.history) + 1}: {error}; {run.path / 'last.pt'} holds the weights "
            f"of epoch {len(run.history)}; start anew with a smaller --lr than {config.lr}"
        ) from error
    finally:
        run.close()


class Learner(NamedTuple):
    """What learns: a network, its optimizer, and the moving average of its weights, if any."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None

    @property
    def judged(self) -> nn.Module:
        return self.average.module if self.average else self.net


def make_learner(config: Config, model: dict[str, Any], device: torch.device) -> Learner:
    """The network that `model` describes, with new weights, ready to train as the flags say."""
    torch.manual_seed(config.seed)
    net = build_model(**model).to(device)
    if config.layers == "scratch":
        net = from_scratch(net)
    if config.channels_last:
        net = net.to(memory_format=torch.channels_last)
    average = None
    if config.ema:
        keep = get_ema_multi_avg_fn(config.ema)
        average = AveragedModel(net, multi_avg_fn=keep, use_buffers=True)
    return Learner(net, make_optimizer(config, net), average)


def train_epochs(
    config: Config, run: Run, learner: Learner, train_iter: Batches, held_out_iter: Batches,
    partial: dict[str, Any] | None,
) -> None:  # fmt: skip
    """Epoch after epoch: train, judge, write down. `partial` is of one that was not over.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
        cli.Stopped: a signal asked for it; `last.pt` is written.
    """
    with cli.StopRequest() as stop:
        for epoch in range(len(run.history) + 1, config.epochs + 1):
            began = time.perf_counter()
            result = epoch_of(config, epoch, run, learner, train_iter, partial, stop)
            partial = None
            logits, labels = predict_logits(learner.judged, held_out_iter)
            loss, acc = float(F.cross_entropy(logits, labels)), accuracy(logits, labels)
            run.add_epoch(result, loss, acc, float(learner.optimizer.param_groups[0]["lr"]))
            run.save(*learner)
            seconds = time.perf_counter() - began
            print(epoch_line(epoch, result, run.held_out, acc, seconds), flush=True)
            if stop.signum:
                raise cli.Stopped(stop.signum)


def epoch_of(
    config: Config, epoch: int, run: Run, learner: Learner, train_iter: Batches,
    partial: dict[str, Any] | None, stop: cli.StopRequest,
) -> EpochResult:  # fmt: skip
    """Train for an epoch, or for the rest of a `partial` one; write `last.pt` when it is time."""
    torch.manual_seed(mix_seed(config.seed, epoch, 1))  # what is random inside the network
    device = torch.device(config.device)
    steps, before = unpack_steps(partial, device) if partial else ([], 0.0)
    train_iter.epoch, train_iter.start = (
        epoch - 1,
        len(steps),
    )  # epochs count from 0, as train_ch5's
    n, past = len(train_iter), (epoch - 1) * len(train_iter)
    rates = [
        learning_rate(config.schedule, config.lr, past + i, n * config.epochs, config.warmup)
        for i in range(len(steps), n)
    ]
    options: dict[str, Any] = {
        "learning_rates": rates, "label_smoothing": config.label_smoothing,
        "clip": config.clip or math.inf, "average": learner.average,
    }  # fmt: skip
    if config.amp == "bf16":
        options["autocast"] = torch.autocast(device.type, torch.bfloat16)
    began = time.perf_counter()

    def seconds() -> float:
        return before + time.perf_counter() - began

    new = train_steps(learner.net, train_iter, learner.optimizer, device, **options)
    for step in progress(new, train_iter, done=len(steps)):
        steps.append(step)
        due = config.checkpoint_every and len(steps) % config.checkpoint_every == 0
        if (due or stop.signum) and len(steps) < n:  # the last step's is the epoch's
            if not torch.stack([step.loss for step in steps]).isfinite().all():
                break  # what is not worth saving
            run.save(*learner, pack_steps(steps, seconds()))
            if stop.signum:
                raise cli.Stopped(stop.signum)
    return epoch_result(steps, seconds)


def make_optimizer(config: Config, net: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the flags; Adam and SGD take weight decay into the gradient, AdamW not.

    Raises:
        ValueError: momentum for another one than sgd, or Nesterov's form without momentum.
    """
    if config.optimizer != "sgd" and (config.momentum or config.nesterov):
        raise ValueError(
            f"--momentum and --nesterov are sgd's; the optimizer is {config.optimizer}"
        )
    if config.nesterov and not config.momentum:
        raise ValueError("--nesterov needs a --momentum above 0")
    params, lr, decay = net.parameters(), config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(params, lr, config.momentum, weight_decay=decay,
                               nesterov=config.nesterov)  # fmt: skip
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(params, lr, weight_decay=decay)


def test(config: Config, data: ImageData, run: Run, net: nn.Module) -> None:
    """Read the test set, once, with the weights that were selected; without selection, the last."""
    name, epoch = "last.pt", len(run.history)
    if best := run.best_epoch():
        name, epoch = "best.pt", best
        restore(load_checkpoint(run.path / name), net)
    test_iter = Batches(data.test_images, data.test_labels, config.batch_size,
                        size=config.input_size, device=config.device)  # fmt: skip
    logits, labels = predict_logits(net, test_iter)
    acc, loss = accuracy(logits, labels), float(F.cross_entropy(logits, labels))
    run.finish(
        confusion_matrix(logits, labels),
        {"checkpoint": name, "epoch": epoch, "test_loss": loss, "test_acc": acc},
    )
    print(f"test acc {acc:.4f}, loss {loss:.4f} ({name}, epoch {epoch}); the run is in {run.path}")


def make_batches(config: Config, data: ImageData, device: torch.device) -> tuple[Batches, Batches]:
    """Training batches, and those watched beside them: validation, or test if none is held out."""
    x, y, x_held_out, y_held_out = (
        data.train_images, data.train_labels, data.test_images, data.test_labels,
    )  # fmt: skip
    if config.val_fraction:
        kept, held_out = hold_out(len(y), config.val_fraction, config.seed)
        x, y, x_held_out, y_held_out = x[kept], y[kept], x[held_out], y[held_out]
    size = config.input_size
    return (
        Batches(
            x,
            y,
            config.batch_size,
            shuffle=True,
            seed=config.seed,
            size=size,
            device=device,
            augment=[AUGMENTATIONS[name] for name in config.augment.split(",") if name],
        ),
        Batches(x_held_out, y_held_out, config.batch_size, size=size, device=device),
    )


if __name__ == "__main__":
    main()
