"""The analysis of networks agrees with the tutorials' arithmetic and with torch for many sizes."""

import doctest
import math

import pytest
import torch
from torch import nn

from torchcnn import create_model, receptive_field, summary
from torchcnn.layers import SameConv2d
from torchcnn.models import analysis
from torchcnn.models.analysis import (
    conv_output_size,
    conv_transpose_output_size,
    input_sizes,
    same_output_size,
    valid_output_size,
)

SIZES = range(1, 14)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_output_sizes_are_those_of_torch(kernel, stride):
    with torch.device("meta"):
        for size in SIZES:
            x = torch.empty(1, 1, size, size)
            assert SameConv2d(1, 1, kernel, stride)(x).shape[2] == same_output_size(size, stride)
            made = nn.ConvTranspose2d(1, 1, kernel, stride)(x).shape[2]
            assert made == conv_transpose_output_size(size, kernel, stride)
            if size >= kernel:
                valid = nn.Conv2d(1, 1, kernel, stride)(x).shape[2]
                assert valid == valid_output_size(size, kernel, stride)
            for padding in (0, 1, 2):
                for dilation in (1, 2):
                    if size + 2 * padding >= dilation * (kernel - 1) + 1:
                        conv = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
                        found = conv_output_size(size, kernel, stride, padding, dilation)
                        assert conv(x).shape[2] == found


@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_several_inputs_give_one_output(kernel, stride, padding):
    by_output = {}
    for size in range(max(1, kernel - 2 * padding), 40):
        by_output.setdefault(conv_output_size(size, kernel, stride, padding), []).append(size)
    for output in range(2, 8):
        assert list(input_sizes(output, kernel, stride, padding)) == by_output[output]
        assert len(by_output[output]) == stride


def test_a_transposed_convolution_undoes_the_size():
    """2 pixels, kernel 3, stride 2: 5, and 2 again; 5 and 6 both give 2."""
    assert conv_transpose_output_size(2, 3, stride=2) == 5
    assert conv_output_size(5, 3, stride=2) == conv_output_size(6, 3, stride=2) == 2
    assert conv_transpose_output_size(2, 3, stride=2, output_padding=1) == 6


def test_parameters_of_a_kernel():
    """With its bias: 3×3 on grey 10, 3×3 on colour 28, 5×5 on colour 76."""
    for channels, kernel, count in ((1, 3, 10), (3, 3, 28), (3, 5, 76)):
        (row,) = summary(nn.Sequential(nn.Conv2d(channels, 1, kernel)), (channels, 9, 9))
        assert row.parameters == count


def test_parameters_that_the_tutorials_print():
    nin = {row.name: row.parameters for row in summary(create_model("tf_nin"), (1, 224, 224))}
    assert [nin[f"stage1.{i}"] for i in (0, 2, 4)] == [11_712, 9_312, 9_312]
    assert [nin[f"stage2.{i}"] for i in (0, 2)] == [614_656, 65_792]
    with torch.device("meta"):
        net = create_model("tf_nin_dense")
    dense = {row.name: row.parameters for row in summary(net, (32, 512, 512))}
    assert [dense[f"stage{i}.0"] for i in (1, 2, 3)] == [102_528, 33_024, 131_584]
    assert sum(row.parameters for row in summary(create_model("mlp"), (1, 28, 28))) == 101_770


def test_two_small_windows_against_a_large_one():
    """Two 3×3 see what one 5×5 sees, with 18 weights against 25, and cost less if x > 10."""
    two = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.Conv2d(1, 1, 3, bias=False))
    one = nn.Sequential(nn.Conv2d(1, 1, 5, bias=False))
    assert receptive_field(two, (1, 9, 9)) == receptive_field(one, (1, 9, 9)) == (5, 1)
    assert sum(p.numel() for p in two.parameters()) == 18
    assert sum(p.numel() for p in one.parameters()) == 25
    for x in range(6, 40):
        costs = [sum(row.macs for row in summary(net, (1, x, x))) for net in (two, one)]
        assert costs == [9 * (x - 2) ** 2 + 9 * (x - 4) ** 2, 25 * (x - 4) ** 2]
        assert (costs[0] < costs[1]) == (x > 10)


def test_multiply_accumulates_by_arithmetic():
    """LeNet: 24² · 6 · 25, 8² · 16 · 150, 256 · 120, 120 · 84, 84 · 10."""
    rows = summary(create_model("lenet"), (1, 28, 28))
    assert [row.macs for row in rows if row.macs] == [86_400, 153_600, 30_720, 10_080, 840]
    grouped = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2))
    assert summary(grouped, (4, 5, 5))[0].macs == 3 * 3 * 8 * 2 * 9


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "googlenet", "tf_inception10", "densenet"])
def test_the_receptive_field_is_what_a_gradient_reaches(name):
    """With positive weights, an output pixel has no gradient outside its receptive field."""
    size = {"alexnet": 255, "vgg11": 191, "googlenet": 401, "tf_inception10": 111, "densenet": 401}
    channels = 3 if name.startswith("tf_") else 1
    net = create_model(name, input_size=size[name], in_channels=channels).double().eval()
    stages = {"alexnet": 2, "vgg11": 3, "googlenet": 3, "tf_inception10": 3, "densenet": 3}[name]
    net = net[:stages]
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            nn.init.zeros_(module.bias)
    for i, module in enumerate(net):  # max pooling hides all but one pixel: average instead
        net[i] = without_max(module)
    field, stride = receptive_field(net, (channels, size[name], size[name]))
    x = torch.ones(1, channels, size[name], size[name], dtype=torch.float64, requires_grad=True)
    y = net(x)
    middle = y.shape[2] // 2
    (grad,) = torch.autograd.grad(y[0, :, middle, middle].sum(), x)
    rows = grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == field
    (grad,) = torch.autograd.grad(net(x)[0, :, middle + 1, middle].sum(), x)
    assert grad.abs().sum((0, 1, 3)).nonzero()[0] - rows[0] == stride


def without_max(module):
    if isinstance(module, nn.MaxPool2d):
        padding = module.padding
        if type(module) is not nn.MaxPool2d:  # SAME, stride 1, window 3
            padding = 1
        return nn.AvgPool2d(module.kernel_size, module.stride, padding)
    for name, child in module.named_children():
        setattr(module, name, without_max(child))
    return module


def test_what_sees_the_whole_image_says_so():
    assert receptive_field(create_model("lenet"), (1, 28, 28))[0] == math.inf
    assert receptive_field(create_model("nin"), (1, 224, 224))[0] == math.inf


def test_an_image_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"cannot take an image of \(3, 28, 28\)"):
        summary(create_model("lenet"), (3, 28, 28))


def test_summary_leaves_the_network_as_it_was():
    net = create_model("lenet").train()
    summary(net, (1, 28, 28))
    assert net.training and next(net.parameters()).device.type == "cpu"


def test_doctests():
    result = doctest.testmod(analysis)
    assert result.failed == 0 and result.attempted == 3
