"""Checks before the first step: whatever can be known to fail, fails before anything is written."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchcnn import cli
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
    spec = {"arch": config.arch, **sizes, "norm": config.norm, "small_input": config.small_input}
    options = cli.read_keyword_values(config.model_kwargs)
    return spec | ({"options": options} if options else {})


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
    device: torch.device,
    world: World,
) -> None:
    """Check a data set against the checkpoint that is resumed, and against the other ranks.

    Raises:
        ValueError: the run began with other classes or pictures, or ranks do not have the same.
    """
    n, classes = len(dataset.train_labels), list(dataset.classes)
    shared = asdict(config) | {"root": "", "out": "", "resume": ""}
    shared |= {"device": device.type, "data": dataset.name}
    done = None
    if checkpoint:
        partial = checkpoint["partial"]
        done = len(checkpoint["history"]), len(partial["images"]) if partial else 0
    world.check_same(classes, n, len(dataset.test_labels), done, shared, dataset.digests)
    if not checkpoint:
        return
    for what, then, now in (
        ("classes", checkpoint["classes"], classes),
        ("images", checkpoint["images"], n),
    ):
        if then != now:
            raise ValueError(f"the run was begun with the {what} {then}; {dataset.name} has {now}")
    digests = checkpoint.get("digests") or {}
    if digests.get("train") != dataset.digests.get("train", digests.get("train")):
        raise ValueError(
            f"the run was begun with other pictures than {dataset.name} has now; --data takes the "
            "place where the same pictures are now"
        )


def check_network(
    config: Config, dataset: ImageData, n: int, world: World, net: nn.Module | None = None
) -> dict[str, Any]:
    """Check that the network can train on the `n` training images; return the model's spec.

    Raises:
        ValueError: as `check_batches` does.
    """
    channels, classes = dataset.train_images.shape[1], len(dataset.classes)
    model_spec = make_model_spec(config, channels, classes, net)
    check_batches(config, model_spec, world.world_size, n, net)
    return model_spec


def check_batches(
    config: Config,
    model_spec: dict[str, Any],
    world_size: int,
    n: int | None = None,
    net: nn.Module | None = None,
) -> None:
    """Check that the network takes the images, and can train on each size of batch.

    Only a batch of a single image can fail: in batch norm, where each channel has one pixel then.

    Args:
        n: the number of images to train on, if it is known: the last batch may have fewer.
        net: a module of your own; it runs on the CPU, on the smallest batch alone.

    Raises:
        ValueError: the images cannot be shared out, or the network cannot train on such a batch.
    """
    if config.batch_size % world_size:
        raise ValueError(f"--batch-size {config.batch_size} cannot be shared by {world_size} ranks")
    batches = {min(config.batch_size, 2 * world_size * config.accumulate): "a batch"}
    if n is not None:
        n = n // world_size * world_size
        if not n:
            raise ValueError(f"{world_size} ranks cannot share fewer images")
        last = f"the last batch of {n} images"
        batches = {n % config.batch_size: last, min(config.batch_size, n): "a batch"}
    sizes: dict[int, str] = {}
    for batch, name in batches.items():
        share = batch // world_size
        part = -(-share // config.accumulate)  # as torch.chunk cuts
        sizes |= {size: name for size in (part, share % part if part else 0) if size}
    channels, side = model_spec["in_channels"], model_spec["input_size"]
    if net is not None:
        size = min(sizes)
        check_own_module(net, (size, channels, side, side), model_spec["num_classes"])
        return
    if n is None:
        tried = side < find_model(config.arch).input[1]  # see `create_model`
        with nullcontext() if tried else torch.device("meta"):  # which computes nothing
            build_model(**model_spec)
    if 1 in sizes:
        with torch.device("meta"):
            net = build_model(**model_spec).train()
            try:
                net(torch.empty(1, channels, side, side))
            except ValueError as error:
                raise ValueError(
                    f"{config.arch} cannot train on a batch of 1, which is what "
                    f"--batch-size {config.batch_size} makes of {sizes[1]} ({error})"
                ) from error


def check_own_module(net: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
    """Make a step with a copy of a module of your own, without the optimizer, on the CPU.

    Raises:
        ValueError: it cannot train on such images, or does not return logits.
    """
    name = type(net).__name__
    if not any(p.requires_grad for p in net.parameters()):
        raise ValueError(f"{name} has no parameters to train")
    try:
        y = deepcopy(net).to("cpu").train()(torch.zeros(shape))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{name} cannot train on images {shape} ({error})") from error
    expected = (shape[0], num_classes)
    got = tuple(y.shape) if isinstance(y, torch.Tensor) else f"a {type(y).__name__}"
    if got != expected:
        raise ValueError(f"{name} must return logits {expected} for images {shape}, got {got}")
    try:
        y.sum().backward()
    except RuntimeError as error:
        raise ValueError(f"{name} has no gradients ({error})") from error
