"""Weights of torchvision: their names in this package, and those for ImageNet."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import fuse_conv_bn_weights

from torchcnn.files import read_archive
from torchcnn.models.build import build
from torchcnn.models.spec import ModelSpec

# Networks that are torchvision's, tensor for tensor, where they have its channels and classes.
TORCHVISION = (
    *("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *("resnet50", "resnet101", "resnet152", "densenet121", "densenet169", "densenet201"),
)
# Networks that compute what torchvision's do in eval mode, see `_fold`.
FOLDED = ("resnet18", "resnet34")
EPS = 1e-5  # of torchvision's batch norms


def from_torchvision(arch: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn a state dict of torchvision's into one of the network `arch` of this package.

    With it the network returns the logits of torchvision's, in eval mode. All but ResNet-18 and 34
    have the same tensors under other names. These two are the tutorial's: each convolution has a
    bias, which becomes 0, and no norm follows the 1×1 convolutions, into whose weights the norm is
    folded. They start from the same function, and are trained as other networks.

    Args:
        weights: as `torchvision.models.resnet18(weights="DEFAULT").state_dict()` returns them.

    Raises:
        ValueError: torchvision has no such network, or the state dict is not of it.
    """
    if arch not in TORCHVISION + FOLDED:
        known = ", ".join(TORCHVISION + FOLDED)
        raise ValueError(f"{arch} is not torchvision's; weights of torchvision fit {known}")
    import torchvision

    with torch.device("meta"):
        theirs = list(getattr(torchvision.models, arch)().state_dict())
        ours = list(build(arch).state_dict())
    # Files of 2017 have norm.1 for norm1, and do not count batch norm's batches.
    weights = {re.sub(r"\.(norm|conv)\.(\d)\.", r".\1\2.", k): v for k, v in weights.items()}
    weights |= {k: torch.tensor(0) for k in theirs if k.endswith("num_batches_tracked")} | weights
    check_names(weights, theirs, f"torchvision's {arch}")
    if arch in FOLDED:
        return _fold(weights, ours)
    return {our: weights[their] for our, their in zip(ours, theirs, strict=True)}


def _fold(weights: dict[str, Tensor], ours: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights of a ResNet without norms on its shortcuts, and with biases.

    A norm in eval mode is y = scale x + shift for each channel, and so is a part of the convolution
    before it.
    """
    found = {}
    for name in ours:
        their = re.sub(r"^stage(\d)", r"layer\1", name).replace("head.1.", "fc.")
        their = their.replace("stem.0.", "conv1.").replace("stem.1.", "bn1.")
        block, _, kind = their.rpartition("conv3.")
        if block:
            keys = ("0.weight", "1.running_mean", "1.running_var", "1.weight", "1.bias")
            conv, mean, var, gamma, beta = (weights[f"{block}downsample.{key}"] for key in keys)
            folded = fuse_conv_bn_weights(conv, None, mean, var, EPS, gamma, beta)
            found[name] = folded[kind == "bias"].detach()
        elif their in weights:
            found[name] = weights[their]
        else:  # the bias of a convolution, which the norm after it would take away
            found[name] = torch.zeros_like(weights[their.replace("bias", "weight")][:, 0, 0, 0])
    return found


# --- ImageNet -----------------------------------------------------------------------------------


def read_imagenet(arch: str) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read torchvision's weights for ImageNet, its best ones, and what their network is.

    They lie in the cache of `torch.hub`; if they do not, they are downloaded.

    Raises:
        ValueError: torchvision has no such network, or the file is damaged.
        OSError: they cannot be downloaded; the message says which file belongs where.
    """
    if arch not in TORCHVISION + FOLDED:
        known = ", ".join(TORCHVISION + FOLDED)
        raise ValueError(f"there are no weights for ImageNet for {arch}, but for {known}")
    import torchvision

    weights: Any = torchvision.models.get_model_weights(arch).DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not path.exists():
        _download(weights.url, path)
    tensors = from_torchvision(arch, read_archive(path, f"{path} is damaged"))
    preset = weights.transforms()
    spec = ModelSpec(
        arch=arch,
        in_channels=3,
        classes=tuple(weights.meta["categories"]),
        input_size=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        resize=f"crop-{preset.resize_size[0]}",
    )
    return spec, tensors


def _download(url: str, path: Path) -> None:
    """Download a file whole or not at all; the hash in its name is that of its content."""
    found = re.search(r"-([a-f0-9]{8,})\.", path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), found and found[1])
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"{url} cannot be downloaded ({error}); put this file into {path.parent}"
        ) from error


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
