"""Batches: what the loop is fed, out of a set that lives on the device as uint8.

A batch is an index, a resize where one is asked for, and a division by 255. No worker processes,
no copy of the set in float.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from torchcnn.data.augment import Augmentation, Mix, resize
from torchcnn.data.datasets import load_data
from torchcnn.data.decode import Pictures, decoded

RESIZE_ONCE_BYTES = 2**30  # a resized set up to this size is kept; a larger one is made batchwise
FETCH_BYTES = 2**18  # of uint8 that one call fetches: small batches are mostly calls


def mix_seed(*numbers: int) -> int:
    """One 64-bit seed from several numbers, such as (seed, epoch): equal in, equal out."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big")


def hold_out(count: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split range(count) at random: the indices that train, and the fraction that does not."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(mix_seed(seed)))
    held_out = round(count * fraction)
    return order[held_out:].sort().values, order[:held_out].sort().values


class Batches:
    """A set that lives on a device as uint8, given out in batches of float32 in [0, 1].

    Iterating gives `(x, y)`: x (n, c, size, size) float32, y (n,) int64, or (n, classes) float32
    where images are mixed; n is `batch_size`, but for the last batch. With `shuffle` the order is
    drawn from (seed, epoch), so it is the same on every device and in every resumed run; `epoch`
    counts up by itself and may be set. `start` is the batch that the next pass begins with; after
    it, passes are whole again.

    Args:
        images: (n, c, h, w) uint8; `torchcnn.images.Pictures` are decoded as they are needed.
        labels: (n,) integers.
        size: resize to squares of this many pixels, as `torchcnn.augment.resize` does.
        augment: functions of `torchcnn.augment`, one after the other; what they draw follows from
            (seed, epoch, batch, rank).
        mix: `torchcnn.augment.mixup` or `cutmix` with its `num_classes`, after them.
        share: (rank, ranks): of every batch an equal share; what is left over of the last one is
            left out.
        device: where the set lives; default: where it is.

    Raises:
        ValueError: images and labels that do not match, or a batch size below one.
    """

    def __init__(
        self,
        images: Tensor | Pictures,
        labels: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        size: int | None = None,
        augment: Sequence[Augmentation] = (),
        mix: Mix | None = None,
        share: tuple[int, int] = (0, 1),
        device: torch.device | str | None = None,
    ) -> None:
        if len(images.shape) != 4 or images.dtype != torch.uint8 or len(images) != len(labels):
            raise ValueError(
                f"expected (n, c, h, w) uint8 images and n labels, got {tuple(images.shape)} "
                f"{images.dtype} images and {len(labels)} labels"
            )
        if batch_size < 1 or (size is not None and size < 1):
            raise ValueError(f"batch size and size must be at least 1, got {batch_size} and {size}")
        if batch_size % share[1]:
            raise ValueError(f"{share[1]} ranks cannot share a batch of {batch_size} equally")
        self.images = images.to(device) if isinstance(images, Tensor) else images
        self.labels = labels.to(device, torch.int64)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.epoch, self.start, self.augment, self.mix, self.share = 0, 0, augment, mix, share
        self.count = len(labels) // share[1] * share[1]
        n, c, h, w = images.shape
        self.size = None if (h, w) == (size, size) else size
        if isinstance(self.images, Tensor) and self.size and (
            n * c * self.size**2 <= RESIZE_ONCE_BYTES
        ):  # fmt: skip
            resized = self.images.new_empty(n, c, self.size, self.size)
            for part, target in zip(self.images.split(1024), resized.split(1024), strict=True):
                target.copy_(resize(part, self.size))
            self.images, self.size = resized, None

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self.labels))
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
            order = torch.randperm(len(order), generator=generator)
        epoch, start = self.epoch, self.start
        self.epoch, self.start = epoch + 1, 0
        (rank, ranks), device = self.share, self.labels.device
        mine = order[start * self.batch_size : self.count][rank::ranks]
        size = self.batch_size // ranks
        images = self._images(mine, size)
        labels = self.labels.index_select(0, mine.to(device)).split(size)
        for i, (x, y) in enumerate(zip(images, labels, strict=True), start):
            x = x.to(device, non_blocking=True)  # (n, c, h, w) uint8
            if self.size:
                x = resize(x, self.size)
            if self.augment or self.mix:
                generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, i, 2, rank))
                for augment in self.augment:
                    x = augment(x, generator)
                if self.mix:
                    x, y = self.mix(x, y, generator)
            yield x / 255, y

    def _images(self, indices: Tensor, size: int) -> Iterator[Tensor]:
        """As uint8, `size` at a time; out of memory several batches are fetched with one call."""
        if isinstance(self.images, Pictures):
            yield from decoded(self.images, indices.split(size), self.labels.is_cuda)
            return
        indices = indices.to(self.images.device)
        batch_bytes = size * math.prod(self.images.shape[1:])
        for some in indices.split(size * max(1, FETCH_BYTES // batch_bytes)):
            yield from self.images.index_select(0, some).split(size)


def load_data_fashion_mnist(
    batch_size: int,
    resize: int | None = None,
    root: str | Path = "data",
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> tuple[Batches, Batches]:
    """Fashion-MNIST as the tutorials ask for it: `(train_iter, test_iter)`.

    Both give `(x, y)`: x (n, 1, size, size) float32 in [0, 1] on `device`, y (n,) int64. The
    training images come in a new order every epoch, drawn from `seed` and the epoch alone; the
    last batch may be smaller. Errors are those of `load_data`.
    """
    data = load_data("fashion-mnist", root)
    return (
        Batches(data.train_images, data.train_labels, batch_size, shuffle=True, seed=seed,
                size=resize, device=device),
        Batches(data.test_images, data.test_labels, batch_size, size=resize, device=device),
    )  # fmt: skip
