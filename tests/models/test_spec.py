"""The description of a network: what is built by it, and that it survives as JSON."""

import json
from dataclasses import asdict

import pytest
import torch
import torchvision
from small_networks import describe
from torch import nn

from torchcnn import BatchNorm
from torchcnn.models import ModelSpec

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SPECS = [
    describe(),
    describe("tf_resnet18", "ab", in_channels=3, input_size=32, norm="scratch", **IMAGENET),
    describe("densenet", ("$x$", "卷积"), input_size=32, resize="crop", small_input=True,
             options={"growth_rate": 4, "num_layers": (1, 2), "bottleneck": True}),
    describe("Net", "ab", own=True),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.arch)
def test_it_is_the_same_after_json(spec):
    assert ModelSpec.from_json(spec.to_json()) == spec
    if spec.own:
        with pytest.raises(ValueError, match="Net is a module of your own, which only your code"):
            spec.build()
    else:
        net = spec.build()
        assert net.spec == spec and net(torch.rand(2, *spec.shape)).shape[1] == spec.num_classes


def test_what_a_module_says_itself_is_left_alone():
    """One of your own may have an attribute `spec`, and `mean` and `std`."""
    net = nn.Linear(1, 1)
    net.register_buffer("mean", torch.tensor([0.5]))
    net.std = 0.25
    for spec in (SPECS[3], describe("Net", "abc", own=True)):
        assert spec.attach(net).spec == spec and (net.mean.tolist(), net.std) == ([0.5], 0.25)
    net = nn.Linear(1, 1)
    net.spec = "mine"
    assert spec.attach(net).spec == "mine"


@pytest.mark.parametrize(
    ("arch", "eps", "kept"), [("resnet20", 1e-5, 0.9), ("tf_resnet18", 1e-3, 0.99)]
)
def test_the_norm_by_hand_has_the_numbers_of_the_networks_own(arch, eps, kept):
    net = describe(arch, in_channels=3, input_size=32, norm="scratch").build()
    norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
    assert norms and {(norm.eps, norm.momentum) for norm in norms} == {(eps, kept)}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize("arch", ["mlp", "vgg11", "googlenet"])
def test_the_norm_by_hand_is_not_put_where_there_was_none(arch):
    with pytest.raises(ValueError, match=f"{arch} has no batch norm"):
        describe(arch, input_size=224, norm="scratch").build()


def test_a_picture_is_prepared_as_torchvision_does():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    expected = torchvision.transforms.functional.normalize(image / 255, *IMAGENET.values())
    torch.testing.assert_close(SPECS[1].prepare(image), expected[None])
    assert torch.equal(describe(in_channels=3).prepare(image)[0], image / 255)


DAMAGE = {
    "arch": [None, 5], "own": [1, None], "in_channels": ["1", 2, True, 0.5],
    "classes": ["ab", [1, 2], None], "input_size": [28.0, None], "mean": [[0, 1], ["0"], [1e99]],
    "std": [[0.0], [-1.0], [float("nan")], []], "resize": [3, "stretch"], "norm": [[], "layer"],
    "small_input": [0], "options": [[], None],
}  # fmt: skip


def test_a_damaged_description_is_refused():
    """Each field missing or of another type, and a field that is not known."""
    good = json.loads(describe().to_json())
    assert good.keys() == DAMAGE.keys() == asdict(describe()).keys()
    bad = [good | {name: value} for name, values in DAMAGE.items() for value in values]
    bad += [{k: v for k, v in good.items() if k != name} for name in good]
    for stored in [*bad, good | {"more": 1}, [], 5]:
        with pytest.raises(ValueError, match="the description of the network is damaged"):
            ModelSpec.from_json(json.dumps(stored))
