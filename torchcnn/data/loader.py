"""Batches for the training loop, from a data set that lives on the device as uint8.

A batch is made by indexing, resizing if a size is given, augmentation, a division by 255, and a
normalization if one is given. There are no worker processes, and no copy of the data set in float.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchcnn.data.augment import Augmentation, Mix, resize
from torchcnn.data.datasets import load_data
from torchcnn.data.decode import LazyImages, decode_batches
from torchcnn.data.split import mix_seed

RESIZE_ONCE_BYTES = 2**30  # up to this size the resized set is kept; else each batch is resized
FETCH_BYTES = 2**18  # of uint8 are fetched by one call: for small batches calls are the cost


class Batches:
    """Iterates over a data set that lives on a device as uint8, in batches of float32 in [0, 1].

    Each batch is `(x, y)`: x (n, c, size, size) float32, y (n,) int64, or (n, classes) float32 if
    images are mixed. n is `batch_size`; the last batch may have fewer. With `shuffle` the order
    follows from (seed, epoch), so it is the same on every device and in a resumed run. `epoch` is
    counted from 0 and may be set. `start` is the batch with which the next pass begins; the passes
    after it are whole.

    Args:
        images: (n, c, h, w) uint8; `LazyImages` are decoded as they are needed.
        labels: (n,) integers.
        size: resize to squares of this many pixels, as `torchcnn.data.augment.resize` does.
        augment: functions of `torchcnn.data.augment`, applied in order; what they draw follows
            from (seed, epoch, batch, rank).
        mix: `mixup` or `cutmix` of that module with its `num_classes`, applied after them.
        share: (rank, world size): give an equal share of every batch; images of the last batch
            that cannot be shared equally are left out.
        device: where the data set is kept; by default it stays where it is.
        normalization: a mean and a standard deviation for each channel: images are
            (x - mean) / std, after x was in [0, 1] and augmented.

    Raises:
        ValueError: images and labels that do not match, or a batch size below one.
    """

    def __init__(
        self,
        images: Tensor | LazyImages,
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
        normalization: tuple[Sequence[float], Sequence[float]] | None = None,
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
        self.normalization = normalization and [
            torch.tensor(values, device=self.labels.device).view(-1, 1, 1)
            for values in normalization
        ]
        self.count = len(labels) // share[1] * share[1]
        n, c, h, w = images.shape
        self.size = size
        fits = size and (h, w) != (size, size) and n * c * size**2 <= RESIZE_ONCE_BYTES
        if isinstance(self.images, Tensor) and size and fits:
            resized = self.images.new_empty(n, c, size, size)
            for part, target in zip(self.images.split(1024), resized.split(1024), strict=True):
                target.copy_(resize(part, size))
            self.images = resized

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
            x = x / 255
            if self.normalization:
                mean, std = self.normalization
                x = (x - mean) / std
            yield x, y

    def unnormalize(self, x: Tensor) -> Tensor:
        """Return a batch's images (n, c, h, w) in [0, 1] again."""
        mean, std = self.normalization or (0, 1)
        return x * std + mean

    def _images(self, indices: Tensor, size: int) -> Iterator[Tensor]:
        """Yield the images as uint8, `size` at a time; several batches are fetched by one call."""
        if isinstance(self.images, LazyImages):
            yield from decode_batches(self.images, indices.split(size), self.labels.is_cuda)
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
    """Return `(train_iter, test_iter)` of Fashion-MNIST, as the tutorials' function does.

    Both yield `(x, y)`: x (n, 1, size, size) float32 in [0, 1] on `device`, y (n,) int64. The order
    of the training images follows from `seed` and the epoch; the last batch may be smaller.

    Raises:
        FileNotFoundError, ValueError: as `load_data` does.
    """
    data = load_data("fashion-mnist", root)
    options: dict[str, Any] = {"size": resize, "device": device}
    train_iter = Batches(
        data.train_images, data.train_labels, batch_size, shuffle=True, seed=seed, **options
    )
    return train_iter, Batches(data.test_images, data.test_labels, batch_size, **options)
