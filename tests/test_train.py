"""The command and `train`: runs that end well, runs that go on, and every way to be refused."""

import copy
import gzip
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from comparing import check_same, killed, same
from PIL import Image
from small_networks import SIZES
from torch import nn

from torchcnn import create_model, evaluate, predict, train, train_ch5
from torchcnn.data import datasets as data
from torchcnn.data.loader import Batches
from torchcnn.models import ModelSpec
from torchcnn.run import run as runs
from torchcnn.run.checkpoint import load_checkpoint, load_model
from torchcnn.run.run import Run, lock
from torchcnn.training import plan


def run(*argv):
    train.main(["--device", "cpu", "--data", "sample", *map(str, argv)])


def refused(capsys, tmp_path, *argv):
    """Run the command as a user would see it fail: -> the one line; nothing new on the disk."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        train.main(list(map(str, argv)))
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.count("\n") == 1 and error.startswith("python -m torchcnn.train: ")
    assert sorted(tmp_path.rglob("*")) == before
    return error


def last(path):
    return load_checkpoint(path / "last.pt")


def accuracy(net):
    """On the test images of the sample."""
    sample = data.load_data("sample")
    with torch.no_grad():
        predicted = net(sample.test_images / 255).argmax(1)
    return (predicted == sample.test_labels).double().mean().item()


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_command_as_a_newcomer_types_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-m", "torchcnn.train", "--arch", "lenet",
         "--data", "sample", "--epochs", "1"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""  # no progress bar without a terminal, no warnings
    *config, epoch, hint, tested, mistaken = done.stdout.splitlines()
    assert re.match(r"most often mistaken: \d+ of [a-z -]+ as [a-z -]+, ", mistaken)
    assert [line.split()[0] for line in config] == ["data", "arch", "recipe", "epochs", "device"]
    assert "source (optimizer adam, lr 0.001, batch_size 256, input_size 28)" in config[2]
    assert epoch.startswith("epoch 1, loss ") and ", val acc " in epoch
    # 18 steps, each of which keeps 0.9 of torch's moving statistics.
    assert hint.startswith(f"{0.9**18:.1%} of the norms' moving statistics is still what they ")
    assert re.search(
        r"test acc 0\.\d{4}, .* the run is in runs/lenet-sample-seed0-\d{8}-\d{6}$", tested
    )


def test_auto_says_loudly_that_it_took_the_sample(capsys, tmp_path):
    with killed(lambda *_: True):  # before its first step
        train.main(["--device", "cpu"])
    out = capsys.readouterr().out
    assert "data             sample (only the embedded 5,000 + 1,000 images: " in out
    assert next((tmp_path / "runs").iterdir()).name.startswith("lenet-sample-")


LONGER = ["alexnet", "vgg11_bn", "nin", "googlenet", "resnet20", "tf_alexnet_half", "tf_nin_dense",
          "tf_resnet18_pool"]  # fmt: skip


@pytest.mark.parametrize(
    "arch",
    ["densenet", *(pytest.param(arch, marks=pytest.mark.slow) for arch in LONGER)],
)
def test_a_network_of_each_family_trains_by_the_command(arch, tmp_path, monkeypatch):
    """A few steps on a part of the sample, at a size that a CPU can bear."""
    whole = data.load_data("sample")
    part = data.ImageData("sample", whole.classes, whole.train_images[:32], whole.train_labels[:32],
                          whole.test_images[:10], whole.test_labels[:10])  # fmt: skip
    monkeypatch.setattr(plan, "load_images", lambda *_: part)
    size = SIZES.get(arch, 32)
    # SGD: to write Adam's state would take longer than to train.
    run("--arch", arch, "--epochs", 1, "--batch-size", 6, "--input-size", size, "--out", "r",
        "--optimizer", "sgd", "--lr", "0.001")  # fmt: skip
    assert load_model(tmp_path / "r")(torch.zeros(1, 1, size, size)).shape == (1, 10)


def test_what_is_written_by_hand_trains_to_the_same_loss(
    tmp_path, monkeypatch, tenth_of_the_sample
):
    conv2d, computed = torch.nn.functional.conv2d, []
    monkeypatch.setattr(torch.nn.functional, "conv2d",
                        lambda x, *w: computed.append(not x.is_meta) or conv2d(x, *w))  # fmt: skip
    flags = ["--epochs", 1]
    run(*flags, "--out", "torch")
    run(*flags, "--norm", "scratch", "--out", "norm")
    assert any(computed)
    computed.clear()
    run(*flags, "--layers", "scratch", "--out", "layers")
    assert not any(computed)  # torch's convolution was asked for shapes alone
    torchs, norm, layers = (last(tmp_path / name) for name in ("torch", "norm", "layers"))
    for ours in (norm, layers):
        losses = [run.history[0].step_losses for run in (ours, torchs)]
        torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-3)
    assert "stage1.1.moving_mean" in norm.state.weights
    assert layers.state.weights.keys() == torchs.state.weights.keys()
    assert layers.spec == torchs.spec


def test_every_epoch_and_every_seed_has_its_own_order(tmp_path):
    """With a learning rate of next to nothing, only the order tells two epochs' steps apart."""
    still = ["--arch", "softmax_regression", "--optimizer", "sgd", "--lr", "1e-12", "--epochs", 2]
    run(*still, "--out", "a")
    run(*still, "--seed", 1, "--out", "b")
    first, second = last(tmp_path / "a").history
    assert first.train_loss == pytest.approx(second.train_loss, rel=1e-2)
    assert (first.step_losses - second.step_losses).abs().max() > 1e-3
    assert not torch.equal(first.step_losses, last(tmp_path / "b").history[0].step_losses)


def test_the_test_set_is_read_with_the_weights_that_were_selected(tmp_path, monkeypatch):
    """The validation accuracy is made to fall: the first epoch's weights are what is tested."""
    add_epoch = Run.add_epoch

    def falling(self, record):
        add_epoch(self, replace(record, eval_acc=1 / record.epoch))

    monkeypatch.setattr(Run, "add_epoch", falling)
    run("--arch", "mlp", "--epochs", 3, "--batch-size", 500, "--out", "r")
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert result["epoch"] == 1 and result["checkpoint"] == "best.pt"
    best, newest = (accuracy(load_model(tmp_path / "r" / p)) for p in ("best.pt", "last.pt"))
    assert result["test_acc"] == best != newest


@pytest.mark.parametrize(
    "flags", [[], ["--optimizer", "sgd", "--lr", 0.1, "--norm", "scratch", "--layers", "scratch"]]
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    flags, tmp_path, tenth_of_the_sample
):
    """One epoch, then on to three; until then there is no result."""
    flags = [*flags, "--input-size", 16]
    run(*flags, "--epochs", 3, "--out", "whole")
    run(*flags, "--epochs", 1, "--out", "r")
    assert json.loads((tmp_path / "r" / "result.json").read_text())["epoch"] == 1
    with killed(lambda *_: True):  # before its first step
        train.main(["--resume", "r", "--epochs", "3"])
    assert not (tmp_path / "r" / "result.json").exists()
    train.main(["--resume", "r", "--epochs", "3"])
    check_same(tmp_path / "whole", tmp_path / "r")
    best = [load_checkpoint(tmp_path / name / "best.pt").state.weights for name in ("whole", "r")]
    assert same(*best)


def test_the_command_is_train_ch5(tmp_path, capsys, tenth_of_the_sample):
    """Same seed, same recipe, all images: the tutorials' function ends with the same bits.

    Without images to validate on, the test set is shown, and no epoch is selected.
    """
    run("--epochs", 2, "--batch-size", 64, "--val-fraction", 0, "--seed", 7, "--out", "r")
    out = capsys.readouterr().out
    assert ", test acc " in out and "(last.pt, epoch 2)" in out
    assert not (tmp_path / "r" / "best.pt").exists()
    sample = data.load_data("sample")
    batches = Batches(sample.train_images, sample.train_labels, 64, shuffle=True, seed=7)
    test_iter = Batches(sample.test_images, sample.test_labels, 64)
    torch.manual_seed(7)
    net = create_model("lenet")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    history = train_ch5(net, batches, test_iter, 64, optimizer, "cpu", 2)
    checkpoint = last(tmp_path / "r")
    assert same(checkpoint.state.weights, dict(net.state_dict()))
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    accuracies = {result["test_acc"], checkpoint.history[-1].eval_acc, history[-1]["test_acc"]}
    assert len(accuracies) == 1


def test_a_loss_that_becomes_nan_leaves_the_last_good_checkpoint(capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        run("--arch", "mlp", "--optimizer", "sgd", "--lr", "1e30", "--out", "r")
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    assert re.search(r"epoch 1: the loss became (nan|inf) at step \d+ of 141; r/last\.pt", error)
    assert "holds the last weights that were saved; start anew with a smaller --lr than" in error
    checkpoint = last(tmp_path / "r")
    assert checkpoint.history == []
    assert all(w.isfinite().all() for w in checkpoint.state.weights.values())


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--arch", "densnet"], "unknown network 'densnet'; did you mean densenet"),
        (["--arch", "mlp,lenet,mlp", "--seed", "1,2"], "--arch has mlp twice"),
        (["--arch", "mlp", "--norm", "scratch"], "got norm_layer"),
        (["--arch", "mlp", "--small-input"], "got small_input"),
        (["--epochs", "0"], "--epochs: got 0, allowed is a whole number from 1"),
        (["--batch-size", "-3"], "--batch-size: got -3, allowed is a whole number from 1"),
        (["--batch-size", "1"], "cannot train on a batch of 1"),
        (["--lr", "1e38"], "allowed is a number above 0, to 1e30"),
        (["--ema", "1"], "got 1, allowed is a number from 0 to below 1"),
        (["--warmup", "-1"], "got -1, allowed is a whole number from 0"),
        (["--schedule", "linear"], "got linear, allowed are constant, step, "),
        (["--augment", "crop,spin"], "got 'spin', allowed are crop, flip, rotate, color-jitter, "),
        (["--momentum", "0.9"], "--momentum is not for the optimizer adam"),
        (["--optimizer", "sgd", "--lr", "1", "--nesterov"], "--nesterov needs a --momentum above"),
        (["--optimizer", "sgd"], "--optimizer sgd needs a --lr: the recipe's 0.001 is for adam"),
        (["--input-size", "12"], "lenet takes images of at least 16 pixels"),
        (["--input-size", "100000"], "allowed is a whole number from 1 to 4096"),
        (["--arch", "densenet", "--input-size", "28"], "the least input size is 29"),
        (["--data", "mnist"], "there is no folder mnist; allowed is auto, fashion-mnist, "),
        (["--data", "fashion-mnist", "--root", "nowhere"], "cannot be downloaded"),
        (["--data", "cifar10"], "CIFAR10 is not under data and cannot be downloaded"),
        (["--data", "cifar10", "--input-size", "12"], "at least 16 pixels"),  # before it is fetched
        (["--resume", "nowhere"], "there is no checkpoint nowhere"),
        (["--out", "/dev/null/x"], "/dev/null is no writable folder"),
        (["--device", "cuda"], "--device cuda is not on this machine; there are auto, cpu"),
    ],
)
def test_bad_input_is_refused(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert message in refused(capsys, tmp_path, "--data", "sample", *argv)


def test_damaged_data_is_refused(capsys, tmp_path, idx_folder, monkeypatch):
    monkeypatch.setattr(data, "FASHION_MNIST_MD5", data.SAMPLE_MD5)
    images = idx_folder / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    for content, message in [
        (whole[:-1], "is cut short or damaged"),
        (gzip.compress(gzip.decompress(whole)[:-1] + b"?"), "is damaged or of another data set"),
    ]:
        images.write_bytes(content)
        assert message in refused(capsys, tmp_path, "--data", "fashion-mnist", "--root", idx_folder)


def test_a_bad_checkpoint_is_refused(finished_run, capsys, tmp_path):
    """What is stored is changed in one place, as a file of another program may have it."""
    shutil.copytree(finished_run, tmp_path / "r")
    path = tmp_path / "r" / "last.pt"
    good, content = torch.load(path), path.read_bytes()
    config, optimizer, history = good["config"], good["optimizer"], good["history"]
    (group,) = optimizer["param_groups"]
    another = {0: optimizer["state"][0] | {"exp_avg": torch.zeros(2)}}
    bad = {
        "no configuration": {"config": {"arch": "lenet"}},
        "no sources": {"sources": {}},
        **{f"{k} of the configuration": {"config": config | {k: v}}
           for k, v in {"batch_size": 0, "lr": float("nan"), "norm": "layer", "val_fraction": 3.0,
                        "augment": ["spin"], "schedule": "linear", "arch": "nonet"}.items()},
        "epoch": {"history": [{}, *history[1:]]},
        "no state of the optimizer": {"optimizer": optimizer | {"state": {}}},
        "another shape": {"optimizer": optimizer | {"state": optimizer["state"] | another}},
        **{f"{k} of the optimizer": {"optimizer": optimizer | {"param_groups": [group | {k: v}]}}
           for k, v in {"betas": 5, "eps": "x", "lr": "fast", "weight_decay": 3.0,
                        "amsgrad": True}.items()},
        "a weight less": {"weights": {k: w for k, w in good["weights"].items() if "head.1" not in k
                                      }},
    }  # fmt: skip
    for kind, change in bad.items():
        torch.save(good | change, path)
        error = refused(capsys, tmp_path, "--resume", "r", "--epochs", 9)
        assert re.search(r"r/last\.pt|optimizer|unknown network|Missing.*head\.1", error), kind
    torch.save({"weights": {}}, path)
    assert "r/last.pt is not a checkpoint" in refused(capsys, tmp_path, "--resume", "r")
    path.write_bytes(content[:5000])
    assert "r/last.pt is damaged" in refused(capsys, tmp_path, "--resume", "r")


def test_a_best_checkpoint_that_is_not_the_runs_is_refused(finished_run, capsys, tmp_path):
    """It is needed where the last epoch is not the best, with which it would be written anew."""
    shutil.copytree(finished_run, tmp_path / "r")
    last_pt, best_pt = (tmp_path / "r" / name for name in ("last.pt", "best.pt"))
    content = torch.load(last_pt)
    content["history"][-1]["eval_acc"] = 0.0
    torch.save(content, last_pt)
    malformed = torch.load(best_pt) | {"history": [1]}
    for record in content["history"]:
        record["time"] += 1.0  # of another run
    for bad, message in (
        (content, "is not that of epoch"),
        (malformed, "damaged"),
        (None, "no checkpoint r/best.pt"),
    ):
        torch.save(bad, best_pt)
        if bad is None:
            best_pt.unlink()
        error = refused(capsys, tmp_path, "--resume", "r", "--epochs", 9)
        assert message in error and "r/best.pt" in error


def test_a_run_that_is_in_use_or_would_become_another_is_refused(finished_run, capsys, tmp_path):
    shutil.copytree(finished_run, tmp_path / "r")
    for flag, value in [("--arch", "densenet"), ("--batch-size", 64), ("--out", "elsewhere")]:
        error = refused(capsys, tmp_path, "--resume", "r", "--epochs", 9, flag, value)
        assert f"with {flag} " in error and f"got {value}" in error
    assert "has finished 3 epochs" in refused(capsys, tmp_path, "--resume", "r")
    assert "has finished 3 epochs" in refused(capsys, tmp_path, "--resume", "r", "--epochs", 2)
    error = refused(capsys, tmp_path, "--data", "sample", "--out", "r")
    assert "--out r already holds a run; --resume continues it" in error
    unlock = lock(tmp_path / "r", capsys)  # as a process that trains has it
    error = refused(capsys, tmp_path, "--resume", "r", "--epochs", 9)
    assert "r is being written by another process" in error
    unlock()


# --- from Python --------------------------------------------------------------------------------


class Own(nn.Module):
    """A module that torchcnn does not know."""

    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.BatchNorm1d(20), nn.ReLU())
        self.head = nn.Linear(20, classes)

    def forward(self, x):
        return self.head(self.body(x))


class Pair(Own):
    def forward(self, x):
        return super().forward(x), x


PYTHON = {"data": "sample", "device": "cpu", "epochs": 1, "batch_size": 500}


def test_train_from_python_is_the_command(tmp_path):
    """What is None is not given."""
    result = train.train(arch="mlp", out=None, resume=None, root=None, **PYTHON)
    run("--arch", "mlp", "--epochs", 1, "--batch-size", 500, "--out", "b")
    assert result.path.parts[0] == "runs" and not (tmp_path / "None").exists()
    check_same(result.path, tmp_path / "b")
    written = json.loads((result.path / "result.json").read_text())
    for key in ("test_acc", "test_loss", "epoch", "checkpoint"):
        assert getattr(result, key) == written[key]
    (record,) = result.history
    assert record.eval_acc == last(tmp_path / "b").history[0].eval_acc and record.split == "val"
    more = train.train(resume=result.path, epochs=2)
    assert [r.epoch for r in more.history] == [1, 2]


def test_a_module_of_your_own_is_trained_resumed_and_loaded(tmp_path, capsys):
    """Also with parameters that are frozen, or that take no part."""
    torch.manual_seed(3)
    net = Own()
    net.body[1].requires_grad_(False)
    net.idle = nn.Linear(3, 3)
    start = copy.deepcopy(net)
    result = train.train(net=net, out=tmp_path / "r", **(PYTHON | {"epochs": 2}))
    changed = {k for k, w in net.state_dict().items() if not torch.equal(w, start.state_dict()[k])}
    assert {k.rpartition(".")[0] for k in changed} == {"body.2", "head"}
    train.train(net=copy.deepcopy(start), out=tmp_path / "s", **PYTHON)
    again = copy.deepcopy(start)  # its weights come from the checkpoint
    nn.init.zeros_(again.head.weight)
    resumed = train.train(resume=tmp_path / "s", net=again, epochs=2)
    check_same(tmp_path / "r", tmp_path / "s")
    assert result.test_acc == resumed.test_acc
    spec = last(tmp_path / "r").spec
    assert (spec.arch, spec.own, spec.shape, spec.num_classes) == ("Own", True, (1, 28, 28), 10)
    loaded = load_model(tmp_path / "r", copy.deepcopy(again))
    assert isinstance(loaded.spec, ModelSpec) and accuracy(loaded) == result.test_acc
    capsys.readouterr()
    Image.new("L", (28, 28)).save("a.png")
    for command, argv in ((evaluate, []), (predict, ["a.png"])):
        with pytest.raises(SystemExit) as stop:
            command.main(["--checkpoint", "r", *argv])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and "Own is a module of your own" in error
    assert "is a run of Own" in refused(capsys, tmp_path, "--resume", "r", "--epochs", "3")


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"archh": "lenet"}, TypeError, "unexpected keyword arguments: archh; there are data, "),
        ({"arch": "lenett"}, ValueError, "did you mean lenet"),
        ({"epochs": 0}, ValueError, "--epochs: got 0, allowed is a whole number from 1"),
        ({"lr": "fast"}, ValueError, "--lr: got fast, allowed is a number above 0"),
        ({"compile": 1}, ValueError, "--compile: got 1, allowed are True, False"),
        ({"schedule": "linear"}, ValueError, "--schedule: got linear, allowed are constant, "),
        ({"net": Own(7)}, ValueError, r"must return logits \(20, 10\) for images"),
        ({"net": Own(), "input_size": 20}, ValueError, "Own cannot train on images"),
        ({"net": Own(), "arch": "lenet"}, ValueError, "arch cannot be given with a module"),
        ({"net": "lenet"}, ValueError, "net is a torch.nn.Module, got 'lenet'"),
        ({"net": Own}, ValueError, "net is a torch.nn.Module, got <class"),
        ({"net": Own().requires_grad_(False)}, ValueError, "Own has no parameters to train"),
        ({"net": Pair()}, ValueError, "must return logits .* got a tuple"),
        ({"net": Own().to("meta")}, ValueError, "Own cannot train on images"),
    ],
)
def test_what_python_gets_wrong_is_refused_too(flags, error, message, tmp_path):
    with pytest.raises(error, match=message):
        train.train(out=tmp_path / "r", **({"data": "sample"} | flags))
    assert not (tmp_path / "r").exists()


def test_a_run_that_could_not_be_opened_is_not_locked(tmp_path, monkeypatch):
    flags = {"arch": "softmax_regression", "out": "r", **PYTHON}
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full") as kept:
        patch.setattr(runs, "TensorBoard", lambda *_: (_ for _ in ()).throw(OSError("full")))
        train.train(**flags)
    assert kept  # the exception, and what it holds
    train.train(**flags)
