"""From a data set to the batches of a run: no image is in two parts."""

import pytest
import torch

from torchcnn.data.datasets import ImageData
from torchcnn.training.config import Config
from torchcnn.training.distributed import World
from torchcnn.training.loaders import make_loaders, split
from torchcnn.training.plan import make_spec


def config(val_fraction):
    recipe = {"epochs": 1, "batch_size": 64, "lr": 1.0, "optimizer": "sgd", "input_size": 1}
    return Config(**recipe, val_fraction=val_fraction)


def numbered(n, labels, **parts):
    """Images whose pixel is their number; those to test on count from 255 downwards."""
    images = torch.arange(n).view(n, 1, 1, 1).to(torch.uint8)
    test = 255 - images[:9], torch.zeros(9, dtype=torch.int64)
    return ImageData("x", ("a",), images, labels, *test, **parts)


@pytest.mark.parametrize(("val_fraction", "held_out"), [(0.1, 20), (0.0, 9)])
def test_selection_never_sees_the_test_set(val_fraction, held_out):
    """Training and validation batches are two parts of the training images, without overlap."""
    n, device = 200, torch.device("cpu")
    parts = split(config(val_fraction), numbered(n, torch.zeros(n, dtype=torch.int64)))
    spec = make_spec(config(val_fraction), 1, ("a",))
    loaders = make_loaders(config(val_fraction), spec, parts, device, World())
    seen = [
        torch.cat([(x * 255).round().int().flatten() for x, _ in batches]).tolist()
        for batches in loaders
    ]
    assert len(seen[1]) == held_out and seen[2] == list(range(255, 246, -1))
    if val_fraction:
        assert sorted(seen[0] + seen[1]) == list(range(n))
    else:
        assert sorted(seen[0]) == list(range(n)) and seen[1] == seen[2]


def test_a_part_to_validate_on_replaces_the_held_out_images():
    labels = torch.zeros(5, dtype=torch.int64)
    val = torch.full((2, 1, 1, 1), 77, dtype=torch.uint8), labels[:2]
    data = numbered(5, labels, val_images=val[0], val_labels=val[1])
    parts = split(config(0.1), data)
    assert len(parts.train[1]) == 5 and parts.val == val


def test_too_few_images_to_hold_any_out():
    with pytest.raises(ValueError, match=r"--val-fraction 0.1 holds out 0 of 4 images"):
        split(config(0.1), numbered(4, torch.arange(4)))
