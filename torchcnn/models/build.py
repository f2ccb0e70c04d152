"""Building a network by its name, for images of a size and with options, or refusing them."""

import inspect
from bisect import bisect_left
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from torchcnn.models.registry import MODELS, find_model

# Options that do not decide which images a network takes.
USUAL = {"in_channels", "num_classes", "small_input", "norm_layer"}


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
    """Return what a new network says of images of this size: "" if it takes them."""
    weight, channels = next(net.parameters()), options.get("in_channels", MODELS[name].input[0])
    try:
        with torch.no_grad():
            net.eval()(weight.new_zeros(1, channels, size, size))
    except (RuntimeError, ValueError, ArithmeticError) as error:
        return str(error)
    finally:
        net.train()
    return ""


def build_without_weights(name: str, input_size: int) -> nn.Module:
    """Build a network on the meta device, to look at its layers: it takes no time and no memory."""
    with torch.device("meta"), _Unfilled():
        return build(name, input_size)


class _Unfilled(TorchFunctionMode):
    """Draws no normal weights: on the meta device torch imports its compiler for it, in seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fills = func in (torch.Tensor.normal_, nn.init.normal_)
        return None if fills else func(*args, **(kwargs or {}))
