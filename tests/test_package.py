"""The house: who imports whom, what an import costs, and what is promised at the top."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import torchcnn

PACKAGE = Path(torchcnn.__file__).parent
COMMANDS = {"train", "evaluate", "predict", "export", "benchmark", "summary"}
# Each part, and what it may know of: itself and what stands before it.
MAY_IMPORT = {
    "scratch": set(),
    "augment": set(),
    "schedule": set(),
    "average": set(),
    "loop": {"average"},
    "cli": set(),
    "layers": {"scratch"},
    "system": set(),
    "text": set(),
    "models": {"scratch", "layers"},
    "shapes": {"layers"},
    "keras_io": {"layers", "shapes"},
    "data": set(),
    "batches": {"data", "augment", "images"},
    "checkpoint": {"scratch", "layers", "models", "average"},
    "images": {"augment", "data"},
    "ranks": {"cli", "layers", "loop"},
    "plots": set(),
    "folder": set(),
    "resume": {"checkpoint", "loop", "ranks"},
    "run": {"average", "checkpoint", "folder", "loop", "plots", "resume"},
    "config": {"cli", "augment", "schedule", "data", "models", "checkpoint", "recipes", "resume"},
    "learner": {"average", "config", "checkpoint", "ranks", "scratch"},
    "recipes": {"models"},
    "memory": set(),
    "roofline": set(),
    "sample": {"data"},
}
LIBRARY = set(MAY_IMPORT) - {"cli", "config", "folder", "learner", "memory", "ranks", "resume",
                             "roofline", "run", "sample"}  # fmt: skip


def imports(path):
    """The parts of torchcnn that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "torchcnn":
            names = [f"torchcnn.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = [node.module]
        yield from (name.split(".")[1] for name in names if name.startswith("torchcnn."))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_who_may_import_whom(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        allowed = LIBRARY
    elif part in COMMANDS:
        allowed = set(MAY_IMPORT)
    else:
        allowed = MAY_IMPORT[part] | {part}
    assert set(imports(path)) <= allowed


def test_importing_is_light():
    """What only a command or a plot needs is not imported; torch itself is the price."""
    code = "import json, sys, torch; before = set(sys.modules); import torchcnn; " \
           "print(json.dumps(sorted(set(sys.modules) - before)))"  # fmt: skip
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    parts = {name.split(".")[0] for name in json.loads(out.stdout)}
    assert "torchcnn" in parts
    assert not parts & {"torchvision", "matplotlib", "tensorboard", "PIL", "keras", "tensorflow"}


def test_the_public_names():
    assert {
        "create_model", "list_models", "batch_norm", "BatchNorm", "GlobalAvgPool2d", "FlattenLayer",
        "data_iter", "load_data_fashion_mnist", "train_ch5", "evaluate_accuracy", "corr2d",
        "linreg", "squared_loss", "sgd", "summary", "receptive_field",
    } == set(torchcnn.__all__)  # fmt: skip
    assert all(getattr(torchcnn, name).__doc__ for name in torchcnn.__all__)
