"""The tutorials' own way to build each network, cell by cell, and ours: the same function.

Written anew in plain torch, with `torchcnn` in place of their helper package. Both take the same
weights, in the order in which they were made, and must give the same logits and
gradients in training mode. The shapes that they print are in `models/test_registry.py`.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchcnn as d2l


def conv(c_in, c_out, kernel_size, **options):
    return nn.Sequential(nn.Conv2d(c_in, c_out, kernel_size, **options), nn.ReLU())


def vgg_block(num_convs, c_in, c_out):
    more = [conv(c_out, c_out, 3, padding=1) for _ in range(num_convs - 1)]
    return nn.Sequential(conv(c_in, c_out, 3, padding=1), *more, nn.MaxPool2d(2, stride=2))


def nin_block(c_in, c_out, kernel_size, **options):
    ones = conv(c_out, c_out, 1), conv(c_out, c_out, 1)
    return nn.Sequential(conv(c_in, c_out, kernel_size, **options), *ones)


class Inception(nn.Module):
    def __init__(self, in_c, c1, c2, c3, c4):
        super().__init__()
        self.paths = nn.ModuleList([
            conv(in_c, c1, 1),
            nn.Sequential(conv(in_c, c2[0], 1), conv(*c2, 3, padding=1)),
            nn.Sequential(conv(in_c, c3[0], 1), conv(*c3, 5, padding=2)),
            nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), conv(in_c, c4, 1)),
        ])  # fmt: skip

    def forward(self, x):
        return torch.cat([path(x) for path in self.paths], dim=1)


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
    blocks = [resnet_block(64, 64, 1), *(resnet_block(c, 2 * c, 2) for c in (64, 128, 256))]
    end = d2l.GlobalAvgPool2d(), d2l.FlattenLayer(), nn.Linear(512, 10)
    return nn.Sequential(stem_cell(), *blocks, *end)


def densenet_cell():
    layers, channels, growth_rate = [stem_cell()], 64, 32
    for i, num_convs in enumerate([4, 4, 4, 4]):
        layers.append(DenseBlock(num_convs, channels, growth_rate))
        channels = layers[-1].out_channels
        if i != 3:
            layers.append(transition_block(channels, channels // 2))
            channels //= 2
    end = d2l.GlobalAvgPool2d(), d2l.FlattenLayer(), nn.Linear(channels, 10)
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *end)


def alexnet_cell():
    return nn.Sequential(
        conv(1, 96, 11, stride=4), nn.MaxPool2d(3, 2),
        conv(96, 256, 5, padding=2), nn.MaxPool2d(3, 2),
        conv(256, 384, 3, padding=1),
        conv(384, 384, 3, padding=1),
        conv(384, 256, 3, padding=1), nn.MaxPool2d(3, 2),
        d2l.FlattenLayer(),
        nn.Linear(256, 4096), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4096, 10),
    )  # fmt: skip


def vgg_cell():
    arch = ((1, 1, 64), (1, 64, 128), (2, 128, 256), (2, 256, 512), (2, 512, 512))
    return nn.Sequential(
        *(vgg_block(*numbers) for numbers in arch),
        d2l.FlattenLayer(),
        nn.Linear(512 * 2 * 2, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, 10),
    )  # fmt: skip


def nin_cell():
    return nn.Sequential(
        nin_block(1, 96, 11, stride=4), nn.MaxPool2d(3, 2),
        nin_block(96, 256, 5, padding=2), nn.MaxPool2d(3, 2),
        nin_block(256, 384, 3, padding=1), nn.MaxPool2d(3, 2),
        nn.Dropout(0.5),
        nin_block(384, 10, 3, padding=1),
        d2l.GlobalAvgPool2d(), d2l.FlattenLayer(),
    )  # fmt: skip


def googlenet_cell():
    def pool():
        return nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    return nn.Sequential(
        conv(1, 64, 7, stride=2, padding=3), pool(),
        nn.Conv2d(64, 64, 1), nn.Conv2d(64, 192, 3, padding=1), pool(),
        Inception(192, 64, (96, 128), (16, 32), 32),
        Inception(256, 128, (128, 192), (32, 96), 64), pool(),
        Inception(480, 192, (96, 208), (16, 48), 64),
        Inception(512, 160, (112, 224), (24, 64), 64),
        Inception(512, 128, (128, 256), (24, 64), 64),
        Inception(512, 112, (144, 288), (32, 64), 64),
        Inception(528, 256, (160, 320), (32, 128), 128), pool(),
        Inception(832, 256, (160, 320), (32, 128), 128),
        Inception(832, 384, (192, 384), (48, 128), 128),
        d2l.GlobalAvgPool2d(), d2l.FlattenLayer(), nn.Linear(1024, 10),
    )  # fmt: skip


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
