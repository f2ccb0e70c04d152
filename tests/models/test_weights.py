"""Weights that a network starts from: of the package, a run, a file, torchvision. Frozen parts."""

import copy
import json
import os
import runpy
import shutil
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torchvision
from comparing import same
from PIL import Image
from small_networks import describe, write_checkpoint
from torch import nn

from torchcnn import BatchNorm, create_model, evaluate, export, load_model, predict, train
from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.layers import KerasBatchNorm2d
from torchcnn.models import list_pretrained, weights
from torchcnn.models.weights import (
    FOLDER,
    IMAGENET,
    Weights,
    freeze,
    read_pretrained,
    read_weights,
    start_from,
    train_mode,
)
from torchcnn.run.checkpoint import load_checkpoint, save_checkpoint
from torchcnn.training.ema import MovingAverage
from torchcnn.training.loop import predict_logits, train_epoch

SMALL = ["--data", "sample", "--device", "cpu", "--epochs", "1", "--batch-size", "100"]
REFERENCE = Path(__file__).parent.parent.parent / "runs" / "reference"


def run(*argv):
    train.main([*SMALL, *map(str, argv)])


def weights_of(path):
    return load_checkpoint(path / "last.pt").state.weights


# --- the head -----------------------------------------------------------------------------------


def test_weights_that_do_not_fit_change_nothing():
    net = create_model("lenet")
    fresh = copy.deepcopy(net.state_dict())
    for other, classes, message in [
        (create_model("lenet", in_channels=2), (10, 10), r"stage1.0.weight of the weights is "),
        (create_model("lenet", input_size=32), (10, 10), r"head.1.weight of the weights is "),
        (create_model("lenet", num_classes=3), (4, 10), "head.7.weight of the weights is"),
        (create_model("mlp"), (10, 10), "the weights are not those of this network: they lack "),
        (create_model("lenet"), (5, 10), "no layer that depends on their number"),
    ]:
        with pytest.raises(ValueError, match=message):
            start_from(net, other.state_dict(), classes)
    assert same(dict(net.state_dict()), dict(fresh))


class TwoHeads(nn.Module):
    """Heads of several kinds, the first before the body, with hidden layers of as many units."""

    def __init__(self, k, act=None):
        super().__init__()
        self.columns = nn.Parameter(torch.randn(6, k))
        self.head = nn.Sequential(nn.Conv2d(5, k, 1, bias=False), nn.BatchNorm2d(k, affine=False))
        self.body = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 5, 3), nn.ReLU())
        self.mean, self.act = nn.Linear(5, 6), act or nn.Identity()
        self.head[1].running_mean.normal_()

    def forward(self, x):
        x = self.body(x)
        y = self.mean(x.mean((2, 3))) @ self.columns + self.head(x).amax((2, 3))
        return self.act(y)


def of_classes(names, arch):
    """A network for these classes, and its description."""
    if arch == "TwoHeads":
        return TwoHeads(len(names)), describe("TwoHeads", names, own=True)
    spec = describe(arch, names, input_size={"nin": 67, "tf_nin_dense": 45}.get(arch, 32))
    return spec.build(), spec


@pytest.mark.parametrize(
    ("arch", "ours"),
    [*product(["lenet", "TwoHeads"], ["ecadb", "ecxay", "exb", "abcdefg"]),
     ("nin", "ecxay"), ("nin", "exb"), ("tf_nin_dense", "ecxay")],
)  # fmt: skip
def test_a_row_of_the_head_belongs_to_the_name_of_its_class(ours, arch):
    """The logits of the classes that both know are the same; the rows of the others are new.

    Where a whole block depends on the number of classes, as the last of NiN, it is new.
    """
    (before, theirs), (net, spec) = of_classes("abcde", arch), of_classes(ours, arch)
    old, fresh = before.state_dict(), copy.deepcopy(net.state_dict())
    start, _, names = Weights.of(theirs, old).load_into(net, spec).partition(": ")
    names, now = names.split(", "), net.state_dict()
    assert all(torch.equal(now[key], old[key]) for key in now.keys() - set(names))
    if arch == "nin" and len(ours) != 5:
        assert start == f"new for {len(ours)} classes in place of 5"
        assert all(key.startswith("stage4.") and torch.equal(now[key], fresh[key]) for key in names)
        return
    both, others = ([c for c in ours if (c in "abcde") == known] for known in (True, False))
    said = f"the head keeps the rows of {len(both)} of {len(ours)} classes, known by name"
    assert start == said + f", new are {', '.join(others)}" * bool(others)
    x = torch.rand(4, *spec.shape)
    with torch.no_grad():
        found, expected = net.eval()(x), before.eval()(x)
    for c in both:
        torch.testing.assert_close(found[:, ours.index(c)], expected[:, "abcde".index(c)])
    for key, c in product(names, others):
        axis = 1 if key == "columns" else 0
        assert torch.equal(*(t[key].select(axis, ours.index(c)) for t in (now, fresh)))


def test_a_head_that_cannot_be_told_is_taken_as_it_is_and_that_is_said():
    """As one that ends in a softmax. Of a state dict not even the names are known."""
    before, net = TwoHeads(5, nn.Softmax(1)), TwoHeads(5, nn.Softmax(1))
    given = Weights.of(describe("TwoHeads", "abcde", own=True), before.state_dict())
    other = describe("TwoHeads", "edcba", own=True)
    assert given.load_into(net, replace(other, classes=tuple("abcde"))) == ""  # the same classes
    said = given.load_into(net, other)
    assert said == "the head is taken as it is, for 5 classes, a, b, c, d, e"
    assert torch.equal(net.columns, before.columns)
    said = Weights(before.state_dict()).load_into(TwoHeads(5), other)
    assert said == "the head is taken as it is, for 5 classes, of which the weights have no names"
    # How many classes it has is told by its head.
    before, net = TwoHeads(9), TwoHeads(5)
    said = Weights(before.state_dict()).load_into(net, other)
    assert said.startswith("new for 5 classes in place of 9: columns, head.0.weight, head.1.")
    assert torch.equal(net.mean.weight, before.mean.weight)


# --- files --------------------------------------------------------------------------------------


def test_a_resumed_run_needs_no_file_and_stays_frozen(
    finished_run, tmp_path, tenth_of_the_sample, capsys
):
    """And it is evaluated with the normalization of its training."""
    shutil.copytree(finished_run, tmp_path / "first")
    flags = ["--init", tmp_path / "first", "--freeze", "stage1", "--normalize", "data"]
    flags += ["--schedule", "constant"]
    run(*flags, "--epochs", 2, "--out", tmp_path / "whole")
    run(*flags, "--out", tmp_path / "r")
    shutil.rmtree(tmp_path / "first")
    train.main(["--resume", str(tmp_path / "r"), "--epochs", "2"])
    whole, resumed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "r")
    assert same(dict(whole), dict(resumed))
    for name, tensor in load_model(finished_run).state_dict().items():
        assert torch.equal(tensor, resumed[name]) == name.startswith("stage1."), name
    spec = load_checkpoint(tmp_path / "r" / "last.pt").spec
    # Of Fashion-MNIST: mean 0.286, standard deviation 0.353, as widely published.
    assert spec.mean == (pytest.approx(0.286, abs=0.01),)
    assert spec.std == (pytest.approx(0.353, abs=0.01),)
    capsys.readouterr()
    evaluate.main(["--checkpoint", str(tmp_path / "r"), "--json", "--device", "cpu"])
    tested = json.loads((tmp_path / "r" / "result.json").read_text())["test_loss"]
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(tested)


def test_a_run_a_checkpoint_and_a_file_give_the_same_weights(tmp_path):
    """With the names of the classes and the normalization, which a state dict does not have."""
    spec = describe(classes="abcd", mean=(0.25,), std=(0.5,))
    net, first = spec.build(), tmp_path / "first"
    first.mkdir()
    write_checkpoint(first / "best.pt", net)
    argv = ["--checkpoint", str(first), "--to", "safetensors", "--out"]
    export.main([*argv, str(tmp_path / "w.safetensors")])
    torch.save(net.state_dict(), tmp_path / "w.pt")
    stored = load_checkpoint(first / "best.pt")
    average = {"weights": net.state_dict()}
    other = {name: torch.zeros_like(tensor) for name, tensor in net.state_dict().items()}
    state = replace(stored.state, weights=other, average=average)
    save_checkpoint(tmp_path / "average.pt", replace(stored, state=state))
    for source in ("first", "first/best.pt", "w.safetensors", "w.pt", "average.pt"):
        found = read_weights(str(tmp_path / source), "lenet")
        assert same(dict(found.tensors), dict(net.state_dict())), source
        known = (None, None) if source == "w.pt" else (spec.classes, (spec.mean, spec.std))
        assert (found.classes, found.normalization) == known, source


def test_a_path_with_the_name_of_weights_is_named_by_its_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lenet").mkdir()
    net = describe().build()
    write_checkpoint(tmp_path / "lenet" / "best.pt", net)
    known = read_weights("lenet", "lenet").tensors
    assert same(dict(known), dict(create_model("lenet", pretrained=True).state_dict()))
    said = "takes the weights of this name, not the file or run lenet, which is --init ./lenet\n"
    assert said in capsys.readouterr().out
    assert same(dict(read_weights("./lenet", "lenet").tensors), dict(net.state_dict()))


class Own(nn.Module):
    """A module of your own, of whose two layers the names are as torchvision's or wrappers' are."""

    def __init__(self, first, second):
        super().__init__()
        self.add_module(first, nn.Flatten())
        self.add_module(second, nn.Sequential(nn.Linear(784, 10)))


SAVED = {
    "alone": lambda w: w,
    "model": lambda w: {"model": w, "optimizer": {"state": {0: {"exp_avg": torch.ones(2, 2)}}}},
    "any key": lambda w: {"weights": {"inner": w}, "rng": torch.get_rng_state(), "args": {"a": 1}},
    "both": lambda w: {"net": {f"module._orig_mod.{k}": v for k, v in w.items()}},
    "the other way": lambda w: {f"_orig_mod.module.{k}": v for k, v in w.items()},
    "a part compiled": lambda w: {k.replace(".", "._orig_mod.", 1): v for k, v in w.items()},
    "averaged": lambda w: {"n_averaged": torch.tensor(3)} | {f"module.{k}": w[k] for k in w},
    "lightning": lambda w: {"state_dict": {f"model.{k}": v for k, v in w.items()}, "loops": {}},
}


@pytest.mark.parametrize("net", ["lenet", "layer1", "model", "resnet50"])
def test_a_state_dict_is_found_as_others_save_it(net, tmp_path):
    """With torchvision's names too, and unless a module of your own has such names itself."""
    own = Own("features", net) if net in ("layer1", "model") else None
    with torch.device("meta"):
        theirs = own or (torchvision.models.resnet50() if net == "resnet50" else create_model(net))
        expected = own or create_model(net)
    state = {k: torch.tensor(2.0).expand(v.shape) for k, v in theirs.state_dict().items()}
    for how in ["alone", "model"] if net == "resnet50" else SAVED:
        torch.save(SAVED[how](state), tmp_path / "w.pt")
        found = read_weights(str(tmp_path / "w.pt"), "Own" if own else net, own)
        assert found.tensors.keys() == expected.state_dict().keys() and found.classes is None, how
        assert (found.normalization == IMAGENET) == (net == "resnet50")


class Hostile:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--init two.pt", "--init two.pt holds several state dicts, model, ema.module (its"),
        ("--init none.pt", "is no state dict (its keys are epoch, model); allowed is a dict"),
        ("--init nowhere", "--init nowhere: there is no such run or file; in the package"),
        ("--init hostile.pt", "--init hostile.pt is damaged, or holds no weights"),
        ("--init lacking.pt", "lacking.pt is a damaged checkpoint"),
        ("--init bad.safetensors", "bad.safetensors is damaged, or not one of torchcnn"),
        ("--init mlp.pt", "the weights are not those of this network"),
        ("--normalize imagenet", "the images have 1 channels; --normalize imagenet is for 3"),
        ("--model-kwargs width=2", "lenet takes the options in_channels, "),
        ("--model-kwargs num_classes=2", "num_classes cannot be among the options"),
        ("--model-kwargs f=print()", "got f=print(), allowed is name=value"),
    ],
)
def test_what_is_refused(flags, message, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.safetensors").write_text("no weights")
    state = create_model("mlp").state_dict()
    write_checkpoint(tmp_path / "lacking.pt", describe().build())
    lacking = torch.load(tmp_path / "lacking.pt")
    for name, content in {
        "two": {"model": state, "ema": {"module": state}}, "none": {"epoch": 1, "model": "lenet"},
        "mlp": state, "hostile": {"weight": Hostile()},
        "lacking": {k: v for k, v in lacking.items() if k != "average"},
    }.items():  # fmt: skip
        torch.save(content, tmp_path / f"{name}.pt")
    assert message in refused(train.main, *SMALL, *flags.split(), "--out", "r")
    assert all(path.suffix for path in tmp_path.iterdir())  # no run, and nothing was executed


# --- those of the package -----------------------------------------------------------------------

NAMES = ["densenet", "lenet", "nin", "resnet20", "tf_baseline", "tf_inception10"]
SLOW = {"densenet", "nin", "resnet20", "tf_inception10"}


def training(path):
    """What a file says of how its weights were trained."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["training"])


def test_there_are_six_of_three_megabytes_together_and_they_say_how_they_were_trained():
    assert list_pretrained() == NAMES
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3.3e6
    readme = (FOLDER / "README.md").read_text()
    for name in NAMES:
        about, (spec, _) = training(FOLDER / f"{name}.safetensors"), read_pretrained(name)
        assert about["command"] in readme and f"{about['accuracy']:.4f}" in readme
        assert about["data"] == "fashion-mnist" and spec.arch == name and spec.num_classes == 10


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NAMES]
)
def test_the_accuracy_is_the_stated_one_to_the_image(name, real_fashion_mnist):
    """But for images between whose two first classes the rounding of a processor decides."""
    data = load_data("fashion-mnist")
    net = create_model(name, pretrained=True).to(memory_format=torch.channels_last)  # faster
    batches = Batches(data.test_images, data.test_labels, 250, size=net.spec.input_size)
    logits, labels = predict_logits(net, batches)
    first, second = logits.topk(2).values.unbind(1)
    undecided = int((first - second < 1e-4).sum())
    stated = training(FOLDER / f"{name}.safetensors")["accuracy"]
    correct = int((logits.argmax(1) == labels).sum())
    assert abs(correct - round(stated * 10_000)) <= undecided < 5


def test_predict_and_a_run_take_them(tmp_path, capsys):
    """Without a run; and by the names of the classes, which a folder has in another order."""
    data = load_data("sample")
    for part, name in product(("train", "test"), ("trouser", "bag", "sneaker")):
        images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
        place = tmp_path / "photos" / part / name
        place.mkdir(parents=True)
        for i in (labels == data.classes.index(name)).nonzero()[:40, 0].tolist():
            Image.fromarray(images[i, 0].numpy()).save(place / f"{i}.png")
    predict.main(["--arch", "lenet", "--json", str(tmp_path / "photos" / "test" / "bag")])
    answers = json.loads(capsys.readouterr().out)
    assert sum(answer["top"][0]["class"] == "bag" for answer in answers) > 0.9 * len(answers) == 36
    train.main(["--arch", "lenet", "--init", "lenet", "--data", str(tmp_path / "photos"), "--lr",
                "1e-30", "--epochs", "1", "--device", "cpu", "--out",
                str(tmp_path / "r")])  # fmt: skip
    said = "the head keeps the rows of 3 of 3 classes, known by name: head.7.weight, head.7.bias"
    assert said in capsys.readouterr().out
    assert json.loads((tmp_path / "r" / "result.json").read_text())["test_acc"] > 0.95


@pytest.mark.usefixtures("tenth_of_the_sample")
def test_a_run_takes_their_options_too(tmp_path):
    """NiN has a quarter of its channels, a stem for small images, and learned the same clothes."""
    train.main(["--arch", "nin", "--init", "nin", "--data", "sample", "--lr", "1e-30", "--epochs",
                "1", "--device", "cpu", "--out", str(tmp_path / "r")])  # fmt: skip
    net = load_model(tmp_path / "r")
    assert net.spec.options == {"width": 0.25} and net.spec.input_size == 28
    assert json.loads((tmp_path / "r" / "result.json").read_text())["test_acc"] > 0.7


def test_a_finished_run_becomes_one_of_them(
    finished_run, real_fashion_mnist, tmp_path, monkeypatch
):
    """By the script; a file with another bit is refused."""
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["pretrained.py", str(finished_run)])
    runpy.run_path(str(REFERENCE / "pretrained.py"), run_name="__main__")
    net, trained = create_model("lenet", pretrained=True), load_model(finished_run)
    assert net.spec == trained.spec
    for name, tensor in trained.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor.half().float().to(tensor.dtype))
    path = tmp_path / "lenet.safetensors"
    about = training(path)
    assert about["command"] == "python -m torchcnn.train --data sample --epochs 3"
    assert about["accuracy"] > 0.5
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its md5 is not that of"):
        read_pretrained("lenet")


# --- frozen parts -------------------------------------------------------------------------------


def test_frozen_parts_have_no_gradients_and_keep_their_statistics():
    """A norm that has no parameters to be frozen trains."""
    net = create_model("lenet").append(nn.BatchNorm1d(10, affine=False))
    for names, message in [
        (["stem"], "no part 'stem' to freeze; there are stage1, stage2, head"),
        ([""], "no part '' to freeze"),
    ]:
        with pytest.raises(ValueError, match=message):
            freeze(net, names)
    freeze(net, ["stage1", "head.1"])
    free = {name for name, p in net.named_parameters() if p.requires_grad}
    assert free == {name for name, _ in net.named_parameters()
                    if not name.startswith(("stage1.", "head.1."))}  # fmt: skip
    train_mode(net)
    assert not net.stage1[1].training and net.stage2[1].training and net[-1].training
    with pytest.raises(ValueError, match="nothing is left to train"):
        freeze(net, ["stage2", "head"])


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.BatchNorm2d(3, affine=False),
        lambda: nn.InstanceNorm2d(3, track_running_stats=True),
        lambda: BatchNorm(3),
        lambda: KerasBatchNorm2d(3),
        # Its statistics are in another module than its parameters.
        lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 3)),
    ],
)
@pytest.mark.parametrize("how", ["a part", "the norm", "by its parameters", "another name"])
def test_statistics_of_what_is_frozen_stay_to_the_bit(how, norm):
    """And those of a norm like it, which is not frozen, do not. Dropout stays active."""
    part = nn.Sequential(nn.Conv2d(3, 3, 3), norm(), nn.Dropout())
    net = nn.ModuleDict({"part": part, "free": norm(), "head": nn.Linear(3, 2)})
    net["again"] = part
    net.forward = lambda x: net.head(net.free(net.part(x)).mean((2, 3)))
    if how == "by its parameters":
        part.requires_grad_(False)
    else:
        freeze(net, [{"a part": "part", "the norm": "part.1", "another name": "again"}[how]])
    ema = MovingAverage(net, 0.5)
    before = copy.deepcopy(net.state_dict())
    batches = [(torch.rand(4, 3, 12, 12), torch.arange(4) % 2)] * 3
    train_epoch(net, batches, torch.optim.SGD(net.parameters(), lr=0.1), ema=ema)
    for state in (net.state_dict(), ema.module.state_dict()):
        frozen = "part.1" if how == "the norm" else "part"
        assert all(torch.equal(state[k], v) for k, v in before.items() if k.startswith(frozen))
        kept = [torch.equal(state[k], v) for k, v in before.items() if k.startswith("free")]
        assert kept and not all(kept)
    assert part[2].training
