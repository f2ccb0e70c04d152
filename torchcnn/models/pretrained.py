"""Networks that are in the package with their weights, trained on Fashion-MNIST.

`fashion_mnist/README.md` has the commands that trained them, and what they reach.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

FOLDER = Path(__file__).parent / "fashion_mnist"


def list_pretrained() -> list[str]:
    """Return the names of all networks that have weights in this package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def read_pretrained(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights of a network, as float32, and what is said of them.

    Returns:
        the weights by name, and a dict with "model" (what `build_model` takes), "classes", "mean",
        "std", "accuracy" on the test images, "recipe", "seed" and "command".

    Raises:
        ValueError: If there are no weights of this name, or the file is damaged.
    """
    from safetensors import safe_open

    path = FOLDER / f"{name}.safetensors"
    if name not in list_pretrained():
        raise ValueError(f"{name} has no pretrained weights; there are {list_pretrained()}")
    index = json.loads((FOLDER / "md5.json").read_text())
    if hashlib.md5(path.read_bytes()).hexdigest() != index[path.name]:
        raise ValueError(f"{path} is damaged: its md5 is not that of {FOLDER / 'md5.json'}")
    with safe_open(path, framework="pt") as file:
        about: dict[str, Any] = json.loads(file.metadata()["torchcnn"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, about
