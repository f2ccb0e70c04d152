"""Several runs in one command: all are checked first, one may fail, the same flags go on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from comparing import same

from torchcnn import train
from torchcnn.data import datasets
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.run.folder import lock

pytestmark = pytest.mark.usefixtures("tenth_of_the_sample")
FLAGS = ["--data", "sample", "--device", "cpu", "--epochs", "1", "--out", "r", "--batch-size",
         "160"]  # fmt: skip


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*argv):
    train.main([*FLAGS, *map(str, argv)])


def refused(capsys, *argv):
    """Run the command as a user would see it refused before the first run: -> the one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        train.main([*map(str, argv)])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.err.count("\n") == 1 and printed.out == ""
    return printed.err


def contents(path):
    return {p: p.stat().st_mtime_ns for p in path.rglob("*")}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arch", "mlp,lenet", "--batch-size", "450"], "lenet cannot train on a batch of 1"),
        (["--arch", "lenet,mlp", "--freeze", "stage1"], "there is no part 'stage1' to freeze"),
        (["--arch", "mlp,lenet", "--init", "none.pt"], "none.pt"),
        (["--seed", "0,1", "--optimizer", "adam", "--momentum", "0.9"], "--momentum is not for"),
        (["--arch", "mlp,lenet", "--input-size", "12"], "lenet takes images of at least 16 pixels"),
    ],
)
def test_all_are_checked_before_the_first_is_trained(flags, message, capsys, tmp_path):
    """451 of 500 images train: 450 in the first batch and one in the last."""
    assert message in refused(capsys, *FLAGS, *flags)
    assert not list(tmp_path.iterdir())


def test_the_data_is_read_once(monkeypatch):
    read, times = datasets.DATASETS["sample"], []
    monkeypatch.setitem(datasets.DATASETS, "sample", lambda root: times.append(1) or read(root))
    run("--arch", "mlp,softmax_regression", "--seed", "0,1")
    assert len(times) == 1


def test_one_that_diverges_ends_no_other(capsys, tmp_path):
    """At this rate softmax regression and LeNet's sigmoids stay finite; ReLUs do not."""
    command = ["--arch", "softmax_regression,mlp,lenet", "--optimizer", "sgd", "--lr", "1e20"]
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            run(*command)
        out, err = capsys.readouterr()
        diverged, end = err.splitlines()
        assert stop.value.code == 2
        assert re.search(
            r"train: mlp, seed 0: epoch 1: the loss became (nan|inf) at step", diverged
        )
        assert "1 of 3 runs have failed (mlp, seed 0); the same command tries" in end
        assert "lenet, 1 seeds: test acc 0." in out and "mlp, 0 of 1 seeds" in out
    assert "softmax_regression, seed 0\nit is finished, in r/softmax_regression-seed0" in out
    assert json.loads((tmp_path / "r/lenet-seed0/result.json").read_text())["epochs"] == 1


def test_one_that_cannot_be_written_ends_no_other(capsys, tmp_path, monkeypatch):
    """Another process takes a folder while the first run trains."""
    trained, unlock = [], []
    prepared = train.train_prepared

    def train_and_lock(ready):
        trained.append(ready.config.seed)
        if len(trained) == 1:
            (tmp_path / "r/seed1").mkdir(parents=True)
            unlock.append(lock(tmp_path / "r/seed1", capsys))
        return prepared(ready)

    monkeypatch.setattr(train, "train_prepared", train_and_lock)
    with pytest.raises(SystemExit):
        run("--arch", "mlp", "--seed", "0,1,2")
    error = capsys.readouterr().err
    unlock[0]()
    assert trained == [0, 1, 2] and "mlp, seed 1: r/seed1 is being written by another" in error
    assert (tmp_path / "r/seed2/result.json").exists()


def test_the_same_command_goes_on_where_it_stopped(tmp_path, capsys):
    """One is finished, one begun, one died before its first checkpoint, one is missing."""
    command = ["--arch", "mlp", "--seed", "0,1,2,3"]
    run(*command)
    summary = capsys.readouterr().out.splitlines()[-1]
    assert summary.startswith("mlp, 4 seeds: test acc 0.")
    r = tmp_path / "r"
    whole = {k: load_checkpoint(r / f"seed{k}/last.pt")["weights"] for k in range(4)}
    alone = refused(capsys, *FLAGS, "--arch", "mlp", "--out", "r/seed0")
    assert "already holds a run; --resume continues it" in alone
    (r / "seed1/result.json").unlink()
    for name in ("result.json", "best.pt", "last.pt", "history.csv", "curves.png"):
        (r / "seed2" / name).unlink()
    shutil.rmtree(r / "seed3")
    before = contents(r / "seed0")
    run(*command)
    out = capsys.readouterr().out
    assert "run 1 of 4: mlp, seed 0\nit is finished, in r/seed0\nrun 2 of 4: mlp, seed 1\n" in out
    assert out.count("resuming after epoch 1") == 1 and out.count("\nepoch 1, loss ") == 2
    assert out.splitlines()[-1] == summary and contents(r / "seed0") == before
    for k in range(4):
        assert same(whole[k], load_checkpoint(r / f"seed{k}/last.pt")["weights"])
    run(*command, "--epochs", 2)
    assert json.loads((r / "seed0/result.json").read_text())["epochs"] == 2


def test_a_run_of_other_flags_is_refused_before_anything_starts(tmp_path, capsys):
    run("--arch", "mlp", "--seed", "1")
    shutil.move("r", "seed1")
    (tmp_path / "r").mkdir()
    shutil.move("seed1", "r/seed1")
    before = contents(tmp_path)
    command = [*FLAGS, "--arch", "mlp", "--seed", "0,1"]
    for flags, message in [
        (["--lr", "0.1"], "r/seed1 was run with --lr 0.001, got 0.1"),
        (["--arch", "lenet"], "with --arch mlp, got lenet"),
        (["--recipe", "fast"], "with --recipe source, got fast"),
    ]:
        assert message in refused(capsys, *command, *flags)
    assert "--batch-size 160, got 32" in refused(  # what the recipe gives for so few images
        capsys, *(flag for flag in command if flag not in ("--batch-size", "160"))
    )
    unlock = lock(tmp_path / "r/seed1", capsys)
    assert "r/seed1 is being written by another process" in refused(capsys, *command)
    unlock()
    (tmp_path / "r/seed1/result.json").write_text("{}")
    assert "r/seed1 is not a run, or is damaged" in refused(capsys, *command)
    assert contents(tmp_path).keys() == before.keys()


def test_fewer_epochs_than_were_made_are_refused(capsys):
    run("--seed", "0,1", "--epochs", 1)
    run("--seed", "0,1", "--epochs", 2)
    assert "has finished 2 epochs" in refused(capsys, *FLAGS, "--seed", "0,1,2")


def test_a_signal_ends_all(tmp_path):
    argv = [sys.executable, "-u", "-m", "torchcnn.train", "--arch", "mlp", "--seed", "0,1", *FLAGS,
            "--epochs", "10000"]  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 1,"):
                os.kill(process.pid, signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "r/seed1").exists()


def test_auto_is_the_same_for_all_seeds(tmp_path, capsys):
    run("--arch", "mlp,lenet", "--channels-last", "auto", "--amp", "auto", "--seed", "0,1")
    lines = re.findall("^channels_last.*", capsys.readouterr().out, re.MULTILINE)
    assert len(set(lines)) == 1 and len(lines) == 4 and "by the device" in lines[0]
    found = [json.loads(path.read_text()) for path in (tmp_path / "r").glob("*/config.json")]
    assert len({(config["channels_last"], config["amp"]) for config in found}) == 1
