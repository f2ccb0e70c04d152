"""Weights of torchvision, whose networks have other names for the same tensors."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from torchcnn.models.registry import build

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

    with torch.device("meta"):
        theirs = list(getattr(torchvision.models, arch)().state_dict())
        ours = list(build(arch).state_dict())
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
