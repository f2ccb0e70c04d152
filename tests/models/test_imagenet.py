"""With torchvision's weights, networks are torchvision's."""

import re

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from torchcnn import create_model, train
from torchcnn.models import from_torchvision
from torchcnn.models.weights import for_channels, start_from

VGGS = ("vgg11_bn", "vgg16")


def weights_of(arch, num_classes=7):
    """torchvision's network with norms as they are after training, in eval mode."""
    torch.manual_seed(0)
    net = getattr(torchvision.models, arch)(num_classes=num_classes).eval()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in net.state_dict().items():
        if tensor.dim() == 1:  # norms and biases, which are 0 or 1 at first
            values = torch.rand(tensor.shape, generator=generator) * 0.5
            tensor = values + 0.5 if tensor.any() else values - 0.25
        state[name] = tensor
    net.load_state_dict(state)
    return net


# A network of each family; that all have torchvision's shapes in its order, `test_registry` checks.
@pytest.mark.parametrize(
    "name",
    ["resnet50", *(pytest.param(n, marks=pytest.mark.slow) for n in ("densenet121", *VGGS))],
)
def test_with_torchvisions_weights_the_logits_are_torchvisions(name):
    theirs = weights_of(name)
    size = 224 if name.startswith("vgg") else 64
    ours = create_model(name, in_channels=3, num_classes=7, input_size=size).eval()
    assert start_from(ours, from_torchvision(name, theirs.state_dict()), (7, 7)) == []
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_the_tutorials_resnet_computes_what_torchvisions_does():
    """Though it has biases, and no norms on its shortcuts."""
    theirs = weights_of("resnet18").double()
    ours = create_model("resnet18", in_channels=3, num_classes=7).eval().double()
    start_from(ours, from_torchvision("resnet18", theirs.state_dict()), (7, 7))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        y = theirs(x)
        torch.testing.assert_close(ours(x), y, rtol=1e-9, atol=1e-10)
        assert y.std() > 1e-3  # the weights do not fade to nothing


@pytest.fixture
def cache(tmp_path):
    """A cache of torch.hub with torchvision's best weights for two networks, as others made it."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = weights_of("resnet18", 1000).state_dict()
    torch.save(state, folder / "resnet18-f37072fd.pth", _use_new_zipfile_serialization=False)
    (folder / "vgg11-8a719046.pth").write_bytes(b"\x80 no weights")
    yield folder
    torch.hub.set_dir(before)


def test_imagenet_is_in_the_cache_or_a_line_says_what_belongs_there(cache):
    net = create_model("resnet18", pretrained="imagenet").eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        y = weights_of("resnet18", 1000)(x)
        torch.testing.assert_close(net(x), y, rtol=1e-4, atol=1e-5)
    spec = net.spec
    assert spec.classes[:2] == ("tench", "goldfish") and spec.num_classes == 1000
    assert (spec.input_size, spec.resize) == (224, "crop-256")
    assert spec.mean == (0.485, 0.456, 0.406) and spec.std == (0.229, 0.224, 0.225)
    few = create_model("resnet18", pretrained="imagenet", num_classes=3).eval()
    with torch.no_grad():
        assert few(x).shape == (2, 3) and torch.equal(few[:-1](x), net[:-1](x))
    with pytest.raises(OSError, match=r"resnet34-b627a593\.pth cannot be downloaded .*; put this "
                       f"file into {re.escape(str(cache))}"):  # fmt: skip
        create_model("resnet34", pretrained="imagenet")
    assert not (cache / "resnet34-b627a593.pth").exists()
    with pytest.raises(ValueError, match=r"vgg11-8a719046\.pth is damaged"):
        create_model("vgg11", pretrained="imagenet")
    with pytest.raises(ValueError, match="no weights for ImageNet for lenet, but for vgg11, "):
        create_model("lenet", pretrained="imagenet")


def test_gray_and_colour_networks_take_each_others_weights():
    """With equal channels, the outputs are equal; mean and std are those of all channels."""
    colour = create_model("resnet20", in_channels=3).double().eval()
    gray = create_model("resnet20", in_channels=1).double().eval()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    for source, target in ((colour, gray), (gray, colour)):
        start_from(target, {k: v.clone() for k, v in source.state_dict().items()}, (10, 10))
        with torch.no_grad():
            torch.testing.assert_close(
                gray(x), colour(x.expand(-1, 3, -1, -1)), rtol=1e-12, atol=1e-12
            )
    assert for_channels((0.5, 0.2, 0.2), 1) == (pytest.approx(0.3),)
    assert for_channels((0.3,), 3) == (0.3, 0.3, 0.3)


def test_photos_are_trained_from_imagenet_in_one_flag(cache, tmp_path, capsys, real_figures):
    """The recipe, its size and the normalization are those of the weights, and said."""
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 100, (30, 40, 3)) + 100 * (i % 2)
        place = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(place)
    train.main(["--data", str(tmp_path / "photos"), "--arch", "resnet18", "--init", "imagenet",
                "--epochs", "1", "--input-size", "64", "--device", "cpu", "--verbose",
                "--out", str(tmp_path / "run")])  # fmt: skip
    out = capsys.readouterr().out
    assert "the head is new, for cat, dog: head.1.weight, head.1.bias" in out
    assert re.search(r"^recipe +finetune", out, re.MULTILINE)
    assert re.search(r"^resize +crop-256 \(as the weights were trained\)", out, re.MULTILINE)
    assert re.search(r"^normalize +auto \(mean 0.485 0.456 0.406, std", out, re.MULTILINE)
    assert re.search(r"^body_lr +0.1 \(finetune recipe\)", out, re.MULTILINE)
    with Image.open(tmp_path / "run" / "inputs.png") as grid:
        assert min(grid.size) > 300


def test_a_deep_vgg_has_weights_from_which_it_learns():
    """Of variance 2 / (9 c), by He et al. 2015.

    With torch's default weights, as vgg11 has them from its tutorial, the signal of vgg16 fades
    layer by layer, and its loss stays at ln 10.
    """
    net = create_model("vgg16", width=0.25)
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
        ("lenet", {}, "lenet is not torchvision's; weights of torchvision fit vgg11, "),
        ("resnet50", {}, "torchvision's resnet50: they lack bn1.bias, bn1.running_mean, "),
        ("vgg11", {"more": 1}, "torchvision's vgg11: they have more$"),
    ],
)
def test_what_is_not_of_the_network_is_refused(arch, change, message):
    with torch.device("meta"):
        weights = torchvision.models.vgg11().state_dict() | change
    with pytest.raises(ValueError, match=message):
        from_torchvision(arch, weights)
