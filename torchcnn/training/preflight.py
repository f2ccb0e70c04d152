"""What can be known before the first step: that the batches fit the network, the data the run."""

from typing import Any

import torch

from torchcnn.data.datasets import ImageData
from torchcnn.models.registry import build_model
from torchcnn.training.config import Config, describe


def check_data(checkpoint: dict[str, Any], data: ImageData) -> None:
    """Hold the images against those that a run was begun with.

    Raises:
        ValueError: other classes, or another number of images to train on.
    """
    for what, then, now in (("classes", checkpoint["classes"], list(data.classes)),
                            ("images", checkpoint["images"], len(data.train_labels))):  # fmt: skip
        if then != now:
            raise ValueError(f"the run was begun with the {what} {then}; {data.name} has {now}")


def check_steps(
    config: Config, channels: int, classes: int, ranks: int, count: int | None = None
) -> None:
    """Go through a step on the meta device, which computes nothing, to fail before the first.

    With the `count` of training images also through the last, which may have fewer of them.
    """
    if config.batch_size % ranks:
        raise ValueError(f"--batch-size {config.batch_size} cannot be shared by {ranks} ranks")
    sizes = {min(config.batch_size, 2 * ranks * config.accumulate)}
    if count is not None:
        held_out = round(count * config.val_fraction)
        if config.val_fraction and not 0 < held_out < count:
            raise ValueError(
                f"--val-fraction {config.val_fraction} holds out {held_out} of {count} images"
            )
        count = (count - held_out) // ranks * ranks
        if not count:
            raise ValueError(f"{ranks} ranks cannot share fewer images")
        sizes = {min(config.batch_size, count), count % config.batch_size} - {0}
    with torch.device("meta"):
        net = build_model(**describe(config, channels, classes)).train()
        for n in sorted(
            {
                len(part)
                for size in sizes
                for part in torch.arange(size // ranks).chunk(config.accumulate)
            }
        ):
            try:
                net(torch.empty(n, channels, config.input_size, config.input_size))
            except ValueError as error:  # batch norm cannot train on a single value
                raise ValueError(
                    f"{config.arch} cannot train on a batch of {n}, which --batch-size "
                    f"{config.batch_size} gives ({error})"
                ) from error
