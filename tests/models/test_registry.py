"""The networks have the published parameters and shapes, and each keeps the same contract."""

import copy
import inspect
import pickle
import re

import pytest
import torch
import torchvision
from small_networks import HEAVY, ONE_OF_EACH, SIZES, WHOLE_REGISTRY, small
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import torchcnn
from torchcnn import BatchNorm, create_model, list_models
from torchcnn.models import MODELS
from torchcnn.models.analysis import summary
from torchcnn.models.build import build_without_weights
from torchcnn.models.densenet import DenseBlock, transition_block
from torchcnn.models.googlenet import Inception
from torchcnn.models.imagenet import TORCHVISION
from torchcnn.models.resnet import Residual, resnet_block

SMALL = [name for name in ONE_OF_EACH if name not in HEAVY]
KINDS = {
    nn.Conv2d: "conv", nn.MaxPool2d: "maxpool", nn.AvgPool2d: "avgpool", nn.Linear: "linear",
    torchcnn.GlobalAvgPool2d: "gap",
    Residual: "residual", DenseBlock: "dense_block", Inception: "inception",
}  # fmt: skip
# Every layer with its output's shape, in order; the registry has input and parameters.
FACTS = {
    "softmax_regression": "linear:10",
    "mlp": "linear:128 linear:10",
    "lenet": """
        conv:6x24x24 maxpool:6x12x12 conv:16x8x8 maxpool:16x4x4 linear:120 linear:84 linear:10
    """,
    "alexnet": """
        conv:96x54x54 maxpool:96x26x26 conv:256x26x26 maxpool:256x12x12 conv:384x12x12
        conv:384x12x12 conv:256x12x12 maxpool:256x5x5 linear:4096 linear:10
    """,
    "nin": """
        conv:96x54x54 conv:96x54x54 conv:96x54x54 maxpool:96x26x26 conv:256x26x26
        conv:256x26x26 conv:256x26x26 maxpool:256x12x12 conv:384x12x12 conv:384x12x12
        conv:384x12x12 maxpool:384x5x5 conv:10x5x5 conv:10x5x5 conv:10x5x5 gap:10x1x1
    """,
    "googlenet": """
        conv:64x48x48 maxpool:64x24x24 conv:64x24x24 conv:192x24x24 maxpool:192x12x12
        inception:256x12x12 inception:480x12x12 maxpool:480x6x6 inception:512x6x6
        inception:512x6x6 inception:512x6x6 inception:528x6x6 inception:832x6x6 maxpool:832x3x3
        inception:832x3x3 inception:1024x3x3 gap:1024x1x1 linear:10
    """,
    "resnet18": """
        conv:64x112x112 maxpool:64x56x56 residual:64x56x56 residual:64x56x56 residual:128x28x28
        residual:128x28x28 residual:256x14x14 residual:256x14x14 residual:512x7x7
        residual:512x7x7 gap:512x1x1 linear:10
    """,
    "densenet": """
        conv:64x48x48 maxpool:64x24x24 dense_block:192x24x24 conv:96x24x24 avgpool:96x12x12
        dense_block:224x12x12 conv:112x12x12 avgpool:112x6x6 dense_block:240x6x6 conv:120x6x6
        avgpool:120x3x3 dense_block:248x3x3 gap:248x1x1 linear:10
    """,
}


def layers_of(net: nn.Module, x: torch.Tensor) -> list[str]:
    """The layers as they run, as "kind:shape"; a block is one layer."""
    found = []

    def watch(module: nn.Module) -> None:
        kind = next((k for t, k in KINDS.items() if isinstance(module, t)), None)
        if kind:
            module.register_forward_hook(
                lambda _m, _x, y: found.append(f"{kind}:{'x'.join(map(str, y.shape[1:]))}")
            )
        else:
            for child in module.children():
                watch(child)

    watch(net)
    net.eval()(x)
    return found


@pytest.mark.parametrize("name", FACTS)
def test_layers_and_shapes_equal_the_table(name):
    with torch.device("meta"):
        x = torch.empty(2, *MODELS[name].input)
        assert layers_of(create_model(name), x) == FACTS[name].split()


def test_the_facts_of_every_network_are_known():
    """Those that the table does not have are torchvision's, see below, or the paper's for CIFAR.

    The Keras lineage is written a second time, in Keras, and compared layer by layer there.
    """
    cifar = {"resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet34"}
    assert set(MODELS) == FACTS.keys() | cifar | set(TORCHVISION) | set(list_models("tf_*"))


@pytest.mark.parametrize("name", MODELS)
def test_the_table_says_what_the_network_has(name):
    model = MODELS[name]
    net = build_without_weights(name, model.input[1])
    assert sum(p.numel() for p in net.parameters()) == model.parameters
    layers = summary(net, model.input)
    assert (sum(layer.macs for layer in layers), layers.depth) == (model.macs, model.layers)


# As the papers count them: GoogLeNet's table 1; resnet20 and the like have their number in their
# name, which is compared too. The tutorials' AlexNet lacks a dense layer of the paper's eight.
LAYERS = {"lenet": 5, "alexnet": 7, "tf_alexnet_half": 8, "nin": 12, "googlenet": 22}


def test_layers_are_counted_as_the_papers_do():
    numbers = {name: re.search(r"[a-z](\d+)(_|$)", name) for name in MODELS}
    counted = {name: int(found[1]) for name, found in numbers.items() if found} | LAYERS
    assert counted == {name: MODELS[name].layers for name in counted}


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("tf_")])
def test_the_keras_lineage_begins_as_keras_does(name):
    """Glorot uniform: weights up to a = sqrt(6 / (fan in + fan out)), of variance a² / 3."""
    net = create_model(name, input_size=SIZES.get(name, 32))
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            field = module.weight[0, 0].numel()
            bound = (6 / ((module.weight.shape[0] + module.weight.shape[1]) * field)) ** 0.5
            assert module.weight.abs().max() <= bound * (1 + 1e-6)
            assert module.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.2)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("name", [*TORCHVISION, "resnet34"])
def test_networks_that_are_torchvisions_have_its_parameters(name):
    """But resnet34 has biases here, norms on its 1×1 paths there, and another head."""
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
        ours = create_model(name, in_channels=3, num_classes=1000)
    shapes = [[tuple(p.shape) for p in net.parameters()] for net in (ours, theirs)]
    if name == "resnet34":
        shapes = [sorted(shape for shape in found if len(shape) == 4) for found in shapes]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85),
     ("resnet110", 1.7)],
)  # fmt: skip
def test_resnets_for_cifar_have_the_papers_parameters(name, millions):
    """Those of its table 6; without shortcut connections as many."""
    for plain in (False, True):
        with torch.device("meta"):
            net = create_model(name, plain=plain)
        count = sum(p.numel() for p in net.parameters()) / 1e6
        assert round(count, len(str(millions)) - 2) == millions


@pytest.mark.parametrize("name", WHOLE_REGISTRY)
def test_every_network_keeps_the_contract(name):
    """It returns logits, all parameters get gradients, and eval mode is deterministic.

    Loading its state_dict, copying and pickling give a network with the same outputs. It can be
    taken apart at its stages.
    """
    net, x = small(name, batch=2)
    y = net(x)
    assert y.shape == (2, 5)
    y.square().sum().backward()
    for parameter, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), parameter
    net.eval()
    x, (other, _) = x[:1], small(name)
    other.eval().load_state_dict(net.state_dict())
    stages = list(dict(net.named_children()))
    extractor = create_feature_extractor(net, {stages[-2]: "features", stages[-1]: "logits"})
    with torch.no_grad():
        y, features = net(x), net[:-1](x)
        for twin in (net, other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(y, twin(x))
        found = extractor(x)
        last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert torch.equal(found["features"], features) and torch.equal(found["logits"], y)
    torch.testing.assert_close(y, last, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_network_exports_with_a_dynamic_batch(name):
    net, x = small(name)
    net.eval()
    batch = torch.export.Dim("batch")
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: batch},)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(x[:2]), net(x[:2]), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["lenet", "googlenet", "resnet20", "densenet", "tf_baseline", "tf_inception10"]
)
def test_one_of_each_family_compiles_whole(name):
    """In training mode, where Keras's and the hand-written norm update their statistics."""
    torch.compiler.reset()  # all are Sequentials: from the ninth on they would count as recompiled
    net, x = small(name)
    net = nn.Sequential(BatchNorm(x.shape[1]).double(), net)
    for dropout in (module for module in net.modules() if isinstance(module, nn.Dropout)):
        dropout.p = 0.0
    twin = copy.deepcopy(net)
    # Whether there is one graph does not depend on what makes code of it, which takes longest.
    backend = "inductor" if name == "lenet" else "aot_eager"
    compiled = torch.compile(twin, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-9, atol=1e-9)
    for a, b in zip(twin.buffers(), net.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", WHOLE_REGISTRY)
def test_the_hand_written_norm_fits_into_any_network(name):
    """Every norm is replaced; except in `tf_` networks, the logits then are the same.

    A network without norms refuses it.
    """
    theirs, x = small(name)
    kinds = nn.BatchNorm1d | nn.BatchNorm2d
    norms = [m for m in theirs.modules() if isinstance(m, kinds)]
    if not norms:
        if name not in ("googlenet", "vgg11"):  # which take norms if they are given some
            with pytest.raises(ValueError, match="got norm_layer"):
                small(name, norm_layer=BatchNorm)
        return
    ours, _ = small(name, norm_layer=BatchNorm)
    assert len(norms) == sum(isinstance(m, BatchNorm) for m in ours.modules())
    assert not any(isinstance(m, kinds) for m in ours.modules())
    if not name.startswith("tf_"):
        with torch.no_grad():
            for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
                a.copy_(b.view(a.shape))
            logits = []
            for net in (ours, theirs):
                torch.manual_seed(1)  # of dropout
                logits.append(net(x))
        torch.testing.assert_close(*logits, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", SMALL)
def test_sizes_from_the_least_upwards_are_taken(name):
    """The error for a size that is too small names the least one."""
    channels, own, _ = MODELS[name].input
    least = 1
    with torch.device("meta"):  # which computes nothing
        try:
            create_model(name, input_size=1)
        except ValueError as error:
            least = int(re.search(r"least(?: input size is)? (\d+)", str(error))[1])
        for size in (least, own + 1, 2 * own):  # `create_model` tries only those below `own`
            net = create_model(name, input_size=size).eval()
            assert net(torch.empty(1, channels, size, size)).dim() == 2
        with pytest.raises(ValueError):
            create_model(name, input_size=least - 1)


SMALL_INPUT = ["alexnet", "vgg11", "nin", "googlenet", "resnet18", "resnet34", "densenet",
               "densenet121"]  # fmt: skip


@pytest.mark.parametrize("name", SMALL_INPUT)
def test_small_input_keeps_the_first_stage_at_full_size(name):
    with torch.device("meta"):
        net = create_model(name, input_size=28, in_channels=1, small_input=True).eval()
        stem = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
        assert stem(torch.empty(1, 1, 28, 28)).shape[2:] == (28, 28)
        assert net(torch.empty(1, 1, 28, 28)).dim() == 2


@pytest.mark.parametrize("name", MODELS)
def test_every_builder_has_help(name):
    """A variant such as `densenet121` is a function of its own, not a `functools.partial`."""
    builder = MODELS[name].builder
    assert inspect.isfunction(builder) and builder.__name__ == name and builder.__doc__
    assert builder is getattr(torchcnn.models, name) is pickle.loads(pickle.dumps(builder))
    assert "num_classes" in inspect.signature(builder).parameters


def test_a_variant_changes_the_defaults_and_nothing_else():
    options = inspect.signature(torchcnn.models.densenet121).parameters
    assert options.keys() == inspect.signature(torchcnn.models.densenet).parameters.keys()
    assert "depth" not in inspect.signature(torchcnn.models.resnet20).parameters
    with torch.device("meta"):
        net = torchcnn.models.densenet121(1, num_layers=(2, 3), bottleneck=False)
        assert [len(net.block1.net), len(net.block2.net)] == [2, 3]
        assert net.stem[0].weight.shape == (64, 1, 7, 7) and net.stem[0].bias is None
        with pytest.raises(TypeError, match="depth"):
            torchcnn.models.resnet20(depth=32)


def test_the_table_is_served_by_name_pattern_and_builder():
    assert list_models() == list(MODELS)
    assert list_models("*net18") == ["resnet18", "tf_resnet18"]
    torch.manual_seed(1)
    a = create_model("lenet")
    torch.manual_seed(1)
    b = torchcnn.models.lenet()
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "lenett"}, "did you mean lenet"),
        ({"name": "transformer"}, "there are softmax_regression, mlp, lenet"),
        ({"name": "lenet", "growth": 1}, "lenet takes the options in_channels.*got growth"),
        ({"name": "lenet", "input_size": 15}, "at least 16 pixels, got input_size=15"),
        ({"name": "densenet", "input_size": 28}, "28×28 images; the least input size is 29"),
        (
            {"name": "densenet", "num_layers": (1,) * 6},
            r"densenet with num_layers=\(1, 1, 1, 1, 1, 1\) cannot take 96×96 images \(Given input",
        ),
        (
            {"name": "resnet18", "input_size": 0},
            "input_size must be a whole number of at least 1, got 0",
        ),
    ],
)
def test_errors_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(**arguments)


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
