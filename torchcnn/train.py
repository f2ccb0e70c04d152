"""Train a network on images: `python -m torchcnn.train --arch densenet --device cuda`.

Functions import what needs PyTorch themselves, so that `--help` and errors of spelling do not wait
for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchcnn import cli
from torchcnn.models.registry import find_model
from torchcnn.system import is_elastic, keep_freed_memory
from torchcnn.training.config import Config
from torchcnn.training.signals import stops_at_once

if TYPE_CHECKING:
    from torch import nn

    from torchcnn.run.comparison import FinishedRun
    from torchcnn.run.run import Run
    from torchcnn.training.distributed import World
    from torchcnn.training.plan import Datasets, Plan
    from torchcnn.training.trainer import TrainResult

PROG = "python -m torchcnn.train"


def main(argv: Sequence[str] | None = None) -> None:
    with cli.one_line_errors(PROG):
        flags = cli.parse(Config, PROG, argv)
        for arch in cli.names()(flags.get("arch", "")):
            find_model(arch)  # a misspelled name need not wait for PyTorch
        keep_freed_memory()  # not in `train`, since a process cannot take it back
        if isinstance(flags.get("seed"), tuple) or "," in flags.get("arch", ""):
            with stops_at_once():
                train_all(flags)
        else:
            train(**flags)


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
    flags = cli.read_keywords(Config, flags)
    if isinstance(flags.get("seed"), tuple):
        raise ValueError(f"train() takes one seed, got {flags['seed']}; call it for each of them")
    return _train(flags, net)


def _train(
    flags: dict[str, Any], net: nn.Module | None = None, datasets: Datasets | None = None
) -> TrainResult:
    from torchcnn.training.distributed import join
    from torchcnn.training.plan import planned
    from torchcnn.training.trainer import Trainer

    with (
        stops_at_once(),
        join() as world,
        planned(flags, net, world, datasets) as plan,  # whatever can fail, fails here
        open_run(plan, world) as run,  # from here on the folder exists and is locked
    ):
        return Trainer(plan, run, world).train()


def open_run(plan: Plan, world: World) -> Run:
    """Make the folder of a new run, or take that of one that is resumed, on all ranks."""
    from torchcnn.run.run import Run, make_folder
    from torchcnn.training.plan import print_plan

    config, resumed = plan.config, plan.resumed
    name = f"{config.arch}-{Path(config.data).name}-seed{config.seed}"
    out = config.out if resumed else world.from_main(lambda: str(make_folder(config.out, name)))
    history = resumed.history if resumed else None
    run = Run(Path(out), asdict(config) | {"out": out}, plan.split, history, world.is_main)
    print_plan(plan, world.world_size)
    return run


# --- several runs -------------------------------------------------------------------------------


def train_all(flags: dict[str, Any]) -> None:
    """Train several networks, from several seeds, one after the other, on data that is read once.

    All are checked before the first begins. One that fails does not end the others. With `out` the
    same flags go on where they stopped.

    Raises:
        ValueError: for the same reasons as `train`, before the first run; or runs have failed.
    """
    from torchcnn.run.comparison import read_run
    from torchcnn.training.distributed import World
    from torchcnn.training.plan import planned

    datasets: Datasets = {}
    runs = [what_is_left(run) for run in list_runs(flags)]
    for run, finished in runs:
        if not finished:
            with redirect_stdout(StringIO()), planned(run, None, World(), datasets):
                pass  # what is printed is printed again
    results: dict[str, list[FinishedRun]] = {run["arch"]: [] for run, _ in runs}
    failed = []
    for i, (run, finished) in enumerate(runs, start=1):
        name = f"{run['arch']}, seed {run['seed']}"
        print(f"run {i} of {len(runs)}: {name}", flush=True)
        if finished:
            print(f"it is finished, in {finished.path}", flush=True)
        else:
            try:
                finished = read_run(_train(run, datasets=datasets).path)
            except cli.MENDABLE as error:
                print(f"{PROG}: {name}: {cli.one_line(error)}", file=sys.stderr, flush=True)
                failed.append(name)
                continue
        results[run["arch"]].append(finished)
    for arch, done in results.items():
        print(summary(arch, done, len(runs) // len(results)))
    if failed:
        again = "; the same command tries them again" if "out" in flags else ""
        names = "; ".join(failed)
        raise ValueError(f"{len(failed)} of {len(runs)} runs have failed ({names}){again}")


def list_runs(flags: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the flags of each run: several networks, each from several seeds.

    Raises:
        ValueError: a network is there twice, or only a single run can be meant.
    """
    from torchcnn.training.plan import begin

    archs, seeds = cli.names()(flags.get("arch", Config.arch)), flags.get("seed", Config.seed)
    seeds = seeds if isinstance(seeds, tuple) else (seeds,)
    if twice := [arch for arch in dict.fromkeys(archs) if archs.count(arch) > 1]:
        raise ValueError(f"--arch has {', '.join(twice)} twice")
    if "resume" in flags or is_elastic():
        other = "--resume" if "resume" in flags else "torchrun"
        got = f"{', '.join(archs)} and {', '.join(map(str, seeds))}"
        raise ValueError(f"{other} takes one network and one seed, got {got}")
    runs = [flags | {"arch": arch, "seed": seed} for arch in archs for seed in seeds]
    for run in runs if "out" in flags else ():
        name = f"{run['arch']}-" * (len(archs) > 1) + f"seed{run['seed']}"
        run["out"] = str(Path(flags["out"]).expanduser() / name)
    for run in runs:
        begin(run)  # before a data set is read for the first of them
    return runs


def what_is_left(flags: dict[str, Any]) -> tuple[dict[str, Any], FinishedRun | None]:
    """Return the flags with which a run is trained or resumed, and the run if it is finished.

    Raises:
        ValueError, OSError: the folder holds a run of other flags, or another process writes to it.
    """
    from torchcnn.run.checkpoint import load_checkpoint
    from torchcnn.run.comparison import read_run
    from torchcnn.run.run import lock
    from torchcnn.training.plan import MAY_CHANGE, changes, has_result, read_config

    path = Path(flags.get("out", ""))
    if "out" not in flags or not path.is_dir():
        return flags, None
    lock(path, main)()  # another process may be about to write its first `last.pt`
    if not (path / "last.pt").exists():
        return flags, None
    checkpoint = load_checkpoint(path / "last.pt")
    stored = read_config(path, checkpoint)
    changed = changes(path, stored, flags)
    before = {name for name, source in checkpoint.sources.items() if source == "given"}
    if dropped := sorted(before - flags.keys() - MAY_CHANGE):
        told = ", ".join(f"{cli.flag(name)} {getattr(stored, name)}" for name in dropped)
        raise ValueError(f"{path} was run with {told}, which is not given now; another --out")
    asked = replace(stored, **changed)
    over = len(checkpoint.history) <= asked.epochs and has_result(path, checkpoint, asked)
    return flags | {"resume": str(path)}, read_run(path) if over else None


def summary(arch: str, runs: Sequence[FinishedRun], seeds: int) -> str:
    """Say how accurate a network's runs are."""
    from torchcnn.run.comparison import Row

    of = "" if len(runs) == seeds else f" of {seeds}"
    if not runs:
        return f"{arch}, 0{of} seeds"
    spread = " (mean ± standard deviation)" * (len(runs) > 1)
    return f"{arch}, {len(runs)}{of} seeds: {runs[0].split} acc {Row([*runs], {}).score()}{spread}"


if __name__ == "__main__":
    main()
