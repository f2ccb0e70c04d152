"""Runs that start from weights: of a run, a file of this package, of torchvision."""

import json
from itertools import product

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from torchcnn import create_model, evaluate, export, load_model, predict, train
from torchcnn.data.decode import read_image
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.run.weights import IMAGENET, Weights, read_weights

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
    said = weights.load_into(twin, list("0123456789"), (2, 1, 28, 28))
    assert said.startswith("the head is taken as it is, for 10 classes, of which the weights have")
    assert weights.normalization is None
    assert torch.equal(twin.layer1.weight, net.layer1.weight)


class TwoHeads(nn.Module):
    """Heads of several kinds, the first before the body, with hidden layers of as many units."""

    def __init__(self, k, act=None):
        super().__init__()
        self.columns = nn.Parameter(torch.randn(6, k))
        self.head = nn.Sequential(nn.Conv2d(5, k, 1, bias=False), nn.BatchNorm2d(k, affine=False))
        self.body = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 5, 3), nn.ReLU())
        self.mean, self.act = nn.Linear(5, 6), act or nn.Identity()

    def forward(self, x):
        x = self.body(x)
        y = self.mean(x.mean((2, 3))) @ self.columns + self.head(x).amax((2, 3))
        return self.act(y)


def of_classes(k, name):
    if name == "TwoHeads":
        net = TwoHeads(k)
        net.head[1].running_mean.normal_()
        return net, 28
    size = {"nin": 67, "tf_nin_dense": 45}.get(name, 32)
    return create_model(name, size, in_channels=1, num_classes=k), size


@pytest.mark.parametrize("name", ["lenet", "nin", "tf_baseline", "tf_nin_dense", "TwoHeads"])
@pytest.mark.parametrize("ours", ["ecadb", "ecxay", "exb", "abcdefg"])
def test_a_row_of_the_head_belongs_to_the_name_of_its_class(ours, name):
    """The logits of the classes that both know are the same; the rows of the others are new."""
    if name == "tf_nin_dense" and len(ours) != 5:
        return
    (before, size), (net, _) = of_classes(5, name), of_classes(len(ours), name)
    fresh = {key: value.clone() for key, value in net.state_dict().items()}
    weights = Weights(before.state_dict(), list("abcde"), None)
    said = weights.load_into(net, list(ours), (2, 1, size, size))
    if name == "nin" and len(ours) != 5:  # all layers of its last block are others
        assert said.startswith(f"new for {len(ours)} classes in place of 5: stage4.0.weight, ")
        return
    both = [c for c in ours if c in "abcde"]
    assert said.startswith(f"the rows of {len(both)} of {len(ours)} classes are found by name")
    x = torch.rand(4, 1, size, size)
    with torch.no_grad():
        new, old = net.eval()(x), before.eval()(x)
    for c in both:
        torch.testing.assert_close(new[:, ours.index(c)], old[:, "abcde".index(c)])
    if len(both) == len(ours):
        assert ", new are" not in said
        return
    others = [c for c in ours if c not in "abcde"]
    assert f", new are {', '.join(others)}: " in said
    for key in said.split(": ")[1].split(", "):
        axis = 1 if key == "columns" else 0
        for c in others:
            rows = net.state_dict()[key], fresh[key]
            assert torch.equal(*(t.select(axis, ours.index(c)) for t in rows))


def test_a_head_that_cannot_be_told_is_taken_as_it_is_and_that_is_said():
    before, net = TwoHeads(5, nn.Softmax(1)), TwoHeads(5, nn.Softmax(1))
    weights = Weights(before.state_dict(), list("abcde"), None)
    said = weights.load_into(net, list("edcba"), (2, 1, 28, 28))
    assert said == "the head is taken as it is, for 5 classes, a, b, c, d, e"
    assert torch.equal(net.columns, before.columns)
    own = weights.load_into(net, list("abcde"), (2, 1, 28, 28))
    assert own == ""  # the same classes


def test_a_state_dict_without_names_tells_how_many_classes_it_has_by_its_head():
    before, net = TwoHeads(9), TwoHeads(5)
    said = Weights(before.state_dict(), None, None).load_into(net, list("abcde"), (2, 1, 28, 28))
    assert said.startswith("new for 5 classes in place of 9: columns, head.0.weight, head.1.")
    assert torch.equal(net.mean.weight, before.mean.weight)


def test_a_run_for_other_classes_takes_the_rows_of_a_run_by_name(tmp_path, capsys):
    run("--out", tmp_path / "first")
    checkpoint = load_checkpoint(tmp_path / "first" / "last.pt")
    names = checkpoint["classes"]
    checkpoint["classes"] = [*names[5:], "cat", *names[1:5]]  # as if it had been trained on these
    torch.save(checkpoint, tmp_path / "w.pt")
    capsys.readouterr()
    run("--init", tmp_path / "w.pt", "--lr", "1e-30", "--out", tmp_path / "r")
    said = f"the rows of 9 of 10 classes are found by name, new are {names[0]}: head.7.weight, head"
    assert said in capsys.readouterr().out
    rows, theirs = (
        c["weights"]["head.7.weight"] for c in (load_checkpoint(tmp_path / "r/last.pt"), checkpoint)
    )
    assert torch.equal(rows[5:], theirs[:5]) and torch.equal(rows[1:5], theirs[6:])
    assert not torch.equal(rows[0], theirs[5])


class Wrapped(nn.Module):
    """A module of your own whose names begin as wrappers' do."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    def forward(self, x):
        return self.model(x)


SAVED = {
    "alone": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "epoch": 3},
    "model": lambda w: {"model": w, "optimizer": {"state": {0: {"exp_avg": torch.ones(2, 2)}}}},
    "any key": lambda w: {"weights": {"inner": w}, "rng": torch.get_rng_state(), "args": {"a": 1}},
    "data parallel": lambda w: {f"module.{k}": v for k, v in w.items()},
    "compiled": lambda w: {f"_orig_mod.{k}": v for k, v in w.items()},
    "both": lambda w: {"net": {f"module._orig_mod.{k}": v for k, v in w.items()}},
    "both, the other way": lambda w: {f"_orig_mod.module.{k}": v for k, v in w.items()},
    "a part compiled": lambda w: {k.replace(".", "._orig_mod.", 1): v for k, v in w.items()},
    "lightning": lambda w: {"state_dict": {f"model.{k}": v for k, v in w.items()}, "loops": {}},
}


@pytest.mark.parametrize(
    ("how", "net"), [*product(SAVED, ["lenet", "own"]), ("both", "resnet50"), ("model", "resnet50")]
)
def test_a_state_dict_is_found_as_others_save_it(how, net, tmp_path):
    """With torchvision's names too, and unless a module of your own has such names itself."""
    own = Wrapped() if net == "own" else None
    with torch.device("meta" if net == "resnet50" else "cpu"):
        theirs = own or (torchvision.models.resnet50() if net == "resnet50" else create_model(net))
    weights = {k: torch.tensor(2.0).expand(v.shape) for k, v in theirs.state_dict().items()}
    torch.save(SAVED[how](weights), tmp_path / "w.pt")
    found = read_weights(str(tmp_path / "w.pt"), "Wrapped" if own else net, own)
    with torch.device("meta"):
        expected = own or create_model(net)
    assert found.tensors.keys() == expected.state_dict().keys() and found.classes is None
    assert (found.normalization == IMAGENET) == (net == "resnet50")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--init", "two.pt"], "--init two.pt holds several state dicts, model, ema.module (its"),
        (["--init", "none.pt"], "is no state dict (its keys are epoch, model); allowed is a dict"),
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
    w = create_model("lenet").state_dict()
    torch.save({"model": w, "ema": {"module": w}}, tmp_path / "two.pt")
    torch.save({"epoch": 1, "model": "lenet"}, tmp_path / "none.pt")
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
        weights.load_into(twin, weights.classes, (2, 1, 28, 28))
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
