"""The names of flags that are known without PyTorch, and what a misspelled one may mean."""

import doctest

import pytest

from torchcnn import names
from torchcnn.data.augment import AUGMENTATIONS, MIXES
from torchcnn.data.datasets import DATASETS
from torchcnn.models import MODELS
from torchcnn.names import did_you_mean
from torchcnn.training.optim import OPTIMIZERS


def test_they_are_those_of_the_tables():
    assert list(DATASETS) == names.DATASETS and list(OPTIMIZERS) == names.OPTIMIZERS
    assert list(AUGMENTATIONS) == names.AUGMENTATIONS and list(MIXES) == names.MIXES


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("resnet", MODELS, "did you mean resnet18, resnet34 or resnet50?"),
        ("VGG16", MODELS, "did you mean vgg16 or vgg16_bn?"),
        ("--epoch", ["--epochs", "--arch"], "did you mean --epochs?"),
        ("--wd", ["--seed", "--weight-decay"], "did you mean --weight-decay?"),
        ("--batch_size", ["--batch-size"], "did you mean --batch-size?"),
        ("", MODELS, ""),
        ("transformer", MODELS, ""),
    ],
)
def test_what_a_misspelled_name_may_mean(name, known, meant):
    assert did_you_mean(name, known) == meant


def test_its_example():
    assert doctest.testmod(names).failed == 0
