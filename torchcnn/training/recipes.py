"""How each network is trained: as its source does, `fast`, which reaches about as much or more in
less time, `best`, which takes `fast`'s way for longer, on images that are flipped at random, or
`finetune`, which goes on from the weights of another training.

`fast` takes images of 28 or 32 pixels, with the stem for small images, where it is not said below;
batches of 64 to 256; and one cycle of the learning rate (arXiv:1708.07120). Networks with batch
norm take Nesterov momentum at a high rate, others AdamW (arXiv:1711.05101). Precision and memory
format follow the device. Some networks have fewer epochs than their source or smaller images,
chosen on images of Fashion-MNIST that were held out from training.
"""

import inspect
from dataclasses import dataclass, field
from typing import Any

from torchcnn.models.registry import find_model

Flags = dict[str, Any]  # of `torchcnn.train`

COMMON = {"clip": 1.0, "amp": "auto", "channels_last": "auto"}
SGD = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
ADAMW = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01}
LENET = {"epochs": 1, "lr": 0.5, "batch_size": 128, "weight_decay": 1e-4, "clip": 0.0}
# Chosen on held-out images: 0.9130, by 40 epochs alone 0.9123, cropped too 0.9012.
LONG_LENET = {"epochs": 40, "ema": 0.9995}
# The same: 0.9230, at the rate of `fast` 0.9193.
LONG_BASELINE = {"epochs": 25, "ema": 0.9995, "lr": 0.03}
# Images of twice their size with the usual stem: a quarter of the work of the small stem.
DENSENET = {"epochs": 3, "input_size": 56, "small_input": False}
RESNET20 = {"epochs": 3, "lr": 0.2, "label_smoothing": 0.1}
LONG_20 = {"epochs": 24, "augment": ("crop", "flip")}  # the paper's augmentation
CROPPED = {"augment": ("random-resized-crop", "flip")}
FINETUNE: Flags = ADAMW | COMMON | CROPPED | {"body_lr": 0.1, "schedule": "one-cycle"}
# Of a module that is not registered.
OWN: Flags = {"optimizer": "adam", "lr": 1e-3, "batch_size": 128, "epochs": 5, "input_size": 28}


@dataclass(frozen=True)
class Recipes:
    """The recipes of a network."""

    source: str  # optimizer, learning rate, batch size, epochs and pixels of its source
    fast: Flags = field(default_factory=dict)  # what `fast` changes for this network
    best: Flags = field(default_factory=dict)  # what `best` changes of `fast`
    pixels: int | None = None  # the least size of images that it takes, if that is more than 32
    shrunk: int = 28  # the size to which `fast` takes images of 28 pixels


# fmt: off
TABLE = {
    # name                         source
    "softmax_regression": Recipes("sgd  0.1   256  5  28", fast={"lr": 5e-3, "batch_size": 256}),
    "mlp":                Recipes("adam 1e-3   32  5  28", fast={"lr": 5e-3, "batch_size": 256}),
    "lenet":              Recipes("adam 1e-3  256  5  28", fast=LENET, best=LONG_LENET),
    "alexnet":            Recipes("adam 1e-3  128  5 224", fast={"lr": 3e-3}),
    "vgg11":              Recipes("adam 1e-3   64  5 224"),
    "vgg13":              Recipes("adam 1e-3   64  5 224"),
    "vgg16":              Recipes("adam 1e-3   64  5 224"),
    "vgg19":              Recipes("adam 1e-3   64  5 224"),
    "vgg11_bn":           Recipes("adam 1e-3   64  5 224"),
    "vgg13_bn":           Recipes("adam 1e-3   64  5 224"),
    "vgg16_bn":           Recipes("adam 1e-3   64  5 224"),
    "vgg19_bn":           Recipes("adam 1e-3   64  5 224"),
    "nin":                Recipes("adam 2e-3  128  5 224"),
    "googlenet":          Recipes("adam 1e-3  128  5  96"),
    "resnet18":           Recipes("adam 1e-3  256  5  96"),
    "resnet34":           Recipes("adam 1e-3  256  5  96"),
    "resnet50":           Recipes("adam 1e-3   64  5  96"),
    "resnet101":          Recipes("adam 1e-3   64  5  96"),
    "resnet152":          Recipes("adam 1e-3   64  5  96"),
    "resnet20":           Recipes("adam 1e-3  128  5  32", fast=RESNET20, best=LONG_20, shrunk=20),
    "resnet32":           Recipes("adam 1e-3  128  5  32"),
    "resnet44":           Recipes("adam 1e-3  128  5  32"),
    "resnet56":           Recipes("adam 1e-3  128  5  32"),
    "resnet110":          Recipes("adam 1e-3  128  5  32"),
    "densenet":           Recipes("adam 1e-3  256  5  96", fast=DENSENET),
    "densenet121":        Recipes("adam 1e-3   64  5  96"),
    "densenet169":        Recipes("adam 1e-3   64  5  96"),
    "densenet201":        Recipes("adam 1e-3   64  5  96"),
    "tf_sigmoid_cnn":     Recipes("adam 1e-3   32  5  48", pixels=48, fast={"lr": 1e-2}),
    "tf_baseline":        Recipes("adam 1e-3   32  5  32", fast={"epochs": 3}, best=LONG_BASELINE),
    "tf_lenet5":          Recipes("adam 1e-3   32  5  32", fast={"lr": 1e-2}),
    "tf_alexnet8":        Recipes("adam 1e-3   32  5  32"),
    "tf_alexnet_half":    Recipes("adam 1e-3   32  5 224", pixels=64),
    "tf_vgg13":           Recipes("adam 1e-4  128 10  32"),
    "tf_vgg16":           Recipes("adam 1e-3   32  5  32"),
    "tf_nin":             Recipes("sgd  5e-2  128  5 224", pixels=96),
    "tf_nin_dense":       Recipes("adam 1e-3   32  5 512", pixels=48),
    "tf_googlenet":       Recipes("sgd  5e-2  128  5  96"),
    "tf_inception10":     Recipes("adam 1e-3 1024  5  32"),
    "tf_resnet18":        Recipes("adam 1e-3   32  5  32"),
    "tf_resnet18_pool":   Recipes("adam 1e-3  128 20  32"),
}
# fmt: on


def source(arch: str) -> Flags:
    """Return the recipe of the network's source."""
    find_model(arch)
    optimizer, lr, batch_size, epochs, pixels = TABLE[arch].source.split()
    numbers = {"batch_size": int(batch_size), "epochs": int(epochs), "input_size": int(pixels)}
    return {"optimizer": optimizer, "lr": float(lr), **numbers}


def fast(arch: str) -> Flags:
    """Return the recipe that takes less time."""
    epochs, model = source(arch)["epochs"], find_model(arch)
    known = inspect.signature(model.builder).parameters
    has_norms = "norm_layer" in known and known["norm_layer"].default is not None
    pixels = TABLE[arch].pixels or (28 if model.input[0] == 1 else 32)
    flags = {"epochs": epochs, "batch_size": 64, "input_size": pixels, "schedule": "one-cycle"}
    if "small_input" in known:
        flags["small_input"] = True
    return flags | COMMON | (SGD if has_norms else ADAMW) | TABLE[arch].fast


def best(arch: str) -> Flags:
    """Return the recipe that goes on for longer."""
    epochs = 3 * source(arch)["epochs"]
    return fast(arch) | {"epochs": epochs, "augment": ("flip",)} | TABLE[arch].best


def finetune(arch: str) -> Flags:
    """Return the recipe that goes on from weights: the head learns faster than the body.

    The size of the images and the stem are those with which the weights were trained, and few
    images are passed over more often, see `torchcnn.training.plan`.
    """
    size = {"input_size": source(arch)["input_size"]}
    return size | {"batch_size": 64, "epochs": 5} | FINETUNE


RECIPES = {"source": source, "fast": fast, "best": best, "finetune": finetune}


def complete(arch: str | None, recipe: str, given: Flags) -> Flags:
    """Return the flags that were given, and those of a recipe for all others.

    A module of your own has no `arch`, and one plain recipe. Where another optimizer is given, the
    recipe's momentum and weight decay are left out, which belong to its own.

    Raises:
        ValueError: SGD is given in place of a kind of Adam, or the reverse, without a rate: that of
            the recipe is tens of times too low or too high.
    """
    flags = RECIPES[recipe](arch) if arch else OWN | (FINETUNE if recipe == "finetune" else {})
    own, optimizer = flags["optimizer"], given.get("optimizer", flags["optimizer"])
    if optimizer != own:
        if "lr" not in given and "sgd" in (optimizer, own):
            raise ValueError(
                f"--optimizer {optimizer} needs a --lr: the recipe's {flags['lr']} is for {own}"
            )
        left_out = ("momentum", "nesterov", "weight_decay")
        flags = {name: flags[name] for name in flags if name not in left_out}
    return flags | given
