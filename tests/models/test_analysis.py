"""The analysis of networks agrees with the tutorials' arithmetic and with torch for many sizes."""

import doctest
import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torchcnn import create_model, receptive_field, scratch, summary
from torchcnn.layers import SameAvgPool2d, SameConv2d
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
            made = nn.ConvTranspose2d(1, 1, kernel, stride, 0, stride - 1)(x).shape[2]
            assert made == conv_transpose_output_size(size, kernel, stride, 0, stride - 1)
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


def test_parameters_that_the_tutorials_print():
    nin = {row.name: row.parameters for row in summary(create_model("tf_nin"), (1, 224, 224))}
    assert [nin[f"stage1.{i}"] for i in (0, 2, 4)] == [11_712, 9_312, 9_312]
    assert [nin[f"stage2.{i}"] for i in (0, 2)] == [614_656, 65_792]
    with torch.device("meta"):
        net = create_model("tf_nin_dense")
    dense = {row.name: row.parameters for row in summary(net, (32, 512, 512))}
    assert [dense[f"stage{i}.0"] for i in (1, 2, 3)] == [102_528, 33_024, 131_584]
    assert sum(row.parameters for row in summary(create_model("mlp"), (1, 28, 28))) == 101_770


def test_multiply_accumulates_by_arithmetic():
    """LeNet: 24² · 6 · 25, 8² · 16 · 150, 256 · 120, 120 · 84, 84 · 10."""
    rows = summary(create_model("lenet"), (1, 28, 28))
    assert [row.macs for row in rows if row.macs] == [86_400, 153_600, 30_720, 10_080, 840]
    grouped = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2))
    assert summary(grouped, (4, 5, 5))[0].macs == 3 * 3 * 8 * 2 * 9


def test_published_receptive_fields():
    """Of the last pooling, whose stride is 32: Araujo et al. 2019; a dense layer sees all."""
    for net, field in ((create_model("alexnet"), 195), (create_model("vgg16", width=1 / 8), 212)):
        assert receptive_field(net[:-1], (1, 224, 224)) == (field, 32)
        assert receptive_field(net, (1, 224, 224))[0] == math.inf


# --- height and width, branches ----------------------------------------------------------------


def reached(net):
    """The field and the stride along height and width, as gradients show them.

    With positive weights, the gradient of an output is not 0 at the first and the last pixel that
    it depends on. Of 24 neighbouring outputs in the middle of a long image, a multiple of every
    period below, the one that sees most counts, and the 24 are 24 strides wide.
    """
    net = net.double().eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            nn.init.zeros_(module.bias)
    found = []
    for axis in (0, 1):
        size = (640, 48) if axis == 0 else (48, 640)
        x = torch.ones(1, 1, *size, dtype=torch.float64, requires_grad=True)
        y = net(x).sum((0, 1, 3 - axis))
        start = len(y) // 2 - 12
        assert start > 0
        seen = []
        for output in range(start, start + 48):
            (grad,) = torch.autograd.grad(y[output], x, retain_graph=True)
            pixels = grad[0].sum((0, 2 - axis)).nonzero().flatten().tolist()
            assert not {0, 639}.intersection(pixels), "the image is too small"
            seen.append(pixels)
        field = max(pixels[-1] - pixels[0] + 1 for pixels in seen[:24] if pixels)
        one = next(i for i in range(24) if seen[i])
        found.append((field, (seen[one + 24][0] - seen[one][0]) / 24))
    return found


def claimed(net):
    """The field and the stride along height and width, as `receptive_field` gives them."""
    field, stride = receptive_field(net, (1, 640, 48))
    if not isinstance(field, tuple):
        assert not isinstance(stride, tuple)
        return [(field, stride)] * 2
    assert (field[0], stride[0]) != (field[1], stride[1])
    return list(zip(field, stride, strict=True))


def test_fields_on_paper():
    """3×5, then 5×2 on every second column: 3 + 4 rows, 5 + 1 · 2 columns."""
    net = nn.Sequential(nn.Conv2d(1, 2, (3, 5), stride=(1, 2)), nn.Conv2d(2, 1, (5, 2)))
    assert receptive_field(net, (1, 20, 20)) == ((7, 7), (1, 2))
    rows = summary(net, (1, 20, 20))
    assert rows[0].cells()[-2:] == ["3×5", "1×2"]
    assert rows[1].cells()[-2:] == ["7×7", "1×2"]
    # 160 outputs of 640 rows: windows of 4 rows, which a 3×3 widens by 2; columns are left alone.
    adaptive = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AdaptiveAvgPool2d((160, 48)))
    assert claimed(adaptive) == [(6, 4), (3, 1)]
    # Windows of 3 rows and 1 + 2 · 2 columns; then of 2×2, which are 3 columns apart.
    pool = Called(lambda x, w: F.max_pool2d(x, 3, (1, 3), dilation=(1, 2)))
    assert receptive_field(pool, (1, 20, 20)) == ((3, 5), (1, 3))
    assert receptive_field(nn.Sequential(pool, nn.MaxPool2d(2)), (1, 20, 20)) == ((4, 8), (2, 6))


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own remark on its copy
@pytest.mark.parametrize("seed", range(8))
def test_the_field_of_any_stack_is_what_gradients_reach(seed):
    draw = random.Random(seed)

    def pair(*values):
        return draw.choice(values), draw.choice(values)

    kinds = [
        lambda: nn.Conv2d(1, 1, pair(1, 2, 3, 4), pair(1, 2), pair(0, 1, 2), pair(1, 2)),
        lambda: nn.Conv2d(1, 1, pair(3, 4), padding=draw.choice(["same", "valid"])),
        lambda: nn.AvgPool2d(pair(2, 3), pair(1, 2), pair(0, 1)),
        lambda: SameConv2d(1, 1, pair(2, 5), pair(1, 2)),
        lambda: SameAvgPool2d(pair(2, 3), pair(1, 2)),
        lambda: nn.ZeroPad2d((*pair(0, 2), *pair(-1, 1))),
    ]
    net = nn.Sequential(*(make() for make in draw.sample(kinds, 3)))
    assert claimed(net) == reached(net), net


class Askew(nn.Module):
    """One branch sees two pixels to the left, the other two to the right: five together."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 1, (1, 3)), nn.Conv2d(1, 1, (1, 3))

    def forward(self, x):
        return self.left(F.pad(x, (2, 0))) + self.right(F.pad(x, (0, 2)))


class Functions(nn.Module):
    """Pooling and slicing that are not layers."""

    def forward(self, x):
        x = F.avg_pool2d(x, (1, 2), stride=(1, 2), padding=(0, 1))
        x = F.avg_pool2d(x, 3, 1)[..., 1::3]
        return 2 * x.tanh()[:, :, 2:, 1:-1]


class Called(nn.Module):
    """A network that is one function."""

    def __init__(self, function):
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.ones(1, 1, 3, 3)), function

    def forward(self, x):
        return self.function(x, self.weight)


@pytest.mark.parametrize("kind", [Askew, Functions])
def test_the_field_of_branches_and_functions_is_what_gradients_reach(kind):
    assert claimed(kind()) == reached(kind())


def test_poolings_to_one_pixel_see_the_whole_image():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((2, 3), keepdim=True)

    class Scale(nn.Module):
        def forward(self, x):
            return x * F.adaptive_avg_pool2d(x, 1).sigmoid()

    for pool in (nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d((1, 1)), Mean(), Scale()):
        net = nn.Sequential(nn.Conv2d(1, 1, 3, 2), pool)
        assert receptive_field(net, (1, 9, 9)) == (math.inf, 2)
    row = nn.Sequential(nn.Conv2d(1, 1, 3, 2), nn.AdaptiveAvgPool2d((1, None)))
    assert receptive_field(row, (1, 9, 9)) == ((math.inf, 3), (2, 2))
    assert summary(row, (1, 9, 9))[1].cells()[-2:] == ["all×3", "2×2"]


class Shared(nn.Module):
    """A convolution that is called three times, and two dense layers with one weight."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(2, 2, 3), nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.ones(2, 1, 1))

    def forward(self, x):
        x = self.conv(self.conv(self.conv(x) * self.scale))
        return self.second(self.first(x.flatten(1)))


def test_shared_layers():
    """8 pixels become 6, 4, 2; parameters count once, the work and the field every time."""
    net = Shared()
    rows = summary(net, (2, 8, 8))
    convs = [row for row in rows if row.name == "conv"]
    assert [row.parameters for row in convs] == [2 * 2 * 9 + 2, 0, 0]
    assert [row.macs for row in convs] == [36 * 36, 16 * 36, 4 * 36]
    assert [row.receptive_field for row in convs] == [3, 5, 7]
    dense = [row.parameters for row in rows if row.kind == "Linear"]
    assert dense == [64 + 8, 8]
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in net.parameters())
    total, _, depth = str(rows).splitlines()[-3:]
    assert total.split() == ["total", "120", "2,144"]
    assert depth == "the longest path has 5 layers with weights"


def test_the_work_is_what_torch_counts():
    """Torch counts two operations for each multiplication that is added."""
    grouped = nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), (2, 1), groups=2), nn.ReLU(),
        nn.Conv2d(6, 3, 3, dilation=2, bias=False), nn.Flatten(), nn.LazyLinear(5),
    )  # fmt: skip
    nets = [(grouped, (4, 14, 8)), (Shared(), (2, 8, 8)),
            (create_model("densenet", input_size=32), (1, 32, 32)),
            (create_model("tf_inception10", input_size=32), (3, 32, 32))]  # fmt: skip
    for net, size in nets:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net.eval()(torch.zeros(1, *size))
        assert 2 * sum(row.macs for row in summary(net, size)) == counter.get_total_flops()


def test_a_network_by_hand_has_the_same_summary():
    for name in ("lenet", "tf_resnet18"):
        net = create_model(name, input_size=32)
        size = (3 if name.startswith("tf_") else 1, 32, 32)
        rows, by_hand = summary(net, size), summary(scratch.from_scratch(net), size)
        for a, b in zip(rows, by_hand, strict=True):
            assert a.cells()[2:] == b.cells()[2:] and a.name == b.name


@pytest.mark.parametrize(
    ("net", "what"),
    [(nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 1, 3)), r"layer 1 \(Conv1d\)"),
     (nn.Sequential(nn.Upsample(scale_factor=2)), r"layer 0 \(Upsample\)"),
     (nn.Sequential(nn.AdaptiveAvgPool2d(4)), r"layer 0 \(AdaptiveAvgPool2d\)"),
     (nn.Sequential(nn.Linear(9, 2)), r"layer 0 \(Linear\)"),  # along the rows alone
     (nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, 27, 3))), r"layer 1 \(Unflatten\)"),
     (nn.Sequential(nn.Softmax(3)), r"layer 0 \(Softmax\)"),
     (Called(lambda x, w: x @ w[0, 0, 0, 0].expand(9, 9)), "matmul "),
     (Called(lambda x, w: x.transpose(2, 3)), "transpose "),
     (Called(lambda x, w: x + F.max_pool2d(x, 9)), "add "),  # one pixel for all
     (Called(lambda x, w: torch.cat([x, x], 2)), "cat "),
     (Called(lambda x, w: x[:, :, ::2, ::2] + F.pad(x[..., :5, :5], (0, 0))), "add ")],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(net, what):
    for function in (summary, receptive_field):
        with pytest.raises(ValueError, match=f"receptive field and MACs of {what}") as caught:
            function(net, (1, 9, 9))
        assert "\n" not in str(caught.value)


def test_an_image_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"cannot take an image of \(3, 28, 28\)"):
        summary(create_model("lenet"), (3, 28, 28))


def test_doctests():
    result = doctest.testmod(analysis)
    assert result.failed == 0 and result.attempted == 3
