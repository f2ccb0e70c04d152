"""Flags, devices, errors."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from torchcnn import cli


@dataclass(kw_only=True)
class Config:
    """What it does."""

    name: str = cli.option("a name", default="x")
    batch_size: int = cli.option("how many", type=cli.at_least_one)
    share: float = cli.option("a share", default=0.5, type=cli.fraction)
    lr: float = cli.option("a rate", default=1.0, type=cli.positive)
    seed: int = cli.option("a seed", default=0, type=cli.seed)


def test_only_what_was_given_comes_back():
    given = cli.parse(Config, "prog", ["--batch-size", "3", "--share", "0"])
    assert given == {"batch_size": 3, "share": 0.0}
    assert Config(**given).name == "x"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch-size", "0"], "got 0, allowed is a whole number from 1 to 2147483647"),
        (["--batch-size", "2.5"], "got 2.5, allowed is a whole number from 1"),
        (["--share", "1"], "got 1, allowed is a number from 0 to below 1"),
        (["--lr", "nan"], "got nan, allowed is a number above 0, to 1e30"),
        (["--lr", "inf"], "got inf, allowed is a number above 0, to 1e30"),
        (["--batch-size", "100000000000"], "got 100000000000, allowed is a whole number from 1"),
        (["--seed", "-1"], "got -1, allowed is a whole number from 0"),
        (["--bs=3"], "there is no flag --bs; did you mean --batch-size?"),
        (["--batch", "3"], "there is no flag --batch; did you mean --batch-size?"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_code_2(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse(Config, "prog", argv)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1 and message in error


@dataclass(kw_only=True)
class Grouped:
    """What it does.

    Examples:
      prog --size 3
    """

    kind: str = cli.option("a kind", default="small", choices=("small", "large"), group="first")
    size: int = cli.option("a size", default=1, type=cli.at_least_one)
    lr: float = cli.option("a rate", default=0.5, type=cli.positive, group="second")


def test_flags_are_in_groups_and_examples_at_the_end(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.parse(Grouped, "prog", ["--help"])
    about, options, first, second, examples = capsys.readouterr().out.split("\n\n")[1:]
    assert about == "What it does." and options.startswith("options:")
    assert first.startswith("first:\n  --kind {small,large}") and "--size N" in first
    assert second.startswith("second:\n  --lr X")
    assert examples == "examples:\n  prog --size 3\n"


def test_help_shows_what_it_does_and_the_defaults(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")  # in a narrow terminal the lines are others
    with pytest.raises(SystemExit) as caught:
        cli.parse(Config, "prog", ["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "What it does." in text and "a share (default: 0.5)" in text


@pytest.mark.parametrize("cuda", [0, 2])
@pytest.mark.parametrize("mps", [False, True])
def test_auto_takes_cuda_then_mps_then_cpu(monkeypatch, cuda, mps):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert str(cli.pick_device("auto")) == ("cuda" if cuda else "mps" if mps else "cpu")
    assert str(cli.pick_device("cpu")) == "cpu"
    with pytest.raises(ValueError, match=r"--device cuda:2 is not on this machine; there are auto"):
        cli.pick_device("cuda:2")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("two\n  lines"), 2),
        (OSError(28, "No space left on device"), 2),
        (FloatingPointError("nan"), 2),
        (torch.OutOfMemoryError("CUDA out of memory"), 2),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), 2),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), 2),
        (RuntimeError("GET was unable to find an engine to execute this computation"), 2),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), 2),
        (RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"), 2),
        (RuntimeError("The NVIDIA driver on your system is too old (found version 1)"), 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, code, capsys):
    with pytest.raises(SystemExit) as caught, cli.one_line_errors("prog"):
        raise error
    assert caught.value.code == code
    assert capsys.readouterr().err.count("\n") == (code == 2)


def test_our_own_mistakes_keep_their_traceback():
    illegal = RuntimeError("CUDA error: an illegal memory access was encountered")
    for error in (AssertionError("ours"), RuntimeError("size mismatch"), illegal):
        with pytest.raises(type(error)), cli.one_line_errors("prog"):
            raise error


def test_keywords_of_python_are_read_as_flags():
    given = cli.read_keywords(Config, {"batch_size": 3, "share": "0.25", "name": "y"})
    assert given == {"batch_size": 3, "share": 0.25, "name": "y"}
    with pytest.raises(TypeError, match="unexpected keyword arguments: size; there are name, "):
        cli.read_keywords(Config, {"size": 3})
    with pytest.raises(ValueError, match="--batch-size: got 0, allowed is a whole number from 1"):
        cli.read_keywords(Config, {"batch_size": 0})


def test_what_helps_is_said(capsys):
    with pytest.raises(SystemExit), cli.one_line_errors("prog"):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
    assert "; a smaller --batch-size, or --accumulate, needs less memory" in capsys.readouterr().err


def test_a_user_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit):
        cli.parse(Paths, "prog", ["--out", "~nosuchuser/x"])
    assert "got ~nosuchuser/x, there is no such user" in capsys.readouterr().err


@dataclass(kw_only=True)
class Paths:
    """What it does."""

    out: str = cli.option("a path", default="", type=cli.path)


PRINTS = """if True:
    import sys
    from torchcnn import cli
    with cli.one_line_errors("prog"):
        for i in range(int(sys.argv[1])):
            print("卷积 bad\\udc80byte", i, flush=i % 2)
        open(sys.argv[2], "w").write("done")
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_console_that_cannot_print_a_name_shows_escapes(encoding, tmp_path):
    done = subprocess.run([sys.executable, "-c", PRINTS, "1", tmp_path / "d"], capture_output=True,
                          env=os.environ | {"PYTHONIOENCODING": encoding})  # fmt: skip
    assert done.returncode == 0 and done.stderr == b""
    name = "卷积" if encoding == "utf-8" else "\\u5377\\u79ef"
    assert done.stdout.decode(encoding) == f"{name} bad\\udc80byte 0\n"


def test_a_reader_that_leaves_ends_nothing(tmp_path):
    """As `| head -1` does: the command goes on, without a word."""
    with subprocess.Popen([sys.executable, "-c", PRINTS, "100000", tmp_path / "d"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 0 and error == b""
    assert (tmp_path / "d").read_text() == "done"
