"""The weights in the package: what they reach, to the image, and how they are asked for."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from torchcnn import create_model, predict, train
from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.models import MODELS, list_pretrained, pretrained
from torchcnn.models.pretrained import FOLDER, read_pretrained
from torchcnn.training.loop import predict_logits

NAMES = ["densenet", "lenet", "resnet20", "tf_baseline"]
SLOW = {"densenet", "resnet20"}


def test_there_are_four_of_three_megabytes_together():
    assert list_pretrained() == NAMES
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3e6


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NAMES]
)
def test_the_accuracy_is_the_stated_one_to_the_image(name, real_fashion_mnist):
    """But for images between whose two first classes the rounding of a processor decides."""
    data = load_data("fashion-mnist")
    net = create_model(name, pretrained=True).to(memory_format=torch.channels_last)  # faster
    batches = Batches(data.test_images, data.test_labels, 250, size=net.input_size)
    logits, labels = predict_logits(net, batches)
    first, second = logits.topk(2).values.unbind(1)
    undecided = int((first - second < 1e-4).sum())
    stated = read_pretrained(name)[1]["accuracy"]
    correct = int((logits.argmax(1) == labels).sum())
    assert abs(correct - round(stated * 10_000)) <= undecided < 5
    assert f"{stated:.4f}" in (FOLDER / "README.md").read_text()


def test_they_say_how_they_were_trained():
    readme = (FOLDER / "README.md").read_text()
    for name in NAMES:
        _, about = read_pretrained(name)
        assert about["command"] in readme and about["model"]["arch"] == name
        assert about["data"] == "fashion-mnist" and len(about["classes"]) == 10


def test_a_network_has_its_weights_and_says_what_it_takes():
    net = create_model("lenet", pretrained=True)
    weights, about = read_pretrained("lenet")
    assert all(torch.equal(t, weights[k]) for k, t in net.state_dict().items())
    assert all(t.dtype == torch.float32 for t in net.parameters())
    assert net.classes == about["classes"] and net.input_size == 28
    assert (net.mean, net.std) == ((0.0,), (1.0,))
    other = create_model("lenet", pretrained=True, num_classes=3)
    assert other.classes is None and other.head[-1].out_features == 3
    assert torch.equal(other.stage1[0].weight, net.stage1[0].weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg11"}, "vgg11 has no pretrained weights; there are"),
        ({"name": "lenett"}, "did you mean lenet"),
        ({"name": "lenet", "in_channels": 3}, "stage1.0.weight of the weights is"),
        ({"name": "lenet", "input_size": 32}, "head.1.weight of the weights is"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(**arguments, pretrained=True)


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "w")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "w")
    content = bytearray((tmp_path / "w" / "lenet.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "w" / "lenet.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its md5 is not that of"):
        read_pretrained("lenet")


def test_the_hub_loads_them():
    root = Path(__file__).parent.parent.parent
    net = torch.hub.load(str(root), "lenet", pretrained=True, source="local")
    assert net.classes[0] == "t-shirt"
    entries = runpy.run_path(str(root / "hubconf.py"))
    public = {name for name, entry in entries.items() if callable(entry) and name[0] != "_"}
    assert public == set(MODELS) and "LeNet" in entries["lenet"].__doc__


def test_predict_needs_no_run(tmp_path, capsys):
    data = load_data("sample")
    for i in range(20):
        Image.fromarray(data.test_images[i, 0].numpy()).save(tmp_path / f"{i:02}.png")
    predict.main(["--arch", "lenet", "--json", str(tmp_path)])
    answers = json.loads(capsys.readouterr().out)
    right = [data.classes[int(y)] == answer["top"][0]["class"]
             for y, answer in zip(data.test_labels[:20], answers, strict=True)]  # fmt: skip
    assert sum(right) >= 14


def test_a_run_starts_from_them(tmp_path):
    flags = ["--data", "sample", "--epochs", "1", "--batch-size", "450", "--device", "cpu"]
    train.main(["--init", "lenet", "--lr", "1e-30", *flags, "--out", str(tmp_path / "r")])
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert result["test_acc"] > 0.85
