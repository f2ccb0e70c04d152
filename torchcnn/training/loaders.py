"""From a data set to the batches of a run: to train on, to validate on, to test on."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from torchcnn.data.augment import AUGMENTATIONS, MIXES
from torchcnn.data.datasets import ImageData
from torchcnn.data.loader import Batches, hold_out
from torchcnn.training.config import Config
from torchcnn.training.distributed import World


class Loaders(NamedTuple):
    """The batches of a run. If no images are held out, `val` is `test`."""

    train: Batches
    val: Batches
    test: Batches


def make_loaders(config: Config, dataset: ImageData, device: torch.device, world: World) -> Loaders:
    """Split the training images and batch all of them for this rank.

    Raises:
        ValueError: there are fewer images to evaluate on than ranks.
    """
    x, y = dataset.train_images, dataset.train_labels
    test = val = eval_loader(config, (dataset.test_images, dataset.test_labels), device, world)
    if config.val_fraction:
        kept, held_out = hold_out(len(y), config.val_fraction, config.seed)
        val = eval_loader(config, (x[held_out], y[held_out]), device, world)
        x, y = x[kept], y[kept]
    mix = None
    if config.mix != "off":
        mix = functools.partial(MIXES[config.mix], num_classes=len(dataset.classes))
    train = Batches(
        x,
        y,
        config.batch_size,
        shuffle=True,
        seed=config.seed,
        size=config.input_size,
        augment=[AUGMENTATIONS[name] for name in config.augment.split(",") if name],
        mix=mix,
        share=(world.rank, world.world_size),
        device=device,
    )
    return Loaders(train, val, test)


def eval_loader(
    config: Config, images_and_labels: tuple[Tensor, Tensor], device: torch.device, world: World
) -> Batches:
    """Batch images to evaluate on; each image is on one of the ranks.

    Raises:
        ValueError: there are fewer images than ranks.
    """
    images, labels = images_and_labels
    if len(labels) < world.world_size:
        raise ValueError(f"{world.world_size} ranks cannot share {len(labels)} images to evaluate")
    mine = slice(world.rank, None, world.world_size)
    return Batches(
        images[mine], labels[mine], config.batch_size, size=config.input_size, device=device
    )
