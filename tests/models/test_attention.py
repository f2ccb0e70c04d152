"""What a network looks at: maps that are known on paper, and exact sums in every network."""

import copy
from collections import OrderedDict

import pytest
import torch
from small_networks import WHOLE_REGISTRY, small
from torch import nn

from torchcnn import FlattenLayer, GlobalAvgPool2d, create_model
from torchcnn.models.attention import (
    CAM,
    GRAD_CAM,
    GRADIENT,
    attention,
    enlarge,
    first_weights,
    stage_outputs,
    strongest,
)

WITHOUT_CONVOLUTIONS = {"softmax_regression", "mlp"}
# Of each family that ends in a global mean, at a size at which it is that of more than one pixel.
ENDS_IN_A_MEAN = {
    "nin": {"small_input": True}, "googlenet": {"input_size": 64}, "resnet18": {"input_size": 64},
    "resnet20": {}, "densenet": {"input_size": 64}, "tf_inception10": {},
}  # fmt: skip


def state_of(net):
    """What a look may not change: modes, hooks, gradients, and whether there are any."""
    modules = [(m.training, len(m._forward_hooks)) for m in net.modules()]
    return modules, [(p.requires_grad, p.grad) for p in net.parameters()]


def test_a_map_that_is_known_on_paper():
    """The feature map is the image itself, and the classes weigh it by 2 and by -3."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1), GlobalAvgPool2d(), FlattenLayer(), nn.Linear(1, 2))
    nn.init.ones_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    net[3].weight.data = torch.tensor([[2.0], [-3.0]])
    net[3].bias.data = torch.tensor([1.0, 0.5])
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])  # its mean is 3
    seen = attention(net, x)
    assert seen.method == CAM and seen.target == 0
    assert seen.logits.tolist() == [7.0, -8.5]  # 2 · 3 + 1 and -3 · 3 + 0.5
    assert seen.heat.tolist() == [[2.0, 4.0], [6.0, 12.0]]
    assert attention(net, x, target=1).heat.tolist() == [[-3.0, -6.0], [-9.0, -18.0]]


def test_grad_cam_that_is_known_on_paper():
    """A dense layer after two maps, x and -x, whose weights have the means 1 and -0.5.

    The weighted sum is 1 · x - 0.5 · (-x) = 1.5 x, of which relu keeps what is positive.
    """
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), FlattenLayer(), nn.Linear(8, 1))
    net[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    net[2].weight.data = torch.tensor([[4.0, 0.0, 0.0, 0.0, 1.0, -1.0, -1.0, -1.0]])
    seen = attention(net, torch.tensor([[[[2.0, -4.0], [0.0, 6.0]]]]))
    assert seen.method == GRAD_CAM
    assert seen.heat.tolist() == [[3.0, 0.0], [0.0, 9.0]]


def test_the_gradient_times_the_input_of_a_linear_network():
    net, x = small("softmax_regression", batch=1)
    seen = attention(net, x, target=3)
    weights = net.head.weight[3].view(2, 32, 32)
    assert seen.method == GRADIENT
    torch.testing.assert_close(seen.heat, (weights * x[0]).sum(0).detach())
    torch.testing.assert_close(seen.heat.sum() + net.head.bias[3].detach(), seen.logits[3])


@pytest.mark.parametrize("name", ENDS_IN_A_MEAN)
def test_the_mean_of_the_class_activation_map_is_the_logit(name):
    options = {"input_size": 32, "in_channels": 2, "num_classes": 5, **ENDS_IN_A_MEAN[name]}
    net = create_model(name, **options).double().eval()
    size = options["input_size"]
    x = torch.randn(1, 2, size, size, dtype=torch.float64)
    with torch.no_grad():
        logits = net(x)[0]
    for target in (1, 4):
        seen = attention(net, x, target)
        assert seen.method == CAM and seen.heat.numel() > 1
        last = list(net.head.children())[-1:]  # NiN has no linear layer, and no bias
        bias = last[0].bias.detach()[target] if last else 0.0
        torch.testing.assert_close(seen.heat.mean() + bias, logits[target], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", WHOLE_REGISTRY)
def test_every_network_is_looked_into_and_left_as_it_was(name):
    net, x = small(name, batch=1)
    if name not in WITHOUT_CONVOLUTIONS:
        next(net.children()).eval()  # as a frozen part is
    next(net.parameters()).requires_grad = False
    before, weights = state_of(net), copy.deepcopy(net.state_dict())
    seen, stages = attention(net, x), stage_outputs(net, x)
    assert state_of(net) == before
    assert all(torch.equal(net.state_dict()[key], tensor) for key, tensor in weights.items())
    assert x.grad is None and not x.requires_grad and not seen.heat.requires_grad
    assert seen.heat.isfinite().all() and seen.heat.dim() == 2 and seen.heat.numel() > 1
    with torch.no_grad():
        assert torch.equal(net.eval()(x)[0], seen.logits)
    assert seen.target == int(seen.logits.argmax())
    if name in WITHOUT_CONVOLUTIONS:
        assert seen.method == GRADIENT and not stages
    else:
        assert seen.method in (CAM, GRAD_CAM)
        assert "head" not in stages and all(y.dim() == 4 for y in stages.values())
        assert [n for n, _ in net.named_children() if n in stages] == list(stages)


def test_grad_cam_takes_the_last_layer_with_seven_pixels_a_side_or_one_that_is_named():
    """LeNet's second stage has 8×8 pixels until it is pooled; of smaller images, none has seven."""
    net = create_model("lenet").eval()
    seen = attention(net, torch.randn(1, 1, 28, 28))
    assert (seen.layer, seen.heat.shape) == ("stage2.2", (8, 8))
    named = attention(net, torch.randn(1, 1, 28, 28), layer="stage1")
    assert (named.layer, named.method, named.heat.shape) == ("stage1", GRAD_CAM, (12, 12))
    small_one = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    assert attention(small_one, torch.randn(1, 1, 6, 6)).layer == "0"  # 4×4, before 2×2
    for layer in ("stage3", "head", "head.1", ""):
        with pytest.raises(ValueError, match=r"allowed are stage1, stage2$"):
            attention(net, torch.randn(1, 1, 28, 28), layer=layer)


def test_a_layer_on_which_the_logits_do_not_depend_is_refused():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.side = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)

        def forward(self, x):
            return self.main(x).mean((2, 3)) + 0 * len(self.side(x))

    with pytest.raises(ValueError, match="the logits do not depend on layer side"):
        attention(Auxiliary(), torch.randn(1, 1, 8, 8), 0, layer="side")


def test_what_the_next_layer_overwrites_is_seen_as_it_was():
    layers, x = (
        [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)],
        torch.randn(1, 3, 8, 8),
    )
    plain, in_place = nn.Sequential(*layers), nn.Sequential(layers[0], nn.ReLU(True), *layers[2:])
    maps, others = stage_outputs(plain, x), stage_outputs(in_place, x)
    for name in ("0", "1"):
        assert torch.equal(maps[name], others[name])
        ours, theirs = (attention(net, x, 0, name).heat for net in (in_place, plain))
        assert torch.equal(ours, theirs)


class OwnForward(nn.Sequential):
    """Its layers are those of a class activation map, but it does more with them."""

    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize(
    ("layers", "method"),
    [
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 2)], CAM),
        ([nn.Dropout(), nn.AdaptiveAvgPool2d((1, 1)), nn.Identity(), nn.Flatten()], CAM),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2)], GRAD_CAM),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU(), nn.Linear(4, 2)], GRAD_CAM),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2), nn.ReLU()], GRAD_CAM),
        ([nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 2)], GRAD_CAM),
    ],
)
def test_which_networks_have_a_class_activation_map(layers, method):
    x = torch.randn(1, 3, 8, 8)
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(*layers))
    assert attention(net, x).method == method
    assert attention(OwnForward(*net), x).method == GRAD_CAM


class TwiceAsMuch(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Drops(nn.Dropout):
    """Dropout that stays on, by its mode: `eval` does not reach it."""

    def train(self, mode=True):
        return super().train(True)


def with_hook(net, where, output=lambda y: 2 * y):
    net.get_submodule(where).register_forward_hook(lambda *args: output(args[2]))
    return net


CHANGED = {
    "a layer of its own": lambda net: net.head.__setitem__(3, TwiceAsMuch(4, 2)),
    "a hook of the head": lambda net: with_hook(net, "head"),
    "a hook of the network": lambda net: with_hook(net, ""),
    "a hook that changes these logits alone in the last digits": lambda net: with_hook(
        net, "head.3", lambda y: y.mul(1e6).round().div(1e6)),
    "what goes in": lambda net: net.head[3].register_forward_pre_hook(lambda _, x: x[0].square()),
    "dropout": lambda net: net.head.insert(3, Drops(0.5)),
}  # fmt: skip


def changeable():
    head = [nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(OrderedDict(stage=nn.Conv2d(3, 4, 3), head=nn.Sequential(*head)))


@pytest.mark.parametrize("case", CHANGED)
def test_a_class_activation_map_is_exact_or_is_not_given(case):
    net = changeable()
    CHANGED[case](net)
    assert attention(net, torch.randn(1, 3, 8, 8)).method == GRAD_CAM


@pytest.mark.parametrize("where", ["stage", "head.0"])
def test_a_hook_in_front_of_the_mean_leaves_the_map_exact(where):
    net = with_hook(changeable(), where)
    seen = attention(net, torch.randn(1, 3, 8, 8), 1)
    assert seen.method == CAM
    bias = net.head[3].bias[1].detach()
    torch.testing.assert_close(seen.heat.mean() + bias, seen.logits[1])


def test_what_cannot_be_looked_into_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten())
    for x, target, message in [
        (torch.zeros(2, 1, 4, 4), None, r"one image \(1, c, h, w\), got \(2, 1, 4, 4\)"),
        (torch.zeros(1, 4, 4), None, r"got \(1, 4, 4\)"),
        (torch.zeros(1, 1, 4, 4), 32, "the classes 0 to 31, got 32"),
        (torch.zeros(1, 1, 4, 4), -1, "the classes 0 to 31, got -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            attention(net, x, target)
    with pytest.raises(ValueError, match=r"returns \(1, 2, 4, 4\) for an image, not logits"):
        attention(net[:1], torch.zeros(1, 1, 4, 4))
    before = state_of(net)
    with pytest.raises(RuntimeError):  # of another number of channels
        attention(net, torch.zeros(1, 3, 4, 4))
    assert state_of(net) == before


def test_the_strongest_channels_come_first():
    maps = torch.tensor([1.0, -3.0, 2.0, 0.0]).view(4, 1, 1).expand(4, 2, 2)
    assert strongest(maps, 3) == [1, 2, 0] and strongest(maps, 8) == [1, 2, 0, 3]


def test_first_weights():
    net = create_model("resnet18", in_channels=3)
    assert torch.equal(first_weights(net, (3, 224, 224)), net.stem[0].weight)
    mlp = create_model("mlp", in_channels=3, input_size=4)
    rows = first_weights(mlp, (3, 4, 4))
    assert rows.shape == (128, 3, 4, 4) and torch.equal(rows.flatten(1), mlp.hidden[0].weight)
    assert first_weights(mlp, (3, 5, 5)) is None
    assert first_weights(nn.ReLU(), (3, 4, 4)) is None


def test_enlarged_maps_keep_their_place():
    """Two pixels become four, whose centres are at -0.25, 0.25, 0.75 and 1.25 of theirs.

    Keys's cubic kernel for a = -0.75 is 0.26171875 at 0.75, -0.03515625 at 1.75, and negative at
    1.25: 4 · (0.26171875 - 0.03515625) = 0.90625, and what would be below 0 is 0.
    """
    large = enlarge(torch.tensor([[0.0, 4.0]]), (1, 4))
    assert large.tolist() == [[0.0, 0.90625, 3.09375, 4.0]]
