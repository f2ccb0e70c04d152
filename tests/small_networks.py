"""Every registered network at a size that a test can bear, and checkpoints without training."""

import pytest
import torch

from torchcnn import create_model
from torchcnn.models import MODELS, ModelSpec
from torchcnn.run.checkpoint import Checkpoint, State, save_checkpoint

# The least size that a test can use where 32 pixels are too few.
SIZES = {"alexnet": 67, "nin": 67, "tf_nin": 67, "tf_alexnet_half": 64, "tf_sigmoid_cnn": 36,
         "tf_nin_dense": 45}  # fmt: skip
# The same builder as another member of the family, with more layers: their parameters and shapes
# are checked as all are, and what is computed and written is checked with that other member.
DEEPER = {"vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn", "resnet34", "resnet32",
          "resnet44", "resnet56", "resnet110", "resnet101", "resnet152", "densenet169",
          "densenet201"}  # fmt: skip
ONE_OF_EACH = [name for name in MODELS if name not in DEEPER]
EVERY = [  # the deeper ones in the slow suite
    pytest.param(name, marks=() if name in ONE_OF_EACH else pytest.mark.slow) for name in MODELS
]
# Left to the slow suite.
HEAVY = {"vgg11_bn", "resnet50", "densenet121", "tf_vgg16", "tf_alexnet8", "tf_resnet18_pool"}
WHOLE_REGISTRY = [
    pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ()) for name in ONE_OF_EACH
]


def small(name: str, channels: int = 2, batch: int = 3, **options):
    """A network of the registry for a small image, in float64, and such images.

    VGG has an eighth of its channels.
    """
    size = SIZES.get(name, 32)
    options = ({"width": 1 / 8} if name.startswith("vgg") else {}) | options
    net = create_model(name, input_size=size, in_channels=channels, num_classes=5, **options)
    return net.double(), torch.randn(batch, channels, size, size, dtype=torch.float64)


def describe(arch="lenet", classes="0123456789", **changes):
    """The description of a network for grey images of 28 pixels that are not normalized."""
    channels = changes.pop("in_channels", 1)
    numbers = {"mean": (0.0,) * channels, "std": (1.0,) * channels, "input_size": 28} | changes
    return ModelSpec(arch=arch, in_channels=channels, classes=tuple(classes), **numbers)


def write_checkpoint(path, net, history=()):
    """The checkpoint of a network that was never trained."""
    state = State(net.state_dict(), {}, {}, None)
    save_checkpoint(path, Checkpoint(net.spec, {}, {}, 0, {}, None, list(history), None, state))
