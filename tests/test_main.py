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


def test_another_word_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert error.startswith("torchcnn: there is no command fit; allowed is train, evaluate, ")


def test_a_misspelled_word_is_asked_for(capsys):
    with pytest.raises(SystemExit):
        main(["trian"])
    assert capsys.readouterr().err == "torchcnn: there is no command trian; did you mean train?\n"


def test_the_module_and_the_console_script_are_the_same():
    done = subprocess.run([sys.executable, "-m", "torchcnn", "models", "lenet"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert "44,878" in done.stdout
    (script,) = entry_points(group="console_scripts", name="torchcnn")
    assert script.load() is main
