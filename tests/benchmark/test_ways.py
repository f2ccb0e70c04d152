"""The ways to train that the benchmark compares: the same network, the same images."""

import dataclasses

import pytest
import torch

from torchcnn.benchmark import ways
from torchcnn.benchmark.__main__ import Config
from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches

TASK = Config(data="sample", device="cpu", images=600).task("lenet")


@pytest.mark.parametrize("way", [*ways.WAYS["tutorial"], "torchcnn, auto", "by hand"])
def test_each_way_trains_on_as_many_images(way, monkeypatch):
    """Only full batches count: 2 of 256 images."""
    monkeypatch.setattr(ways, "TUTORIAL_WORKERS", 0)
    images, seconds = ways.make_way(way, TASK).train_epoch()
    assert images == 512 and seconds > 0


def test_the_network_is_the_same_each_time():
    first, again = (ways.prepare(TASK)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_tutorials_images_equal_those_of_this_package():
    """Pillow and `ToTensor` give the same numbers as the batches."""
    sample = load_data("sample")
    images, labels = sample.test_images[:9], sample.test_labels[:9]
    (x, y), *_ = Batches(images, labels, 9)
    for i in range(9):
        image, label = ways.TutorialImages(images, labels, 28)[i]
        assert torch.equal(image, x[i]) and label == y[i]


def test_without_a_number_all_images_train():
    _, _, labels = ways.prepare(dataclasses.replace(TASK, images=0))
    assert len(labels) == 4864  # 19 batches
