"""How each network is trained: as its source does, `fast`, which reaches about as much or more in
less time, or `best`, which takes `fast`'s way for longer, on images that are flipped at random.

`fast` takes images of 28 or 32 pixels, with the stem for small images, where it is not said below;
batches of 64 to 256; and one cycle of the learning rate (arXiv:1708.07120). Networks with batch
norm take Nesterov momentum at a high rate, others AdamW (arXiv:1711.05101). Precision and memory
format are what the machine is faster with. Some networks have fewer epochs than their source or
smaller images, chosen on images of Fashion-MNIST that were held out from training.
"""

import inspect
from dataclasses import asdict
from typing import Any

from torchcnn.models.registry import find_model

COMMON = {"clip": 1.0, "batch_size": 64, "amp": "auto", "channels_last": "auto"}
SGD = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
ADAMW = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01}
CHANGES: dict[str, dict[str, Any]] = {
    "softmax_regression": {"lr": 5e-3, "batch_size": 256},
    "mlp": {"lr": 5e-3, "batch_size": 256},
    "tf_sigmoid_cnn": {"lr": 1e-2},
    "tf_lenet5": {"lr": 1e-2},
    "alexnet": {"lr": 3e-3},
    "tf_baseline": {"epochs": 3},
    "resnet20": {"epochs": 3, "lr": 0.2, "label_smoothing": 0.1},
    # Images of twice their size with the usual stem: a quarter of the work of the small stem.
    "densenet": {"epochs": 3, "input_size": 56, "small_input": False},
    "lenet": {"epochs": 1, "lr": 0.5, "batch_size": 128, "weight_decay": 1e-4, "clip": 0.0},
}
SHRUNK = {"resnet20": 20}  # pixels at which `fast` takes images of 28: half the work
LONGER: dict[str, dict[str, Any]] = {"lenet": {"epochs": 20}}  # changes of `best`
OWN: dict[str, Any] = {  # of a module that is not registered
    "optimizer": "adam",
    "lr": 1e-3,
    "batch_size": 128,
    "epochs": 5,
    "input_size": 28,
}
LEAST_PIXELS = {"tf_sigmoid_cnn": 48, "tf_alexnet_half": 64, "tf_nin": 96, "tf_nin_dense": 48}


def source(arch: str) -> dict[str, Any]:
    """Return the recipe of the network's source, as flags of `torchcnn.train`."""
    return asdict(find_model(arch).recipe)


def fast(arch: str) -> dict[str, Any]:
    """Return the recipe that takes less time, as flags of `torchcnn.train`."""
    model = find_model(arch)
    known = inspect.signature(model.builder).parameters
    has_norms = "norm_layer" in known and known["norm_layer"].default is not None
    flags = {
        "epochs": model.recipe.epochs,
        "input_size": LEAST_PIXELS.get(arch, 28 if model.input[0] == 1 else 32),
        "schedule": "one-cycle",
    }
    if "small_input" in known:
        flags["small_input"] = True
    return flags | COMMON | (SGD if has_norms else ADAMW) | CHANGES.get(arch, {})


def best(arch: str) -> dict[str, Any]:
    """Return the recipe that goes on for longer, as flags of `torchcnn.train`."""
    epochs = 3 * find_model(arch).recipe.epochs
    return fast(arch) | {"epochs": epochs, "augment": "flip"} | LONGER.get(arch, {})


RECIPES = {"source": source, "fast": fast, "best": best}


def complete(arch: str | None, recipe: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that were given, and those of a recipe for all others.

    A module of your own has no `arch`, and one plain recipe. Where another optimizer is given, the
    recipe's momentum and weight decay are left out, which belong to its own.

    Raises:
        ValueError: SGD is given in place of a kind of Adam, or the reverse, without a rate: that of
            the recipe is tens of times too low or too high.
    """
    flags = OWN if arch is None else RECIPES[recipe](arch)
    own, optimizer = flags["optimizer"], given.get("optimizer", flags["optimizer"])
    if optimizer != own:
        if "lr" not in given and "sgd" in (optimizer, own):
            raise ValueError(
                f"--optimizer {optimizer} needs a --lr: the recipe's {flags['lr']} is for {own}"
            )
        left_out = ("momentum", "nesterov", "weight_decay")
        flags = {name: flags[name] for name in flags if name not in left_out}
    return flags | given
