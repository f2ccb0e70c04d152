"""Flags, devices, errors."""

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
        (["--batch", "3"], "unrecognized arguments: --batch 3"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_code_2(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse(Config, "prog", argv)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1 and message in error


def test_help_shows_what_it_does_and_the_defaults(capsys):
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
    for error in (AssertionError("ours"), RuntimeError("size mismatch")):
        with pytest.raises(type(error)), cli.one_line_errors("prog"):
            raise error


def test_keywords_of_python_are_read_as_flags():
    given = cli.read_keywords(Config, {"batch_size": 3, "share": "0.25", "name": "y"})
    assert given == {"batch_size": 3, "share": 0.25, "name": "y"}
    with pytest.raises(TypeError, match="unexpected keyword arguments: size; there are name, "):
        cli.read_keywords(Config, {"size": 3})
    with pytest.raises(ValueError, match="--batch-size: got 0, allowed is a whole number from 1"):
        cli.read_keywords(Config, {"batch_size": 0})
