"""Train a network on images: `python -m torchcnn.train --arch densenet --device cuda`."""

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from torch import nn

from torchcnn import cli
from torchcnn.data.datasets import ImageData
from torchcnn.data.identity import copies_text
from torchcnn.run.checkpoint import FORMAT, normalization
from torchcnn.run.comparison import FinishedRun, read_run
from torchcnn.run.folder import make_folder
from torchcnn.run.history import EpochProgress, EpochRecord
from torchcnn.run.log import Run
from torchcnn.run.weights import read_weights
from torchcnn.system import keep_freed_memory
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
from torchcnn.training.loaders import Loaders, Parts, make_loaders, pick_normalization, split
from torchcnn.training.several import Datasets, list_runs, plan, read_once
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
            with stops_at_once():
                train_all(given)
        else:
            train(**given)


def train_all(given: dict[str, Any]) -> None:
    """Train several networks, from several seeds, one after the other.

    The data is read once, a folder again when a network takes its pictures in another size. All
    runs are checked before the first begins. One that fails does not end the others. With `out` the
    same flags go on where they stopped.

    Raises:
        ValueError: for the same reasons as `train`, before the first run; or runs have failed.
    """
    datasets: Datasets = {}
    runs = [plan(flags, datasets) for flags in list_runs(given)]
    for run in runs:
        if not run.finished:
            with redirect_stdout(StringIO()), prepared(run.given, datasets=datasets):
                pass  # what is printed here is printed again when the run is trained
    results: dict[str, list[FinishedRun]] = {run.arch: [] for run in runs}
    failed = []
    for i, run in enumerate(runs, start=1):
        print(f"run {i} of {len(runs)}: {run}", flush=True)
        if run.finished:
            print(f"it is finished, in {run.finished.path}", flush=True)
            results[run.arch].append(run.finished)
            continue
        try:
            results[run.arch].append(read_run(_train(run.given, datasets=datasets).path))
        except cli.MENDABLE as error:
            print(f"{PROG}: {run}: {cli.one_line(error)}", file=sys.stderr, flush=True)
            failed.append(f"{run}")
    for arch, done in results.items():
        print(summary(arch, done, len(runs) // len(results)))
    if failed:
        again = "; the same command tries them again" if "out" in given else ""
        names = "; ".join(failed)
        raise ValueError(f"{len(failed)} of {len(runs)} runs have failed ({names}){again}")


def summary(arch: str, runs: Sequence[FinishedRun], seeds: int) -> str:
    """Say how accurate a network's runs are."""
    values = [run.accuracy for run in runs]
    of = "" if len(values) == seeds else f" of {seeds}"
    if not values:
        return f"{arch}, 0{of} seeds"
    mean = f"{statistics.mean(values):.4f}"
    if len(values) > 1:
        mean += f" ± {statistics.stdev(values):.4f} (mean ± standard deviation)"
    return f"{arch}, {len(values)}{of} seeds: {runs[0].split} acc {mean}"


def train(*, net: nn.Module | None = None, **flags: Any) -> TrainResult:
    """Train a network as the command does, and return what it reached.

    Args:
        net: a module to train in place of a registered network. It takes images (n, c, h, w) in
            [0, 1] and returns logits (n, num_classes). Afterwards it has the weights that were
            tested; with `ema`, whose average is tested, the last weights.
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
    return _train(given, net)


def _train(
    given: dict[str, Any], net: nn.Module | None = None, datasets: Datasets | None = None
) -> TrainResult:
    with prepared(given, net, datasets) as ready:
        return train_prepared(ready)


@dataclass(frozen=True)
class Prepared:
    """A run for which all was checked and made; its folder does not exist yet."""

    given: dict[str, Any]
    config: Config
    reasons: dict[str, str]  # of what was decided, by the flag
    about: dict[str, Any]  # what its checkpoints repeat, beside the configuration
    parts: Parts
    loaders: Loaders
    state: TrainState
    world: World
    # Of a run that is resumed: how many epochs were planned, and what was made of them.
    resumed: tuple[int, list[EpochRecord] | None, EpochProgress | None] | None


@contextmanager
def prepared(
    given: dict[str, Any], net: nn.Module | None = None, datasets: Datasets | None = None
) -> Iterator[Prepared]:
    """Prepare a run with the flags that were given: whatever can fail, fails here.

    Args:
        datasets: those that were read before, so that none is read twice.
    """
    requested, checkpoint = configure(given, net)
    device = cli.pick_device(device_of_rank(requested.device))
    with (
        device_settings(device, requested.deterministic),
        own_random_numbers(device),
        left_as_it_was(net),
        stops_at_once(),
        join(device) as world,
    ):
        preflight.check_before_reading(requested, world, checkpoint is not None, net)
        weights = None
        if requested.init and checkpoint is None:
            weights = read_weights(requested.init, requested.arch, net)
        channels = checkpoint["model"]["in_channels"] if checkpoint else None
        dataset = read_once(
            requested, device, world, {} if datasets is None else datasets, channels
        )
        preflight.check_dataset(requested, dataset, checkpoint, device, world)
        parts = split(requested, dataset)
        config, n = requested, len(parts.train[1])
        if checkpoint is None:
            config = fit_input_size(config, given, dataset.train_images.shape[-1])
            config = fit_batch_size(config, given, n, world.world_size)
        model_spec = preflight.check_network(config, dataset, n, world, net)
        normalized = normalization(checkpoint) if checkpoint else None
        if checkpoint is None:
            normalized = pick_normalization(config.normalize, weights, parts.train[0])
        loaders = make_loaders(config, parts, len(dataset.classes), device, world, normalized)
        autos = [n for n in ("amp", "channels_last") if getattr(config, n) == "auto"]
        amp, last = choose_precision(config.amp, config.channels_last, config.arch, device)
        config = replace(config, amp=amp, channels_last=last)
        choices = checkpoint["decided"] if checkpoint else decided(requested, config)
        size = (2, model_spec["in_channels"], *[model_spec["input_size"]] * 2)
        begin = partial(weights.load_into, classes=dataset.classes, shape=size) if weights else None
        state = TrainState.create(config, model_spec, device, world.world_size, net, begin)
        history, progress = restore(state, checkpoint, config.out)
        about = {"torchcnn": FORMAT, "model": model_spec, "decided": choices}
        about |= about_dataset(dataset, parts)
        reasons = dict.fromkeys(autos, "by the device") | {"data": dataset.note}
        if normalized:
            about |= {"mean": normalized[0], "std": normalized[1]}
            mean, std = map(shortened, normalized)
            reasons["normalize"] = f"mean {mean}, std {std}"
        shown = str(device) if world.world_size == 1 else device.type
        config = replace(config, device=shown, data=dataset.name)
        resumed = (checkpoint["config"]["epochs"], history, progress) if checkpoint else None
        yield Prepared(given, config, reasons, about, parts, loaders, state, world, resumed)


def train_prepared(ready: Prepared) -> TrainResult:
    """Train a run that was prepared: from here on its folder exists and is locked."""
    world = ready.world
    out = open_folder(ready.config, world, ready.resumed is not None)
    config = replace(ready.config, out=out)
    epochs, history, progress = ready.resumed or (0, None, None)
    run = Run(Path(out), ready.about | {"config": asdict(config)}, history, world.is_main)
    with run, says_how_to_resume(config, run):
        print_config(config, ready.given, ready.reasons, world.world_size)
        print_copies(ready.parts)
        trainer = Trainer(config, ready.state, ready.loaders, run, world)
        if ready.resumed:
            trainer.print_resumed(epochs, progress)
        trainer.fit(progress)
        return trainer.test(ready.parts.copies())


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


def open_folder(config: Config, world: World, resumed: bool) -> str:
    """Make the folder of a new run; return its path on all ranks."""
    out = config.out
    if world.is_main and not resumed:
        name = f"{config.arch}-{Path(config.data).name}-seed{config.seed}"
        out = str(make_folder(out, name))
    return world.broadcast_text(out)


if __name__ == "__main__":
    main()
