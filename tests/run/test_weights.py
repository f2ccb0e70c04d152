"""Runs that start from weights: of a run, a file of this package, of torchvision."""

import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from torchcnn import create_model, evaluate, export, load_model, predict, train
from torchcnn.data.decode import read_image
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.run.weights import IMAGENET, read_weights

SMALL = ["--data", "sample", "--device", "cpu", "--epochs", "1", "--batch-size", "450"]


def run(*argv):
    train.main([*SMALL, *map(str, argv)])


def weights_of(path):
    return load_checkpoint(path / "last.pt")["weights"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """200 pictures in colour of two classes: red squares and green ones, on noise."""
    root, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(200):
        pixels = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8)
        pixels[10:30, 10:30, i % 2] = 250
        place = root / ("test" if i % 10 > 7 else "train") / ("red", "green")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vgg16", "densenet121"])
def test_fine_tuning_from_a_state_dict_of_torchvision(arch, folder, tmp_path, capsys):
    """The head is new, frozen parts stay bit for bit, and all commands normalize as in training."""
    options = {"num_classes": 1000}
    theirs = getattr(torchvision.models, arch)(**options)
    if arch == "vgg16":  # 32 pixels: one feature map of 512, in place of 49
        theirs.classifier[0] = torch.nn.Linear(512, 4096)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    before = read_weights(str(tmp_path / "theirs.pth"), arch).tensors
    frozen = ["stage1", "stage2"] if arch == "vgg16" else ["stem", "block1"]
    out = tmp_path / "r"
    train.main(["--arch", arch, "--data", str(folder), "--init", str(tmp_path / "theirs.pth"),
                "--freeze", ",".join(frozen), "--input-size", "32", "--epochs", "1", "--device",
                "cpu", "--batch-size", "32", "--lr", "1e-4", "--out", str(out)])  # fmt: skip
    printed = capsys.readouterr().out
    assert "new for 2 classes in place of 1000: head." in printed
    assert "normalize        auto (mean 0.485 0.456 0.406, std 0.229 0.224 0.225)" in printed
    after = weights_of(out)
    for name, tensor in after.items():
        same = tensor.shape == before[name].shape and torch.equal(tensor, before[name])
        assert same == name.startswith(tuple(f"{part}." for part in frozen)), name
    # Evaluate finds what the run found, and predict what the network says of (x - mean) / std.
    result = json.loads((out / "result.json").read_text())
    evaluate.main(["--checkpoint", str(out), "--json", "--device", "cpu"])
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == result["test_acc"]
    assert found["loss"] == pytest.approx(result["test_loss"])
    net = load_model(out)
    assert net.classes == ["green", "red"] and net.input_size == 32
    assert (net.mean, net.std) == tuple(map(tuple, IMAGENET))
    picture = folder / "test" / "red" / "8.png"
    predict.main(["--checkpoint", str(out), str(picture), "--json", "--top", "2"])
    (answer,) = json.loads(capsys.readouterr().out)
    x = read_image(picture, 3, 32).float() / 255
    normalized = torchvision.transforms.functional.normalize(x, *IMAGENET)[None]
    probabilities = net(normalized).detach().softmax(1)[0]
    for entry in answer["top"]:
        expected = float(probabilities[net.classes.index(entry["class"])])
        assert entry["probability"] == pytest.approx(expected, abs=1e-5)


def test_a_resumed_run_needs_no_file_and_stays_frozen(tmp_path):
    run("--out", tmp_path / "first")
    flags = ["--init", tmp_path / "first", "--freeze", "stage1", "--normalize", "data"]
    run(*flags, "--epochs", 2, "--out", tmp_path / "whole")
    run(*flags, "--out", tmp_path / "r")
    for path in (tmp_path / "first").iterdir():
        if path.is_file():
            path.unlink()
    train.main(["--resume", str(tmp_path / "r"), "--epochs", "2"])
    whole, resumed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "r")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    checkpoint = load_checkpoint(tmp_path / "r" / "last.pt")
    # Of Fashion-MNIST: mean 0.286, standard deviation 0.353, as widely published.
    assert checkpoint["mean"] == [pytest.approx(0.286, abs=0.01)]
    assert checkpoint["std"] == [pytest.approx(0.353, abs=0.01)]


def test_a_run_starts_from_a_run_a_file_or_a_state_dict_alike(tmp_path):
    run("--out", tmp_path / "first")
    export.main(["--checkpoint", str(tmp_path / "first"), "--to", "safetensors", "--out",
                 str(tmp_path / "w.safetensors")])  # fmt: skip
    torch.save(load_model(tmp_path / "first").state_dict(), tmp_path / "w.pt")
    results = []
    for source in ("first", "first/best.pt", "w.safetensors", "w.pt"):
        out = tmp_path / f"from-{source.replace('/', '-')}"
        run("--init", tmp_path / source, "--lr", "1e-30", "--out", out)
        results.append(weights_of(out)["stage1.0.weight"])
    assert all(torch.equal(r, results[0]) for r in results)
    assert torch.equal(results[0], load_model(tmp_path / "first").state_dict()["stage1.0.weight"])


def test_a_module_of_your_own_may_have_torchvisions_names(tmp_path):
    class Net(nn.Sequential):
        def __init__(self):
            super().__init__()
            self.features = nn.Flatten()
            self.layer1 = nn.Linear(784, 10)

    net = Net()
    torch.save(net.state_dict(), tmp_path / "own.pth")
    weights = read_weights(str(tmp_path / "own.pth"), "Net")
    twin = Net()
    assert weights.load_into(twin, 10) == "" and weights.normalization is None
    assert torch.equal(twin.layer1.weight, net.layer1.weight)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--init", "nowhere"], "--init nowhere: there is no such run or file; in the package"),
        (["--init", "text.pt"], "--init text.pt is damaged, or holds no weights"),
        (["--init", "list.pt"], "--init list.pt is no state dict"),
        (["--init", "bad.safetensors"], "bad.safetensors is damaged, or not one of torchcnn"),
        (["--init", "mlp.pt"], "the weights are not those of this network"),
        (["--freeze", "stem"], "no part 'stem' to freeze; there are stage1, stage2, head"),
        (["--normalize", "imagenet"], "the images have 1 channels; --normalize imagenet is for 3"),
        (["--model-kwargs", "width=2"], "lenet takes the options in_channels, "),
        (["--model-kwargs", "num_classes=2"], "num_classes cannot be among the options"),
        (["--model-kwargs", "width"], "got width, allowed is name=value"),
        (["--model-kwargs", "f=print()"], "got f=print(), allowed is name=value"),
    ],
)
def test_what_is_refused(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "bad.safetensors").write_text("no weights")
    torch.save([1], tmp_path / "list.pt")
    torch.save(create_model("mlp").state_dict(), tmp_path / "mlp.pt")
    with pytest.raises(SystemExit) as stop:
        run(*flags, "--out", "r")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_a_hostile_file_is_not_executed(tmp_path, capsys):
    class Hostile:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"weight": Hostile()}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="is damaged, or holds no weights"):
        read_weights(str(tmp_path / "w.pt"), "lenet")
    assert "executed" not in capsys.readouterr().out


def test_options_of_the_builder_are_kept(tmp_path, capsys, tenth_of_the_sample):
    flags = ["--arch", "densenet", "--input-size", "32", "--batch-size", "150", "--model-kwargs",
             "growth_rate=4", "bottleneck=True", "num_layers=(1,2)"]  # fmt: skip
    run(*flags, "--out", tmp_path / "r")
    net = load_model(tmp_path / "r")
    assert net.block2.net[1][-1].out_channels == 4 and len(net.block1.net) == 1
    twin = create_model("densenet", growth_rate=4, bottleneck=True, num_layers=(1, 2))
    assert twin.state_dict().keys() == net.state_dict().keys()
    train.main(["--resume", str(tmp_path / "r"), "--epochs", "2"])
    capsys.readouterr()
    # From Python they are a dict.
    result = train.train(arch="densenet", model_kwargs={"growth_rate": 4, "num_layers": (1, 2)},
                         input_size=32, data="sample", device="cpu", epochs=1, batch_size=150,
                         out=str(tmp_path / "p"))  # fmt: skip
    assert result.history and load_model(tmp_path / "p").block2.net[1][-1].out_channels == 4


SUFFIX = {"torch-export": ".pt2", "safetensors": ".safetensors", "txt": ".txt"}


@pytest.mark.parametrize("to", SUFFIX)
def test_exports_know_the_normalization(to, tmp_path):
    run("--normalize", "data", "--out", tmp_path / "r")
    path = tmp_path / f"net{SUFFIX[to]}"
    export.main(["--checkpoint", str(tmp_path / "r"), "--to", to, "--out", str(path)])
    net = load_model(tmp_path / "r")
    x = torch.rand(3, 1, 28, 28)
    expected = net((x - net.mean[0]) / net.std[0]).detach()
    if to == "torch-export":  # it is in the file, which takes images in [0, 1]
        found = torch.export.load(path).module()(x).detach()
    elif to == "safetensors":  # whoever uses the weights is told
        weights = read_weights(str(path), "lenet")
        assert weights.normalization == (list(net.mean), list(net.std))
        twin = create_model("lenet").eval()
        weights.load_into(twin, 10)
        found = twin((x - net.mean[0]) / net.std[0]).detach()
    else:
        first, name, shape, numbers = path.read_text().split("\n")[:4]
        assert json.loads(first.removeprefix("# "))["mean"] == list(net.mean)
        assert (name, shape) == ("stage1.0.weight", "(6, 1, 5, 5)")
        written = torch.tensor(float(numbers.strip("[ ").split()[0]))
        assert torch.equal(written, net.stage1[0].weight[0, 0, 0, 0].detach())
        return
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("to", ["keras", "onnx"])
def test_exports_for_other_programs_normalize_themselves(to, tmp_path):
    module = pytest.importorskip({"keras": "keras", "onnx": "onnxruntime"}[to])
    run("--normalize", "data", "--out", tmp_path / "r")
    path, net = tmp_path / f"net.{to}", load_model(tmp_path / "r")
    export.main(["--checkpoint", str(tmp_path / "r"), "--to", to, "--out", str(path)])
    x = torch.rand(3, 1, 28, 28)
    if to == "keras":
        found = module.models.load_model(path).predict_on_batch(x.movedim(1, -1).numpy())
    else:
        found = module.InferenceSession(path).run(["logits"], {"images": x.numpy()})[0]
    expected = net((x - net.mean[0]) / net.std[0]).detach()
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-4)
