"""Several runs in one command: which there are, and what is left to do of each."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from torchcnn import cli
from torchcnn.data.datasets import DATASETS, ImageData
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.run.comparison import FinishedRun, read_run
from torchcnn.run.folder import lock
from torchcnn.system import is_elastic
from torchcnn.training.config import Config
from torchcnn.training.configure import (
    MAY_CHANGE,
    check_changes,
    configure,
    fit_batch_size,
    fit_input_size,
)
from torchcnn.training.distributed import World
from torchcnn.training.loaders import read_images, split

Datasets = dict[Any, ImageData]  # those that were read, by their name and the size of the images


@dataclass(frozen=True)
class Planned:
    """One of several runs.

    Args:
        given: the flags with which it is trained, or resumed.
        finished: its result, if nothing is left to do.
    """

    arch: str
    seed: int
    given: dict[str, Any]
    finished: FinishedRun | None = None

    def __str__(self) -> str:
        return f"{self.arch}, seed {self.seed}"


def list_runs(given: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the flags of each run: several networks, each from several seeds.

    Raises:
        ValueError: a network is there twice, or only a single run can be meant.
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
        configure(run)  # before a data set is read for the first of them
    return runs


def plan(given: dict[str, Any], datasets: Datasets) -> Planned:
    """Find out what is left to do of a run: all, if its folder does not hold it yet.

    Raises:
        ValueError, OSError: the folder holds a run of other flags, or another process writes to it.
    """
    config = configure(given)[0]
    path = Path(config.out)
    new = Planned(given["arch"], given["seed"], given)
    if config.out and path.is_dir():
        lock(path, config)()  # another process may be about to write its first `last.pt`
    is_finished = (path / "result.json").exists()
    if not config.out or not (is_finished or (path / "last.pt").exists()):
        return new
    run = read_run(path) if is_finished else None
    begun = run.config if run else load_checkpoint(path / "last.pt")["config"]
    cli.check_stored(Config, begun, path)
    device = cli.pick_device(config.device)
    dataset = read_once(config, device, World(), datasets)
    config = fit_input_size(config, given, dataset.train_images.shape[-1])
    n = len(split(config, dataset).train[1])
    asked = asdict(fit_batch_size(config, given, n, 1)) | {"data": dataset.name}
    check_changes(path, begun, {k: v for k, v in asked.items() if k not in ("out", "resume")})
    if run and len(run.history) == config.epochs:
        return replace(new, finished=run)
    resumed = {k: v for k, v in given.items() if k != "out"}
    resumed |= {name: asked[name] for name in MAY_CHANGE} | {"resume": str(path)}
    return replace(new, given=resumed)


def read_once(
    config: Config,
    device: torch.device,
    world: World,
    datasets: Datasets,
    channels: int | None = None,
) -> ImageData:
    """Read a data set, or take it if it was read before; `channels` are those of a resumed run."""
    # Pictures of a folder are read in the size that the network takes.
    size = None if config.data in DATASETS else (config.input_size, config.resize)
    key = config.data, size, channels
    if key not in datasets:
        dataset = read_images(config, device, world, channels)
        datasets[key] = datasets[dataset.name, size, channels] = dataset
    return datasets[key]
