"""`python -m torchcnn`: the list of the commands, and the way to each of them."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import torchcnn
from torchcnn.__main__ import COMMANDS, main


def test_it_lists_the_commands(capsys):
    main([])
    out = capsys.readouterr().out
    assert all(f"python -m torchcnn.{name} " in out for name in COMMANDS)
    main(["--version"])
    assert capsys.readouterr().out == f"torchcnn {torchcnn.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_reached_and_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: python -m torchcnn.{name}" in capsys.readouterr().out


def test_another_word_is_refused(refused):
    line = refused(main, "fit")
    assert line.startswith("torchcnn: there is no command fit; allowed is train, evaluate, ")
    assert refused(main, "trian") == "torchcnn: there is no command trian; did you mean train?"


def test_the_modules_and_the_console_script_are_the_same():
    one, other = (
        subprocess.run([sys.executable, "-m", *words, "--help"], capture_output=True, check=True)
        for words in (["torchcnn", "train"], ["torchcnn.train"])
    )
    assert one.stdout == other.stdout
    (script,) = entry_points(group="console_scripts", name="torchcnn")
    assert script.load() is main
