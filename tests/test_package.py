"""The house: who imports whom, what an import costs, and what is promised at the top."""

import ast
import graphlib
import importlib
import json
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
    "train": {
        "cli",
        "models",
        "run",
        "system",
        "training",
    },  # a command, and a function of Python's
    "benchmark": {*BASE, "data", "models", "keras_io", "training"},
}
FLOORS = 7
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """torchcnn/data/loader.py -> torchcnn.data.loader"""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def is_command(path):
    return path.name == "__main__.py" or (path.parent == PACKAGE and path.stem not in ROOMS)


def imports(path):
    """The modules of torchcnn that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
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
    """No circle of files, and at most seven floors of rooms."""
    graph = {name: set(imports(path)) - {name, "torchcnn"} for name, path in MODULES.items()}
    for name, above in graph.items():  # a room's __init__ only passes on what is in it
        above -= {other for other in above if name.startswith(f"{other}.")}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError

    def floor(room):
        return 1 + max((floor(below) for below in ROOMS[room]), default=0)

    assert max(map(floor, ROOMS)) == FLOORS  # commands are on the last, as the benchmark is


def functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


def test_functions_are_short():
    for path in FILES:
        for function in functions(path):
            assert function.end_lineno - function.lineno < 60, f"{path}: {function.name}"


MIRRORS = {
    "loader.__init__",  # Batches takes what torch's DataLoader does
    "loop.train_ch5",  # the tutorials' arguments
    "d2l.train_ch3",
    "d2l.semilogy",
}


def test_parameters_are_few():
    """Six at most, but for what mirrors torch, a tutorial or a paper's options."""
    for path in FILES:
        room = path.relative_to(PACKAGE).parts[0]
        if room in ("scratch", "models", "layers"):
            continue
        for function in functions(path):
            arguments = function.args
            names = [a.arg for a in (*arguments.args, *arguments.kwonlyargs)]
            count = len([name for name in names if name not in ("self", "cls")])
            name = f"{path.stem}.{function.name}"
            assert count <= 6 or name in MIRRORS, f"{name} has {count} parameters"


def test_typesetting_is_the_formatters():
    skips = sum(path.read_text().count("fmt: skip") for path in FILES)
    assert skips < 15


def test_no_module_hides_a_public_name():
    roots = {path.stem for path in PACKAGE.iterdir()}
    assert not roots & set(torchcnn.__all__)


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


def test_importing_is_light():
    """What only a command or a plot needs is not imported; torch itself is the price."""
    code = "import json, sys, torch; before = set(sys.modules); import torchcnn; " \
           "print(json.dumps(sorted(set(sys.modules) - before)))"  # fmt: skip
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    parts = {name.split(".")[0] for name in json.loads(out.stdout)}
    assert "torchcnn" in parts
    assert not parts & {"torchvision", "matplotlib", "tensorboard", "PIL", "keras", "tensorflow"}


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


def test_help_and_errors_of_spelling_need_no_torch():
    done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True)
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


def test_a_network_is_not_the_file_of_its_name():
    """Python binds an imported file to its name in the package."""
    code = "import torchcnn.models.lenet, torchcnn; assert callable(torchcnn.models.lenet)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names():
    assert {
        "create_model", "list_models", "batch_norm", "BatchNorm", "GlobalAvgPool2d", "FlattenLayer",
        "data_iter", "load_data_fashion_mnist", "train_ch5", "evaluate_accuracy", "corr2d",
        "linreg", "squared_loss", "sgd", "summary", "receptive_field", "load_model",
        "list_pretrained", "Residual", "DenseBlock", "Inception", "conv_block", "nin_block",
        "resnet_block", "transition_block", "vgg_block", "walk",
    } == set(torchcnn.__all__)  # fmt: skip
    assert all(getattr(torchcnn, name).__doc__ for name in torchcnn.__all__)
