"""What a resumed run may change, and what it says."""

import re

import pytest
import torch

from torchcnn import cli, train
from torchcnn.benchmark.__main__ import Config as BenchmarkConfig
from torchcnn.run import log
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.training.config import Config
from torchcnn.training.configure import fit_batch_size, fit_input_size
from torchcnn.training.recipes import complete

FLAGS = ["--arch", "softmax_regression", "--data", "sample", "--device", "cpu"]
FLAGS += ["--batch-size", "500"]


def rates(path):
    return [record["lr"] for record in load_checkpoint(path / "last.pt")["history"]]


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        train.main(list(map(str, argv)))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


@pytest.mark.parametrize("schedule", ["cosine", "step", "one-cycle"])
def test_a_jump_of_the_learning_rate_is_said_and_can_be_avoided(schedule, tmp_path, capsys):
    flags = [*FLAGS, "--schedule", schedule, "--lr", "0.01", "--epochs", "2"]
    for name in ("a", "b"):
        train.main([*flags, "--out", str(tmp_path / name)])
    last = rates(tmp_path / "a")[-1]
    capsys.readouterr()
    train.main(["--resume", str(tmp_path / "a"), "--epochs", "4"])
    line = re.search(
        r"the learning rate goes from (\S+) up to (\S+), since .*", capsys.readouterr().out
    )
    assert float(line[1]) == pytest.approx(last, rel=0.05)
    assert float(line[2]) > last and line[0].endswith(f"--schedule stay keeps {line[1]}")
    train.main(["--resume", str(tmp_path / "b"), "--epochs", "3", "--schedule", "stay"])
    assert "learning rate goes" not in capsys.readouterr().out
    assert rates(tmp_path / "b")[1:] == [last, last]
    config = load_checkpoint(tmp_path / "b" / "last.pt")["config"]
    assert (config["schedule"], config["lr"]) == ("constant", last)
    train.main(["--resume", str(tmp_path / "b"), "--epochs", "4"])  # and stays so
    assert rates(tmp_path / "b")[1:] == [last] * 3


def test_a_constant_rate_does_not_jump(tmp_path, capsys):
    train.main([*FLAGS, "--epochs", "1", "--out", str(tmp_path / "r")])
    train.main(["--resume", str(tmp_path / "r"), "--epochs", "2"])
    assert "learning rate goes" not in capsys.readouterr().out
    error = refused(capsys, *FLAGS, "--schedule", "stay", "--out", tmp_path / "s")
    assert "--schedule stay is for --resume; allowed are constant, step" in error


def test_an_epoch_that_has_begun_is_not_cut_off(tmp_path, monkeypatch, capsys):
    """Killed in epoch 3 of 3: with two epochs its middle would pass for the second's end."""
    save, path = log.save_checkpoint, tmp_path / "r"

    class Killed(BaseException):
        pass

    def die(target, checkpoint):
        save(target, checkpoint)
        if len(checkpoint["history"]) == 2 and checkpoint["partial"]:
            raise Killed

    flags = [*FLAGS, "--val-fraction", "0", "--epochs", "3", "--checkpoint-every", "4"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(log, "save_checkpoint", die)
        train.main([*flags, "--out", str(path)])
    error = refused(capsys, "--resume", path, "--epochs", "2")
    assert "has begun epoch 3, got --epochs 2" in error
    train.main(["--resume", str(path)])
    assert len(rates(path)) == 3


def test_an_older_configuration_has_the_defaults_of_newer_flags(tmp_path, capsys):
    train.main([*FLAGS, "--epochs", "1", "--out", str(tmp_path / "r")])
    for name in ("last.pt", "best.pt"):
        checkpoint = load_checkpoint(tmp_path / "r" / name)
        del checkpoint["config"]["resize"]
        torch.save(checkpoint, tmp_path / "r" / name)
    train.main(["--resume", str(tmp_path / "r"), "--epochs", "2"])
    assert load_checkpoint(tmp_path / "r" / "last.pt")["config"]["resize"] == "squeeze"
    error = refused(capsys, "--resume", tmp_path / "r", "--epochs", "3", "--resize", "crop")
    assert "was run with --resize squeeze, got crop" in error


RECIPE = {"epochs": 1, "lr": 0.1, "optimizer": "sgd", "input_size": 28, "batch_size": 128}


@pytest.mark.parametrize(
    ("n", "world_size", "size"),
    [(2000, 1, 128), (1279, 1, 64), (144, 1, 8), (145, 1, 10), (1, 1, 2), (5, 1, 3), (144, 3, 6)],
)
def test_a_batch_is_at_most_a_tenth_of_few_images(n, world_size, size):
    """The largest power of two; an image alone is avoided, with which batch norm cannot train."""
    assert fit_batch_size(Config(**RECIPE), {}, n, world_size).batch_size == size
    given = {"batch_size": 128}
    assert fit_batch_size(Config(**RECIPE), given, n, world_size).batch_size == 128


@pytest.mark.parametrize(
    ("arch", "recipe", "given", "pixels", "size"),
    [
        ("resnet20", "fast", {}, 28, 20),
        ("resnet32", "fast", {}, 28, 28),
        ("resnet20", "best", {}, 28, 28),
        ("resnet20", "fast", {}, 32, 32),  # CIFAR-10, or a folder
        ("resnet20", "fast", {"input_size": 32}, 28, 32),
        ("resnet20", "source", {}, 28, 32),
        ("tf_baseline", "fast", {}, 28, 32),  # its dense layer depends on the size
        ("densenet", "fast", {}, 28, 56),
    ],
)
def test_small_images_are_taken_at_their_own_size(arch, recipe, given, pixels, size):
    config = Config(**complete(arch, recipe, {"arch": arch, "recipe": recipe, **given}))
    assert fit_input_size(config, given, pixels).input_size == size


def test_the_size_that_suits_the_images_is_said(tmp_path, capsys, tenth_of_the_sample):
    flags = ["--arch", "resnet20", "--recipe", "fast", "--data", "sample", "--device", "cpu"]
    train.main([*flags, "--epochs", "1", "--batch-size", "90", "--out", str(tmp_path / "r")])
    said = "input_size       20 (for images of 28 pixels, in place of the recipe's 32)\n"
    assert said in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "r" / "last.pt")["model"]["input_size"] == 20


def test_a_size_that_was_given_is_not_called_the_images_own(tmp_path, capsys, tenth_of_the_sample):
    flags = ["--recipe", "fast", "--input-size", "32", "--batch-size", "60", "--data", "sample"]
    train.main([*flags, "--device", "cpu", "--epochs", "1", "--out", str(tmp_path / "r")])
    capsys.readouterr()
    train.main(["--resume", str(tmp_path / "r"), "--epochs", "2"])
    out = capsys.readouterr().out
    assert "input_size       32\n" in out and "batch_size       60\n" in out


def test_huge_batches_are_answered_at_once(tmp_path, capsys):
    train_on = ["--data", "sample", "--out", tmp_path / "r"]
    error = refused(capsys, *train_on, "--batch-size", 10**8, "--accumulate", 10**8)
    assert "cannot train on a batch of 1" in error
    error = refused(capsys, *train_on, "--batch-size", "4499")
    assert "which is what --batch-size 4499 makes of the last batch of 4500 images" in error


LISTS = [
    (Config, "arch", "mlp, softmax_regression", "mlp,softmax_regression"),
    (Config, "augment", " flip ,crop", "flip,crop"),
    (Config, "freeze", "stem, stage1 ", "stem,stage1"),
    (Config, "seed", "0, 1 ,2", (0, 1, 2)),
    (Config, "model_kwargs", "num_layers=(6, 12) growth_rate=8", "num_layers=(6,12) growth_rate=8"),
    (BenchmarkConfig, "arch", "lenet, mlp", "lenet,mlp"),
]


@pytest.mark.parametrize(("config", "name", "text", "expected"), LISTS)
def test_blanks_around_commas_count_nowhere(config, name, text, expected, capsys):
    flag = cli.flag(name)
    assert cli.parse(config, "prog", [flag, text]) == {name: expected}
    assert cli.read_keywords(config, {name: text}) == {name: expected}
    if name == "model_kwargs":
        return
    for bad in (f"{text},", f",{text}", text.replace(",", ",,"), ","):
        with pytest.raises(SystemExit) as stop:
            cli.parse(config, "prog", [flag, bad])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1
        assert f"{flag}: got {bad!r}, allowed is one comma between two of them" in error
