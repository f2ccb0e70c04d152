"""The tutorials' own way to build each network, cell by cell, and ours: the same function.

Written anew in plain torch, with `torchcnn` in place of their helper package. Both take the same
weights, in the order in which they were made, and must give the same logits and
gradients in training mode.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchcnn as d2l


def vgg_block(num_convs, c_in, c_out):
    layers = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(c_in, c_out, kernel_size=3, padding=1), nn.ReLU()]
        c_in = c_out
    return nn.Sequential(*layers, nn.MaxPool2d(kernel_size=2, stride=2))


def nin_block(c_in, c_out, kernel_size, stride, padding):
    first = nn.Conv2d(c_in, c_out, kernel_size, stride, padding)
    ones = [nn.Conv2d(c_out, c_out, kernel_size=1) for _ in range(2)]
    return nn.Sequential(first, nn.ReLU(), ones[0], nn.ReLU(), ones[1], nn.ReLU())


class Inception(nn.Module):
    def __init__(self, in_c, c1, c2, c3, c4):
        super().__init__()
        self.p1_1 = nn.Conv2d(in_c, c1, kernel_size=1)
        self.p2_1 = nn.Conv2d(in_c, c2[0], kernel_size=1)
        self.p2_2 = nn.Conv2d(c2[0], c2[1], kernel_size=3, padding=1)
        self.p3_1 = nn.Conv2d(in_c, c3[0], kernel_size=1)
        self.p3_2 = nn.Conv2d(c3[0], c3[1], kernel_size=5, padding=2)
        self.p4_2 = nn.Conv2d(in_c, c4, kernel_size=1)

    def forward(self, x):
        pooled = F.max_pool2d(x, kernel_size=3, stride=1, padding=1)
        paths = (
            self.p1_1(x),
            self.p2_2(F.relu(self.p2_1(x))),
            self.p3_2(F.relu(self.p3_1(x))),
            self.p4_2(pooled),
        )
        return torch.cat([F.relu(path) for path in paths], dim=1)


class Residual(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, kernel_size=3, padding=1, stride=stride)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(c_out)
        if stride > 1:
            self.conv3 = nn.Conv2d(c_in, c_out, kernel_size=1, stride=stride)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.conv3(x) if hasattr(self, "conv3") else x))


def resnet_block(c_in, c_out, stride):
    return nn.Sequential(Residual(c_in, c_out, stride), Residual(c_out, c_out, 1))


class DenseBlock(nn.Module):
    def __init__(self, num_convs, c_in, growth):
        super().__init__()
        self.net = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(c_in + i * growth),
                nn.ReLU(),
                nn.Conv2d(c_in + i * growth, growth, kernel_size=3, padding=1),
            )
            for i in range(num_convs)
        )
        self.out_channels = c_in + num_convs * growth

    def forward(self, x):
        for block in self.net:
            x = torch.cat((x, block(x)), dim=1)
        return x


def transition_block(c_in, c_out):
    return nn.Sequential(
        nn.BatchNorm2d(c_in),
        nn.ReLU(),
        nn.Conv2d(c_in, c_out, kernel_size=1),
        nn.AvgPool2d(kernel_size=2, stride=2),
    )


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
    net.add_module("resnet_block1", resnet_block(64, 64, 1))
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


def alexnet_cell():
    conv = nn.Sequential(
        nn.Conv2d(1, 96, 11, 4), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    fc = nn.Sequential(nn.Linear(256, 4096), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4096, 10))
    return nn.Sequential(conv, d2l.FlattenLayer(), fc)


def vgg_cell():
    net = nn.Sequential()
    arch = ((1, 1, 64), (1, 64, 128), (2, 128, 256), (2, 256, 512), (2, 512, 512))
    for i, (num_convs, c_in, c_out) in enumerate(arch):
        net.add_module(f"vgg_block_{i + 1}", vgg_block(num_convs, c_in, c_out))
    fc = nn.Sequential(
        d2l.FlattenLayer(),
        nn.Linear(512 * 2 * 2, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, 10),
    )  # fmt: skip
    net.add_module("fc", fc)
    return net


def nin_cell():
    return nn.Sequential(
        nin_block(1, 96, kernel_size=11, stride=4, padding=0),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nin_block(96, 256, kernel_size=5, stride=1, padding=2),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nin_block(256, 384, kernel_size=3, stride=1, padding=1),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Dropout(0.5),
        nin_block(384, 10, kernel_size=3, stride=1, padding=1),
        d2l.GlobalAvgPool2d(),
        d2l.FlattenLayer(),
    )


def googlenet_cell():
    pool = {"kernel_size": 3, "stride": 2, "padding": 1}
    b1 = nn.Sequential(
        nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(**pool)
    )
    b2 = nn.Sequential(
        nn.Conv2d(64, 64, kernel_size=1),
        nn.Conv2d(64, 192, kernel_size=3, padding=1),
        nn.MaxPool2d(**pool),
    )
    b3 = nn.Sequential(
        Inception(192, 64, (96, 128), (16, 32), 32),
        Inception(256, 128, (128, 192), (32, 96), 64),
        nn.MaxPool2d(**pool),
    )
    b4 = nn.Sequential(
        Inception(480, 192, (96, 208), (16, 48), 64),
        Inception(512, 160, (112, 224), (24, 64), 64),
        Inception(512, 128, (128, 256), (24, 64), 64),
        Inception(512, 112, (144, 288), (32, 64), 64),
        Inception(528, 256, (160, 320), (32, 128), 128),
        nn.MaxPool2d(**pool),
    )
    b5 = nn.Sequential(
        Inception(832, 256, (160, 320), (32, 128), 128),
        Inception(832, 384, (192, 384), (48, 128), 128),
        d2l.GlobalAvgPool2d(),
    )
    return nn.Sequential(b1, b2, b3, b4, b5, d2l.FlattenLayer(), nn.Linear(1024, 10))


CELLS = {
    "lenet": (lenet_cell, 28), "alexnet": (alexnet_cell, 67), "vgg11": (vgg_cell, 64),
    "nin": (nin_cell, 67), "googlenet": (googlenet_cell, 64), "resnet18": (resnet_cell, 64),
    "densenet": (densenet_cell, 64),
}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_the_tutorials_cells_are_our_networks(name):
    cell, size = CELLS[name]
    theirs, ours = cell().double(), d2l.create_model(name, input_size=size).double()
    for module in (*theirs.modules(), *ours.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the only thing random
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.copy_(b)
    x = torch.randn(2, 1, size, size, dtype=torch.float64)
    upstream = torch.randn(2, 10, dtype=torch.float64)
    y_ours, y_theirs = ours(x), theirs(x)
    torch.testing.assert_close(y_ours, y_theirs, rtol=1e-11, atol=1e-11)
    grads = (torch.autograd.grad(y, net.parameters(), upstream)
             for y, net in ((y_ours, ours), (y_theirs, theirs)))  # fmt: skip
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# What the tutorials print after each stage, at the sizes at which they print it.
PRINTED = {
    "vgg11": (vgg_cell, 64, [
        "64x32x32", "128x16x16", "256x8x8", "512x4x4", "512x2x2", "10",
    ]),
    "nin": (nin_cell, 224, [
        "96x54x54", "96x26x26", "256x26x26", "256x12x12", "384x12x12", "384x5x5", "384x5x5",
        "10x5x5", "10x1x1", "10",
    ]),
    "googlenet": (googlenet_cell, 96, [
        "64x24x24", "192x12x12", "480x6x6", "832x3x3", "1024x1x1", "1024", "10",
    ]),
    "resnet18": (resnet_cell, 224, [
        "64x112x112", "64x112x112", "64x112x112", "64x56x56", "64x56x56", "128x28x28", "256x14x14",
        "512x7x7", "512x1x1", "10",
    ]),
    "densenet": (densenet_cell, 96, [
        "64x48x48", "64x48x48", "64x48x48", "64x24x24", "192x24x24", "96x12x12", "224x12x12",
        "112x6x6", "240x6x6", "120x3x3", "248x3x3", "248x3x3", "248x3x3", "248x1x1", "10",
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", PRINTED)
def test_the_cells_print_the_tutorials_shapes(name):
    cell, size, printed = PRINTED[name]
    with torch.device("meta"):
        net, x = cell().eval(), torch.empty(1, 1, size, size)
        shapes = []
        for _, block in net.named_children():
            x = block(x)
            shapes.append("x".join(map(str, x.shape[1:])))
    assert shapes == printed
