"""The house: who imports whom, what an import costs, and what is promised at the top."""

import ast
import functools
import graphlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import torchcnn

PACKAGE = Path(torchcnn.__file__).parent
BASE = {"scratch", "files", "system", "cli", "names"}
ROOMS = {  # whom each may import, beside itself; commands may import all of them
    **{name: set() for name in BASE},
    "cli": {"names"},
    "layers": {"scratch"},
    "data": {"files", "system"},
    "models": {"layers", "files", "names"},
    "figures": {"models", "files", "names"},
    "keras_io": {"layers", "models"},
    "formats": {"keras_io", "models"},
    "run": {"figures", "files", "models", "system"},
    "pictures": {"cli", "data", "files", "models", "run"},  # the flags that two commands share
    "looks": {"data", "figures", "models", "pictures"},
    "training": {*BASE, "layers", "data", "models", "run"},
    # a command, and a function of Python's
    "train": {"cli", "models", "run", "system", "training"},
    "benchmark": {*BASE, "data", "models", "keras_io", "training"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """torchcnn/data/loader.py -> torchcnn.data.loader"""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def is_command(path):
    return path.name == "__main__.py" or (path.parent == PACKAGE and path.stem not in ROOMS)


@functools.cache
def nodes(path):
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path):
    """The modules of torchcnn that a file imports, at its top or inside a function."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("torchcnn."))
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            if node.module.split(".")[0] == "torchcnn":
                # What is imported may be a module, or a name in one.
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in MODULES else node.module for name in inner)


MODULES = {name_of(path): path for path in FILES}


def test_who_may_import_whom():
    for path in FILES:
        rooms = {name.split(".")[1] for name in imports(path) if name != "torchcnn"}
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__") or is_command(path):
            assert rooms <= ROOMS.keys() | {room}, f"{path}: nobody imports a command"
        else:
            assert rooms <= ROOMS[room] | {room}, path


def test_imports_go_one_way():
    """No circle of files."""
    graph = {name: set(imports(path)) - {name, "torchcnn"} for name, path in MODULES.items()}
    for name, above in graph.items():  # a room's __init__ only passes on what is in it
        above -= {other for other in above if name.startswith(f"{other}.")}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


MIRRORS = {
    "loader.__init__",  # Batches takes what torch's DataLoader does
    "loop.train_ch5",  # the tutorials' arguments
    "d2l.train_ch3",
    "d2l.semilogy",
}


def test_functions_are_short_and_take_few_parameters():
    """Six at most, but for what mirrors torch, a tutorial or a paper's options."""
    for path in FILES:
        room = path.relative_to(PACKAGE).parts[0]
        for function in (node for node in nodes(path) if isinstance(node, ast.FunctionDef)):
            name = f"{path.stem}.{function.name}"
            assert function.end_lineno - function.lineno < 60, f"{name} is long"
            arguments = (*function.args.args, *function.args.kwonlyargs)
            few = sum(a.arg not in ("self", "cls") for a in arguments) <= 6
            mirrors = room in ("scratch", "models", "layers") or name in MIRRORS
            assert few or mirrors, f"{name} has {len(arguments)} parameters"


def test_typesetting_is_the_formatters():
    assert sum(path.read_text().count("fmt: skip") for path in FILES) < 15


def test_no_module_hides_a_public_name():
    assert not {path.stem for path in PACKAGE.iterdir()} & set(torchcnn.__all__)


ACROSS = {  # of more than one module
    "scratch/test_operators.py",
    "scratch/test_scratch.py",
    "test_cuda.py",
    "test_fuzz.py",
    "test_import_order.py",
    "test_notebooks.py",
    "test_package.py",
    "test_readme.py",
    "test_tutorials.py",
    "training/test_exactness.py",
    "training/test_several.py",
}


def test_each_test_file_is_of_a_module():
    tests = Path(__file__).parent
    for path in tests.rglob("test_*.py"):
        place = path.relative_to(tests)
        stem = place.stem.removeprefix("test_").replace("main", "__main__")
        assert str(place) in ACROSS or (PACKAGE / place.parent / f"{stem}.py").exists(), place


def test_what_is_skipped_without_keras_is_run_where_keras_is():
    """CI runs it by the marker `extra`, which a second `pytestmark` would replace."""
    for path in Path(__file__).parent.rglob("test_*.py"):
        text = path.read_text()
        needed = re.search(r'^\w+ = pytest.importorskip\("(keras|tensorflow|onnx)', text, re.M)
        marks = re.findall(r"^pytestmark = (?:\[.*?^\]|.*?$)", text, re.M | re.S)
        assert len(marks) <= 1 and (not needed or "mark.extra" in marks[0]), path


LIGHT = """
import sys, torch
before = set(sys.modules)
import torchcnn
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
heavy = {"torchvision", "matplotlib", "tensorboard", "PIL", "keras", "tensorflow", "triton"}
assert not loaded & heavy, loaded & heavy
import torchcnn.models.lenet
assert callable(torchcnn.models.lenet)  # Python binds an imported file to its name in the package
"""
QUICK = """
import contextlib, io, sys
from torchcnn.__main__ import COMMANDS, main
for argv in (["--help"], ["--version"], ["trian"], ["models"], ["models", "lenett"],
             *([name, "--help"] for name in COMMANDS), *([name, "--hepl"] for name in COMMANDS),
             ["train", "--arch", "lenett"], ["train", "--data", "nosuch"],
             ["train", "--optimizer", "adm"], ["export", "--to", "onx"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main(argv)
    assert "torch" not in sys.modules, argv
"""


@pytest.mark.parametrize("code", [LIGHT, QUICK], ids=["import torchcnn", "help and refusals"])
def test_what_is_not_needed_is_not_imported(code):
    """Beside torch itself, only commands and plots need more; help and errors need no torch."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "package", [torchcnn, torchcnn.models], ids=lambda package: package.__name__
)
def test_names_are_those_that_type_checkers_see(package):
    """Each is imported on first use from where the block `if TYPE_CHECKING` says."""
    tree = ast.parse(Path(package.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: line.module for line in block.body for alias in line.names}
    for name, module in seen.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)
    assert seen.keys() <= set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_the_public_names():
    assert {
        "create_model", "list_models", "batch_norm", "BatchNorm", "GlobalAvgPool2d", "FlattenLayer",
        "data_iter", "load_data_fashion_mnist", "train_ch5", "evaluate_accuracy", "corr2d",
        "linreg", "squared_loss", "sgd", "summary", "receptive_field", "load_model",
        "list_pretrained", "Residual", "DenseBlock", "Inception", "conv_block", "nin_block",
        "resnet_block", "transition_block", "vgg_block", "walk",
    } == set(torchcnn.__all__)  # fmt: skip
    assert all(getattr(torchcnn, name).__doc__ for name in torchcnn.__all__)
