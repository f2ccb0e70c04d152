"""A run that was stopped anywhere, by anything, ends with the bits of one that was not."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from comparing import check_same, same

from torchcnn import train
from torchcnn.run import log
from torchcnn.run.checkpoint import load_checkpoint, load_model

ALL = ["--arch", "tf_baseline", "--input-size", "16", "--batch-size", "500", "--augment",
       "crop,flip,rotate,colour,erase", "--mix", "cutmix", "--accumulate", "2", "--ema", "0.9",
       "--optimizer", "sgd", "--lr", "0.05",
       "--momentum", "0.9", "--nesterov", "--schedule", "one-cycle", "--warmup", "5",
       "--label-smoothing", "0.1", "--clip", "1", "--weight-decay", "1e-4", "--epochs", "2",
       "--checkpoint-every", "2", "--device", "cpu", "--data", "sample"]  # fmt: skip


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run: dropout, augmentation, moving average, schedule, momentum."""
    folder = tmp_path_factory.mktemp("whole") / "r"
    train.main([*ALL, "--out", str(folder)])
    return folder


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_after_random_checkpoints(seed, whole, tmp_path, monkeypatch):
    """Each life ends right after a checkpoint is written; the next goes on from it."""
    dice, save, left = random.Random(seed), log.save_checkpoint, [0]

    def save_and_die(path, checkpoint):
        save(path, checkpoint)
        left[0] -= path.name == "last.pt"
        if not left[0]:
            raise Killed

    monkeypatch.setattr(log, "save_checkpoint", save_and_die)
    folder, lives, middles = tmp_path / "r", 0, 0
    while not (folder / "result.json").exists():
        left[0] = dice.randint(1, 4)
        lives += 1
        begin = ["--resume", str(folder)] if lives > 1 else [*ALL, "--out", str(folder)]
        try:
            train.main(begin)
        except Killed:
            middles += load_checkpoint(folder / "last.pt")["partial"] is not None
    assert lives > 3 and middles > 1
    check_same(whole, folder)


def test_a_run_killed_between_its_two_checkpoints(whole, tmp_path, monkeypatch):
    """`last.pt` of the best epoch is written, `best.pt` is not."""
    save = log.save_checkpoint

    def die(path, checkpoint):
        if path.name == "best.pt":
            raise Killed
        save(path, checkpoint)

    folder = tmp_path / "r"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(log, "save_checkpoint", die)
        train.main([*ALL, "--out", str(folder)])
    assert not (folder / "best.pt").exists()
    assert len(load_checkpoint(folder / "last.pt")["history"]) == 1
    train.main(["--resume", str(folder)])
    check_same(whole, folder)
    assert same(load_checkpoint(folder / "best.pt")["weights"],
                load_checkpoint(whole / "best.pt")["weights"])  # fmt: skip


def test_a_run_killed_before_its_first_checkpoint(whole, tmp_path, monkeypatch):
    """What it leaves behind is no run, and the same command begins it anew."""
    folder = tmp_path / "r"

    def die(path, checkpoint):
        (folder / "last.pt.tmp").write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(log, "save_checkpoint", die)
        train.main([*ALL, "--out", str(folder)])
    assert (folder / "config.json").exists() and not (folder / "last.pt").exists()
    train.main([*ALL, "--out", str(folder)])
    check_same(whole, folder)
    with pytest.raises(SystemExit):
        train.main([*ALL, "--out", str(folder)])


def command(*argv):
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "torchcnn.train", *argv],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_ends_the_step_and_saves_it(signum, code, whole, tmp_path):
    folder = tmp_path / "r"
    with command(*ALL[:-6], "--checkpoint-every", "0", *ALL[-4:], "--out", str(folder)) as process:
        for line in process.stdout:
            if line.startswith("epoch 1,"):
                time.sleep(0.05)  # into the second epoch
                process.send_signal(signum)
            last = line
    assert process.returncode == code
    assert re.match(r"stopped in epoch 2; resume with --resume .*r$", last)
    partial = load_checkpoint(folder / "last.pt")["partial"]
    assert partial is None or 0 < len(partial["images"]) < 9
    train.main(["--resume", str(folder)])
    check_same(whole, folder)


KILLS = 3


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """kill -9, at any moment from the first line on; each life goes on from what the last left."""
    flags = ["--arch", "tf_baseline", "--input-size", "28", "--augment", "crop,flip,rotate",
             "--ema", "0.99", "--batch-size", "100", "--epochs", "2", "--checkpoint-every", "3",
             "--device", "cpu", "--data", "sample", "--seed", "7"]  # fmt: skip
    train.main([*flags, "--out", str(tmp_path / "whole")])
    dice, folder, lives = random.Random(0), tmp_path / "r", 0
    while not (folder / "result.json").exists():
        begin = ["--resume", str(folder)] if (folder / "last.pt").exists() else [
            *flags, "--out", str(folder)]  # fmt: skip
        with command(*begin) as process:
            process.stdout.readline()
            if lives < KILLS:
                time.sleep(dice.uniform(0, 1.5))
                process.kill()
                lives += process.wait() == -signal.SIGKILL
            process.stdout.read()
        assert process.returncode in (0, -signal.SIGKILL)
    assert lives == KILLS
    check_same(tmp_path / "whole", folder)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of files")
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_later(whole, tmp_path):
    """No file may grow to the size of the checkpoint that holds the state of randomness too."""
    import resource

    folder, size = tmp_path / "r", (whole / "last.pt").stat().st_size + 2_000
    done = subprocess.run(
        [sys.executable, "-m", "torchcnn.train", *ALL, "--out", str(folder)],
        capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert re.search("cannot write .*(File too large|the disk may be full)", done.stderr)
    assert load_checkpoint(folder / "last.pt")["history"] == []
    train.main(["--resume", str(folder)])
    check_same(whole, folder)


def test_an_unfinished_epoch_that_is_damaged_is_refused(whole, tmp_path, capsys):
    checkpoint = load_checkpoint(whole / "last.pt")
    steps = {"losses": torch.ones(2), "correct": torch.ones(2), "images": [500], "seconds": 1.0,
             "rng": [torch.get_rng_state()], "cuda_rng": []}  # fmt: skip
    checkpoint["history"] = checkpoint["history"][:1]
    good = steps | {"images": [500, 500], "correct": torch.ones(2, dtype=torch.int64)}
    for partial in (steps, {}, good | {"rng": [torch.ones(3)]}, good | {"losses": torch.ones(3)}):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name in ("last.pt", "best.pt"):
            torch.save(checkpoint | {"partial": partial}, folder / name)
        with pytest.raises(SystemExit) as stop:
            train.main(["--resume", str(folder)])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1
        assert "damaged: its unfinished epoch" in error
        assert sorted(p.name for p in folder.iterdir()) == ["best.pt", "last.pt"]


def test_the_moving_average_is_what_is_evaluated_and_loaded(whole):
    checkpoint, net = load_checkpoint(whole / "best.pt"), load_model(whole)
    assert same(dict(net.state_dict()), dict(checkpoint["average"]["weights"]))
    assert not same(checkpoint["weights"], checkpoint["average"]["weights"])
    assert checkpoint["average"]["count"] in (9, 18)  # steps


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--momentum", "0.9"], "--momentum is not for the optimizer adam"),
        (
            ["--optimizer", "sgd", "--lr", "1", "--nesterov"],
            "--nesterov needs a --momentum above 0",
        ),
        (["--augment", "crop,spin"], "got 'spin', allowed are crop, flip, rotate, colour, erase"),
        (["--schedule", "linear"], "invalid choice: 'linear'"),
        (["--ema", "1"], "got 1, allowed is a number from 0 to below 1"),
        (["--warmup", "-1"], "got -1, allowed is a whole number from 0"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--data", "sample", "--out", str(tmp_path / "r"), *flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "r").exists()


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
    flags = ["--data", "sample", "--device", "cpu", "--epochs", "1", "--batch-size", "1000"]
    flags += ["--input-size", "16"]
    for name, more, expected in (
        ("plain", [], (torch.float32, False)),
        ("fast", ["--amp", "bf16", "--channels-last"], (torch.bfloat16, True)),
        ("half", ["--amp", "fp16"], (torch.float16, False)),
    ):
        seen.clear()
        train.main([*flags, *more, "--out", str(tmp_path / name)])
        assert set(seen) == {expected}
        weights = load_checkpoint(tmp_path / name / "last.pt")["weights"]
        assert {w.dtype for w in weights.values()} == {torch.float32, torch.int64}


def test_compile_compiles_in_place_and_names_stay(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **_: compiled.append(type(net)))
    train.main(["--data", "sample", "--device", "cpu", "--epochs", "1", "--batch-size", "1000",
                "--compile", "--ema", "0.5", "--out", str(tmp_path / "r")])  # fmt: skip
    assert compiled == [torch.nn.Sequential]
    checkpoint = load_checkpoint(tmp_path / "r" / "last.pt")
    assert all(key.startswith(("stage", "head")) for key in checkpoint["weights"])
    assert checkpoint["weights"].keys() == checkpoint["average"]["weights"].keys()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_has_its_graph_and_resumes_exactly(tmp_path, capsys):
    flags = ["--data", "sample", "--device", "cpu", "--batch-size", "1000", "--compile"]
    train.main([*flags, "--epochs", "2", "--out", str(tmp_path / "a")])
    train.main([*flags, "--epochs", "1", "--out", str(tmp_path / "b")])
    train.main(["--resume", str(tmp_path / "b"), "--epochs", "2"])
    check_same(tmp_path / "a", tmp_path / "b")
    assert "no graph" not in capsys.readouterr().out
