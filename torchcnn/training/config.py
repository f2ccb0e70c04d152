"""The flags of `torchcnn.train`, and what they are for a new run and for one that is resumed."""

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.data.augment import AUGMENTATIONS, MIXES
from torchcnn.data.datasets import DATASETS
from torchcnn.models.registry import MODELS
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.run.history import check_resumable
from torchcnn.system import is_elastic
from torchcnn.training.optim import OPTIMIZERS
from torchcnn.training.recipes import OWN, RECIPES, complete
from torchcnn.training.schedule import SCHEDULES

MAY_CHANGE = {"resume", "epochs", "device", "root", "checkpoint_every"}  # when a run is resumed
ON_OFF = argparse.BooleanOptionalAction


def data_name(text: str) -> str:
    """Parse the name of a data set, or of a folder of images, whose path becomes absolute."""
    if text in DATASETS:
        return text
    path = Path(text).expanduser()
    if not path.is_dir() and not path.is_absolute():
        allowed = f"{', '.join(DATASETS)}, or a folder of images"
        raise argparse.ArgumentTypeError(f"got {text}, allowed is {allowed}")
    return str(path.absolute())


def augmentations(text: str) -> str:
    """Parse names of augmentations with commas between them."""
    for name in text.split(",") if text else ():
        if name not in AUGMENTATIONS:
            allowed = f"{', '.join(AUGMENTATIONS)}, with commas between them"
            raise argparse.ArgumentTypeError(f"got {name!r}, allowed are {allowed}")
    return text


@dataclass(kw_only=True, frozen=True)
class Config:
    """Train a network on images. What is not given comes from the recipe of the network."""

    arch: str = option("the network; python -m torchcnn.models shows all", default="lenet")
    data: str = option(
        f"the images: {', '.join(DATASETS)}, or a folder with train/<class>/* and test/<class>/*, "
        "or <class>/* alone",
        default="auto",
        type=data_name,
    )
    root: str = option("folder of the data sets", default="data")
    device: str = option("auto, cpu, cuda, cuda:1 or mps", default="auto")
    recipe: str = option(
        "where flags that are not given come from: the recipe of the network's source, or one that "
        "reaches a higher accuracy sooner",
        default="source",
        choices=tuple(RECIPES),
    )
    epochs: int = option(
        "passes over the training images, in all (default: the recipe's)", type=cli.at_least_one
    )
    batch_size: int = option("images in a step (default: the recipe's)", type=cli.at_least_one)
    lr: float = option("learning rate (default: the recipe's)", type=cli.positive)
    optimizer: str = option("the optimizer (default: the recipe's)", choices=tuple(OPTIMIZERS))
    input_size: int = option(
        "pixels a side to which images are resized (default: the recipe's)", type=cli.pixels
    )
    small_input: bool = option(
        "a stem for images of about 30 pixels, for networks that have one",
        default=False,
        action=ON_OFF,
    )
    norm: str = option(
        "torch's batch norm or the one written by hand",
        default="torch",
        choices=("torch", "scratch"),
    )
    layers: str = option(
        "torch's layers or those written by hand, which are several times slower",
        default="torch",
        choices=("torch", "scratch"),
    )
    momentum: float = option("momentum, for sgd", default=0.0, type=cli.fraction)
    nesterov: bool = option("Nesterov momentum", default=False, action=ON_OFF)
    weight_decay: float = option(
        "weight decay; adamw's is decoupled", default=0.0, type=cli.not_negative
    )
    schedule: str = option(
        "the learning rate over the run", default="constant", choices=tuple(SCHEDULES)
    )
    warmup: int = option(
        "steps at the beginning in which the learning rate rises", default=0, type=cli.count
    )
    label_smoothing: float = option(
        "share of the target that is spread over all classes", default=0.0, type=cli.fraction
    )
    clip: float = option(
        "largest norm of all gradients together; 0 does not clip",
        default=0.0,
        type=cli.not_negative,
    )
    ema: float = option(
        "evaluate a moving average of the weights that keeps this share of its old value in every "
        "step",
        default=0.0,
        type=cli.fraction,
    )
    augment: str = option(
        f"augmentations, applied in order: {','.join(AUGMENTATIONS)}",
        default="",
        type=augmentations,
    )
    mix: str = option(
        "mix pairs of images and of their labels", default="off", choices=("off", *MIXES)
    )
    accumulate: int = option(
        "accumulation steps: parts into which a batch is cut to save memory; their gradients add "
        "up to the same step",
        default=1,
        type=cli.at_least_one,
    )
    amp: str = option(
        "autocast to bfloat16, or to float16 with scaled gradients",
        default="off",
        choices=("off", "bf16", "fp16"),
    )
    compile: bool = option(
        "torch.compile the network; on a CPU this needs a C++ compiler",
        default=False,
        action="store_true",
    )
    channels_last: bool = option(
        "keep weights, and so activations, in the channels-last memory format",
        default=False,
        action="store_true",
    )
    deterministic: bool = option(
        "the same bits in every run on a GPU too, which is slower; on a CPU they always are",
        default=False,
        action="store_true",
    )
    sync_bn: bool = option(
        "compute batch norm's statistics over the batch of all ranks (torchrun)",
        default=False,
        action="store_true",
    )
    val_fraction: float = option(
        "share of the training images that is held out for validation; 0 is the tutorials' "
        "protocol: all of them train, and the test accuracy is shown after every epoch",
        default=0.1,
        type=cli.fraction,
    )
    checkpoint_every: int = option(
        "also write last.pt every so many steps; 0: only after epochs", default=0, type=cli.count
    )
    seed: int = option(
        "seed of the weights, of the order of the images and of the split",
        default=0,
        type=cli.seed,
    )
    out: str = option("run folder (default: runs/<arch>-<data>-<time>)", default="")
    resume: str = option(
        "run folder to resume from its last.pt, within an epoch too; --epochs, --device, --root "
        "and --checkpoint-every may change",
        default="",
    )


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
    if net is not None:
        if registered := given.keys() & {"arch", "recipe", "small_input", "norm"}:
            raise ValueError(f"{', '.join(sorted(registered))} cannot be given with a module")
        given = given | {"arch": type(net).__name__}
    arch, recipe = given.get("arch", Config.arch), given.get("recipe", Config.recipe)
    config = Config(**complete(arch if net is None else None, recipe, given))
    return replace(config, out=str(out) if config.out else ""), None


def resumed_config(path: Path, checkpoint: dict[str, Any], given: dict[str, Any]) -> Config:
    """Return the configuration of a run that is resumed: its own, except for what may change.

    Raises:
        FileNotFoundError, ValueError: the run is damaged or finished, or a flag may not change.
    """
    stored = checkpoint["config"]
    cli.check_stored(Config, stored, path / "last.pt")
    check_resumable(path, checkpoint)
    allowed = {"out": str(path), "data": "auto"}  # these may be given again in these words
    for name in given.keys() - MAY_CHANGE:
        if given[name] not in (stored[name], allowed.get(name)):
            raise ValueError(
                f"{path} was run with {cli.flag(name)} {stored[name]}, got {given[name]}; a "
                "resumed run may change --epochs, --device, --root and --checkpoint-every"
            )
    changed = {name: given[name] for name in given.keys() & MAY_CHANGE - {"resume"}}
    config = Config(**(stored | changed | {"out": str(path)}))
    done = len(checkpoint["history"])
    if done > config.epochs or (done == config.epochs and (path / "result.json").exists()):
        raise ValueError(f"{path} has finished {done} epochs; --epochs asks for more")
    return config


def print_config(config: Config, given: dict[str, Any], note: str, world_size: int) -> None:
    """Print every setting, and which of them come from the recipe."""
    recipe = RECIPES[config.recipe](config.arch) if config.arch in MODELS else OWN
    for name, value in asdict(config).items():
        from_recipe = name not in given and recipe.get(name) == value
        source = f"({config.recipe} recipe)" if from_recipe else ""
        if name == "data":
            source = f"({note})"
        if value != "":
            print(f"{name:<16} {value} {source}".rstrip(), flush=True)
    if world_size > 1:
        share = config.batch_size // world_size
        print(f"{'world size':<16} {world_size}, each rank with {share} images of a batch")
