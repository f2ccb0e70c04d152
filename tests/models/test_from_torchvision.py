"""With torchvision's weights, networks are torchvision's."""

import re
from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from torchcnn import create_model
from torchcnn.models.from_torchvision import from_torchvision
from torchcnn.models.weights import start_from

VGGS = ("vgg11_bn", "vgg16")


# A network of each family; that all have torchvision's shapes in its order, `test_registry` checks.
@pytest.mark.parametrize(
    "name",
    ["resnet50", *(pytest.param(n, marks=pytest.mark.slow) for n in ("densenet121", *VGGS))],
)
def test_with_torchvisions_weights_the_logits_are_torchvisions(name):
    theirs = getattr(torchvision.models, name)(num_classes=7).eval()
    weights = {k: torch.rand_like(v) * 0.05 if v.dim() else v for k, v in
               theirs.state_dict().items()}  # fmt: skip
    theirs.load_state_dict(weights)
    size = 224 if name.startswith("vgg") else 64
    ours = create_model(name, in_channels=3, num_classes=7, input_size=size).eval()
    assert start_from(ours, from_torchvision(name, weights), (7, 7)) == []
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.slow
def test_a_deep_vgg_begins_with_torchvisions_weights():
    """From the same seed, to the last bit."""
    weights = []
    for build in (torchvision.models.vgg13, partial(create_model, "vgg13", in_channels=3)):
        torch.manual_seed(0)
        weights.append(list(build(num_classes=10).state_dict().values()))
    assert all(map(torch.equal, *weights))


@pytest.mark.parametrize("name", ["vgg13", "vgg16", "vgg19"])
def test_a_deep_vgg_has_weights_from_which_it_learns(name):
    """Of variance 2 / (9 c), by He et al. 2015.

    With torch's default weights, as vgg11 has them from its tutorial, the signal of vgg16 fades
    layer by layer, and its loss stays at ln 10.
    """
    net = create_model(name, width=0.25)
    for stage, c in zip(net[:5], (16, 32, 64, 128, 128), strict=True):
        for conv in (module for module in stage if isinstance(module, nn.Conv2d)):
            assert conv.weight.std().item() == pytest.approx((2 / (9 * c)) ** 0.5, rel=0.25)
            assert not conv.bias.any()


def test_old_files_of_torchvision_are_read_too():
    """Those of 2017 name a DenseNet's layers norm.1, and do not count batch norm's batches."""
    weights = torchvision.models.densenet121().state_dict()
    old = {re.sub(r"\.(norm|conv)(\d)\.(?=[wbr])", r".\1.\2.", k) if "denselayer" in k else k: v
           for k, v in weights.items() if "num_batches" not in k}  # fmt: skip
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    new, expected = (from_torchvision("densenet121", w) for w in (old, weights))
    assert new.keys() == expected.keys()
    assert all(torch.equal(new[name], expected[name]) for name in new)


@pytest.mark.parametrize(
    ("arch", "change", "message"),
    [
        ("resnet18", {}, "resnet18 is not torchvision's; weights of torchvision fit vgg11, "),
        ("resnet50", {}, "torchvision's resnet50: they lack bn1.bias, bn1.running_mean, "),
        ("vgg11", {"more": 1}, "torchvision's vgg11: they have more$"),
        ("vgg13", {}, "torchvision's vgg13: they lack features.10.bias, "),
    ],
)
def test_what_is_not_of_the_network_is_refused(arch, change, message):
    with torch.device("meta"):
        weights = torchvision.models.vgg11().state_dict() | change
    with pytest.raises(ValueError, match=message):
        from_torchvision(arch, weights)
