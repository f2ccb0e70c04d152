"""The table of all networks, and functions that build a network by its name."""

import fnmatch
import inspect
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import nn

from torchcnn.layers import BatchNorm, KerasBatchNorm2d
from torchcnn.models.alexnet import alexnet, tf_alexnet8, tf_alexnet_half
from torchcnn.models.baseline import tf_baseline, tf_sigmoid_cnn
from torchcnn.models.densenet import densenet, densenet121, densenet169, densenet201
from torchcnn.models.googlenet import googlenet, tf_googlenet, tf_inception10
from torchcnn.models.lenet import lenet, tf_lenet5
from torchcnn.models.mlp import mlp, softmax_regression
from torchcnn.models.nin import nin, tf_nin, tf_nin_dense
from torchcnn.models.pretrained import read_pretrained
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
from torchcnn.models.weights import set_attributes, start_from


@dataclass(frozen=True)
class Recipe:
    """The training settings of a network's source."""

    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    input_size: int  # height and width of the training images


@dataclass(frozen=True)
class Model:
    """An entry of the table."""

    builder: Callable[..., nn.Module]
    input: tuple[int, int, int]  # channels, height and width of an image
    recipe: Recipe
    paper: str
    new: str  # what the network introduced, or how it differs from similar ones


def _model(
    builder: Callable[..., nn.Module],
    channels: int,
    size: int,
    recipe: str,
    paper: str,
    new: str,
    train_at: int | None = None,
) -> Model:
    """Make an entry; `recipe` lists the optimizer, learning rate, batch size and epochs.

    The recipe's images have `train_at` pixels instead of `size` if it is given.
    """
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
    # name                      builder       c  size  recipe             paper       new
    "softmax_regression": _model(softmax_regression, 1, 28, "sgd 0.1 256 5", "Cox 1958", "a linear classifier"),
    "mlp":              _model(mlp,              1,  28, "adam 1e-3  32  5", "Rumelhart et al. 1986", "a hidden layer"),
    "lenet":            _model(lenet,            1,  28, "adam 1e-3 256  5", LECUN,      "convolution and pooling; here with batch norm"),
    "alexnet":          _model(alexnet,          1, 224, "adam 1e-3 128  5", KRIZHEVSKY, "more layers, ReLU, dropout"),
    "vgg11":            _model(vgg11,            1, 224, "adam 1e-3  64  5", SIMONYAN,   "blocks of 3×3 convolutions"),
    "vgg13":            _model(vgg13,            1, 224, "adam 1e-3  64  5", SIMONYAN,   "two convolutions in each block"),
    "vgg16":            _model(vgg16,            1, 224, "adam 1e-3  64  5", SIMONYAN,   "three convolutions in each of the last three blocks"),
    "vgg19":            _model(vgg19,            1, 224, "adam 1e-3  64  5", SIMONYAN,   "four convolutions in each of the last three blocks"),
    "vgg11_bn":         _model(vgg11_bn,         1, 224, "adam 1e-3  64  5", SIMONYAN,   "vgg11 with batch norm"),
    "vgg13_bn":         _model(vgg13_bn,         1, 224, "adam 1e-3  64  5", SIMONYAN,   "vgg13 with batch norm"),
    "vgg16_bn":         _model(vgg16_bn,         1, 224, "adam 1e-3  64  5", SIMONYAN,   "vgg16 with batch norm"),
    "vgg19_bn":         _model(vgg19_bn,         1, 224, "adam 1e-3  64  5", SIMONYAN,   "vgg19 with batch norm"),
    "nin":              _model(nin,              1, 224, "adam 2e-3 128  5", LIN,        "1×1 convolutions, no dense layers"),
    "googlenet":        _model(googlenet,        1,  96, "adam 1e-3 128  5", SZEGEDY,    "parallel paths with different kernel sizes"),
    "resnet18":         _model(resnet18,         1, 224, "adam 1e-3 256  5", HE,         "shortcut connections with addition", 96),
    "resnet34":         _model(resnet34,         1, 224, "adam 1e-3 256  5", HE,         "a deeper resnet18", 96),
    "resnet50":         _model(resnet50,         3, 224, "adam 1e-3  64  5", HE,         "bottleneck blocks, for ImageNet", 96),
    "resnet101":        _model(resnet101,        3, 224, "adam 1e-3  64  5", HE,         "a deeper resnet50", 96),
    "resnet152":        _model(resnet152,        3, 224, "adam 1e-3  64  5", HE,         "a deeper resnet50", 96),
    "resnet20":         _model(resnet20,         3,  32, "adam 1e-3 128  5", HE,         "the paper's network for CIFAR-10"),
    "resnet32":         _model(resnet32,         3,  32, "adam 1e-3 128  5", HE,         "a deeper resnet20"),
    "resnet44":         _model(resnet44,         3,  32, "adam 1e-3 128  5", HE,         "a deeper resnet20"),
    "resnet56":         _model(resnet56,         3,  32, "adam 1e-3 128  5", HE,         "a deeper resnet20"),
    "resnet110":        _model(resnet110,        3,  32, "adam 1e-3 128  5", HE,         "a deeper resnet20"),
    "densenet":         _model(densenet,         1,  96, "adam 1e-3 256  5", HUANG,      "shortcut connections with concatenation"),
    "densenet121":      _model(densenet121,      3, 224, "adam 1e-3  64  5", HUANG,      "bottleneck layers, for ImageNet", 96),
    "densenet169":      _model(densenet169,      3, 224, "adam 1e-3  64  5", HUANG,      "a deeper densenet121", 96),
    "densenet201":      _model(densenet201,      3, 224, "adam 1e-3  64  5", HUANG,      "a deeper densenet121", 96),
    "tf_sigmoid_cnn":   _model(tf_sigmoid_cnn,   3,  48, "adam 1e-3  32  5", LECUN,      "three convolutions with sigmoids"),
    "tf_baseline":      _model(tf_baseline,      3,  32, "adam 1e-3  32  5", LECUN,      "convolution, norm, activation, pooling, dropout"),
    "tf_lenet5":        _model(tf_lenet5,        3,  32, "adam 1e-3  32  5", LECUN,      "convolution and pooling"),
    "tf_alexnet8":      _model(tf_alexnet8,      3,  32, "adam 1e-3  32  5", KRIZHEVSKY, "AlexNet for 32 pixels"),
    "tf_alexnet_half":  _model(tf_alexnet_half,  3, 224, "adam 1e-3  32  5", KRIZHEVSKY, "one of AlexNet's two towers"),
    "tf_vgg13":         _model(tf_vgg13,         3,  32, "adam 1e-4 128 10", SIMONYAN,   "VGG for 32 pixels"),
    "tf_vgg16":         _model(tf_vgg16,         3,  32, "adam 1e-3  32  5", SIMONYAN,   "VGG with batch norm and dropout"),
    "tf_nin":           _model(tf_nin,           1, 224, "sgd  5e-2 128  5", LIN,        "1×1 convolutions, no dense layers"),
    "tf_nin_dense":     _model(tf_nin_dense,    32, 512, "adam 1e-3  32  5", LIN,        "1×1 convolutions and dense layers"),
    "tf_googlenet":     _model(tf_googlenet,     1,  96, "sgd  5e-2 128  5", SZEGEDY,    "ReLU after every convolution"),
    "tf_inception10":   _model(tf_inception10,   3,  32, "adam 1e-3 1024 5", SZEGEDY,    "an Inception network of ten layers"),
    "tf_resnet18":      _model(tf_resnet18,      3,  32, "adam 1e-3  32  5", HE,         "shortcut connections with addition"),
    "tf_resnet18_pool": _model(tf_resnet18_pool, 3,  32, "adam 1e-3 128 20", HE,         "a stem without padding, with a pooling of stride 1"),
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


def create_model(
    name: str, input_size: int | None = None, pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build a network by its name: (n, in_channels, h, w) float -> logits (n, num_classes).

    Args:
        name: One of `list_models()`.
        input_size: The height and width of the images. If the network's dense layers depend on
            the size, they are built for it. A size that is too small for the network raises an
            error here instead of in the first batch.
        pretrained: Load the weights for Fashion-MNIST that are in this package, see
            `list_pretrained`. The network has the size, channels, classes and stem with which they
            were trained, and the attributes of `load_model`; with another `num_classes`, the last
            layer is new.
        options: Keyword arguments of the network's builder, such as `in_channels`, `num_classes`
            and, if the network has norms, `norm_layer`. The defaults are those of its source.

    Raises:
        ValueError: If the name or an option is unknown, a number is below 1, the input size is
            too small, also for a network with such options, or there are no weights for it.
    """
    if pretrained:
        return _pretrained(name, input_size, options)
    builder = find_model(name).builder
    for option in ("in_channels", "num_classes", "input_size"):
        number = input_size if option == "input_size" else options.get(option)
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ValueError(f"{option} must be a whole number of at least 1, got {number!r}")
    known = inspect.signature(builder).parameters
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"{name} takes the options {', '.join(known)}; got {', '.join(unknown)}")
    sized = input_size is not None and "input_size" in known

    def build(size: int | None) -> nn.Module:
        return builder(**options, **{"input_size": size} if sized else {})

    net, own = build(input_size), MODELS[name].input[1]
    size, unusual = input_size or own, [option for option in options if option not in USUAL]
    # From the size of the source upwards all are taken, but perhaps not with other options.
    if (unusual or size < own) and (refusal := _refusal(net, name, size, options)):
        if unusual:
            text = ", ".join(f"{option}={options[option]}" for option in unusual)
            raise ValueError(f"{name} with {text} cannot take {size}×{size} images ({refusal})")
        larger = range(size + 1, own + 1)
        with torch.device("meta"):  # which computes nothing
            least = larger[
                bisect_left(larger, True, key=lambda s: not _refusal(build(s), name, s, options))
            ]
        raise ValueError(
            f"{name} cannot take {size}×{size} images; the least input size is {least}"
        )
    return net


def _pretrained(name: str, input_size: int | None, options: dict[str, Any]) -> nn.Module:
    find_model(name)  # an unknown name has an error of its own
    weights, about = read_pretrained(name)
    spec = about["model"]
    given = {key: spec[key] for key in ("in_channels", "num_classes")}
    given |= ({"small_input": True} if spec["small_input"] else {}) | options
    size = input_size or spec["input_size"]
    net = create_model(name, size, **given)
    start_from(net, weights, (spec["num_classes"], given["num_classes"]))
    classes = about["classes"] if given["num_classes"] == spec["num_classes"] else None
    return set_attributes(net, classes, size, (about["mean"], about["std"]))


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


def _norm(arch: str, norm: str) -> dict[str, Any]:
    """Return the option of `create_model` for a norm: "torch", the network's own, or "scratch"."""
    own = inspect.signature(find_model(arch).builder).parameters.get("norm_layer")
    like_keras = own is not None and own.default is KerasBatchNorm2d
    by_hand = partial(BatchNorm, eps=1e-3, momentum=0.99) if like_keras else BatchNorm
    return {"torch": {}, "scratch": {"norm_layer": by_hand}}[norm]


def build_model(
    arch: str,
    in_channels: int,
    num_classes: int,
    input_size: int,
    norm: str,
    small_input: bool,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """Build the network that the entry "model" of a checkpoint describes, with new weights.

    Args:
        options: other keyword arguments of the network's builder.

    Raises:
        ValueError: For the same reasons as `create_model`, and if the builder cannot use `options`.
    """
    given: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes}
    if small_input:
        given["small_input"] = True
    if not options:
        return create_model(arch, input_size, **given, **_norm(arch, norm))
    if own := options.keys() & {*given, "input_size", "norm_layer", "small_input"}:
        raise ValueError(f"{', '.join(sorted(own))} cannot be among the options: there is a flag")
    try:
        return create_model(arch, input_size, **given, **options, **_norm(arch, norm))
    except (TypeError, ArithmeticError, RuntimeError, AttributeError, IndexError) as error:
        text = ", ".join(f"{name}={value}" for name, value in options.items())
        raise ValueError(f"{arch} cannot be built with {text} ({error})") from error
