"""What every file says of its network, and the check that both arrive in it."""

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-5  # between logits, relative to the largest
Run = Callable[[Tensor], Tensor]  # images (n, c, h, w) -> logits (n, num_classes)


class Normalized(nn.Module):
    """A network with its normalization: images (n, c, h, w) in [0, 1] -> logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, normalization: tuple[list[float], list[float]]) -> None:
        super().__init__()
        self.net = net
        for name, values in zip(("mean", "std"), normalization, strict=True):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.std)


def describe(
    content: dict[str, Any],
    layout: str,
    normalization: tuple[list[float], list[float]] | None = None,
) -> dict[str, Any]:
    """Describe what is needed to use a network: its input, its outputs and how to build it.

    `normalization` is the one that whoever uses the file has to do.
    """
    spec = content["model"]
    channels, size = spec["in_channels"], spec["input_size"]
    mean, std = normalization or ([0.0] * channels, [1.0] * channels)
    return {
        "arch": spec["arch"],
        "classes": content["classes"],
        "outputs": "logits",
        "input": {
            "layout": layout,
            "channels": channels,
            "height": size,
            "width": size,
            "range": [0.0, 1.0],
            "resize": content["config"].get("resize", "squeeze"),
        },
        "mean": mean,
        "std": std,
        "model": spec,
    }


@torch.no_grad()
def check(
    net: nn.Module, images: Tensor, about: dict[str, Any], run: Run, read: dict[str, Any]
) -> float:
    """Return the largest difference between the logits of a network and of what was loaded.

    Raises:
        RuntimeError: it is too large, or the file does not describe the network as it should.
    """
    if read != json.loads(json.dumps(about)):
        raise RuntimeError("what the file says of the network is not what was written")
    largest = 0.0
    for n in (1, 2, 5):
        y, theirs = net(images[:n]), run(images[:n])
        difference = float((y - theirs).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(y.abs().max())):
            raise RuntimeError(f"the file's logits for {n} images differ by {difference:.1e}")
        largest = max(largest, difference)
    return largest
