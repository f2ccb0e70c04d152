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
    """What it does.

    Examples:
      prog --batch-size 3
    """

    name: str = cli.option("a name", default="x", choices=("x", "y"), group="first")
    batch_size: int = cli.option("how many", type=cli.at_least_one)
    share: float = cli.option("a share", default=0.5, type=cli.fraction, group="second")
    lr: float = cli.option("a rate", default=1.0, type=cli.positive)
    seed: int = cli.option("a seed", default=0, type=cli.seed)
    verbose: bool = cli.option("say more", default=False, action="store_true")
    out: str = cli.option("a path", default="", type=cli.path)


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
        (["--seed", "-1"], "got -1, allowed is a whole number from 0"),
        (["--out", "~nosuchuser/x"], "got ~nosuchuser/x, there is no such user"),
        (["--batch=3"], "there is no flag --batch; did you mean --batch-size?"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_code_2(argv, message, refused):
    assert message in refused(lambda argv: cli.parse(Config, "prog", argv), *argv)


def test_help_has_groups_defaults_and_examples(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")  # in a narrow terminal the lines are others
    with pytest.raises(SystemExit) as caught:
        cli.parse(Config, "prog", ["--help"])
    about, options, first, second, examples = capsys.readouterr().out.split("\n\n")[1:]
    assert caught.value.code == 0
    assert about == "What it does." and options.startswith("options:")
    assert first.startswith("first:\n  --name {x,y}") and "--batch-size N" in first
    assert second.startswith("second:\n  --share X") and "a share (default: 0.5)" in second
    assert examples == "examples:\n  prog --batch-size 3\n"


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
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (torch.OutOfMemoryError("CUDA out of memory"), f"CUDA out of memory; {cli.LESS_MEMORY}"),
    ],
)
def test_what_a_user_can_mend_is_one_line_that_says_what_helps(error, line, capsys):
    with pytest.raises(SystemExit) as caught, cli.one_line_errors("prog"):
        raise error
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"prog: {line}\n"


def test_an_interruption_needs_no_words(capsys):
    with pytest.raises(SystemExit) as caught, cli.one_line_errors("prog"):
        raise KeyboardInterrupt
    assert caught.value.code == 130 and capsys.readouterr().err == ""


def test_a_runtime_error_is_one_line_only_if_its_cause_lies_outside():
    for text in (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "GET was unable to find an engine to execute this computation",
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA error: all CUDA-capable devices are busy or unavailable",
        "The NVIDIA driver on your system is too old (found version 1)",
        "DefaultCPUAllocator: can't allocate memory: you tried",
    ):
        assert cli.one_line(RuntimeError(text)).startswith(f"{text}; ")
    illegal = RuntimeError("CUDA error: an illegal memory access was encountered")
    for error in (AssertionError("ours"), RuntimeError("size mismatch"), illegal):
        with pytest.raises(type(error)), cli.one_line_errors("prog"):
            raise error


def test_keywords_of_python_are_read_as_flags():
    given = cli.read_keywords(Config, {"batch_size": 3, "share": "0.25", "out": None})
    assert given == {"batch_size": 3, "share": 0.25}
    with pytest.raises(TypeError, match="unexpected keyword arguments: size; there are name, "):
        cli.read_keywords(Config, {"size": 3})
    for keywords, message in [
        ({"batch_size": 0}, "--batch-size: got 0, allowed is a whole number from 1"),
        ({"name": "z"}, "--name: got z, allowed are x, y"),
        ({"verbose": 1}, "--verbose: got 1, allowed are True, False"),
    ]:
        with pytest.raises(ValueError, match=message):
            cli.read_keywords(Config, keywords)


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
    with subprocess.Popen([sys.executable, "-c", PRINTS, "10000", tmp_path / "d"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 0 and error == b""
    assert (tmp_path / "d").read_text() == "done"
