"""Checkpoints: plain dicts of tensors and primitives, written whole or not at all."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchcnn.models.registry import build_model
from torchcnn.models.weights import set_attributes

FORMAT = 5
CONTENT = {
    "torchcnn": int,  # the version of the format in which the run was begun
    "model": dict,  # the model's specification: what `build_model` takes
    "weights": dict,
    "optimizer": dict,
    "scaler": dict,
    "average": dict | None,  # the moving average of the weights, which is what is evaluated
    "config": dict,
    "decided": dict,  # by flag, what it said, "auto" or "fitted", where its value was decided
    "classes": list,
    "images": int,  # how many there were to train on
    "digests": dict | int,  # of the pictures of each part, if they lie in a folder
    "trained": torch.Tensor | int,  # the numbers of those trained on, if they lie in a folder
    "history": list,  # an `EpochRecord` each
    "partial": dict | None,  # the `EpochProgress` of an unfinished epoch
}

# Mean and standard deviation of each channel of an image in [0, 1]: a network takes
# (x - mean) / std. A checkpoint has them as "mean" and "std", if that was asked for.
Normalization = tuple[list[float], list[float]]


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint to a temporary file beside `path`, then rename it to `path`.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into the latter
        temporary.unlink(missing_ok=True)
        why = error if isinstance(error, OSError) else f"the disk may be full ({error})"
        raise OSError(f"cannot write {path}: {why}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not a checkpoint of torchcnn, or one of a later version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes check sums but does not read them
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file provokes many kinds in torch's reader
        kind = type(error).__name__
        raise ValueError(f"{path} is damaged, or not a checkpoint ({kind})") from error
    version = checkpoint.get("torchcnn") if isinstance(checkpoint, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ValueError(
            f"{path} was written by a later version of torchcnn, which can read it: its format is "
            f"{version}, and this version reads format {FORMAT}"
        )
    if not isinstance(version, int) or version != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of torchcnn (format {FORMAT})")
    wrong = [key for key, kind in CONTENT.items() if not isinstance(checkpoint.get(key, 0), kind)]
    if wrong:
        raise ValueError(f"{path} is a damaged checkpoint: {', '.join(wrong)} missing or malformed")
    return checkpoint


@contextmanager
def fits(checkpoint: dict[str, Any]) -> Iterator[None]:
    """Turn what goes wrong while a checkpoint's state is loaded into one ValueError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"the checkpoint is not one of {checkpoint['model']}: {error}") from error


def load_weights(checkpoint: dict[str, Any], net: nn.Module) -> None:
    """Load a checkpoint's weights into a network; their moving average, if there is one.

    Raises:
        ValueError: they do not fit.
    """
    with fits(checkpoint):
        net.load_state_dict((checkpoint["average"] or checkpoint)["weights"])


def normalization(checkpoint: dict[str, Any]) -> Normalization | None:
    """Return how the images of a run were normalized.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    mean: Any = checkpoint.get("mean")
    std: Any = checkpoint.get("std")
    if mean is None and std is None:
        return None
    channels = checkpoint["model"].get("in_channels")
    for values, least in ((mean, -1e30), (std, 1e-30)):
        good = isinstance(values, list) and len(values) == channels
        if not good or not all(isinstance(v, float) and least <= v <= 1e30 for v in values):
            raise ValueError("the checkpoint is damaged: its mean and std are malformed")
    return mean, std


def checkpoint_file(path: Path) -> Path:
    """The checkpoint of a run folder: `best.pt`, else `last.pt`."""
    return path / ("best.pt" if (path / "best.pt").exists() else "last.pt")


def load_model(path: str | Path, net: nn.Module | None = None) -> nn.Module:
    """Return the trained network of a run, on the CPU and in eval mode.

    Its attributes say what it takes and returns: `classes` are the names of its outputs,
    `input_size` is the side of its images in pixels, and `mean` and `std` are numbers for each
    channel: the network takes (x - mean) / std for an image x in [0, 1].

    Args:
        path: a checkpoint, or a run folder, whose `best.pt`, else `last.pt`, is taken.
        net: for a run of your own module: such a module, into which the weights are loaded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not a checkpoint of torchcnn, or its weights do not fit.
    """
    return open_checkpoint(path, net)[0]


def open_checkpoint(
    path: str | Path, net: nn.Module | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Return `load_model`'s network and the whole checkpoint: its classes, configuration, ..."""
    path = Path(path).expanduser()
    if path.is_dir():
        path = checkpoint_file(path)
    checkpoint = load_checkpoint(path)
    model_spec = checkpoint["model"]
    if net is None and "module" in model_spec:
        raise ValueError(
            f"{path} holds a module of your own, {model_spec['module']}, which only your code can "
            "build: torchcnn.load_model(path, net)"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # first weights are drawn, and replaced
            net = build_model(**model_spec) if net is None else net
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} describes no network: {model_spec}") from error
    if len(checkpoint["classes"]) != model_spec.get("num_classes"):
        raise ValueError(f"{path} is a damaged checkpoint: its classes are not the network's")
    load_weights(checkpoint, net)
    channels = model_spec["in_channels"]
    normalized = normalization(checkpoint) or ([0.0] * channels, [1.0] * channels)
    set_attributes(net, checkpoint["classes"], model_spec["input_size"], normalized)
    return net.eval(), checkpoint
