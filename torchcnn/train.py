"""Train a network on images: `python -m torchcnn.train --arch densenet --device cuda`."""

import functools
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn import cli
from torchcnn.data.augment import AUGMENTATIONS, MIXES
from torchcnn.data.datasets import DATA_NAMES, ImageData
from torchcnn.data.folder import load_images
from torchcnn.data.loader import Batches, hold_out, mix_seed
from torchcnn.models import find_model
from torchcnn.run.checkpoint import load_checkpoint, restore, restore_training
from torchcnn.run.folder import RUNS, check_out, make_folder
from torchcnn.run.history import pack_steps, unpack_steps
from torchcnn.run.log import Run
from torchcnn.system import launched
from torchcnn.training.config import Config, describe, print_config, resumed_config
from torchcnn.training.distributed import Ranks, device_of_rank, join
from torchcnn.training.loop import (
    EpochResult,
    Step,
    accuracy,
    epoch_line,
    epoch_result,
    judge,
    progress,
    train_steps,
)
from torchcnn.training.preflight import check_data, check_steps
from torchcnn.training.recipes import complete
from torchcnn.training.schedule import learning_rate
from torchcnn.training.state import Learner, make_learner

PROG = "python -m torchcnn.train"


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        given = cli.parse(Config, PROG, argv)
        # Ranks that died are started with the same words as at first.
        if launched() and "resume" not in given and "out" in given and (
            (Path(given["out"]).expanduser() / "last.pt").exists()
        ):  # fmt: skip
            given["resume"] = given.pop("out")
        if "resume" in given:
            path = Path(given["resume"]).expanduser()
            path = path.parent if path.name == "last.pt" else path
            checkpoint = load_checkpoint(path / "last.pt")
            config = resumed_config(path, checkpoint, given)
        else:
            checkpoint = None
            arch, recipe = given.get("arch", Config.arch), given.get("recipe", Config.recipe)
            config = Config(**complete(arch, recipe, given))
            config.out = str(Path(config.out).expanduser()) if config.out else ""
        device = cli.pick_device(device_of_rank(config.device))
        with join(device) as ranks:
            train(config, given, checkpoint, device, ranks)


def train(
    config: Config, given: dict[str, Any], checkpoint: dict[str, Any] | None,
    device: torch.device, ranks: Ranks,
) -> None:  # fmt: skip
    """Images, batches, loop, run. All that can fail beforehand fails before the folder is made."""
    if not checkpoint:
        check_out(Path(config.out or RUNS / "new"), asdict(config))
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
    if config.deterministic != torch.are_deterministic_algorithms_enabled():  # costs seconds
        torch.use_deterministic_algorithms(config.deterministic)
    check_steps(config, find_model(config.arch).input[0], 10, ranks.count)  # before a set is read
    named = config.data in DATA_NAMES  # and is downloaded if need be, once
    with ranks.first_goes_first() if named else nullcontext():
        data = load_images(config.data, config.root, config.input_size, config.seed, device)
    config.device, config.data = device.type if ranks.count > 1 else str(device), data.name
    history, partial = (checkpoint[k] if checkpoint else None for k in ("history", "partial"))
    done = (None if history is None else len(history), len(partial["images"]) if partial else 0)
    shared = asdict(config) | {"root": "", "out": "", "resume": ""}
    ranks.check_same(data.classes, len(data.train_labels), len(data.test_labels), done, shared)
    if checkpoint:
        check_data(checkpoint, data)
    channels, classes = data.train_images.shape[1], len(data.classes)
    check_steps(config, channels, classes, ranks.count, len(data.train_labels))

    train_iter, held_out_iter, test_iter = make_batches(config, data, device, ranks)
    model = describe(config, channels, classes)
    learner = make_learner(config, model, device, ranks)
    if checkpoint:
        restore_training(checkpoint, *learner)
    elif ranks.first:
        config.out = str(make_folder(config.out, f"{config.arch}-{Path(data.name).name}"))
    run = Run(Path(config.out), asdict(config), model, list(data.classes), len(data.train_labels),
              history, ranks.first)  # fmt: skip
    print_config(config, given, data.note, ranks.count)
    if checkpoint:
        steps = f", step {done[1]}" if partial else ""
        print(f"going on after epoch {done[0]}{steps}", flush=True)
    try:
        if not partial:
            run.save(*learner)
        x = next(iter(held_out_iter))[0]
        run.log_inputs(learner.net, x)
        parallel = ranks.parallel(learner.net, x[:1])
        if config.compile:
            # In place: the names of the weights stay. For each size of batch by itself: what is
            # compiled for any size has other bits, and a resumed run would take it later.
            learner.net.compile(dynamic=False)
        train_epochs(config, run, learner, parallel, train_iter, held_out_iter, partial, ranks)
        test(run, learner.judged, test_iter, ranks)
    except (KeyboardInterrupt, cli.Stopped):
        epoch = min(len(run.history) + 1, config.epochs)
        print(f"stopped in epoch {epoch}; --resume {run.path} goes on", flush=True)
        raise
    except FloatingPointError as error:
        raise FloatingPointError(
            f"epoch {len(run.history) + 1}: {error}; {run.path / 'last.pt'} holds the last weights "
            f"that were saved; start anew with a smaller --lr than {config.lr}"
        ) from error
    finally:
        run.close()


def train_epochs(
    config: Config, run: Run, learner: Learner, parallel: nn.Module, train_iter: Batches,
    held_out_iter: Batches, partial: dict[str, Any] | None, ranks: Ranks,
) -> None:  # fmt: skip
    """Epoch after epoch: train, judge, write down. `partial` is of one that was not over.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
        cli.Stopped: a signal asked for it; `last.pt` is written.
    """
    with cli.StopRequest(patience=ranks.count > 1) as stop:
        for epoch in range(len(run.history) + 1, config.epochs + 1):
            began = time.perf_counter()
            result = epoch_of(config, epoch, run, learner, parallel, train_iter, partial, stop,
                              ranks)  # fmt: skip
            partial = None
            ranks.copy_first(learner.net, buffers_only=True)
            if learner.average:
                ranks.copy_first(learner.average.module, buffers_only=True)
            loss, confusion = judge_all(learner.judged, held_out_iter, ranks)
            acc = accuracy(confusion)
            run.add_epoch(result, loss, acc, float(learner.optimizer.param_groups[0]["lr"]))
            run.save(*learner)
            seconds = time.perf_counter() - began
            print(epoch_line(epoch, result, run.held_out, acc, seconds), flush=True)
            if signum := ranks.largest(stop.signum):
                raise cli.Stopped(signum)


def epoch_of(
    config: Config, epoch: int, run: Run, learner: Learner, parallel: nn.Module,
    train_iter: Batches, partial: dict[str, Any] | None, stop: cli.StopRequest, ranks: Ranks,
) -> EpochResult:  # fmt: skip
    """Train for an epoch, or for the rest of a `partial` one; write `last.pt` when it is time."""
    torch.manual_seed(mix_seed(config.seed, epoch, 1, ranks.rank))  # for what the network draws
    device = train_iter.labels.device
    steps, before = unpack_steps(partial, device, ranks) if partial else ([], 0.0)
    done = len(steps)
    train_iter.epoch, train_iter.start = epoch - 1, done  # epochs count from 0, as train_ch5's
    n, past = len(train_iter), (epoch - 1) * len(train_iter)
    rates = [
        learning_rate(config.schedule, config.lr, past + i, n * config.epochs, config.warmup)
        for i in range(done, n)
    ]
    options: dict[str, Any] = {
        "learning_rates": rates, "label_smoothing": config.label_smoothing,
        "clip": config.clip or math.inf, "parts": config.accumulate,
        "scaler": learner.scaler, "average": learner.average,
    }  # fmt: skip
    if config.amp != "off":
        dtype = torch.bfloat16 if config.amp == "bf16" else torch.float16
        options["autocast"] = torch.autocast(device.type, dtype)
    began = time.perf_counter()

    def seconds() -> float:
        return before + time.perf_counter() - began

    new: list[Step] = []  # of this rank alone
    taken = train_steps(parallel, train_iter, learner.optimizer, device, **options)
    for i, step in enumerate(progress(taken, train_iter, done, hidden=not ranks.first), done + 1):
        new.append(step)
        signum = ranks.largest(stop.signum)
        due = config.checkpoint_every and i % config.checkpoint_every == 0
        if (due or signum) and i < n:  # the last step's is the epoch's
            steps, new = steps + of_all_ranks(new, ranks), []
            if not torch.stack([step.loss for step in steps]).isfinite().all():
                break  # what is not worth saving
            run.save(*learner, pack_steps(steps, seconds(), device, ranks))
            if signum:
                raise cli.Stopped(signum)
    return epoch_result(steps + of_all_ranks(new, ranks), seconds, n)


def of_all_ranks(steps: list[Step], ranks: Ranks) -> list[Step]:
    """The steps of one rank -> those of the whole batch, of which all have equal shares."""
    if ranks.count == 1 or not steps:
        return steps
    # Not their sum as a tensor, in which the place of a number decides how three are added up.
    losses = functools.reduce(torch.add, ranks.gather(torch.stack([step.loss for step in steps])))
    hits = ranks.sum(torch.stack([step.hits for step in steps]))
    images = [step.images * ranks.count for step in steps]
    return [Step(*step) for step in zip(losses / ranks.count, hits, images, strict=True)]


def judge_all(net: nn.Module, batches: Batches, ranks: Ranks) -> tuple[float, Tensor]:
    """The mean loss and the confusion matrix on all images, of which each rank has its part."""
    loss, confusion = (ranks.sum(part) for part in judge(net, batches))
    return float(loss) / int(confusion.sum()), confusion


def test(run: Run, net: nn.Module, test_iter: Batches, ranks: Ranks) -> None:
    """Read the test set, once, with the weights that were selected; without selection, the last."""
    name, epoch = "last.pt", len(run.history)
    if best := run.best_epoch():
        name, epoch = "best.pt", best
        if ranks.first:
            restore(load_checkpoint(run.path / name), net)
        ranks.copy_first(net)
    loss, confusion = judge_all(net, test_iter, ranks)
    acc = accuracy(confusion)
    run.finish(confusion, {"checkpoint": name, "epoch": epoch, "test_loss": loss, "test_acc": acc})
    print(f"test acc {acc:.4f}, loss {loss:.4f} ({name}, epoch {epoch}); the run is in {run.path}")


def make_batches(
    config: Config, data: ImageData, device: torch.device, ranks: Ranks
) -> tuple[Batches, Batches, Batches]:
    """To train on, to watch and select on, and to test on; if none is held out, the latter two are
    the same."""
    x, y = data.train_images, data.train_labels
    test_iter = held_out_iter = to_judge(config, data.test_images, data.test_labels, device, ranks)
    if config.val_fraction:
        kept, held_out = hold_out(len(y), config.val_fraction, config.seed)
        held_out_iter = to_judge(config, x[held_out], y[held_out], device, ranks)
        x, y = x[kept], y[kept]
    mix = None
    if config.mix != "off":
        mix = functools.partial(MIXES[config.mix], num_classes=len(data.classes))
    train_iter = Batches(
        x, y, config.batch_size, shuffle=True, seed=config.seed, size=config.input_size,
        augment=[AUGMENTATIONS[name] for name in config.augment.split(",") if name], mix=mix,
        share=(ranks.rank, ranks.count), device=device,
    )  # fmt: skip
    return train_iter, held_out_iter, test_iter


def to_judge(
    config: Config, images: Tensor, labels: Tensor, device: torch.device, ranks: Ranks
) -> Batches:
    """Every image once, on one of the ranks.

    Raises:
        ValueError: there are fewer images than ranks.
    """
    if len(labels) < ranks.count:
        raise ValueError(f"{ranks.count} ranks cannot share {len(labels)} images to judge")
    mine = slice(ranks.rank, None, ranks.count)
    return Batches(images[mine], labels[mine], config.batch_size, size=config.input_size,
                   device=device)  # fmt: skip


if __name__ == "__main__":
    main()
