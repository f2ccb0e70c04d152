"""What a run was asked for: the flags of `torchcnn.train`, and what can be known before it."""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.data.augment import AUGMENTATIONS, MIXES
from torchcnn.data.datasets import DATA_NAMES
from torchcnn.run.history import check_resumable
from torchcnn.training.recipes import RECIPES
from torchcnn.training.schedule import SCHEDULES

OPTIMIZERS = ("adam", "adamw", "sgd")
MAY_CHANGE = {"resume", "epochs", "device", "root", "checkpoint_every"}  # when a run is resumed


def data_name(text: str) -> str:
    """A reader of the name of a data set, or of a folder of images, which becomes absolute."""
    path = Path(text).expanduser()
    if text in DATA_NAMES:
        return text
    if not path.is_dir() and not path.is_absolute():
        raise argparse.ArgumentTypeError(
            f"got {text}, allowed is {', '.join(DATA_NAMES)}, or a folder of images"
        )
    return str(path.absolute())


def augmentations(text: str) -> str:
    """A reader of names with commas between them."""
    for name in text.split(",") if text else ():
        if name not in AUGMENTATIONS:
            raise argparse.ArgumentTypeError(
                f"got {name!r}, allowed are {', '.join(AUGMENTATIONS)}, with commas between them"
            )
    return text


@dataclass(kw_only=True)
class Config:
    """Train a network on images. What is not given comes from the network's own recipe."""

    arch: str = option("network; python -m torchcnn.models shows all", default="lenet")
    data: str = option(
        f"images to train on: {', '.join(DATA_NAMES)}, or a folder with train/<class>/* and "
        "test/<class>/*, or <class>/* alone", default="auto", type=data_name,
    )  # fmt: skip
    root: str = option("folder of the data sets", default="data")
    device: str = option("auto, cpu, cuda, cuda:1, mps", default="auto")
    recipe: str = option("what is not given: as the network's source has it, or what reaches more, "
                         "sooner", default="source", choices=tuple(RECIPES))  # fmt: skip
    epochs: int = option(
        "passes over the training images, all in all (default: the recipe's)", type=cli.at_least_one
    )
    batch_size: int = option("images a step (default: the recipe's)", type=cli.at_least_one)
    lr: float = option("learning rate (default: the recipe's)", type=cli.positive)
    optimizer: str = option("the optimizer (default: the recipe's)", choices=tuple(OPTIMIZERS))
    input_size: int = option(
        "pixels a side that images are resized to (default: the recipe's)", type=cli.pixels
    )
    small_input: bool = option("a stem for images of about 30 pixels, where the network has one",
                               default=False, action=argparse.BooleanOptionalAction)  # fmt: skip
    norm: str = option("batch norm: torch's, or the one from scratch", default="torch",
                       choices=("torch", "scratch"))  # fmt: skip
    layers: str = option("every layer: torch's, or the one from scratch, several times slower",
                         default="torch", choices=("torch", "scratch"))  # fmt: skip
    momentum: float = option("momentum of sgd", default=0.0, type=cli.fraction)
    nesterov: bool = option(
        "Nesterov's form of it", default=False, action=argparse.BooleanOptionalAction
    )
    weight_decay: float = option("weight decay; of adamw decoupled", default=0.0,
                                 type=cli.not_negative)  # fmt: skip
    schedule: str = option("learning rate over the run", default="constant",
                           choices=tuple(SCHEDULES))  # fmt: skip
    warmup: int = option("steps in which the learning rate rises at first", default=0,
                         type=cli.count)  # fmt: skip
    label_smoothing: float = option("share of the target that all classes have in equal parts",
                                    default=0.0, type=cli.fraction)  # fmt: skip
    clip: float = option("largest norm of all gradients; 0 is none", default=0.0,
                         type=cli.not_negative)  # fmt: skip
    ema: float = option(
        "keep a moving average of the weights, this share of the old ones a step, and judge it",
        default=0.0, type=cli.fraction,
    )  # fmt: skip
    augment: str = option("of " + ",".join(AUGMENTATIONS) + ", one after the other", default="",
                          type=augmentations)  # fmt: skip
    mix: str = option("mix images, and their labels, in pairs", default="off",
                      choices=("off", *MIXES))  # fmt: skip
    accumulate: int = option("cut a batch into so many parts, whose gradients add up: less memory",
                             default=1, type=cli.at_least_one)  # fmt: skip
    amp: str = option("multiply in bfloat16, or in float16 with scaled gradients (autocast)",
                      default="off", choices=("off", "bf16", "fp16"))  # fmt: skip
    compile: bool = option("torch.compile the network; needs a C++ compiler on a CPU",
                           default=False, action="store_true")  # fmt: skip
    channels_last: bool = option("keep weights, and so activations, as (n, h, w, c) in memory",
                                 default=False, action="store_true")  # fmt: skip
    deterministic: bool = option(
        "the same bits in every run on a GPU too; slower there (a CPU's are always the same)",
        default=False, action="store_true",
    )  # fmt: skip
    sync_bn: bool = option("batch norm over the batch of all ranks (torchrun), not of each",
                           default=False, action="store_true")  # fmt: skip
    val_fraction: float = option(
        "share of the training images held out to select on; 0 is the tutorials' protocol: all "
        "of them train, and the test accuracy is shown after every epoch",
        default=0.1, type=cli.fraction,
    )  # fmt: skip
    checkpoint_every: int = option("write last.pt every so many steps too; 0: after epochs only",
                                   default=0, type=cli.count)  # fmt: skip
    seed: int = option("seed of the weights, the order and the split", default=0, type=cli.seed)
    out: str = option("run folder (default: runs/<arch>-<data>-<time>)", default="")
    resume: str = option(
        "run folder to go on with, from its last.pt, in mid-epoch too; --epochs, --device, --root "
        "and --checkpoint-every may change",
        default="",
    )


def resumed_config(path: Path, checkpoint: dict[str, Any], given: dict[str, Any]) -> Config:
    """The configuration of a run that goes on: its own, but for what may change."""
    stored = checkpoint["config"]
    cli.check(Config, stored, path / "last.pt")
    check_resumable(path, checkpoint)
    same = {"out": str(path), "data": "auto"}  # what may be given again in these words
    for name in given.keys() - MAY_CHANGE:
        if given[name] not in (stored[name], same.get(name)):
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{path} was run with {flag} {stored[name]}, got {given[name]}; "
                             "a resumed run may change --epochs, --device, --root and "
                             "--checkpoint-every")  # fmt: skip
    changed = {name: given[name] for name in given.keys() & MAY_CHANGE - {"resume"}}
    config = Config(**(stored | changed | {"out": str(path)}))
    done = len(checkpoint["history"])
    if done > config.epochs or (done == config.epochs and (path / "result.json").exists()):
        raise ValueError(f"{path} has finished {done} epochs; --epochs asks for more")
    return config


def describe(config: Config, channels: int, classes: int) -> dict[str, Any]:
    """What `build_model` needs to build the network again."""
    return {
        "arch": config.arch, "in_channels": channels, "num_classes": classes,
        "input_size": config.input_size, "norm": config.norm, "small_input": config.small_input,
    }  # fmt: skip


def print_config(config: Config, given: dict[str, Any], note: str, ranks: int) -> None:
    recipe = RECIPES[config.recipe](config.arch)
    for name, value in asdict(config).items():
        from_recipe = name not in given and recipe.get(name) == value
        source = f"({config.recipe} recipe)" if from_recipe else ""
        if name == "data":
            source = f"({note})"
        if value != "":
            print(f"{name:<16} {value} {source}".rstrip(), flush=True)
    if ranks > 1:
        print(f"{'ranks':<16} {ranks}, each with {config.batch_size // ranks} images of a batch")
