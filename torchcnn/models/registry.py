"""The table of all networks, and building one of them by its name."""

import fnmatch
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from torchcnn.layers import BatchNorm
from torchcnn.models.alexnet import alexnet, tf_alexnet8, tf_alexnet_half
from torchcnn.models.baseline import tf_baseline, tf_sigmoid_cnn
from torchcnn.models.densenet import (
    densenet,
    densenet121,
    densenet169,
)
from torchcnn.models.googlenet import (
    googlenet,
    tf_googlenet,
    tf_inception10,
)
from torchcnn.models.lenet import lenet, tf_lenet5
from torchcnn.models.mlp import mlp, softmax_regression
from torchcnn.models.nin import nin, tf_nin, tf_nin_dense
from torchcnn.models.resnet import (
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet56,
    resnet110,
    tf_resnet18,
    tf_resnet18_pool,
)
from torchcnn.models.vgg import tf_vgg13, tf_vgg16, vgg11, vgg13, vgg16, vgg19


@dataclass(frozen=True)
class Recipe:
    """How the network's source trains it."""

    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    input_size: int  # pixels a side


@dataclass(frozen=True)
class Model:
    builder: Callable[..., nn.Module]
    input: tuple[int, int, int]  # channels, height, width
    recipe: Recipe
    paper: str
    new: str  # what is new in it


def _model(builder: Callable[..., nn.Module], channels: int, size: int, recipe: str,
           paper: str, new: str, train_at: int | None = None) -> Model:  # fmt: skip
    """A row of the table: the recipe reads "optimizer rate batch epochs"."""
    optimizer, lr, batch_size, epochs = recipe.split()
    return Model(
        builder,
        (channels, size, size),
        Recipe(optimizer, float(lr), int(batch_size), int(epochs), train_at or size),
        paper,
        new,
    )


LECUN = "LeCun et al. 1998"
KRIZHEVSKY = "Krizhevsky et al. 2012"
SIMONYAN = "Simonyan and Zisserman 2014, arXiv:1409.1556"
LIN = "Lin et al. 2013, arXiv:1312.4400"
SZEGEDY = "Szegedy et al. 2014, arXiv:1409.4842"
HE = "He et al. 2015, arXiv:1512.03385"
HUANG = "Huang et al. 2017, arXiv:1608.06993"

# fmt: off
MODELS: dict[str, Model] = {
    # name                      builder       c  size  recipe             paper       what is new
    "softmax_regression": _model(softmax_regression, 1, 28, "sgd 0.1 256 5", "Cox 1958", "a linear classifier"),
    "mlp":              _model(mlp,              1,  28, "adam 1e-3  32  5", "Rumelhart et al. 1986", "a hidden layer"),
    "lenet":            _model(lenet,            1,  28, "adam 1e-3 256  5", LECUN,      "convolution, pooling; here batch norm"),
    "alexnet":          _model(alexnet,          1, 224, "adam 1e-3 128  5", KRIZHEVSKY, "depth, ReLU, dropout"),
    "vgg11":            _model(vgg11,            1, 224, "adam 1e-3  64  5", SIMONYAN,   "blocks of 3×3 convolutions"),
    "vgg13":            _model(vgg13,            1, 224, "adam 1e-3  64  5", SIMONYAN,   "two convolutions in every block"),
    "vgg16":            _model(vgg16,            1, 224, "adam 1e-3  64  5", SIMONYAN,   "three in the last three"),
    "vgg19":            _model(vgg19,            1, 224, "adam 1e-3  64  5", SIMONYAN,   "four in the last three"),
    "nin":              _model(nin,              1, 224, "adam 2e-3 128  5", LIN,        "1×1 convolutions, no dense head"),
    "googlenet":        _model(googlenet,        1,  96, "adam 1e-3 128  5", SZEGEDY,    "windows side by side"),
    "resnet18":         _model(resnet18,         1, 224, "adam 1e-3 256  5", HE,         "shortcuts that add", 96),
    "resnet34":         _model(resnet34,         1, 224, "adam 1e-3 256  5", HE,         "the same, deeper", 96),
    "resnet20":         _model(resnet20,         3,  32, "adam 1e-3 128  5", HE,         "the paper's form for CIFAR-10"),
    "resnet32":         _model(resnet32,         3,  32, "adam 1e-3 128  5", HE,         "the same, deeper"),
    "resnet44":         _model(resnet44,         3,  32, "adam 1e-3 128  5", HE,         "the same, deeper"),
    "resnet56":         _model(resnet56,         3,  32, "adam 1e-3 128  5", HE,         "the same, deeper"),
    "resnet110":        _model(resnet110,        3,  32, "adam 1e-3 128  5", HE,         "the same, deeper"),
    "densenet":         _model(densenet,         1,  96, "adam 1e-3 256  5", HUANG,      "shortcuts that concatenate"),
    "densenet121":      _model(densenet121,      3, 224, "adam 1e-3  64  5", HUANG,      "bottlenecks, for ImageNet", 96),
    "densenet169":      _model(densenet169,      3, 224, "adam 1e-3  64  5", HUANG,      "the same, deeper", 96),
    "tf_sigmoid_cnn":   _model(tf_sigmoid_cnn,   3,  48, "adam 1e-3  32  5", LECUN,      "three convolutions, sigmoids"),
    "tf_baseline":      _model(tf_baseline,      3,  32, "adam 1e-3  32  5", LECUN,      "conv-norm-activation-pool-dropout"),
    "tf_lenet5":        _model(tf_lenet5,        3,  32, "adam 1e-3  32  5", LECUN,      "convolution, pooling"),
    "tf_alexnet8":      _model(tf_alexnet8,      3,  32, "adam 1e-3  32  5", KRIZHEVSKY, "AlexNet for 32 pixels"),
    "tf_alexnet_half":  _model(tf_alexnet_half,  3, 224, "adam 1e-3  32  5", KRIZHEVSKY, "one of AlexNet's two towers"),
    "tf_vgg13":         _model(tf_vgg13,         3,  32, "adam 1e-4 128 10", SIMONYAN,   "VGG for 32 pixels"),
    "tf_vgg16":         _model(tf_vgg16,         3,  32, "adam 1e-3  32  5", SIMONYAN,   "with batch norm and dropout"),
    "tf_nin":           _model(tf_nin,           1, 224, "sgd  5e-2 128  5", LIN,        "1×1 convolutions, no dense head"),
    "tf_nin_dense":     _model(tf_nin_dense,    32, 512, "adam 1e-3  32  5", LIN,        "1×1 convolutions and a dense head"),
    "tf_googlenet":     _model(tf_googlenet,     1,  96, "sgd  5e-2 128  5", SZEGEDY,    "ReLU after every convolution"),
    "tf_inception10":   _model(tf_inception10,   3,  32, "adam 1e-3 1024 5", SZEGEDY,    "ten layers of Inception"),
    "tf_resnet18":      _model(tf_resnet18,      3,  32, "adam 1e-3  32  5", HE,         "shortcuts that add"),
    "tf_resnet18_pool": _model(tf_resnet18_pool, 3,  32, "adam 1e-3 128 20", HE,         "a VALID stem, a pooling of stride 1"),
}
# fmt: on


def list_models(pattern: str = "*") -> list[str]:
    """The names of the networks that match a shell-style pattern, such as `"tf_*"`."""
    return fnmatch.filter(MODELS, pattern)


def find_model(name: str) -> Model:
    """The entry of a network in the table.

    Raises:
        ValueError: an unknown name; the message says which names are close, or all.
    """
    if name not in MODELS:
        close = get_close_matches(name, MODELS)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(MODELS)}"
        raise ValueError(f"unknown network {name!r}; {hint}")
    return MODELS[name]


def create_model(name: str, input_size: int | None = None, **options: Any) -> nn.Module:
    """A network by its name: (n, in_channels, h, w) float -> logits (n, num_classes).

    Args:
        name: one of `list_models()`.
        input_size: pixels a side; a head that is bound to a size is built for it, and a size that
            the network cannot take fails here, not in the first batch.
        options: what the network's builder takes: `in_channels`, `num_classes`, and `norm_layer`
            where it has norms; what is not given is the source's.

    Raises:
        ValueError: an unknown name or option, a number below one, or an input size that is too
            small.
    """
    builder = find_model(name).builder
    for option in ("in_channels", "num_classes", "input_size"):
        number = input_size if option == "input_size" else options.get(option)
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ValueError(f"{option} must be a whole number from 1, got {number!r}")
    known = inspect.signature(builder).parameters
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"{name} takes {', '.join(known)}, got {', '.join(unknown)}")
    if input_size is not None:
        if "input_size" in known:
            options["input_size"] = input_size
        _check_size(name, input_size, options)
    return builder(**options)


def _check_size(name: str, size: int, options: dict[str, Any]) -> None:
    """Pass one image through the network without computing anything, on the meta device."""
    channels = options.get("in_channels", MODELS[name].input[0])

    def takes(size: int) -> bool:
        try:
            net(torch.empty(1, channels, size, size))
        except RuntimeError:
            return False
        return True

    with torch.device("meta"), torch.no_grad():
        net = MODELS[name].builder(**options).eval()
        if not takes(size):
            least = next((s for s in range(size + 1, 1024) if takes(s)), None)
            raise ValueError(
                f"{name} cannot take {size}×{size} images; the least input size is {least}"
            )


NORMS = {"torch": {}, "scratch": {"norm_layer": BatchNorm}}  # what create_model is given for each


def build_model(
    arch: str, in_channels: int, num_classes: int, input_size: int, norm: str, small_input: bool
) -> nn.Module:
    """The network that a checkpoint's "model" describes, with new weights.

    Raises:
        ValueError: as `create_model` does.
    """
    small = {"small_input": True} if small_input else {}
    return create_model(arch, input_size, in_channels=in_channels, num_classes=num_classes,
                        **NORMS[norm], **small)  # fmt: skip
