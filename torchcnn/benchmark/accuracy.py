"""How long each way trains until it has the accuracy with which the tutorial's way ends.

The tutorial's way is the recipe of the network's source, in the tutorial's loop and with the
tutorial's `DataLoader`; after every epoch it evaluates on the test images, through such a
`DataLoader`, too. The other way is `torchcnn.train` with `--recipe fast --val-fraction 0`.

Each run has a process of its own, whose start is not counted. The clock of the tutorial's way
starts when the images are in memory; that of `torchcnn.train` starts with the call, so reading and
checking the data, logs, pictures and checkpoints count.
"""

import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from torchcnn.benchmark.process import own_process
from torchcnn.benchmark.speed import spread
from torchcnn.benchmark.ways import Task, build_network, tutorial_epoch, tutorial_loader
from torchcnn.data.datasets import DATASETS, ImageData, load_data
from torchcnn.files import table
from torchcnn.system import keep_freed_memory
from torchcnn.training.optim import OPTIMIZERS
from torchcnn.training.recipes import source

Train = Callable[..., Any]  # torchcnn.train.train


class Epoch(NamedTuple):
    """The state of a run after an epoch."""

    accuracy: float  # on the test images
    seconds: float  # since the run began


Run = list[Epoch]


def compare(task: Task, seeds: int, train: Train) -> dict[str, Any]:
    """Train a network in both ways from each seed, and say on stderr how each run ended.

    Args:
        task: That of the tutorial's way; `fast` has its own batches, size of images and stem.
        train: `torchcnn.train.train`.

    Raises:
        ValueError, OSError: The data cannot be read, or the network not be trained on it.
    """
    runs: dict[str, list[Run]] = {"tutorial": [], "fast": []}
    for seed in range(seeds):
        works = {"tutorial": (tutorial_run, task, seed), "fast": (fast_run, task, seed, train)}
        for way, work in works.items():
            with own_process() as call:
                runs[way].append(call(*work))
            accuracy, seconds = runs[way][-1][-1]
            end = f"{accuracy:.3f} after {seconds:.1f} s"
            print(f"{task.arch}: {way}, seed {seed}: {end}", file=sys.stderr, flush=True)
    return compared(**runs)


def compared(tutorial: list[Run], fast: list[Run]) -> dict[str, Any]:
    """Return what `--json` prints about the runs of a network, one for each seed.

    The target is the accuracy with which the tutorial's way ends, and its seconds are those until
    then, both as the mean over the seeds. For each seed there is the epoch, from 1, in which `fast`
    first has this accuracy, its seconds until the end of it, and how many times sooner it is there;
    None, None and 0 stand for a seed that does not reach it.
    """
    target = statistics.mean(run[-1].accuracy for run in tutorial)  # exact if all are equal
    seconds = statistics.mean(run[-1].seconds for run in tutorial)
    reached = [
        next((i for i, epoch in enumerate(run, start=1) if epoch.accuracy >= target), None)
        for run in fast
    ]
    until = [run[n - 1].seconds if n else None for run, n in zip(fast, reached, strict=True)]
    return {
        "target": target,
        "tutorial": [[epoch._asdict() for epoch in run] for run in tutorial],
        "fast": [[epoch._asdict() for epoch in run] for run in fast],
        "tutorial_seconds": seconds,
        "fast_epochs": reached,
        "fast_seconds": until,
        "ratios": [seconds / s if s else 0.0 for s in until],
    }


def tutorial_run(task: Task, seed: int) -> Run:
    """Train as the tutorials do, and evaluate after every epoch."""
    recipe = source(task.arch)
    data = first_images(load_data(task.data, task.root), task.images)
    began = time.perf_counter()
    torch.manual_seed(seed)
    train_iter = tutorial_loader(data.train_images, data.train_labels, task)
    test_iter = tutorial_loader(data.test_images, data.test_labels, task, shuffle=False)
    net = build_network(task, data.train_images.shape[1], len(data.classes)).to(task.device)
    optimizer = OPTIMIZERS[recipe["optimizer"]](net.parameters(), lr=recipe["lr"])
    run = []
    for _ in range(recipe["epochs"]):
        tutorial_epoch(net, train_iter, optimizer, task.device)
        accuracy = tutorial_accuracy(net, test_iter, task.device)
        run.append(Epoch(accuracy, time.perf_counter() - began))
    return run


def tutorial_accuracy(net: nn.Module, test_iter: Any, device: torch.device) -> float:
    """Evaluate with the tutorial's loop, which calls `.item()` for each batch."""
    correct, n = 0.0, 0
    with torch.no_grad():
        for x, y in test_iter:
            net.eval()
            correct += (net(x.to(device)).argmax(dim=1) == y.to(device)).float().sum().cpu().item()
            net.train()
            n += len(y)
    return correct / n


def fast_run(task: Task, seed: int, train: Train) -> Run:
    """Train by the recipe `fast` in a folder that is removed, without what `train` prints."""
    data = task.data
    if task.images:  # `train` knows them by a name, which ends with this process
        data = f"the first {task.images} of {task.data}"
        DATASETS[data] = lambda root: first_images(load_data(task.data, root), task.images)
    silence = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, silence:
        keep_freed_memory()  # as the command does
        began = time.time()
        result = train(
            arch=task.arch,
            data=data,
            root=task.root,
            device=str(task.device),
            recipe="fast",
            val_fraction=0,
            seed=seed,
            out=str(Path(folder) / "run"),
        )
    return [Epoch(record.eval_acc, record.time - began) for record in result.history]


def first_images(data: ImageData, count: int) -> ImageData:
    """Return the data set with its first training images alone; 0 stands for all."""
    images, labels = data.train_images[: count or None], data.train_labels[: count or None]
    return replace(data, train_images=images, train_labels=labels)


def report(results: dict[str, dict[str, Any]]) -> str:
    """Format what `compare` returned as a table with a row for each network."""
    columns = ("epochs, tutorial", "s, tutorial", "epochs, fast", "s, fast", "tutorial / fast")
    rows = [["", "target", *columns]]
    for arch, found in results.items():
        row = [arch, f"{found['target']:.4f}"]
        row += [str(len(found["tutorial"][0])), f"{found['tutorial_seconds']:.1f}"]
        row.append(", ".join(str(epoch) if epoch else "-" for epoch in found["fast_epochs"]))
        row.append(", ".join(f"{s:.1f}" if s else "not reached" for s in found["fast_seconds"]))
        rows.append([*row, spread(found["ratios"])])
    return table(rows, left={0})
