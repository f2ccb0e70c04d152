"""The command: runs that end well, runs that go on, and every way to be refused."""

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
from comparing import points, result, same
from PIL import Image
from small_networks import ONE_OF_EACH
from torch import nn

from torchcnn import create_model, evaluate, predict, train, train_ch5
from torchcnn.data import datasets as data
from torchcnn.data.loader import Batches
from torchcnn.run import log
from torchcnn.run.checkpoint import load_checkpoint, load_model
from torchcnn.run.folder import lock
from torchcnn.run.log import Run
from torchcnn.training import loaders
from torchcnn.training.trainer import Trainer


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
    *config, epoch, hint, last = done.stdout.splitlines()
    assert any(re.fullmatch(r"lr +0.001 \(source recipe\)", line) for line in config)
    assert epoch.startswith("epoch 1, loss ") and ", val acc " in epoch
    # 18 steps, each of which keeps 0.9 of torch's moving statistics.
    assert hint.startswith(f"{0.9**18:.1%} of the norms' moving statistics is still what they ")
    assert re.search(
        r"test acc 0\.\d{4}, .* the run is in runs/lenet-sample-seed0-\d{8}-\d{6}$", last
    )


@pytest.mark.parametrize("arch", ["densenet", "resnet18"])
def test_the_larger_networks_train(arch, tmp_path, monkeypatch, capsys):
    """A small part of the sample; the whole sample is the slow suite's."""
    whole = data.load_data("sample")
    part = data.ImageData("sample", whole.classes, whole.train_images[:32], whole.train_labels[:32],
                          whole.test_images[:10], whole.test_labels[:10])  # fmt: skip
    monkeypatch.setattr(loaders, "load_images", lambda *_: part)
    run("--arch", arch, "--epochs", 1, "--batch-size", 8, "--out", "r")
    assert (tmp_path / "r" / "best.pt").exists()


@pytest.mark.slow
def test_a_larger_network_trains_on_the_whole_sample(tmp_path):
    run("--arch", "densenet", "--epochs", 1, "--input-size", 48, "--out", "r")
    (record,) = load_checkpoint(tmp_path / "r" / "last.pt")["history"]
    assert record["train_acc"] > 0.5  # 18 steps; guessing is right once in ten


def test_auto_says_loudly_that_it_took_the_sample(capsys, tmp_path):
    train.main(["--epochs", "1", "--device", "cpu"])
    out = capsys.readouterr().out
    assert "data             sample (only the embedded 5,000 + 1,000 images: " in out
    assert next((tmp_path / "runs").iterdir()).name.startswith("lenet-sample-")


def test_without_validation_data_the_test_set_is_shown_and_nothing_selected(tmp_path, capsys):
    run("--epochs", 1, "--val-fraction", 0, "--out", "r")
    out = capsys.readouterr().out
    assert ", test acc " in out and "(last.pt, epoch 1)" in out
    assert not (tmp_path / "r" / "best.pt").exists()
    (record,) = load_checkpoint(tmp_path / "r" / "last.pt")["history"]
    assert len(record["step_losses"]) == 20  # 5,000 images in batches of 256: all of them train
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert result["test_acc"] == record["test_acc"]


def test_the_scratch_norm_trains_to_the_same_loss(tmp_path):
    for norm in ("torch", "scratch"):
        run("--epochs", 1, "--norm", norm, "--out", norm)
    torch_loss, scratch_loss = (
        load_checkpoint(tmp_path / norm / "last.pt")["history"][0]["step_losses"]
        for norm in ("torch", "scratch")
    )
    torch.testing.assert_close(torch_loss, scratch_loss, rtol=1e-3, atol=1e-3)
    keys = load_checkpoint(tmp_path / "scratch" / "last.pt")["weights"]
    assert "stage1.1.moving_mean" in keys


def test_every_layer_by_hand_trains_to_the_same_loss(finished_run, tmp_path, monkeypatch):
    conv2d, computed = torch.nn.functional.conv2d, []
    monkeypatch.setattr(torch.nn.functional, "conv2d",
                        lambda x, *w: computed.append(not x.is_meta) or conv2d(x, *w))  # fmt: skip
    run("--epochs", 1, "--layers", "scratch", "--out", "r")
    assert not any(computed)  # torch's convolution was asked for shapes alone
    by_hand, whole = (load_checkpoint(p / "last.pt") for p in (tmp_path / "r", finished_run))
    torch.testing.assert_close(
        by_hand["history"][0]["step_losses"], whole["history"][0]["step_losses"],
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip
    assert by_hand["weights"].keys() == whole["weights"].keys()
    assert by_hand["model"] == whole["model"]


def test_every_epoch_has_its_own_order(tmp_path):
    """With a learning rate of next to nothing, only the order tells two epochs' steps apart."""
    run("--epochs", 2, "--optimizer", "sgd", "--lr", "1e-12", "--out", "r")
    first, second = load_checkpoint(tmp_path / "r" / "last.pt")["history"]
    assert first["train_loss"] == pytest.approx(second["train_loss"], rel=1e-2)
    assert (first["step_losses"] - second["step_losses"]).abs().max() > 1e-3


def test_the_test_set_is_read_with_the_weights_that_were_selected(tmp_path, monkeypatch):
    """The validation accuracy is made to fall: the first epoch's weights are what is tested."""
    add_epoch = Run.add_epoch

    def falling(self, record):
        add_epoch(self, replace(record, eval_acc=1 / record.epoch))

    monkeypatch.setattr(Run, "add_epoch", falling)
    run("--epochs", 3, "--out", "r")
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert result["epoch"] == 1 and result["checkpoint"] == "best.pt"
    sample = data.load_data("sample")
    accuracies = {}
    for name in ("best.pt", "last.pt"):
        with torch.no_grad():
            logits = load_model(tmp_path / "r" / name)(sample.test_images / 255)
        accuracies[name] = (logits.argmax(1) == sample.test_labels).double().mean().item()
    assert result["test_acc"] == accuracies["best.pt"] != accuracies["last.pt"]


def without_times(history):
    vary = {"time", "seconds", "images_per_second", "step_losses"}
    return [{k: v for k, v in record.items() if k not in vary} for record in history]


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(finished_run, tmp_path):
    """One epoch, then on to three: weights, moving statistics, optimizer, history, events."""
    run("--epochs", 1, "--out", "r")
    assert json.loads((tmp_path / "r" / "result.json").read_text())["epoch"] == 1
    train.main(["--resume", "r", "--epochs", "3"])
    whole, resumed = (load_checkpoint(p / "last.pt") for p in (finished_run, tmp_path / "r"))
    for part in ("weights", "optimizer", "model", "classes"):
        assert same(whole[part], resumed[part]), part
    assert without_times(whole["history"]) == without_times(resumed["history"])
    for a, b in zip(whole["history"], resumed["history"], strict=True):
        assert torch.equal(a["step_losses"], b["step_losses"])
    best = [load_checkpoint(p / "best.pt")["weights"] for p in (finished_run, tmp_path / "r")]
    assert same(*best)
    results = [result(p) for p in (finished_run, tmp_path / "r")]
    assert results[0] == results[1]
    board = points(tmp_path / "r")
    assert [step for step, _ in board["val/loss"]] == [1, 2, 3]
    assert [step for step, _ in board["train/loss by step"]] == list(range(1, 55))


def test_the_command_is_train_ch5(tmp_path):
    """Same seed, same recipe, all images: the tutorials' function ends with the same bits."""
    run("--epochs", 2, "--val-fraction", 0, "--seed", 7, "--out", "r")
    sample = data.load_data("sample")
    batches = Batches(sample.train_images, sample.train_labels, 256, shuffle=True, seed=7)
    test_iter = Batches(sample.test_images, sample.test_labels, 256)
    torch.manual_seed(7)
    net = create_model("lenet")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    history = train_ch5(net, batches, test_iter, 256, optimizer, "cpu", 2)
    checkpoint = load_checkpoint(tmp_path / "r" / "last.pt")
    assert same(checkpoint["weights"], dict(net.state_dict()))
    assert checkpoint["history"][-1]["test_acc"] == history[-1]["test_acc"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--arch", "tf_baseline", "--input-size", "8", "--batch-size", "64"],  # dropout
        ["--optimizer", "sgd", "--lr", "0.1", "--norm", "scratch", "--layers", "scratch"],
    ],
)
def test_other_resumed_runs_are_exact_too(flags, tmp_path, tenth_of_the_sample):
    run(*flags, "--epochs", 2, "--out", "whole")
    run(*flags, "--epochs", 1, "--out", "r")
    train.main(["--resume", "r", "--epochs", "2"])
    whole, resumed = (load_checkpoint(tmp_path / p / "last.pt") for p in ("whole", "r"))
    assert same(whole["weights"], resumed["weights"])
    assert same(whole["optimizer"], resumed["optimizer"])


def test_a_run_that_stopped_before_its_test_goes_on_to_it(finished_run, tmp_path):
    """Killed between the last epoch and the test: to resume it reads the test set, no more."""
    shutil.copytree(finished_run, tmp_path / "r")
    (tmp_path / "r" / "result.json").unlink()
    train.main(["--resume", "r"])
    results = [result(p) for p in (finished_run, tmp_path / "r")]
    assert results[0] == results[1]


def test_a_resumed_run_has_no_result_until_it_has_its_own(finished_run, tmp_path, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "r")
    monkeypatch.setattr(Trainer, "test", lambda *_: None)  # killed before the test
    train.main(["--resume", "r", "--epochs", "4"])
    assert not (tmp_path / "r" / "result.json").exists()


def test_a_run_that_was_killed_in_an_epoch_goes_on_bit_for_bit(finished_run, tmp_path):
    """SIGKILL after the first line of the command; the run goes on from the last whole epoch."""
    argv = [sys.executable, "-u", "-m", "torchcnn.train", "--device", "cpu", "--data", "sample",
            "--epochs", "3", "--out", "r"]  # fmt: skip
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("epoch 1"):
                process.kill()
    assert process.returncode == -9
    assert len(load_checkpoint(tmp_path / "r" / "last.pt")["history"]) < 3
    train.main(["--resume", "r"])
    whole, resumed = (load_checkpoint(p / "last.pt") for p in (finished_run, tmp_path / "r"))
    assert same(whole["weights"], resumed["weights"])


def test_the_seed_is_what_tells_runs_apart(finished_run, tmp_path):
    run("--epochs", 1, "--out", "a")
    run("--epochs", 1, "--seed", 1, "--out", "b")
    first = load_checkpoint(finished_run / "last.pt")["history"][0]["step_losses"]
    a, b = (load_checkpoint(tmp_path / p / "last.pt")["history"][0]["step_losses"] for p in "ab")
    assert torch.equal(a, first) and not torch.equal(a, b)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--arch", "densnet"], "unknown network 'densnet'; did you mean densenet"),
        (["--epochs", "0"], "--epochs: got 0, allowed is a whole number from 1"),
        (["--batch-size", "-3"], "--batch-size: got -3, allowed is a whole number from 1"),
        (["--data", "mnist"], "--data: got mnist, allowed is auto, fashion-mnist, cifar10"),
        (["--data", "sample", "--input-size", "12"], "lenet takes images of at least 16 pixels"),
        (["--arch", "densenet", "--input-size", "28"], "the least input size is 29"),
        (["--data", "sample", "--batch-size", "1"], "cannot train on a batch of 1"),
        (["--data", "sample", "--batch-size", "4499"], "cannot train on a batch of 1"),
        (["--data", "fashion-mnist", "--root", "nowhere"], "cannot be downloaded"),
        (["--data", "cifar10"], "CIFAR10 is not under data and cannot be downloaded"),
        (["--resume", "nowhere"], "there is no checkpoint nowhere/last.pt"),
        (["--data", "sample", "--out", "/dev/null/x"], "/dev/null is no writable folder"),
        (["--data", "cifar10", "--input-size", "12"], "at least 16 pixels"),  # before it is fetched
        (["--input-size", "100000"], "allowed is a whole number from 1 to 4096"),
        (["--arch", "mlp", "--norm", "scratch"], "got norm_layer"),
        (["--arch", "mlp", "--small-input"], "got small_input"),
        (["--lr", "1e38"], "allowed is a number above 0, to 1e30"),
        (["--optimizer", "sgd"], "--optimizer sgd needs a --lr: the recipe's 0.001 is for adam"),
        (["--arch", "mlp,lenet,mlp", "--seed", "1,2"], "--arch has mlp twice"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(argv, message, capsys, tmp_path):
    assert message in refused(capsys, tmp_path, *argv)


def test_cuda_is_refused_where_there_is_none(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = refused(capsys, tmp_path, "--device", "cuda", "--data", "sample")
    assert "--device cuda is not on this machine; there are auto, cpu" in error


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
    images.write_bytes(whole)
    labels = idx_folder / "t10k-labels-idx1-ubyte.gz"
    shutil.copy(idx_folder / "train-labels-idx1-ubyte.gz", labels)
    error = refused(capsys, tmp_path, "--root", idx_folder)
    assert "5000 labels for 1000 images" in error


@pytest.mark.parametrize(
    "kind",
    ["cut", "foreign", "no config", "a bad size", "no such norm", "a bad history", "no best",
     "a malformed best", "another best", "no optimizer", "another optimizer"],
)  # fmt: skip
def test_a_bad_checkpoint_is_refused(finished_run, capsys, tmp_path, kind):
    shutil.copytree(finished_run, tmp_path / "r")
    last = tmp_path / "r" / "last.pt"
    checkpoint = load_checkpoint(last)
    if kind == "cut":
        last.write_bytes(last.read_bytes()[:5000])
    if kind == "foreign":
        torch.save({"weights": {}}, last)
    if kind == "no config":
        torch.save(checkpoint | {"config": {"arch": "lenet"}}, last)
    if kind == "a bad size":
        torch.save(checkpoint | {"config": checkpoint["config"] | {"batch_size": 0}}, last)
    if kind == "no such norm":
        torch.save(checkpoint | {"config": checkpoint["config"] | {"norm": "layer"}}, last)
    if kind == "a bad history":
        torch.save(checkpoint | {"history": [{}, *checkpoint["history"][1:]]}, last)
    if "best" in kind:  # and it is not the last epoch, which would be written anew
        checkpoint["history"][-1]["val_acc"] = 0.0
        torch.save(checkpoint, last)
    if kind == "no best":
        (tmp_path / "r" / "best.pt").unlink()
    if kind == "a malformed best":
        best = tmp_path / "r" / "best.pt"
        torch.save(load_checkpoint(best) | {"history": [1]}, best)
    if kind == "another best":
        run("--epochs", 1, "--out", "other")
        capsys.readouterr()
        shutil.copy(tmp_path / "other" / "best.pt", tmp_path / "r")
    if kind == "no optimizer":
        torch.save(checkpoint | {"optimizer": checkpoint["optimizer"] | {"state": {}}}, last)
    if kind == "another optimizer":
        checkpoint["optimizer"]["state"][0]["exp_avg"] = torch.zeros(2)
        torch.save(checkpoint, last)
    error = refused(capsys, tmp_path, "--resume", "r", "--epochs", "9")
    assert re.search(r"(last|best)\.pt|optimizer", error)


def test_a_checkpoint_of_another_network_is_refused(finished_run, capsys, tmp_path):
    shutil.copytree(finished_run, tmp_path / "r")
    checkpoint = load_checkpoint(tmp_path / "r" / "last.pt")
    checkpoint["weights"].pop("head.1.weight")
    torch.save(checkpoint, tmp_path / "r" / "last.pt")
    assert "head.1.weight" in refused(capsys, tmp_path, "--resume", "r", "--epochs", "9")


def test_a_resumed_run_may_not_become_another(finished_run, capsys, tmp_path):
    shutil.copytree(finished_run, tmp_path / "r")
    for flag, value in [("--arch", "densenet"), ("--batch-size", 64), ("--out", "elsewhere")]:
        error = refused(capsys, tmp_path, "--resume", "r", "--epochs", 9, flag, value)
        assert f"with {flag} " in error and f"got {value}" in error
    assert "has finished 3 epochs" in refused(capsys, tmp_path, "--resume", "r")
    assert "has finished 3 epochs" in refused(capsys, tmp_path, "--resume", "r", "--epochs", 2)


def test_an_out_folder_that_is_in_use_is_refused(finished_run, capsys, tmp_path):
    shutil.copytree(finished_run, tmp_path / "r")
    error = refused(capsys, tmp_path, "--data", "sample", "--out", "r")
    assert "--out r already holds a run; --resume continues it" in error
    unlock = lock(tmp_path / "r", capsys)  # as a process that trains has it
    error = refused(capsys, tmp_path, "--resume", "r", "--epochs", 9)
    assert "r is being written by another process" in error
    unlock()


def test_a_loss_that_becomes_nan_leaves_the_last_good_checkpoint(capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        run("--arch", "mlp", "--optimizer", "sgd", "--lr", "1e30", "--out", "r")
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    assert re.search(r"epoch 1: the loss became (nan|inf) at step \d+ of 141; r/last\.pt", error)
    assert "holds the last weights that were saved; start anew with a smaller --lr than" in error
    checkpoint = load_checkpoint(tmp_path / "r" / "last.pt")
    assert checkpoint["history"] == []
    assert all(w.isfinite().all() for w in checkpoint["weights"].values())


TRAIN_AT = {"alexnet": 67, "nin": 67, "tf_nin": 67, "tf_alexnet_half": 64, "tf_sigmoid_cnn": 36,
            "tf_nin_dense": 45, "softmax_regression": 28, "mlp": 28, "lenet": 28}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_every_network_trains_by_the_command(arch, tmp_path, monkeypatch):
    """A few steps on a part of the sample, at a size that a CPU can bear."""
    whole = data.load_data("sample")
    part = data.ImageData("sample", whole.classes, whole.train_images[:32], whole.train_labels[:32],
                          whole.test_images[:10], whole.test_labels[:10])  # fmt: skip
    monkeypatch.setattr(loaders, "load_images", lambda *_: part)
    size = TRAIN_AT.get(arch, 32)
    # SGD: to write Adam's state would take longer than to train.
    run("--arch", arch, "--epochs", 1, "--batch-size", 6, "--input-size", size, "--out", "r",
        "--optimizer", "sgd", "--lr", "0.001")  # fmt: skip
    assert load_model(tmp_path / "r")(torch.zeros(1, 1, size, size)).shape == (1, 10)


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
    result = train.train(arch="lenet", out=tmp_path / "a", **PYTHON)
    run("--arch", "lenet", "--epochs", 1, "--batch-size", 500, "--out", "b")
    a, b = (load_checkpoint(tmp_path / name / "last.pt") for name in "ab")
    assert same(a["weights"], b["weights"])
    written = json.loads((tmp_path / "a" / "result.json").read_text())
    assert result.path == tmp_path / "a"
    for key in ("test_acc", "test_loss", "epoch", "checkpoint"):
        assert getattr(result, key) == written[key]
    (record,) = result.history
    assert record.eval_acc == a["history"][0]["val_acc"] and record.split == "val"
    more = train.train(resume=tmp_path / "a", epochs=2)
    assert [r.epoch for r in more.history] == [1, 2]


def test_a_module_of_your_own_is_trained_resumed_and_loaded(tmp_path, capsys):
    torch.manual_seed(3)
    net = Own()
    start = copy.deepcopy(net)
    result = train.train(net=net, out=tmp_path / "r", **(PYTHON | {"epochs": 2}))
    assert not same(dict(net.state_dict()), dict(start.state_dict()))
    stopped = copy.deepcopy(start)
    train.train(net=stopped, out=tmp_path / "s", **PYTHON)
    again = Own()  # its weights come from the checkpoint
    resumed = train.train(resume=tmp_path / "s", net=again, epochs=2)
    a, b = (load_checkpoint(tmp_path / name / "last.pt") for name in "rs")
    assert same(a["weights"], b["weights"]) and result.test_acc == resumed.test_acc
    assert a["model"] == {"module": "Own", "in_channels": 1, "num_classes": 10, "input_size": 28}
    sample = data.load_data("sample")
    loaded = load_model(tmp_path / "r", Own())
    with torch.no_grad():
        predicted = loaded(sample.test_images / 255).argmax(1)
    assert (predicted == sample.test_labels).double().mean().item() == result.test_acc
    capsys.readouterr()
    picture = tmp_path / "a.png"
    Image.fromarray(sample.test_images[0, 0].numpy()).save(picture)
    for command, argv in ((evaluate, []), (predict, [str(picture)])):
        with pytest.raises(SystemExit) as stop:
            command.main(["--checkpoint", str(tmp_path / "r"), *argv])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and "a module of your own, Own" in error
    with pytest.raises(SystemExit) as stop:
        train.main(["--resume", str(tmp_path / "r"), "--epochs", "3"])
    assert stop.value.code == 2 and "is a run of Own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"archh": "lenet"}, TypeError, "unexpected keyword arguments: archh; there are arch, "),
        ({"arch": "lenett"}, ValueError, "did you mean lenet"),
        ({"epochs": 0}, ValueError, "--epochs: got 0, allowed is a whole number from 1"),
        ({"lr": "fast"}, ValueError, "--lr: got fast, allowed is a number above 0"),
        ({"compile": 1}, ValueError, "--compile: got 1, allowed are True, False"),
        ({"schedule": "linear"}, ValueError, "--schedule: got 'linear', allowed are constant, "),
        (
            {"net": Own(7), "data": "sample"},
            ValueError,
            r"must return logits \(20, 10\) for images",
        ),
        (
            {"net": Own(), "data": "sample", "input_size": 20},
            ValueError,
            "Own cannot train on images",
        ),
        ({"net": Own(), "arch": "lenet"}, ValueError, "arch cannot be given with a module"),
        ({"net": "lenet"}, ValueError, "net is a torch.nn.Module, got 'lenet'"),
        ({"net": Own}, ValueError, "net is a torch.nn.Module, got <class"),
        ({"net": Own().requires_grad_(False)}, ValueError, "Own has no parameters to train"),
        ({"net": Pair(), "data": "sample"}, ValueError, "must return logits .* got a tuple"),
        ({"net": Own().to("meta"), "data": "sample"}, ValueError, "Own cannot train on images"),
    ],
)
def test_what_python_gets_wrong_is_refused_too(flags, error, message, tmp_path):
    with pytest.raises(error, match=message):
        train.train(out=tmp_path / "r", **flags)
    assert not (tmp_path / "r").exists()


def test_none_is_not_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train.train(arch="softmax_regression", out=None, resume=None, root=None, **PYTHON)
    assert result.path.parts[0] == "runs" and not (tmp_path / "None").exists()


def test_frozen_and_idle_parameters_resume_too(tmp_path):
    def module():
        torch.manual_seed(0)
        net = Own()
        net.body[1].requires_grad_(False)
        net.idle = nn.Linear(3, 3)
        return net

    train.train(net=module(), out=tmp_path / "a", **(PYTHON | {"epochs": 2}))
    train.train(net=module(), out=tmp_path / "b", **PYTHON)
    train.train(net=module(), resume=tmp_path / "b", epochs=2)
    a, b = (load_checkpoint(tmp_path / name / "last.pt")["weights"] for name in "ab")
    assert same(a, b)


@pytest.mark.parametrize(
    "group", [{"betas": 5}, {"eps": "x"}, {"lr": "fast"}, {"weight_decay": 3.0}, {"amsgrad": True}]
)
def test_options_of_another_optimizer_are_refused(group, finished_run, capsys, tmp_path):
    shutil.copytree(finished_run, tmp_path / "r")
    checkpoint = load_checkpoint(tmp_path / "r" / "last.pt")
    checkpoint["optimizer"]["param_groups"][0] |= group
    torch.save(checkpoint, tmp_path / "r" / "last.pt")
    error = refused(capsys, tmp_path, "--resume", "r", "--epochs", "9")
    assert "the optimizer's options are not those of the run" in error


def test_a_run_that_could_not_be_opened_is_not_locked(finished_run, tmp_path, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "r")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full") as kept:
        patch.setattr(log, "TensorBoard", lambda *_: (_ for _ in ()).throw(OSError("full")))
        train.train(resume="r", epochs=4)
    assert kept  # the exception, and what it holds
    train.train(resume="r", epochs=4)
