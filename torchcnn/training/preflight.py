"""Checks before the first step: whatever can be known to fail, fails before anything is written."""

from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchcnn.data.datasets import ImageData
from torchcnn.models.registry import build_model, find_model
from torchcnn.run.folder import RUNS, check_out
from torchcnn.training.config import Config
from torchcnn.training.distributed import World


def make_model_spec(
    config: Config, channels: int, classes: int, net: nn.Module | None = None
) -> dict[str, Any]:
    """Return what `build_model` takes to build the network again; for your own, its class name."""
    sizes = {"in_channels": channels, "num_classes": classes, "input_size": config.input_size}
    if net is not None:
        return {"module": type(net).__name__, **sizes}
    return {"arch": config.arch, **sizes, "norm": config.norm, "small_input": config.small_input}


def check_before_reading(
    config: Config, world: World, resumed: bool, net: nn.Module | None = None
) -> None:
    """Check what can be known before a data set is read, and perhaps downloaded.

    Raises:
        ValueError: the run folder cannot be written, or the network cannot take such images.
    """
    if not resumed:
        check_out(Path(config.out or RUNS / "new"), asdict(config))
    if net is None:
        model_spec = make_model_spec(config, find_model(config.arch).input[0], 10)
        check_batches(config, model_spec, world.world_size)


def check_dataset(
    config: Config,
    dataset: ImageData,
    checkpoint: dict[str, Any] | None,
    world: World,
    net: nn.Module | None = None,
) -> dict[str, Any]:
    """Check a data set against the run, the network and the other ranks; return the model's spec.

    Raises:
        ValueError: the run began with other classes or another number of images, the network
            cannot train on one of the batches, or the ranks do not all have the same.
    """
    n, classes = len(dataset.train_labels), list(dataset.classes)
    shared = asdict(config) | {"root": "", "out": "", "resume": ""}
    done = None
    if checkpoint:
        partial = checkpoint["partial"]
        done = len(checkpoint["history"]), len(partial["images"]) if partial else 0
    world.check_same(classes, n, len(dataset.test_labels), done, shared)
    began_with = (checkpoint["classes"], checkpoint["images"]) if checkpoint else (classes, n)
    for what, then, now in zip(("classes", "images"), began_with, (classes, n), strict=True):
        if then != now:
            raise ValueError(f"the run was begun with the {what} {then}; {dataset.name} has {now}")
    model_spec = make_model_spec(config, dataset.train_images.shape[1], len(classes), net)
    check_batches(config, model_spec, world.world_size, n, net)
    return model_spec


def check_batches(
    config: Config,
    model_spec: dict[str, Any],
    world_size: int,
    n: int | None = None,
    net: nn.Module | None = None,
) -> None:
    """Run the forward pass for each size of batch on the meta device, which computes nothing.

    Args:
        n: the number of training images, if it is known: the last batch may have fewer.
        net: a module of your own; it runs on the CPU, on the smallest batch alone.

    Raises:
        ValueError: the images cannot be shared out, or the network cannot train on such a batch.
    """
    if config.batch_size % world_size:
        raise ValueError(f"--batch-size {config.batch_size} cannot be shared by {world_size} ranks")
    batches = {min(config.batch_size, 2 * world_size * config.accumulate)}
    if n is not None:
        batches = _batch_sizes(config, world_size, n)
    sizes = sorted(
        {
            len(part)
            for batch in batches
            for part in torch.arange(batch // world_size).chunk(config.accumulate)
        }
    )
    channels, side = model_spec["in_channels"], model_spec["input_size"]
    device = "meta" if net is None else "cpu"
    with torch.device(device):
        net = build_model(**model_spec) if net is None else deepcopy(net).to("cpu")
        for size in sizes if device == "meta" else sizes[:1]:
            try:
                y = net.train()(torch.zeros(size, channels, side, side))
            except (ValueError, RuntimeError) as error:
                if device == "meta" and not isinstance(error, ValueError):
                    raise
                raise ValueError(  # for example, batch norm cannot train on a single value
                    f"{config.arch} cannot train on a batch of {size}, which --batch-size "
                    f"{config.batch_size} gives ({error})"
                ) from error
            if y.shape != (size, model_spec["num_classes"]):
                raise ValueError(
                    f"{config.arch} must return logits {(size, model_spec['num_classes'])} for "
                    f"images {(size, channels, side, side)}, got {tuple(y.shape)}"
                )


def _batch_sizes(config: Config, world_size: int, n: int) -> set[int]:
    """The sizes of the batches of an epoch, of all ranks together."""
    held_out = round(n * config.val_fraction)
    if config.val_fraction and not 0 < held_out < n:
        raise ValueError(f"--val-fraction {config.val_fraction} holds out {held_out} of {n} images")
    n = (n - held_out) // world_size * world_size
    if not n:
        raise ValueError(f"{world_size} ranks cannot share fewer images")
    return {min(config.batch_size, n), n % config.batch_size} - {0}
