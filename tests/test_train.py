"""The command and `train`: runs that end well, runs that go on, and every way to be refused."""

import copy
import json
import re
import shutil
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
from torchcnn.run.run import Run
from torchcnn.training import plan


def run(*argv):
    train.main(["--device", "cpu", "--data", "sample", *map(str, argv)])


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


def test_the_command_as_a_newcomer_types_it(tmp_path, capsys):
    train.main(["--arch", "lenet", "--epochs", "1"])
    out, error = capsys.readouterr()
    assert error == ""  # no progress bar without a terminal
    *config, epoch, hint, tested, mistaken = out.splitlines()
    assert [line.split()[0] for line in config] == ["data", "arch", "recipe", "epochs", "device"]
    assert "sample (only the embedded 5,000 + 1,000 images: " in config[0]
    assert "source (optimizer adam, lr 0.001, batch_size 256, input_size 28)" in config[2]
    assert epoch.startswith("epoch 1, loss ") and ", val acc " in epoch
    assert "of the norms' moving statistics is still what they began with" in hint
    run_of_today = r"test acc 0\.\d{4}, .* the run is in runs/lenet-sample-seed0-\d{8}-\d{6}$"
    assert re.match(run_of_today, tested)
    assert re.match(r"most often mistaken: \d+ of [a-z -]+ as [a-z -]+, ", mistaken)


LONGER = ["alexnet", "vgg11_bn", "nin", "googlenet", "resnet20", "tf_alexnet_half", "tf_nin_dense",
          "tf_resnet18_pool"]  # fmt: skip


@pytest.mark.parametrize(
    "arch",
    ["densenet", *(pytest.param(arch, marks=pytest.mark.slow) for arch in LONGER)],
)
def test_a_network_of_each_family_trains_by_the_command(arch, tmp_path, monkeypatch):
    """A few steps on a part of the sample, at a size that a CPU can bear."""
    sample = data.load_data("sample")
    few = replace(sample, train_images=sample.train_images[:32],
                  train_labels=sample.train_labels[:32], test_images=sample.test_images[:10],
                  test_labels=sample.test_labels[:10])  # fmt: skip
    monkeypatch.setattr(plan, "load_images", lambda *_: few)
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
    flags = ["--epochs", 1]  # at 28 pixels, since a resize is a convolution too
    run(*flags, "--norm", "scratch", "--out", "norm")
    assert any(computed)
    computed.clear()
    run(*flags, "--layers", "scratch", "--out", "layers")
    assert not any(computed)  # torch's convolution was asked for shapes alone
    run(*flags, "--out", "torch")
    torchs, norm, layers = (last(tmp_path / name) for name in ("torch", "norm", "layers"))
    losses = [run.history[0].step_losses for run in (torchs, norm, layers)]
    torch.testing.assert_close(losses[1:], 2 * losses[:1], rtol=1e-3, atol=1e-3)
    assert "stage1.1.moving_mean" in norm.state.weights
    assert layers.state.weights.keys() == torchs.state.weights.keys()
    assert layers.spec == torchs.spec


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


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, tenth_of_the_sample):
    """By hand, one epoch, then on to two; until then there is no result."""
    flags = ["--optimizer", "sgd", "--lr", 0.1, "--norm", "scratch", "--layers", "scratch",
             "--input-size", 16]  # fmt: skip
    run(*flags, "--epochs", 2, "--out", "whole")
    run(*flags, "--epochs", 1, "--out", "r")
    assert json.loads((tmp_path / "r" / "result.json").read_text())["epoch"] == 1
    with killed(lambda *_: True):  # before its first step
        train.main(["--resume", "r", "--epochs", "2"])
    assert not (tmp_path / "r" / "result.json").exists()
    train.main(["--resume", "r", "--epochs", "2"])
    check_same(tmp_path / "whole", tmp_path / "r")


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
        (["--arch", "lenet,densnet"], "unknown network 'densnet'; did you mean densenet"),
        (["--arch", "mlp,lenet,mlp", "--seed", "1,2"], "--arch has mlp twice"),
        (["--seed", "0,0"], "allowed are different seeds"),
        (["--seed", "0,1", "--resume", "r"], "--resume takes one network and one seed, got "),
        (["--arch", "mlp", "--small-input"], "got small_input"),
        (["--batch-size", "1"], "cannot train on a batch of 1"),
        (["--ema", "1"], "--ema: got 1, allowed is a number from 0 to below 1"),
        (["--schedule", "linear"], "got linear, allowed are constant, step, "),
        (["--augment", "crop,spin"], "got 'spin', allowed are crop, flip, rotate, color-jitter, "),
        (["--optimizer", "sgd", "--lr", "1", "--nesterov"], "--nesterov needs a --momentum above"),
        (["--optimizer", "sgd"], "--optimizer sgd needs a --lr: the recipe's 0.001 is for adam"),
        (["--input-size", "100000"], "allowed is a whole number from 1 to 4096"),
        (["--arch", "densenet", "--input-size", "28"], "the least input size is 29"),
        (["--data", "mnist"], "there is no folder mnist; allowed is auto, fashion-mnist, "),
        (["--data", "cifar10"], "CIFAR10 is not under data and cannot be downloaded"),
        (["--data", "cifar10", "--input-size", "12"], "at least 16 pixels"),  # before it is fetched
        (["--resume", "nowhere"], "there is no checkpoint nowhere"),
        (["--out", "/dev/null/x"], "/dev/null is no writable folder"),
        (["--device", "tpu"], "--device tpu is not on this machine; there are auto, cpu"),
    ],
)
def test_bad_input_is_refused(argv, message, refused):
    assert message in refused(train.main, "--data", "sample", *argv)


def test_a_bad_configuration_or_optimizer_is_refused(finished_run, refused, tmp_path):
    """What is stored is changed in one place, as a file of another program may have it."""
    shutil.copytree(finished_run, tmp_path / "r")
    path = tmp_path / "r" / "last.pt"
    good = torch.load(path)
    config, optimizer = good["config"], good["optimizer"]
    (group,) = optimizer["param_groups"]
    another = {0: optimizer["state"][0] | {"exp_avg": torch.zeros(2)}}
    for change, message in [
        ({"config": {"arch": "lenet"}}, "the configuration in r/last.pt is damaged"),
        ({"config": config | {"batch_size": 0}}, "is damaged: its batch_size is 0"),
        ({"sources": {}}, "the configuration in r/last.pt is damaged: its sources"),
        ({"weights": {}}, "the checkpoint is not one of lenet: "),
        ({"optimizer": optimizer | {"state": {}}}, "optimizer's state does not fit"),
        ({"optimizer": optimizer | {"state": optimizer["state"] | another}}, "state does not fit"),
        ({"optimizer": optimizer | {"param_groups": [group | {"lr": "fast"}]}}, "not those of the"),
        ({"optimizer": optimizer | {"param_groups": [group | {"betas": 5}]}}, "not those of the"),
    ]:
        torch.save(good | change, path)
        assert message in refused(train.main, "--resume", "r", "--epochs", 9)


def test_a_best_checkpoint_that_is_not_the_runs_is_refused(finished_run, refused, tmp_path):
    """It is needed where the last epoch is not the best, with which it would be written anew."""
    shutil.copytree(finished_run, tmp_path / "r")
    last_pt, best_pt = (tmp_path / "r" / name for name in ("last.pt", "best.pt"))
    content = torch.load(last_pt)
    content["history"][-1]["eval_acc"] = 0.0
    torch.save(content, last_pt)
    for record in content["history"]:
        record["time"] += 1.0  # of another run
    torch.save(content, best_pt)
    error = refused(train.main, "--resume", "r", "--epochs", 9)
    assert "r/best.pt" in error and "is not that of epoch" in error
    best_pt.unlink()
    error = refused(train.main, "--resume", "r", "--epochs", 9)
    assert "there is no checkpoint r/best.pt" in error


def test_a_resumed_run_does_not_become_another(finished_run, refused, tmp_path):
    shutil.copytree(finished_run, tmp_path / "r")
    for flag, value in [("--arch", "densenet"), ("--batch-size", 64), ("--out", "elsewhere")]:
        error = refused(train.main, "--resume", "r", "--epochs", 9, flag, value)
        assert f"with {flag} " in error and f"got {value}" in error
    for fewer in ([], ["--epochs", 2]):
        assert "has finished 3 epochs" in refused(train.main, "--resume", "r", *fewer)


# --- from Python --------------------------------------------------------------------------------


class Own(nn.Module):
    """A module that torchcnn does not know."""

    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.BatchNorm1d(20), nn.ReLU())
        self.head = nn.Linear(20, classes)

    def forward(self, x):
        return self.head(self.body(x))


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
    more = train.train(resume=result.path, epochs=2)
    assert [r.epoch for r in more.history] == [1, 2]


def test_a_module_of_your_own_is_trained_resumed_and_loaded(tmp_path, refused):
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
    Image.new("L", (28, 28)).save("a.png")
    for command, argv in ((evaluate, []), (predict, ["a.png"])):
        error = refused(command.main, "--checkpoint", "r", *argv)
        assert "Own is a module of your own" in error
    assert "is a run of Own" in refused(train.main, "--resume", "r", "--epochs", "3")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"arch": "lenett"}, "did you mean lenet"),
        ({"seed": "0,1"}, "takes one seed, got"),
        ({"net": Own(7)}, r"must return logits \(20, 10\) for images"),
        ({"net": Own(), "input_size": 20}, "Own cannot train on images"),
        ({"net": Own(), "arch": "lenet"}, "arch cannot be given with a module"),
        ({"net": Own}, "net is a torch.nn.Module, got <class"),
        ({"net": Own().requires_grad_(False)}, "Own has no parameters to train"),
    ],
)
def test_what_python_gets_wrong_is_refused_too(flags, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train.train(out=tmp_path / "r", data="sample", **flags)
    assert not (tmp_path / "r").exists()


def test_a_run_that_could_not_be_opened_is_not_locked(tmp_path, monkeypatch):
    flags = {"arch": "softmax_regression", "out": "r", **PYTHON}
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full") as kept:
        patch.setattr(runs, "TensorBoard", lambda *_: (_ for _ in ()).throw(OSError("full")))
        train.train(**flags)
    assert kept  # the exception, and what it holds
    train.train(**flags)
