"""Train a network on images: `python -m torchcnn.train --arch densenet --device cuda`."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from torchcnn import cli
from torchcnn.data.datasets import DATASETS, ImageData
from torchcnn.data.identity import copies_text
from torchcnn.run.checkpoint import FORMAT, normalization
from torchcnn.run.folder import RUNS, check_out, make_folder
from torchcnn.run.log import Run
from torchcnn.run.weights import read_weights
from torchcnn.system import is_elastic, keep_freed_memory
from torchcnn.training import preflight
from torchcnn.training.config import Config
from torchcnn.training.configure import (
    configure,
    decided,
    fit_batch_size,
    fit_input_size,
    print_config,
)
from torchcnn.training.device import device_settings, own_random_numbers
from torchcnn.training.distributed import World, device_of_rank, join
from torchcnn.training.loaders import Parts, make_loaders, pick_normalization, read_images, split
from torchcnn.training.signals import stops_at_once
from torchcnn.training.speed import choose_precision
from torchcnn.training.state import TrainState, left_as_it_was, restore
from torchcnn.training.trainer import Trainer, TrainResult, says_how_to_resume

PROG = "python -m torchcnn.train"


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        given = cli.parse(Config, PROG, argv)
        keep_freed_memory()  # not in `train`, since a process cannot take it back
        if isinstance(given.get("seed"), tuple) or "," in given.get("arch", ""):
            train_all(given)
        else:
            train(**given)


def train_all(given: dict[str, Any]) -> None:
    """Train several networks, from several seeds, one after the other.

    The data is read once, a folder again when a network takes its pictures in another size.

    Raises:
        ValueError: for the same reasons as `train`, before the first run as far as can be known.
    """
    archs, seeds = given.get("arch", Config.arch).split(","), given.get("seed", Config.seed)
    seeds = seeds if isinstance(seeds, tuple) else (seeds,)
    if twice := [arch for arch in dict.fromkeys(archs) if archs.count(arch) > 1]:
        raise ValueError(f"--arch has {', '.join(twice)} twice")
    if "resume" in given or is_elastic():
        other = "--resume" if "resume" in given else "torchrun"
        got = f"{', '.join(archs)} and {', '.join(map(str, seeds))}"
        raise ValueError(f"{other} takes one network and one seed, got {got}")
    runs = [given | {"arch": arch, "seed": seed} for arch in archs for seed in seeds]
    if "out" in given:
        for run in runs:
            name = f"{run['arch']}-" * (len(archs) > 1) + f"seed{run['seed']}"
            run["out"] = str(Path(given["out"]) / name)
    for run in runs:
        config = configure(run)[0]
        check_out(Path(config.out or RUNS / "new"), asdict(config))
    accuracies: dict[str, list[float]] = {arch: [] for arch in archs}
    part, dataset, read = "test", None, None
    for i, run in enumerate(runs, start=1):
        print(f"run {i} of {len(runs)}: {run['arch']}, seed {run['seed']}", flush=True)
        config = configure(run)[0]
        # Pictures of a folder are read in the size that the network takes.
        size = None if config.data in DATASETS else (config.input_size, config.resize)
        result, dataset = _train(run, None, dataset if size == read else None)
        read, accuracy = size, result.test_acc
        if accuracy is None:  # there is no test part
            part, accuracy = "val", result.history[result.epoch - 1].eval_acc
        accuracies[run["arch"]].append(accuracy)
    for arch, values in accuracies.items():
        mean = f"{statistics.mean(values):.4f}"
        if len(values) > 1:
            mean += f" ± {statistics.stdev(values):.4f} (mean ± standard deviation)"
        print(f"{arch}, {len(values)} seeds: {part} acc {mean}")


def train(*, net: nn.Module | None = None, **flags: Any) -> TrainResult:
    """Train a network as the command does, and return what it reached.

    The process is left as it was: its random number generators, torch's settings, signals, warnings
    and environment. Unlike in the command's process, freed memory goes back to the system, which
    costs a part of the speed on a CPU; `torchcnn.system.keep_freed_memory` keeps it for good.

    Args:
        net: a module to train in place of a registered network. It takes images (n, c, h, w) in
            [0, 1] and returns logits (n, num_classes). Afterwards it has the weights that were
            tested, on the device; with `ema`, whose average is tested, the last weights. Its layers
            are in training or eval mode, and its parameters frozen or not, as they were before.
        flags: the command's flags as keywords, such as `arch="lenet"`, `batch_size=64`; see
            `Config`. What is not given comes from the recipe of the network.

    Raises:
        TypeError: there is no such flag.
        ValueError, OSError: what the command refuses in one line.
        FloatingPointError: the loss became infinite or NaN.
    """
    given = cli.read_keywords(Config, flags)
    if isinstance(given.get("seed"), tuple):
        raise ValueError(f"train() takes one seed, got {flags['seed']}; call it for each of them")
    return _train(given, net)[0]


def _train(
    given: dict[str, Any], net: nn.Module | None, dataset: ImageData | None = None
) -> tuple[TrainResult, ImageData]:
    """Train with the flags that were given; also return the data set, for the next call."""
    # Prepare: whatever can fail, fails here, before there is a run folder.
    requested, checkpoint = configure(given, net)
    config = requested
    device = cli.pick_device(device_of_rank(config.device))
    with (
        device_settings(device, config.deterministic),
        own_random_numbers(device),
        left_as_it_was(net),
        stops_at_once(),
        join(device) as world,
    ):
        preflight.check_before_reading(config, world, checkpoint is not None, net)
        weights = None
        if config.init and checkpoint is None:
            weights = read_weights(config.init, config.arch, net)
        version = checkpoint["torchcnn"] if checkpoint else FORMAT
        if dataset is None:
            channels = checkpoint["model"]["in_channels"] if checkpoint else None
            dataset = read_images(config, device, world, channels)
        preflight.check_dataset(config, dataset, checkpoint, device, world)
        parts = split(config, dataset)
        if checkpoint is None:
            config = fit_input_size(config, given, dataset.train_images.shape[-1])
            config = fit_batch_size(config, given, len(parts.train[1]), world.world_size)
        model_spec = preflight.check_network(config, dataset, len(parts.train[1]), world, net)
        normalized = normalization(checkpoint) if checkpoint else None
        if checkpoint is None:
            normalized = pick_normalization(config.normalize, weights, parts.train[0])
        num_classes = len(dataset.classes)
        loaders = make_loaders(config, parts, num_classes, device, world, normalized)
        reasons = {
            name: "by the device"
            for name in ("amp", "channels_last")
            if getattr(config, name) == "auto"
        }
        amp, last = choose_precision(config.amp, config.channels_last, config.arch, device)
        config = replace(config, amp=amp, channels_last=last)
        choices = decided(requested, config)
        size = (2, model_spec["in_channels"], *[model_spec["input_size"]] * 2)
        begin = partial(weights.load_into, classes=dataset.classes, shape=size) if weights else None
        state = TrainState.create(config, model_spec, device, world.world_size, net, begin)
        history, progress = restore(state, checkpoint, config.out)

        # Run: from here on the folder exists and is locked.
        shown = str(device) if world.world_size == 1 else device.type
        out = open_folder(config, dataset.name, world, checkpoint is not None)
        config = replace(config, device=shown, data=dataset.name, out=out)
        about = {"torchcnn": version, "model": model_spec, "config": asdict(config)}
        about["decided"] = checkpoint["decided"] if checkpoint else choices
        about |= about_dataset(dataset, parts)
        if normalized:
            about |= {"mean": normalized[0], "std": normalized[1]}
            mean, std = map(shortened, normalized)
            reasons["normalize"] = f"mean {mean}, std {std}"
        run = Run(Path(out), about, history, world.is_main)
        with run, says_how_to_resume(config, run):
            print_config(config, given, reasons | {"data": dataset.note}, world.world_size)
            print_copies(parts)
            trainer = Trainer(config, state, loaders, run, world)
            if checkpoint:
                trainer.print_resumed(checkpoint["config"]["epochs"], progress)
            trainer.fit(progress)
            return trainer.test(parts.copies()), dataset


def about_dataset(dataset: ImageData, parts: Parts) -> dict[str, Any]:
    """What a checkpoint keeps of the data set."""
    about = {
        "classes": list(dataset.classes),
        "images": len(dataset.train_labels),
        "digests": dataset.digests,
    }
    return about | ({"trained": parts.ids["train"]} if parts.ids else {})


def print_copies(parts: Parts) -> None:
    """Say which results are better than they should be, since images were trained on."""
    for part, count in parts.copies().items():
        if count:
            images = {"test": "test images", "val": "validation images"}[part]
            print(copies_text(count, len(parts.ids[part]), images), flush=True)


def shortened(numbers: Sequence[float]) -> str:
    return " ".join(f"{x:.3g}" for x in numbers)


def open_folder(config: Config, data: str, world: World, resumed: bool) -> str:
    """Make the folder of a new run; return its path on all ranks."""
    out = config.out
    if world.is_main and not resumed:
        out = str(make_folder(out, f"{config.arch}-{Path(data).name}-seed{config.seed}"))
    return world.broadcast_text(out)


if __name__ == "__main__":
    main()
