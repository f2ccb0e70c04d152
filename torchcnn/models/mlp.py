"""Networks without convolution: what a linear model and one hidden layer can do."""

from collections import OrderedDict

from torch import nn

from torchcnn.layers import FlattenLayer


def softmax_regression(
    in_channels: int = 1, num_classes: int = 10, input_size: int = 28
) -> nn.Sequential:
    """A linear classifier: (n, c, s, s) -> (n, num_classes)."""
    return nn.Sequential(
        OrderedDict(
            flatten=FlattenLayer(),  # (n, 784)
            head=nn.Linear(in_channels * input_size**2, num_classes),  # (n, 10)
        )
    )


def mlp(
    in_channels: int = 1, num_classes: int = 10, input_size: int = 28, hidden: int = 128
) -> nn.Sequential:
    """A multilayer perceptron: (n, c, s, s) -> (n, num_classes).

    Its only hidden layer has `hidden` units with ReLU.
    """
    return nn.Sequential(
        OrderedDict(
            flatten=FlattenLayer(),  # (n, 784)
            hidden=nn.Sequential(nn.Linear(in_channels * input_size**2, hidden), nn.ReLU()),
            head=nn.Linear(hidden, num_classes),  # (n, 10)
        )
    )
