"""The networks against the published tables: parameters, shapes, and what every one must do."""

import copy

import pytest
import torch
from torch import nn

import torchcnn
from torchcnn import BatchNorm, create_model, list_models
from torchcnn.models import MODELS
from torchcnn.models.densenet import DenseBlock, transition_block
from torchcnn.models.resnet import Residual, resnet_block

KINDS = {
    nn.Conv2d: "conv", nn.MaxPool2d: "maxpool", nn.AvgPool2d: "avgpool", nn.Linear: "linear",
    torchcnn.GlobalAvgPool2d: "gap", Residual: "residual", DenseBlock: "dense block",
}  # fmt: skip

# name: input (channels, pixels), parameters, (layer, shape without the batch) in order
FACTS = {
    "lenet": ((1, 28), 44_878, [
        ("conv", (6, 24, 24)), ("maxpool", (6, 12, 12)),
        ("conv", (16, 8, 8)), ("maxpool", (16, 4, 4)),
        ("linear", (120,)), ("linear", (84,)), ("linear", (10,)),
    ]),
    "resnet18": ((1, 224), 11_178_378, [
        ("conv", (64, 112, 112)), ("maxpool", (64, 56, 56)),
        ("residual", (64, 56, 56)), ("residual", (64, 56, 56)),
        ("residual", (128, 28, 28)), ("residual", (128, 28, 28)),
        ("residual", (256, 14, 14)), ("residual", (256, 14, 14)),
        ("residual", (512, 7, 7)), ("residual", (512, 7, 7)),
        ("gap", (512, 1, 1)), ("linear", (10,)),
    ]),
    "densenet": ((1, 96), 758_226, [
        ("conv", (64, 48, 48)), ("maxpool", (64, 24, 24)),
        ("dense block", (192, 24, 24)), ("conv", (96, 24, 24)), ("avgpool", (96, 12, 12)),
        ("dense block", (224, 12, 12)), ("conv", (112, 12, 12)), ("avgpool", (112, 6, 6)),
        ("dense block", (240, 6, 6)), ("conv", (120, 6, 6)), ("avgpool", (120, 3, 3)),
        ("dense block", (248, 3, 3)),
        ("gap", (248, 1, 1)), ("linear", (10,)),
    ]),
}  # fmt: skip


def layer_shapes(net: nn.Module, x: torch.Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """The layers in the order in which they run; what is inside a named block does not count."""
    shapes = []

    def watch(module: nn.Module) -> None:
        kind = next((k for t, k in KINDS.items() if isinstance(module, t)), None)
        if kind:
            module.register_forward_hook(
                lambda _m, _x, y: shapes.append((kind, tuple(y.shape[1:])))
            )
        else:
            for child in module.children():
                watch(child)

    watch(net)
    net.eval()(x)
    return shapes


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_shapes_equal_the_table(name):
    (channels, size), parameters, shapes = FACTS[name]
    with torch.device("meta"):
        net = create_model(name)
        assert sum(p.numel() for p in net.parameters()) == parameters
        assert layer_shapes(net, torch.empty(2, channels, size, size)) == shapes
    assert MODELS[name].input == (channels, size, size)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_takes_channels_classes_and_sizes(name):
    size = 32
    net = create_model(name, input_size=size, in_channels=3, num_classes=7)
    y = net(torch.randn(2, 3, size, size))
    assert y.shape == (2, 7)
    y.sum().backward()
    for parameter_name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_channels_last_and_deep_copies_give_the_same(name):
    net = create_model(name, input_size=32).double().eval()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    y = net(x)
    assert torch.equal(y, net(x))
    assert torch.equal(y, copy.deepcopy(net)(x))
    last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_the_hand_written_norm_fits_into_any_network(name):
    """Same weights, batch norm by hand: same logits in training mode."""
    theirs = create_model(name, input_size=32).double()
    ours = create_model(name, input_size=32, norm_layer=BatchNorm).double()
    norms = [m for m in theirs.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert norms and len(norms) == sum(isinstance(m, BatchNorm) for m in ours.modules())
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in ours.modules())
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.copy_(b.view(a.shape))
    x = torch.randn(4, 1, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-9)


def test_the_table_is_served_by_name_pattern_and_builder():
    assert list_models() == list(MODELS)
    assert list_models("*net18") == ["resnet18"]
    torch.manual_seed(1)
    a = create_model("lenet")
    torch.manual_seed(1)
    b = torchcnn.models.lenet()
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "lenett"}, "did you mean lenet"),
        ({"name": "transformer"}, "there are lenet"),
        ({"name": "lenet", "growth": 1}, "lenet takes in_channels.*got growth"),
        ({"name": "lenet", "input_size": 15}, "at least 16 pixels, got input_size=15"),
        ({"name": "densenet", "input_size": 28}, "28×28 images; the least input size is 29"),
        ({"name": "resnet18", "input_size": 0}, "least input size is 1"),
    ],
)
def test_errors_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(**arguments)


@pytest.mark.parametrize(("name", "least"), [("lenet", 16), ("densenet", 29), ("resnet18", 1)])
def test_the_least_size_works(name, least):
    assert create_model(name, input_size=least).eval()(torch.randn(2, 1, least, least)).shape == (
        2,
        10,
    )


def test_blocks_take_the_tutorials_arguments():
    x = torch.randn(4, 3, 6, 6)
    assert Residual(3, 3)(x).shape == (4, 3, 6, 6)
    assert Residual(3, 6, use_1x1conv=True, stride=2)(x).shape == (4, 6, 3, 3)
    assert resnet_block(3, 8, 2)(x).shape == (4, 8, 3, 3)
    with pytest.raises(ValueError, match="3 -> 8"):
        resnet_block(3, 8, 2, first_block=True)
    block = DenseBlock(2, 3, 10)
    assert block(torch.rand(4, 3, 8, 8)).shape == (4, 23, 8, 8) and block.out_channels == 23
    assert transition_block(23, 10)(torch.rand(4, 23, 8, 8)).shape == (4, 10, 4, 4)
