"""Train a network on images: `python -m torchcnn.train --arch densenet --device cuda`."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchcnn import cli
from torchcnn.data.datasets import DATASETS, ImageData
from torchcnn.data.folder import FolderOptions, load_images
from torchcnn.run.checkpoint import FORMAT
from torchcnn.run.folder import make_folder
from torchcnn.run.history import EpochProgress, EpochRecord, eval_split, read_history, read_progress
from torchcnn.run.log import Run
from torchcnn.training import preflight
from torchcnn.training.config import Config
from torchcnn.training.configure import configure, fit_batch_size, print_config
from torchcnn.training.distributed import World, device_of_rank, join
from torchcnn.training.loaders import make_loaders, split
from torchcnn.training.signals import stops_at_once
from torchcnn.training.state import TrainState
from torchcnn.training.trainer import (
    Trainer,
    TrainResult,
    says_how_to_resume,
    set_deterministic,
)

PROG = "python -m torchcnn.train"


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        train(**cli.parse(Config, PROG, argv))


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
    # Prepare: whatever can fail, fails here, before there is a run folder.
    given = cli.read_keywords(Config, flags)
    config, checkpoint = configure(given, net)
    set_deterministic(config.deterministic)
    device = cli.pick_device(device_of_rank(config.device))
    with stops_at_once(), join(device) as world:
        preflight.check_before_reading(config, world, checkpoint is not None, net)
        version = checkpoint["torchcnn"] if checkpoint else FORMAT
        dataset = read_images(config, device, world, version)
        preflight.check_dataset(config, dataset, checkpoint, device, world)
        parts = split(config, dataset, version)
        n, classes = len(parts.train[1]), list(dataset.classes)
        if checkpoint is None:
            config = fit_batch_size(config, given, n, world.world_size)
        channels = dataset.train_images.shape[1]
        model_spec = preflight.make_model_spec(config, channels, len(classes), net)
        preflight.check_batches(config, model_spec, world.world_size, n, net)
        loaders = make_loaders(config, parts, len(classes), device, world)
        state = TrainState.create(config, model_spec, device, world.world_size, net)
        history, progress = restore(state, checkpoint, config.out)

        # Run: from here on the folder exists and is locked.
        config = replace(
            config,
            device=str(device) if world.world_size == 1 else device.type,
            data=dataset.name,
            out=open_folder(config, dataset.name, world, checkpoint is not None),
        )
        about = {
            "torchcnn": version,
            "model": model_spec,
            "config": asdict(config),
            "classes": classes,
            "images": len(dataset.train_labels),
            "digests": dataset.digests,
        }
        run = Run(Path(config.out), about, history, world.is_main)
        with run, says_how_to_resume(config, run):
            print_config(config, given, dataset.note, world.world_size)
            trainer = Trainer(config, state, loaders, run, world)
            if checkpoint:
                trainer.print_resumed(checkpoint["config"]["epochs"], progress)
            trainer.fit(progress)
            return trainer.test()


def read_images(config: Config, device: torch.device, world: World, version: int) -> ImageData:
    """Read the data set, on the main rank first, so that the others find what it downloads."""
    seed = config.seed if version == 3 else None
    options = FolderOptions(config.input_size, config.resize, seed=seed)
    with world.main_first() if config.data in DATASETS else nullcontext():
        return load_images(config.data, config.root, device, options)


def open_folder(config: Config, data: str, world: World, resumed: bool) -> str:
    """Make the folder of a new run; return its path on all ranks."""
    out = config.out
    if world.is_main and not resumed:
        out = str(make_folder(out, f"{config.arch}-{Path(data).name}"))
    return world.broadcast_text(out)


def restore(
    state: TrainState, checkpoint: dict[str, Any] | None, out: str
) -> tuple[list[EpochRecord] | None, EpochProgress | None]:
    """Load a checkpoint into the state; return the history and the progress of an unfinished epoch.

    Raises:
        ValueError: it does not fit.
    """
    if checkpoint is None:
        return None, None
    state.load_state_dict(checkpoint)
    path = Path(out) / "last.pt"
    split = eval_split(checkpoint["config"])
    return read_history(path, checkpoint, split), read_progress(path, checkpoint)


if __name__ == "__main__":
    main()
