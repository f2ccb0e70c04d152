"""The check that a network and its description arrive in a file."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchcnn.models.spec import ModelSpec

TOLERANCE = 1e-5  # between logits, relative to the largest
Run = Callable[[Tensor], Tensor]  # images (n, c, h, w) -> logits (n, num_classes)


class Normalized(nn.Module):
    """A network with its normalization: images (n, c, h, w) in [0, 1] -> logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.net = net
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.std)


@torch.no_grad()
def check(net: nn.Module, images: Tensor, spec: ModelSpec, run: Run, read: ModelSpec) -> float:
    """Return the largest difference between the logits of a network and of what was loaded.

    Raises:
        RuntimeError: it is too large, or the file does not describe the network as it should.
    """
    if read != spec:
        raise RuntimeError("what the file says of the network is not what was written")
    largest = 0.0
    for n in (1, 2, 5):
        y, theirs = net(images[:n]), run(images[:n])
        difference = float((y - theirs).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(y.abs().max())):
            raise RuntimeError(f"the file's logits for {n} images differ by {difference:.1e}")
        largest = max(largest, difference)
    return largest
