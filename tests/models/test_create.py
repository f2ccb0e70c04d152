"""`create_model` with the weights in the package."""

import runpy
from pathlib import Path

import pytest
import torch

from torchcnn import create_model
from torchcnn.models import MODELS
from torchcnn.models.weights import read_pretrained


def test_a_network_has_its_weights_and_says_what_it_takes():
    net = create_model("lenet", pretrained=True)
    spec, tensors = read_pretrained("lenet")
    assert net.spec == spec and spec.shape == (1, 28, 28) and spec.classes[0] == "t-shirt"
    assert all(torch.equal(t, tensors[k]) for k, t in net.state_dict().items())
    assert all(t.dtype == torch.float32 for t in net.parameters())
    other = create_model("lenet", pretrained=True, num_classes=3)
    assert other.spec.classes == ("0", "1", "2") and other.head[-1].out_features == 3
    assert torch.equal(other.stage1[0].weight, net.stage1[0].weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg11"}, "vgg11 has no pretrained weights; there are"),
        ({"name": "lenet", "input_size": 32}, "head.1.weight of the weights is"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(**arguments, pretrained=True)


def test_a_network_with_other_options_is_built_again_by_its_description():
    net = create_model("resnet20", pretrained=True, plain=True).eval()
    again = net.spec.build().eval()
    again.load_state_dict(net.state_dict())
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(again(x), net(x))


def test_the_hub_loads_them():
    root = Path(__file__).parent.parent.parent
    net = torch.hub.load(str(root), "lenet", pretrained=True, source="local")
    assert net.spec.classes[0] == "t-shirt"
    entries = runpy.run_path(str(root / "hubconf.py"))
    public = {name for name, entry in entries.items() if callable(entry) and name[0] != "_"}
    assert public == set(MODELS) and "LeNet" in entries["lenet"].__doc__
