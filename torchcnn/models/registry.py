"""The table of all networks, and the function that builds one by its name."""

import fnmatch
import inspect
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from torchcnn.models.alexnet import alexnet, tf_alexnet8, tf_alexnet_half
from torchcnn.models.baseline import tf_baseline, tf_sigmoid_cnn
from torchcnn.models.densenet import densenet, densenet121, densenet169, densenet201
from torchcnn.models.googlenet import googlenet, tf_googlenet, tf_inception10
from torchcnn.models.lenet import lenet, tf_lenet5
from torchcnn.models.mlp import mlp, softmax_regression
from torchcnn.models.nin import nin, tf_nin, tf_nin_dense
from torchcnn.models.resnet import (
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
    resnet152,
    tf_resnet18,
    tf_resnet18_pool,
)
from torchcnn.models.vgg import (
    tf_vgg13,
    tf_vgg16,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)


@dataclass(frozen=True)
class Model:
    """An entry of the table."""

    builder: Callable[..., nn.Module]
    input: tuple[int, int, int]  # channels, height and width of an image
    paper: str
    new: str  # what the network introduced, or how it differs from similar ones


def _model(
    builder: Callable[..., nn.Module], channels: int, size: int, paper: str, new: str
) -> Model:
    return Model(builder, (channels, size, size), paper, new)


LECUN = "LeCun et al. 1998"
KRIZHEVSKY = "Krizhevsky et al. 2012"
SIMONYAN = "Simonyan and Zisserman 2014, arXiv:1409.1556"
LIN = "Lin et al. 2013, arXiv:1312.4400"
SZEGEDY = "Szegedy et al. 2014, arXiv:1409.4842"
HE = "He et al. 2015, arXiv:1512.03385"
HUANG = "Huang et al. 2017, arXiv:1608.06993"

# fmt: off
MODELS: dict[str, Model] = {
    # name                builder               c size  paper       new
    "softmax_regression": _model(softmax_regression,  1,  28, "Cox 1958", "a linear classifier"),
    "mlp":                _model(mlp,                 1,  28, "Rumelhart et al. 1986", "a hidden layer"),
    "lenet":              _model(lenet,               1,  28, LECUN,     "convolution and pooling; here with batch norm"),
    "alexnet":            _model(alexnet,             1, 224, KRIZHEVSKY, "more layers, ReLU, dropout"),
    "vgg11":              _model(vgg11,               1, 224, SIMONYAN,  "blocks of 3×3 convolutions"),
    "vgg13":              _model(vgg13,               1, 224, SIMONYAN,  "two convolutions in each block"),
    "vgg16":              _model(vgg16,               1, 224, SIMONYAN,  "three convolutions in each of the last three blocks"),
    "vgg19":              _model(vgg19,               1, 224, SIMONYAN,  "four convolutions in each of the last three blocks"),
    "vgg11_bn":           _model(vgg11_bn,            1, 224, SIMONYAN,  "vgg11 with batch norm"),
    "vgg13_bn":           _model(vgg13_bn,            1, 224, SIMONYAN,  "vgg13 with batch norm"),
    "vgg16_bn":           _model(vgg16_bn,            1, 224, SIMONYAN,  "vgg16 with batch norm"),
    "vgg19_bn":           _model(vgg19_bn,            1, 224, SIMONYAN,  "vgg19 with batch norm"),
    "nin":                _model(nin,                 1, 224, LIN,       "1×1 convolutions, no dense layers"),
    "googlenet":          _model(googlenet,           1,  96, SZEGEDY,   "parallel paths with different kernel sizes"),
    "resnet18":           _model(resnet18,            1, 224, HE,        "shortcut connections with addition"),
    "resnet34":           _model(resnet34,            1, 224, HE,        "a deeper resnet18"),
    "resnet50":           _model(resnet50,            3, 224, HE,        "bottleneck blocks, for ImageNet"),
    "resnet101":          _model(resnet101,           3, 224, HE,        "a deeper resnet50"),
    "resnet152":          _model(resnet152,           3, 224, HE,        "a deeper resnet50"),
    "resnet20":           _model(resnet20,            3,  32, HE,        "the paper's network for CIFAR-10"),
    "resnet32":           _model(resnet32,            3,  32, HE,        "a deeper resnet20"),
    "resnet44":           _model(resnet44,            3,  32, HE,        "a deeper resnet20"),
    "resnet56":           _model(resnet56,            3,  32, HE,        "a deeper resnet20"),
    "resnet110":          _model(resnet110,           3,  32, HE,        "a deeper resnet20"),
    "densenet":           _model(densenet,            1,  96, HUANG,     "shortcut connections with concatenation"),
    "densenet121":        _model(densenet121,         3, 224, HUANG,     "bottleneck layers, for ImageNet"),
    "densenet169":        _model(densenet169,         3, 224, HUANG,     "a deeper densenet121"),
    "densenet201":        _model(densenet201,         3, 224, HUANG,     "a deeper densenet121"),
    "tf_sigmoid_cnn":     _model(tf_sigmoid_cnn,      3,  48, LECUN,     "three convolutions with sigmoids"),
    "tf_baseline":        _model(tf_baseline,         3,  32, LECUN,     "convolution, norm, activation, pooling, dropout"),
    "tf_lenet5":          _model(tf_lenet5,           3,  32, LECUN,     "convolution and pooling"),
    "tf_alexnet8":        _model(tf_alexnet8,         3,  32, KRIZHEVSKY, "AlexNet for 32 pixels"),
    "tf_alexnet_half":    _model(tf_alexnet_half,     3, 224, KRIZHEVSKY, "one of AlexNet's two towers"),
    "tf_vgg13":           _model(tf_vgg13,            3,  32, SIMONYAN,  "VGG for 32 pixels"),
    "tf_vgg16":           _model(tf_vgg16,            3,  32, SIMONYAN,  "VGG with batch norm and dropout"),
    "tf_nin":             _model(tf_nin,              1, 224, LIN,       "1×1 convolutions, no dense layers"),
    "tf_nin_dense":       _model(tf_nin_dense,       32, 512, LIN,       "1×1 convolutions and dense layers"),
    "tf_googlenet":       _model(tf_googlenet,        1,  96, SZEGEDY,   "ReLU after every convolution"),
    "tf_inception10":     _model(tf_inception10,      3,  32, SZEGEDY,   "an Inception network of ten layers"),
    "tf_resnet18":        _model(tf_resnet18,         3,  32, HE,        "shortcut connections with addition"),
    "tf_resnet18_pool":   _model(tf_resnet18_pool,    3,  32, HE,        "a stem without padding, with a pooling of stride 1"),
}
# fmt: on


# Options that do not decide which images a network takes.
USUAL = {"in_channels", "num_classes", "small_input", "norm_layer"}


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the networks that match a shell-style pattern, such as `"tf_*"`."""
    return fnmatch.filter(MODELS, pattern)


def find_model(name: str) -> Model:
    """Return the entry of a network in the table.

    Raises:
        ValueError: If the name is unknown; the message lists similar names, or else all of them.
    """
    if name not in MODELS:
        close = get_close_matches(name, MODELS)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(MODELS)}"
        raise ValueError(f"unknown network {name!r}; {hint}")
    return MODELS[name]


def build(name: str, input_size: int | None = None, **options: Any) -> nn.Module:
    """Build a network with new weights; see `create_model`."""
    builder = find_model(name).builder
    for option in ("in_channels", "num_classes", "input_size"):
        number = input_size if option == "input_size" else options.get(option)
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ValueError(f"{option} must be a whole number of at least 1, got {number!r}")
    known = inspect.signature(builder).parameters
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name} takes the options {', '.join(known)}; got {', '.join(unknown)}")
    sized = input_size is not None and "input_size" in known

    def build_for(size: int | None) -> nn.Module:
        return builder(**options, **{"input_size": size} if sized else {})

    net, own = build_for(input_size), MODELS[name].input[1]
    size, unusual = input_size or own, [option for option in options if option not in USUAL]
    # From the size of the source upwards all are taken, but perhaps not with other options.
    if (unusual or size < own) and (refusal := _refusal(net, name, size, options)):
        if unusual:
            text = ", ".join(f"{option}={options[option]}" for option in unusual)
            raise ValueError(f"{name} with {text} cannot take {size}×{size} images ({refusal})")
        larger = range(size + 1, own + 1)
        with torch.device("meta"):  # which computes nothing
            least = larger[
                bisect_left(
                    larger, True, key=lambda s: not _refusal(build_for(s), name, s, options)
                )
            ]
        raise ValueError(
            f"{name} cannot take {size}×{size} images; the least input size is {least}"
        )
    return net


def _refusal(net: nn.Module, name: str, size: int, options: dict[str, Any]) -> str:
    """Return what a new network says of images of this size, which is tried: "" if it takes them."""
    weight, channels = next(net.parameters()), options.get("in_channels", MODELS[name].input[0])
    try:
        with torch.no_grad():
            net.eval()(weight.new_zeros(1, channels, size, size))
    except (RuntimeError, ValueError, ArithmeticError) as error:
        return str(error)
    finally:
        net.train()
    return ""
