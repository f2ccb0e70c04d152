"""The configuration of a run: of a new one from flags and recipe, of a resumed one from its own."""

import inspect
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from torchcnn import cli
from torchcnn.models.registry import MODELS
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.run.history import check_resumable
from torchcnn.system import is_elastic
from torchcnn.training.config import Config
from torchcnn.training.recipes import OWN, RECIPES, SHRUNK, complete
from torchcnn.training.schedule import SCHEDULES

MAY_CHANGE = {"resume", "epochs", "device", "root", "checkpoint_every"}  # when a run is resumed
AGAIN = {"data": "auto", "schedule": "stay", "amp": "auto", "channels_last": "auto"}  # no change

FITTED = {"input_size": "for images of 28 pixels", "batch_size": "for so few images"}
OF_REGISTERED = {"arch", "recipe", "small_input", "norm", "model_kwargs"}


def configure(
    given: dict[str, Any], net: nn.Module | None = None
) -> tuple[Config, dict[str, Any] | None]:
    """Return the configuration that the given flags ask for, and the checkpoint to resume from.

    Args:
        given: the flags that were given, by field name.
        net: a module to train in place of a registered network.

    Raises:
        FileNotFoundError, ValueError: the run cannot be resumed, or flags contradict each other.
    """
    out = Path(given.get("out", "")).expanduser()
    if is_elastic() and "resume" not in given and "out" in given and (out / "last.pt").exists():
        # Ranks that died are restarted by torchrun with the flags of the first start.
        given = {name: given[name] for name in given if name != "out"} | {"resume": str(out)}
    if "resume" in given:
        path = Path(given["resume"]).expanduser()
        path = path.parent if path.name == "last.pt" else path
        checkpoint = load_checkpoint(path / "last.pt")
        if ("module" in checkpoint["model"]) != (net is not None):
            raise ValueError(
                f"{path} is a run of {checkpoint['config'].get('arch')}; a run of a module of your "
                "own, and only that, is resumed by torchcnn.train.train(resume=..., net=...)"
            )
        return resumed_config(path, checkpoint, given), checkpoint
    if net is not None and not isinstance(net, nn.Module):
        raise ValueError(f"net is a torch.nn.Module, got {net!r}")
    if net is not None:
        if registered := given.keys() & OF_REGISTERED:
            raise ValueError(f"{', '.join(sorted(registered))} cannot be given with a module")
        given = given | {"arch": type(net).__name__}
    arch, recipe = given.get("arch", Config.arch), given.get("recipe", Config.recipe)
    config = Config(**complete(arch if net is None else None, recipe, given))
    if config.schedule == "stay":
        raise ValueError(f"--schedule stay is for --resume; allowed are {', '.join(SCHEDULES)}")
    return replace(config, out=str(out) if config.out else ""), None


def resumed_config(path: Path, checkpoint: dict[str, Any], given: dict[str, Any]) -> Config:
    """Return the configuration of a run that is resumed: its own, except for what may change.

    Raises:
        FileNotFoundError, ValueError: the run is damaged or finished, or a flag may not change.
    """
    stored = checkpoint["config"]
    cli.check_stored(Config, stored, path / "last.pt")
    check_resumable(path, checkpoint)
    changed = check_changes(path, stored, given)
    if given.get("schedule") == "stay":
        rate = checkpoint["optimizer"]["param_groups"][0]["lr"]
        changed = changed | {"schedule": "constant", "lr": float(rate), "warmup": 0}
    config = Config(**(stored | changed | {"out": str(path)}))
    done, begun = len(checkpoint["history"]), checkpoint["partial"] is not None
    if begun and done >= config.epochs:
        raise ValueError(f"{path} has begun epoch {done + 1}, got --epochs {config.epochs}")
    if done > config.epochs or (done == config.epochs and (path / "result.json").exists()):
        raise ValueError(f"{path} has finished {done} epochs; --epochs asks for more")
    return config


def check_changes(path: Path, stored: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return which flags change when a run is resumed.

    Raises:
        ValueError: one of them may not.
    """
    is_folder = Path(stored["data"]).is_absolute()
    for name in (name for name in given if name not in MAY_CHANGE):
        before = stored.get(name, getattr(Config, name, None))
        again = AGAIN.get(name, str(path) if name == "out" else None)
        moved = name == "data" and is_folder and Path(given[name]).is_absolute()
        if given[name] not in (before, again) and not moved:
            raise ValueError(
                f"{path} was run with {cli.flag(name)} {before}, got {given[name]}; a resumed run "
                "may change --epochs, --device, --root and --checkpoint-every, take a folder that "
                "was moved as --data, and keep its learning rate by --schedule stay"
            )
    changes = {name: given[name] for name in given.keys() & MAY_CHANGE - {"resume"}}
    if is_folder and given.get("data", "auto") != "auto":
        changes["data"] = given["data"]
    return changes


def decided(requested: Config, config: Config) -> dict[str, str]:
    """Return by flag what was asked for, "auto" or "fitted", where this machine or data decided."""
    values = asdict(requested).items()
    return {
        name: "auto" if value == "auto" else "fitted"
        for name, value in values
        if value != getattr(config, name)
    }


def fit_input_size(config: Config, given: dict[str, Any], pixels: int) -> Config:
    """Take images of 28 pixels at their own size where `fast` or `best` would enlarge them to 32.

    A quarter of the work is saved; by some networks `fast` takes them smaller still. A network
    whose dense layers depend on the size keeps its own.
    """
    if "input_size" in given or config.recipe == "source" or config.arch not in MODELS:
        return config
    is_sized = "input_size" in inspect.signature(MODELS[config.arch].builder).parameters
    if is_sized or config.input_size != 32 or pixels != 28:
        return config
    if config.recipe == "fast":
        pixels = SHRUNK.get(config.arch, pixels)
    return replace(config, input_size=pixels)


def fit_batch_size(config: Config, given: dict[str, Any], n: int, world_size: int) -> Config:
    """Cut a recipe's batch to at most a tenth of the `n` training images, to a power of two.

    With fewer steps in an epoch hardly anything is learned, and moving statistics lag behind.
    """
    if "batch_size" in given or config.batch_size <= n // 10:
        return config
    power = 2 ** int(math.log2(max(n // 10, 2)))
    size = max(power // world_size, 2) * world_size
    while n % size == 1 and n > 1 and world_size == 1:  # batch norm cannot train on a single image
        size += 1
    return replace(config, batch_size=min(size, config.batch_size))


def print_config(
    config: Config, given: dict[str, Any], reasons: dict[str, str], world_size: int
) -> None:
    """Print every setting, and where it comes from if it was not given.

    `reasons` are those of settings that were decided here.
    """
    recipe = RECIPES[config.recipe](config.arch) if config.arch in MODELS else OWN
    for name, value in asdict(config).items():
        source = ""
        if name in recipe and name not in given:
            source = f"({config.recipe} recipe)"
            if value != recipe[name]:  # fitted to the images, or given when the run was begun
                why = FITTED.get(name) if "resume" not in given else None
                source = f"({why}, in place of the recipe's {recipe[name]})" if why else ""
        if name in reasons:
            source = f"({reasons[name]})"
        if value != "":
            print(f"{name:<16} {value} {source}".rstrip(), flush=True)
    if world_size > 1:
        share = config.batch_size // world_size
        print(f"{'world size':<16} {world_size}, each rank with {share} images of a batch")
