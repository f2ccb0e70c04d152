"""A run that was stopped anywhere, by anything, ends with the bits of one that was not."""

import json
import os
import random
import re
import shutil
import signal
import sys

import pytest
import torch
from comparing import Killed, check_same, killed, same
from processes import begin

from torchcnn import create_model, train
from torchcnn.run import run
from torchcnn.run.checkpoint import load_checkpoint, load_model
from torchcnn.training import trainer

ALL = ["--arch", "tf_baseline", "--input-size", "16", "--batch-size", "500", "--augment",
       "crop,flip,rotate,color-jitter,erase", "--mix", "cutmix", "--accumulate", "2",
       "--ema", "0.9", "--optimizer", "sgd", "--lr", "0.05",
       "--momentum", "0.9", "--nesterov", "--schedule", "one-cycle", "--warmup", "5",
       "--label-smoothing", "0.1", "--clip", "1", "--weight-decay", "1e-4", "--epochs", "2",
       "--checkpoint-every", "2", "--device", "cpu", "--data", "sample"]  # fmt: skip


@pytest.fixture(scope="session")
def whole(once):
    """The uninterrupted run: dropout, augmentation, moving average, schedule, momentum."""
    return once("whole", lambda folder: train.main([*ALL, "--out", str(folder)]))


def exit_code(*argv):
    """The exit code of a command that does not end well."""
    with pytest.raises(SystemExit) as stop:
        train.main([*argv])
    return stop.value.code


def test_a_run_killed_after_each_kind_of_checkpoint(whole, tmp_path):
    """Each life ends right after a `last.pt` is written; the next goes on from it.

    After those of the end of an epoch, `best.pt` is not written yet.
    """
    folder, lives = tmp_path / "r", []
    for n in (1, 3, 3, 2, 1, 3):  # how many each life writes; an epoch of 9 steps has 5
        left = n

        def is_last(path, _):
            nonlocal left
            left -= path.name == "last.pt"
            return not left

        with killed(is_last):
            train.main(["--resume", str(folder)] if lives else [*ALL, "--out", str(folder)])
        last = load_checkpoint(folder / "last.pt")
        lives.append((len(last.history), len(last.progress.images) if last.progress else 0))
        assert (folder / "best.pt").exists() == (lives[-1] > (1, 0))
    assert lives == [(0, 0), (0, 4), (1, 0), (1, 2), (1, 4), (2, 0)]
    assert not (folder / "result.json").exists()
    train.main(["--resume", str(folder)])
    check_same(whole, folder)
    best = [load_checkpoint(p / "best.pt").state for p in (folder, whole)]
    assert same(*map(vars, best))


def test_a_run_killed_before_its_first_checkpoint(whole, tmp_path, monkeypatch):
    """What it leaves behind is no run, and the same command begins it anew."""
    folder = tmp_path / "r"

    def die(path, checkpoint):
        (folder / f".tmp-{path.name}").write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run, "save_checkpoint", die)
        train.main([*ALL, "--out", str(folder)])
    assert (folder / "config.json").exists() and not (folder / "last.pt").exists()
    train.main([*ALL, "--out", str(folder)])
    check_same(whole, folder)
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_and_saves_it(signum, code, whole, tmp_path, monkeypatch, capsys):
    """It comes while the fourth step of the second epoch, of nine, is computed."""
    folder, steps, made = tmp_path / "r", trainer.train_steps, []

    def signalled(*args):
        for step in steps(*args):
            made.append(step)
            if len(made) == 9 + 4:
                os.kill(os.getpid(), signum)
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_steps", signalled)
        assert exit_code(*ALL, "--checkpoint-every", "0", "--out", str(folder)) == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"stopped in epoch 2; resume with --resume {folder}"
    assert len(load_checkpoint(folder / "last.pt").progress.images) == 4
    train.main(["--resume", str(folder)])
    check_same(whole, folder)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """kill -9, at any moment; each life goes on from what the last left."""
    flags = ["--arch", "tf_baseline", "--input-size", "28", "--augment", "crop,flip,rotate",
             "--ema", "0.99", "--batch-size", "100", "--epochs", "2", "--checkpoint-every", "3",
             "--device", "cpu", "--data", "sample", "--seed", "7"]  # fmt: skip
    train.main([*flags, "--out", str(tmp_path / "whole")])
    seconds = json.loads((tmp_path / "whole" / "result.json").read_text())["seconds"]
    dice, folder, kills = random.Random(0), tmp_path / "r", 0
    while not (folder / "result.json").exists():
        again = ["--resume", str(folder)] if (folder / "last.pt").exists() else [
            *flags, "--out", str(folder)]  # fmt: skip
        life = begin(train.main, again)
        if kills < 4:
            life.join(dice.uniform(0.1, 1) * seconds / 3)
            life.kill()
        life.join()
        assert life.exitcode in (0, -signal.SIGKILL)
        kills += life.exitcode != 0
    assert kills >= 2
    check_same(tmp_path / "whole", folder)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of files")
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_later(whole, tmp_path, capsys):
    """No file may grow to the size of the checkpoint that holds the state of randomness too."""
    import resource

    folder, size = tmp_path / "r", (whole / "last.pt").stat().st_size + 2_000
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        assert exit_code(*ALL, "--out", str(folder)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search("cannot write .*(File too large|the disk may be full)", error)
    assert load_checkpoint(folder / "last.pt").history == []
    train.main(["--resume", str(folder)])
    check_same(whole, folder)


def test_the_moving_average_is_what_is_evaluated_and_loaded(whole):
    state, net = load_checkpoint(whole / "best.pt").state, load_model(whole)
    assert same(dict(net.state_dict()), dict(state.average["weights"]))
    assert not same(state.weights, state.average["weights"])
    assert state.average["count"] in (9, 18)  # steps


@pytest.mark.usefixtures("tenth_of_the_sample")
def test_bf16_and_channels_last_reach_the_convolutions(tmp_path, monkeypatch):
    conv2d, seen = torch.nn.functional.conv2d, []

    def watched(x, weight, *rest):
        y = conv2d(x, weight, *rest)
        # Not in the trace for TensorBoard, of one image; and of one channel both formats hold.
        if not x.is_meta and y.requires_grad and len(x) > 1 and weight.shape[1] > 1:
            last = weight.is_contiguous(memory_format=torch.channels_last)
            seen.append((y.dtype, last))
        return y

    monkeypatch.setattr(torch.nn.functional, "conv2d", watched)
    flags = ["--data", "sample", "--device", "cpu", "--epochs", "1", "--batch-size", "100"]
    flags += ["--input-size", "16"]
    for name, more, expected in (
        ("plain", [], (torch.float32, False)),
        ("fast", ["--amp", "bf16", "--channels-last"], (torch.bfloat16, True)),
        ("half", ["--amp", "fp16"], (torch.float16, False)),
    ):
        seen.clear()
        train.main([*flags, *more, "--out", str(tmp_path / name)])
        assert set(seen) == {expected}
        weights = load_checkpoint(tmp_path / name / "last.pt").state.weights
        assert {w.dtype for w in weights.values()} == {torch.float32, torch.int64}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_has_its_graph_and_resumes_exactly(tmp_path, capsys):
    """And the weights have the names that they have without it."""
    flags = ["--arch", "mlp", "--data", "sample", "--device", "cpu", "--batch-size", "1000",
             "--compile"]  # fmt: skip
    train.main([*flags, "--epochs", "2", "--out", str(tmp_path / "a")])
    train.main([*flags, "--epochs", "1", "--out", str(tmp_path / "b")])
    train.main(["--resume", str(tmp_path / "b"), "--epochs", "2"])
    check_same(tmp_path / "a", tmp_path / "b")
    assert "no graph" not in capsys.readouterr().out
    weights = load_checkpoint(tmp_path / "a" / "last.pt").state.weights
    assert list(weights) == list(create_model("mlp").state_dict())
