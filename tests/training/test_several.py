"""Several runs in one command: all are checked first, one may fail, the same flags go on."""

import json
import os
import re
import shutil
import signal

import pytest
from comparing import same

from torchcnn import train
from torchcnn.data import datasets
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.run.run import Run, lock

pytestmark = pytest.mark.usefixtures("tenth_of_the_sample")
FLAGS = ["--data", "sample", "--device", "cpu", "--epochs", "1", "--out", "r", "--batch-size",
         "160"]  # fmt: skip


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*argv):
    train.main([*FLAGS, *map(str, argv)])


def contents(path):
    return {p: p.stat().st_mtime_ns for p in path.rglob("*")}


def results(folder):
    return {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/result.json")}


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
def test_all_are_checked_before_the_first_is_trained(flags, message, refused, tmp_path):
    """451 of 500 images train: 450 in the first batch and one in the last."""
    assert message in refused(train.main, *FLAGS, *flags)
    assert not list(tmp_path.iterdir())


def test_the_data_is_read_once_and_auto_is_the_same_for_all(tmp_path, monkeypatch, capsys):
    """Two networks from two seeds."""
    read, times = datasets.DATASETS["sample"], []
    monkeypatch.setitem(datasets.DATASETS, "sample", lambda root: times.append(1) or read(root))
    run("--arch", "mlp,lenet", "--channels-last", "auto", "--amp", "auto", "--seed", "0,1")
    assert len(times) == 1
    lines = re.findall("^channels_last.*", capsys.readouterr().out, re.MULTILINE)
    assert len(set(lines)) == 1 and len(lines) == 4 and "by the device" in lines[0]
    found = [json.loads(path.read_text()) for path in (tmp_path / "r").glob("*/config.json")]
    assert len(found) == 4 and len({(c["channels_last"], c["amp"]) for c in found}) == 1


def test_one_that_fails_ends_no_other(capsys, tmp_path):
    """The loss of ReLUs becomes infinite at this rate; the others stay finite."""
    with pytest.raises(SystemExit) as stop:
        run("--arch", "softmax_regression,mlp,lenet", "--optimizer", "sgd", "--lr", "1e20",
            "--seed", 0)  # fmt: skip
    out, err = capsys.readouterr()
    diverged, end = err.splitlines()
    assert stop.value.code == 2 and "mlp, 0 of 1 seeds\n" in out
    assert "lenet, 1 seeds: test acc 0." in out
    assert re.search(r"train: mlp, seed 0: epoch 1: the loss became (nan|inf) at step", diverged)
    assert end.endswith("1 of 3 runs have failed (mlp, seed 0); the same command tries them again")
    assert results(tmp_path / "r").keys() == {"softmax_regression-seed0", "lenet-seed0"}


def test_the_same_command_goes_on_where_it_stopped(tmp_path, capsys, refused):
    """One is finished, one begun, one died before its first checkpoint, one is missing."""
    command = ["--arch", "mlp", "--seed", "0,1,2,3"]
    run(*command)
    summary = capsys.readouterr().out.splitlines()[-1]
    assert summary.startswith("mlp, 4 seeds: test acc 0.")
    r = tmp_path / "r"
    whole = {k: load_checkpoint(r / f"seed{k}/last.pt").state for k in range(4)}
    alone = refused(train.main, *FLAGS, "--arch", "mlp", "--out", "r/seed0")
    assert "already holds a run; --resume continues it" in alone
    (r / "seed1/result.json").unlink()
    for name in ("result.json", "best.pt", "last.pt", "history.csv", "curves.png", "inputs.png"):
        (r / "seed2" / name).unlink()
    shutil.rmtree(r / "seed3")
    before = contents(r / "seed0")
    run(*command)
    out = capsys.readouterr().out
    assert "run 1 of 4: mlp, seed 0\nit is finished, in r/seed0\nrun 2 of 4: mlp, seed 1\n" in out
    assert out.count("resuming after epoch 1") == 1 and out.count("\nepoch 1, loss ") == 2
    assert out.splitlines()[-1] == summary and contents(r / "seed0") == before
    for k in range(4):
        assert same(vars(whole[k]), vars(load_checkpoint(r / f"seed{k}/last.pt").state))
    run("--arch", "mlp", "--seed", 1, "--out", "alone")  # to the same bits
    assert same(vars(whole[1]), vars(load_checkpoint(tmp_path / "alone/last.pt").state))
    run(*command, "--epochs", 2)
    assert [result["epochs"] for result in results(r).values()] == [2] * 4
    assert "r/seed0 has finished 2 epochs" in refused(train.main, *FLAGS, *command)


def test_a_run_of_other_flags_is_refused_before_anything_starts(tmp_path, capsys, refused):
    run("--arch", "mlp", "--seed", "1", "--out", "r/seed1")
    before = contents(tmp_path)
    command = [*FLAGS, "--arch", "mlp", "--seed", "0,1"]
    for flags, message in [
        (["--lr", "0.1"], "r/seed1 was run with --lr 0.001, got 0.1"),
        (["--arch", "lenet"], "with --arch mlp, got lenet"),
        (["--recipe", "fast"], "with --recipe source, got fast"),
    ]:
        assert message in refused(train.main, *command, *flags)
    fewer = (flag for flag in command if flag not in ("--batch-size", "160"))
    assert "with --batch-size 160, which is not given now" in refused(train.main, *fewer)
    unlock = lock(tmp_path / "r/seed1", capsys)
    assert "r/seed1 is being written by another process" in refused(train.main, *command)
    unlock()
    (tmp_path / "r/seed1/result.json").write_text("{}")
    assert "r/seed1 is not a run, or is damaged" in refused(train.main, *command)
    assert contents(tmp_path).keys() == before.keys()


def test_a_signal_ends_all(tmp_path, monkeypatch):
    add_epoch = Run.add_epoch

    def signalled(self, record):
        os.kill(os.getpid(), signal.SIGTERM)
        add_epoch(self, record)

    monkeypatch.setattr(Run, "add_epoch", signalled)
    with pytest.raises(SystemExit) as stop:
        run("--arch", "mlp", "--seed", "0,1", "--epochs", 3)
    assert stop.value.code == 128 + signal.SIGTERM
    assert len(load_checkpoint(tmp_path / "r/seed0/last.pt").history) == 1
    assert not (tmp_path / "r/seed1").exists()
