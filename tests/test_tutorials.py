"""The tutorials' own way to build each network, cell by cell, and ours: the same function.

Written anew from their description, with `torchcnn` in place of their helper package. Both take
the same weights, in the order in which they were made, and must give the same logits and
gradients in training mode.
"""

import pytest
import torch
from torch import nn

import torchcnn as d2l
from torchcnn.models.densenet import DenseBlock, transition_block
from torchcnn.models.resnet import resnet_block


def lenet_cell():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.Sigmoid(), nn.MaxPool2d(2, 2),
        nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.Sigmoid(), nn.MaxPool2d(2, 2),
        d2l.FlattenLayer(),
        nn.Linear(16 * 4 * 4, 120), nn.BatchNorm1d(120), nn.Sigmoid(),
        nn.Linear(120, 84), nn.BatchNorm1d(84), nn.Sigmoid(),
        nn.Linear(84, 10),
    )  # fmt: skip


def stem_cell():
    return nn.Sequential(
        nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )


def resnet_cell():
    net = stem_cell()
    net.add_module("resnet_block1", resnet_block(64, 64, 2, first_block=True))
    for i, (c_in, c_out) in enumerate([(64, 128), (128, 256), (256, 512)], start=2):
        net.add_module(f"resnet_block{i}", resnet_block(c_in, c_out, 2))
    net.add_module("global_avg_pool", d2l.GlobalAvgPool2d())
    net.add_module("fc", nn.Sequential(d2l.FlattenLayer(), nn.Linear(512, 10)))
    return net


def densenet_cell():
    net, num_channels, growth_rate = stem_cell(), 64, 32
    for i, num_convs in enumerate([4, 4, 4, 4]):
        block = DenseBlock(num_convs, num_channels, growth_rate)
        net.add_module(f"DenseBlock_{i}", block)
        num_channels = block.out_channels
        if i != 3:
            net.add_module(f"transition_{i}", transition_block(num_channels, num_channels // 2))
            num_channels //= 2
    net.add_module("BN", nn.BatchNorm2d(num_channels))
    net.add_module("relu", nn.ReLU())
    net.add_module("global_avg_pool", d2l.GlobalAvgPool2d())
    net.add_module("fc", nn.Sequential(d2l.FlattenLayer(), nn.Linear(num_channels, 10)))
    return net


CELLS = {"lenet": (lenet_cell, 28), "resnet18": (resnet_cell, 64), "densenet": (densenet_cell, 64)}


@pytest.mark.parametrize("name", CELLS)
def test_the_tutorials_cells_are_our_networks(name):
    cell, size = CELLS[name]
    theirs, ours = cell().double(), d2l.create_model(name, input_size=size).double()
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.copy_(b)
    x = torch.randn(3, 1, size, size, dtype=torch.float64)
    upstream = torch.randn(3, 10, dtype=torch.float64)
    y_ours, y_theirs = ours(x), theirs(x)
    torch.testing.assert_close(y_ours, y_theirs, rtol=1e-11, atol=1e-11)
    grads = (torch.autograd.grad(y, net.parameters(), upstream)
             for y, net in ((y_ours, ours), (y_theirs, theirs)))  # fmt: skip
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
