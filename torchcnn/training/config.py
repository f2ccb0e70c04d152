"""The flags of `torchcnn.train`."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchcnn import cli
from torchcnn.cli import option
from torchcnn.data.listing import is_listing
from torchcnn.names import AUGMENTATIONS, DATASETS, MIXES, OPTIMIZERS, RESIZES, did_you_mean
from torchcnn.training.recipes import RECIPES
from torchcnn.training.schedule import SCHEDULES

ON_OFF = argparse.BooleanOptionalAction


def data_name(text: str) -> str:
    """Parse the name of a data set, or a path of images of your own, which becomes absolute."""
    entered = getattr(sys.modules.get("torchcnn.data.datasets"), "DATASETS", {})  # by Python code
    if text in DATASETS or text in entered:
        return text
    path = Path(cli.path(text)).expanduser()
    if not path.is_dir() and not path.is_absolute() and not is_listing(path):
        allowed = f"allowed is {', '.join(DATASETS)}, a folder of images or a .csv file"
        hint = did_you_mean(text, DATASETS) or allowed
        raise argparse.ArgumentTypeError(f"there is no folder {text}; {hint}")
    return str(path.absolute())


def archs(text: str) -> str:
    """Parse the name of a network, or several with commas between them."""
    return ",".join(cli.names()(text))


def on_off_auto(text: str) -> bool | str:
    """Parse `on` and `off`, as bools, or `auto`; Python's names of the bools are taken too."""
    values: dict[str, bool | str] = {"on": True, "off": False, "auto": "auto"}
    values |= {"True": True, "False": False}
    if text not in values:
        raise argparse.ArgumentTypeError(f"got {text}, allowed are on, off, auto")
    return values[text]


@dataclass(kw_only=True, frozen=True)
class Config:
    """Train a network on images. What is not given comes from the recipe of the network.

    Examples:
      python -m torchcnn.train --arch resnet20 --recipe fast
      python -m torchcnn.train --data photos --arch resnet18 --init imagenet
      python -m torchcnn.train --arch lenet,mlp --seed 0,1,2 --out runs/three
    """

    data: str = option(
        f"the images: {', '.join(DATASETS)}, a folder with train/<class>/* and test/<class>/*, or "
        "<class>/* alone, or a .csv file with the columns path, label and, if need be, split",
        default="auto",
        type=data_name,
        group="data",
    )
    root: str = option("folder of the data sets", default="data", type=cli.path)
    val_fraction: float = option(
        "share of the training images that is held out for validation, but of a folder with val/; "
        "0 is the tutorials' protocol: all of them train, and the test accuracy is shown after "
        "every epoch",
        default=0.1,
        type=cli.fraction,
    )
    resize: str = option(
        "how pictures of a folder become squares: squeeze them, or crop the centre after the "
        "shorter side is resized to as many pixels or, as torchvision evaluates its networks, to "
        "232/224 or 256/224 of them",
        default="squeeze",
        choices=RESIZES,
    )
    augment: tuple[str, ...] = option(
        f"augmentations, applied in order: {','.join(AUGMENTATIONS)}",
        default=(),
        type=cli.names(AUGMENTATIONS),
    )
    mix: str = option(
        "mix pairs of images and of their labels", default="off", choices=("off", *MIXES)
    )
    arch: str = option(
        "the network; python -m torchcnn.models shows all; several, with commas between them, are "
        "trained one after the other",
        default="lenet",
        type=archs,
        group="network",
    )
    input_size: int = option(
        "pixels a side to which images are resized (default: the recipe's)", type=cli.pixels
    )
    small_input: bool = option(
        "a stem for images of about 30 pixels, for networks that have one",
        default=False,
        action=ON_OFF,
    )
    model_kwargs: dict[str, Any] = option(  # noqa: RUF009
        "options of the network's builder, as in --model-kwargs growth_rate=12 bottleneck=True",
        default={},
        type=cli.keyword_values,
        nargs="+",
        action=cli.Merged,
        metavar="NAME=VALUE",
    )
    init: str = option(
        "weights to start from: a run, a checkpoint, a .safetensors file, a state dict in the "
        "names of this package or of torchvision, a network that is in the package, as resnet20, "
        "or imagenet, torchvision's weights for it; a row of the head belongs to the name of its "
        "class, and of weights without such names the head is new if their number is another one",
        default="",
        type=cli.path,
    )
    freeze: tuple[str, ...] = option(
        "parts of the network that are not trained, with commas between them, as in stem,stage1",
        default=(),
        type=cli.names(),
    )
    normalize: str = option(
        "give the network (x - mean) / std, with these numbers of the training images or of "
        "ImageNet; auto: as the weights of --init were trained, else none",
        default="auto",
        choices=("auto", "none", "data", "imagenet"),
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
    recipe: str = option(
        "where flags that are not given come from: the recipe of the network's source, one that "
        "takes less time, one that takes longer and reaches more, or one that goes on from --init, "
        "which is then the default",
        default="source",
        choices=tuple(RECIPES),
        group="training",
    )
    epochs: int = option(
        "passes over the training images, in all (default: the recipe's)", type=cli.at_least_one
    )
    batch_size: int = option("images in a step (default: the recipe's)", type=cli.at_least_one)
    accumulate: int = option(
        "accumulation steps: parts into which a batch is cut to save memory; their gradients add "
        "up to the same step, but batch norm sees each part by itself",
        default=1,
        type=cli.at_least_one,
    )
    optimizer: str = option(
        "the optimizer (default: the recipe's); sgd in place of a kind of Adam, or the reverse, "
        "needs a --lr",
        choices=tuple(OPTIMIZERS),
    )
    lr: float = option("learning rate (default: the recipe's)", type=cli.positive)
    body_lr: float = option(
        "the learning rate of all but the head, the last part of the network, as a share of --lr",
        default=1.0,
        type=cli.positive,
    )
    momentum: float = option("momentum, for sgd", default=0.0, type=cli.fraction)
    nesterov: bool = option("Nesterov momentum", default=False, action=ON_OFF)
    weight_decay: float = option(
        "weight decay; adamw's is decoupled", default=0.0, type=cli.not_negative
    )
    schedule: str = option(
        "the learning rate over the run; stay, for a resumed run, keeps the last one",
        default="constant",
        choices=(*SCHEDULES, "stay"),
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
        "step, and less in the first ones",
        default=0.0,
        type=cli.fraction,
    )
    patience: int = option(
        "end the run when the validation accuracy has not risen for so many epochs",
        default=0,
        type=cli.count,
    )
    amp: str = option(
        "autocast to bfloat16, or to float16 with scaled gradients; auto: bf16 if this machine is "
        "faster with it",
        default="off",
        choices=("off", "bf16", "fp16", "auto"),
        group="precision and speed",
    )
    compile: bool = option(
        "torch.compile the network, on a GPU into CUDA graphs; on a CPU this needs a C++ compiler",
        default=False,
        action="store_true",
    )
    channels_last: bool | str = option(
        "keep weights, and so activations, in the channels-last memory format; auto: if this "
        "machine is faster with it; off: in the format of the network's source",
        default=False,
        type=on_off_auto,
        nargs="?",
        const=True,
        metavar="{on,off,auto}",
    )
    deterministic: bool = option(
        "the same bits in every run on a GPU too, which is slower; on a CPU they always are, "
        "with the same number of threads",
        default=False,
        action="store_true",
    )
    sync_bn: bool = option(
        "compute batch norm's statistics over the batch of all ranks (torchrun)",
        default=False,
        action="store_true",
    )
    device: str = option("auto, cpu, cuda, cuda:1 or mps", default="auto", group="run")
    seed: int = option(
        "seed of the weights, of the order of the images and of the split; several, as in 0,1,2, "
        "make a run each, one after the other",
        default=0,
        type=cli.seeds,
    )
    out: str = option(
        "run folder (default: runs/<arch>-<data>-seed<seed>-<time>); for several runs, the folder "
        "of their folders, with which the same command goes on where it stopped",
        default="",
        type=cli.path,
    )
    resume: str = option(
        "run folder to resume from its last.pt, within an epoch too; --epochs, --patience, "
        "--device, --root and --checkpoint-every may change, and --data if the folder was moved",
        default="",
        type=cli.path,
    )
    checkpoint_every: int = option(
        "also write last.pt every so many steps; 0: only after epochs", default=0, type=cli.count
    )
    verbose: bool = option(
        "print every setting, not only what was given, decided or changed",
        default=False,
        action="store_true",
    )
