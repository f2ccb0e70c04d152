"""Weights that a network starts from: by name, by torchvision's names, and with another head."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Networks that are torchvision's, tensor for tensor, where they have its channels and classes.
TORCHVISION = (
    *("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *("resnet50", "resnet101", "resnet152", "densenet121", "densenet169", "densenet201"),
)


def from_torchvision(arch: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of torchvision's to the names that the network `arch` has here.

    Raises:
        ValueError: the network is not torchvision's, or the state dict is not of it.
    """
    if arch not in TORCHVISION:
        raise ValueError(
            f"{arch} is not torchvision's; weights of torchvision fit {', '.join(TORCHVISION)}"
        )
    import torchvision

    from torchcnn.models.registry import create_model

    with torch.device("meta"):
        theirs = list(getattr(torchvision.models, arch)().state_dict())
        ours = list(create_model(arch).state_dict())
    # Files of 2017 have norm.1 for norm1, and do not count batch norm's batches.
    weights = {re.sub(r"\.(norm|conv)\.(\d)\.", r".\1\2.", k): v for k, v in weights.items()}
    weights |= {k: torch.tensor(0) for k in theirs if k.endswith("num_batches_tracked")} | weights
    check_names(weights, theirs, f"torchvision's {arch}")
    return {our: weights[their] for our, their in zip(ours, theirs, strict=True)}


def check_names(weights: dict[str, Tensor], names: Sequence[str], what: str) -> None:
    """Check that weights have these names.

    Raises:
        ValueError: a name is missing, or is not one of them.
    """
    known = set(names)
    for has, verb in ((known - weights.keys(), "lack"), (weights.keys() - known, "have")):
        if has:
            first = ", ".join(sorted(has)[:3]) + ", …" * (len(has) > 3)
            raise ValueError(f"the weights are not those of {what}: they {verb} {first}")


def start_from(net: nn.Module, weights: dict[str, Tensor], num_classes: tuple[int, int]) -> str:
    """Copy weights into a network; what depends on the number of classes stays new if it changed.

    Args:
        num_classes: of the weights, and of the network.

    Returns:
        a sentence on what stayed new, or nothing.

    Raises:
        ValueError: they do not fit; nothing is copied then.
    """
    own = net.state_dict()
    check_names(weights, list(own), "this network")
    before, now = num_classes
    new = []
    for name, tensor in own.items():
        given = weights[name]
        if given.shape == tensor.shape:
            continue
        swapped = [now if side == before else side for side in given.shape]
        if before == now or len(given.shape) != len(tensor.shape) or swapped != list(tensor.shape):
            theirs, ours = tuple(given.shape), tuple(tensor.shape)
            raise ValueError(f"{name} of the weights is {theirs}, the network's {ours}")
        new.append(name)
    if before != now and not new:
        raise ValueError(f"weights for {before} classes have no layer that depends on their number")
    net.load_state_dict(weights | {name: own[name] for name in new})
    return f"new for {now} classes in place of {before}: {', '.join(new)}" if new else ""


def set_attributes(
    net: nn.Module,
    classes: Sequence[str] | None,
    input_size: int,
    normalization: tuple[Sequence[float], Sequence[float]],
) -> nn.Module:
    """Let a network say what it takes and returns, by the attributes of `torchcnn.load_model`."""
    values: dict[str, Any] = {"input_size": input_size, "classes": classes and list(classes)}
    values["mean"], values["std"] = map(tuple, normalization)
    for name, value in values.items():
        setattr(net, name, value)
    return net


def freeze(net: nn.Module, names: Sequence[str]) -> None:
    """Freeze parts of a network by their names, such as "stem" or "stage1".

    Their parameters get no gradients; their batch norms stay in eval mode, see `frozen_norms`.

    Raises:
        ValueError: there is no such part, or nothing is left to train.
    """
    parts = dict(net.named_modules())
    for name in names:
        if not name or name not in parts:
            allowed = ", ".join(child for child, _ in net.named_children())
            raise ValueError(f"there is no part {name!r} to freeze; there are {allowed}")
        parts[name].requires_grad_(False)
    if not any(p.requires_grad for p in net.parameters()):
        raise ValueError(f"nothing is left to train if {', '.join(names)} are frozen")


def frozen_norms(net: nn.Module) -> Iterator[nn.Module]:
    """Yield the batch norms whose own parameters are all frozen."""
    for module in net.modules():
        own = list(module.parameters(recurse=False))
        statistics = list(module.buffers(recurse=False))
        if own and statistics and not any(p.requires_grad for p in own):
            yield module
