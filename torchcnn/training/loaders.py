"""From a data set to the batches of a run: to train on, to validate on, to test on."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchcnn.data.augment import AUGMENTATIONS, MIXES
from torchcnn.data.datasets import ImageData
from torchcnn.data.decode import LazyImages, decode_all
from torchcnn.data.loader import Batches
from torchcnn.data.split import hold_out
from torchcnn.files import plural, table
from torchcnn.models.spec import ModelSpec
from torchcnn.models.weights import IMAGENET, Normalization, Weights, for_channels
from torchcnn.training.config import Config
from torchcnn.training.distributed import World

Images = tuple[Tensor, Tensor]  # with their labels


class Parts(NamedTuple):
    """The images of a run; `val` or `test` is None if there are none."""

    train: Images
    val: Images | None
    test: Images | None
    ids: dict[str, Tensor]  # the numbers of a folder's pictures in each part

    def copies(self) -> dict[str, int]:
        """How many of the pictures to test and to validate on are also trained on."""
        return {
            part: int(torch.isin(self.ids[part], self.ids["train"]).sum())
            for part in ("test", "val")
            if part in self.ids
        }


MAX_ROWS = 40  # with more classes, their counts are not printed one by one


def describe_parts(parts: Parts, classes: Sequence[str]) -> str:
    """Say how many images of each class there are, and what of it makes results uncertain."""
    found = {"train": parts.train, "val": parts.val, "test": parts.test}
    counts = {
        name: torch.bincount(part[1].cpu(), minlength=len(classes)).tolist()
        for name, part in found.items()
        if part
    }
    rows = [["class", *counts]]
    columns = list(counts.values())
    if len(classes) <= MAX_ROWS:
        numbers = zip(*columns, strict=True)
        rows += [[c, *map(str, n)] for c, n in zip(classes, numbers, strict=True)]
    rows.append([f"all {len(classes)}", *(str(sum(column)) for column in columns)])
    lines, trained = [table(rows, left={0})], counts["train"]
    most, least = max(trained), min(trained)
    if most >= 10 * least:
        many, few = (classes[trained.index(n)] for n in (most, least))
        lines.append(f"note: of {many} there are {most} images to train on, of {few} {least}")
    n = sum(counts.get("val", ()))
    if 0 < n < 100:
        lines.append(
            f"note: the best epoch is chosen by {n} validation images, whose accuracy moves in "
            f"steps of {1 / n:.2f}; a larger --val-fraction makes it more certain"
        )
    return "\n".join(lines)


class Loaders(NamedTuple):
    """The batches of a run. `val` is `test` if no images are held out; `test` may be None."""

    train: Batches
    val: Batches
    test: Batches | None


def split(config: Config, dataset: ImageData) -> Parts:
    """Split a data set into the parts of a run.

    Raises:
        ValueError: there are too few images, or there is nothing to evaluate on.
    """
    x, y, ids = dataset.train_images, dataset.train_labels, dict(dataset.ids)
    test = (dataset.test_images, dataset.test_labels) if len(dataset.test_labels) else None
    if not config.val_fraction:
        if test is None:
            raise ValueError(f"--val-fraction 0 needs a test part, and {dataset.name} has none")
        ids.pop("val", None)
        return Parts((x, y), None, test, ids)
    if dataset.val_images is not None and dataset.val_labels is not None:
        return Parts((x, y), (dataset.val_images, dataset.val_labels), test, ids)
    kept, held_out = hold_out(y, config.val_fraction, config.seed, ids.get("train"))
    if not len(kept) or not len(held_out):
        held = f"holds out {len(held_out)} of {plural(len(y), 'image')}"
        raise ValueError(f"--val-fraction {config.val_fraction} {held}")
    if ids:
        ids |= {"train": ids["train"][kept], "val": ids["train"][held_out]}
    return Parts((x[kept], y[kept]), (x[held_out], y[held_out]), test, ids)


def pick_normalization(
    name: str, weights: Weights | None, images: Tensor | LazyImages
) -> Normalization | None:
    """Return what `--normalize` asks for.

    Args:
        name: "auto" (as the weights to start from were trained, if there are any), "none", "data"
            (the mean and standard deviation of the images) or "imagenet".
        images: those to train on, (n, c, h, w) uint8; 10,000 of them at most are looked at.

    Raises:
        ValueError: there is a number for each of other channels.
    """
    channels = images.shape[1]
    if name == "data":
        return statistics(images[:: -(-len(images) // 10_000)])
    if name == "auto" and weights and weights.normalization:
        # Of a network that may take other channels, see `fit_channels`.
        mean, std = (for_channels(values, channels) for values in weights.normalization)
        return mean, std
    if name != "imagenet":
        return None
    if channels != 3:
        raise ValueError(f"the images have {channels} channels; --normalize imagenet is for 3")
    return IMAGENET


def statistics(images: Tensor | LazyImages) -> Normalization:
    """Return the mean and the standard deviation of each channel of images in [0, 1]."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for start in range(0, len(images), 256):
        some = images[start : start + 256]
        some = some.cpu() if isinstance(some, Tensor) else decode_all(some)
        counts += torch.stack([torch.bincount(c.flatten(), minlength=256) for c in some.unbind(1)])
    shares, values = counts / counts.sum(1, keepdim=True), torch.arange(256).double() / 255
    mean = shares @ values
    std = (shares @ values.square() - mean.square()).clamp(min=1e-12).sqrt()
    return mean.tolist(), std.tolist()


def make_loaders(
    config: Config, spec: ModelSpec, parts: Parts, device: torch.device, world: World
) -> Loaders:
    """Batch the parts of a run for this rank.

    Raises:
        ValueError: there are fewer images to evaluate on than ranks.
    """
    batches = functools.partial(
        Batches,
        batch_size=config.batch_size,
        size=spec.input_size,
        device=device,
        normalization=(spec.mean, spec.std) if spec.is_normalized else None,
    )

    def evaluated(part: Images) -> Batches:
        """The images of this rank; each is on one of them."""
        n = len(part[1])
        if n < world.world_size:
            images = plural(n, "image")
            raise ValueError(f"{world.world_size} ranks cannot share {images} to evaluate")
        return batches(*(x[world.rank :: world.world_size] for x in part))

    test = evaluated(parts.test) if parts.test else None
    val = evaluated(parts.val) if parts.val else test
    assert val is not None  # see `split`
    mix = None
    if config.mix != "off":
        mix = functools.partial(MIXES[config.mix], num_classes=spec.num_classes)
    train = batches(
        *parts.train,
        shuffle=True,
        seed=config.seed,
        augment=[AUGMENTATIONS[name] for name in config.augment],
        mix=mix,
        share=(world.rank, world.world_size),
    )
    return Loaders(train, val, test)
