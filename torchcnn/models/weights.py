"""Weights that a network starts from, with another head if need be, and parts that are frozen."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

FROZEN = "_frozen_by_torchcnn"  # an attribute of the modules that `freeze` was given


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


def start_from(
    net: nn.Module, weights: dict[str, Tensor], num_classes: tuple[int, int]
) -> list[str]:
    """Copy weights into a network; what depends on the number of classes stays new if it changed.

    Args:
        num_classes: of the weights, and of the network.

    Returns:
        the names of what stayed new.

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
        theirs, ours = tuple(given.shape), tuple(tensor.shape)
        others = {pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]}
        if len(theirs) != len(ours) or others != {(before, now)}:
            raise ValueError(f"{name} of the weights is {theirs}, the network's {ours}")
        new.append(name)
    if before != now and not new:
        raise ValueError(f"weights for {before} classes have no layer that depends on their number")
    net.load_state_dict(weights | {name: own[name] for name in new})
    return new


@torch.no_grad()
def find_rows(net: nn.Module, shape: Sequence[int], num_classes: int) -> dict[str, int]:
    """Find the weights that have a row for each class, by name, and along which axis they lie.

    These are the head's, wherever it is. It is tried: with other numbers in the rows of some
    classes, the logits of these classes alone are others. Of a network that ends in a softmax, for
    example, this is true of no weights. The trial is made with weights that are not exactly the
    network's, so that zeros hide nothing.

    Args:
        shape: of images to try it with, (n, c, h, w).
    """
    net, generator = copy.deepcopy(net).cpu().eval(), torch.Generator().manual_seed(0)

    def noise(like: Tensor, least: float) -> Tensor:
        return torch.randn(like.shape, generator=generator) * (like.abs().mean() / 2 + least)

    for p in net.parameters():
        p.add_(noise(p, 0.01) if p.dim() > 1 else noise(p, 0.1).abs())  # biases that wake up ReLUs
    x = torch.rand(tuple(shape), generator=generator)
    y = net(x)

    def is_by_class(tensor: Tensor, axis: int) -> bool:
        before, has_changed = tensor.clone(), False
        for i in range(4):
            some = torch.arange(num_classes) % 2 == i % 2
            tensor.add_(noise(tensor, 1.0) * some.view(-1, *[1] * (tensor.dim() - 1 - axis)))
            changed = torch.isclose(net(x), y).all(0).logical_not()
            tensor.copy_(before)
            if (changed & ~some).any():
                return False
            has_changed = has_changed or bool(changed.any())
        return has_changed

    return {
        name: axis
        for name, tensor in net.state_dict().items()
        for axis, side in enumerate(tensor.shape)
        if side == num_classes and tensor.is_floating_point() and is_by_class(tensor, axis)
    }


def set_attributes(
    net: nn.Module,
    classes: Sequence[str] | None,
    input_size: int,
    normalization: tuple[Sequence[float], Sequence[float]],
) -> nn.Module:
    """Let a network say what it takes and returns, by the attributes of `torchcnn.load_model`.

    Attributes that a module of your own has already, such as a buffer `mean`, are its own.
    """
    values: dict[str, Any] = {"input_size": input_size, "classes": classes and list(classes)}
    values["mean"], values["std"] = map(tuple, normalization)
    ours: set[str] = net.__dict__.setdefault("_set_by_torchcnn", set())
    for name, value in values.items():
        if name in ours or not hasattr(net, name):
            setattr(net, name, value)
            ours.add(name)
    return net


def freeze(net: nn.Module, names: Sequence[str]) -> None:
    """Freeze parts of a network by their names, such as "stem" or "stage1".

    Their parameters get no gradients; their moving statistics stay, see `train_mode`.

    Raises:
        ValueError: there is no such part, or nothing is left to train.
    """
    parts = dict(net.named_modules(remove_duplicate=False))  # one may have several names
    for name in names:
        if not name or name not in parts:
            allowed = ", ".join(name for name, child in net._modules.items() if child)
            raise ValueError(f"there is no part {name!r} to freeze; there are {allowed}")
        parts[name].requires_grad_(False)
        setattr(parts[name], FROZEN, True)  # it may have statistics without parameters
    if not any(p.requires_grad for p in net.parameters()):
        raise ValueError(f"nothing is left to train if {', '.join(names)} are frozen")


def train_mode(net: nn.Module) -> None:
    """Put a network into training mode, but for the moving statistics of what is frozen.

    That is what `freeze` was given, and each module all of whose parameters are frozen. Modules in
    it that have buffers, or that hold such modules, stay in eval mode; dropout does not.
    """
    net.train()
    for module in net.modules():
        trains = [p.requires_grad for p in module.parameters()]
        if FROZEN in vars(module) or (trains and not any(trains)):
            for inner in module.modules():
                if any(True for _ in inner.buffers()):
                    inner.training = False
