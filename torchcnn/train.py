"""Train a network on images: `python -m torchcnn.train --arch densenet --device cuda`."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from torchcnn import cli
from torchcnn.data.datasets import DATASETS
from torchcnn.data.folder import load_images
from torchcnn.run.folder import make_folder
from torchcnn.run.history import EpochProgress, EpochRecord, read_history, read_progress
from torchcnn.run.log import Run
from torchcnn.training import preflight
from torchcnn.training.config import Config, configure, print_config
from torchcnn.training.distributed import device_of_rank, join
from torchcnn.training.loaders import make_loaders
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
    with join(device) as world:
        preflight.check_before_reading(config, world, checkpoint is not None, net)
        with world.main_first() if config.data in DATASETS else nullcontext():
            dataset = load_images(config.data, config.root, config.input_size, config.seed, device)
        model_spec = preflight.check_dataset(config, dataset, checkpoint, world, net)
        loaders = make_loaders(config, dataset, device, world)
        state = TrainState.create(config, model_spec, device, world.world_size, net)
        history, progress = restore(state, checkpoint, config.out)

        # Run: from here on the folder exists and is locked.
        out = config.out
        if world.is_main and checkpoint is None:
            out = str(make_folder(out, f"{config.arch}-{Path(dataset.name).name}"))
        out = world.broadcast_text(out)
        shown = str(device) if world.world_size == 1 else device.type
        config = replace(config, device=shown, data=dataset.name, out=out)
        about = {
            "model": model_spec,
            "config": asdict(config),
            "classes": list(dataset.classes),
            "images": len(dataset.train_labels),
        }
        with Run(Path(out), about, history, world.is_main) as run, says_how_to_resume(config, run):
            print_config(config, given, dataset.note, world.world_size)
            print_progress(history, progress)
            trainer = Trainer(config, state, loaders, run, world)
            trainer.fit(progress)
            return trainer.test()


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
    return read_history(path, checkpoint), read_progress(path, checkpoint)


def print_progress(history: list[EpochRecord] | None, progress: EpochProgress | None) -> None:
    if history is not None:
        where = f"after epoch {len(history)}"
        if progress:
            where = f"in epoch {len(history) + 1}, after step {len(progress.images)}"
        print(f"resuming {where}", flush=True)


if __name__ == "__main__":
    main()
