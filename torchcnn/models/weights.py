"""Weights that a network starts from, with another head if need be, and parts that are frozen."""

from collections.abc import Sequence
from typing import Any

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
