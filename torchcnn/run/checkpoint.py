"""Checkpoints: plain dicts of tensors and primitives, written whole or not at all."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.models.registry import build_model
from torchcnn.training.ema import MovingAverage

FORMAT = 3
CONTENT = {"torchcnn": int, "model": dict, "weights": dict, "optimizer": dict, "config": dict,
           "classes": list, "images": int, "history": list, "scaler": dict,
           "average": dict | None,  # the moving average of the weights, which is what is judged
           "partial": dict | None}  # what an unfinished epoch has gathered  # fmt: skip


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint: to a temporary file beside `path`, then renamed over it.

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
    """Read a checkpoint onto the CPU; nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or not a checkpoint of torchcnn.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes check sums, and does not read them
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file provokes in torch's reader
        raise ValueError(
            f"{path} is damaged, or not a checkpoint ({type(error).__name__})"
        ) from error
    version = checkpoint.get("torchcnn") if isinstance(checkpoint, dict) else None
    if not isinstance(version, int) or version != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of torchcnn (format {FORMAT})")
    wrong = [key for key, kind in CONTENT.items() if not isinstance(checkpoint.get(key, 0), kind)]
    if wrong:
        raise ValueError(f"{path} is a damaged checkpoint: {', '.join(wrong)} missing or malformed")
    return checkpoint


def restore(checkpoint: dict[str, Any], net: nn.Module) -> None:
    """Put a checkpoint's weights into a network to use: their moving average, where there is one.

    Raises:
        ValueError: they do not fit.
    """
    with _fitting(checkpoint):
        net.load_state_dict((checkpoint["average"] or checkpoint)["weights"])


def restore_training(
    checkpoint: dict[str, Any],
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: MovingAverage | None,
) -> None:
    """Put all that training needs back where it was: weights, optimizer, scaler, moving average.

    Raises:
        ValueError: they do not fit.
    """
    with _fitting(checkpoint):
        net.load_state_dict(checkpoint["weights"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        check_optimizer(optimizer, trained=bool(checkpoint["history"] or checkpoint["partial"]))
        if scaler.is_enabled():
            scaler.load_state_dict(checkpoint["scaler"])
        if average:
            average.module.load_state_dict(checkpoint["average"]["weights"])
            average.count = int(checkpoint["average"]["count"])


@contextmanager
def _fitting(checkpoint: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"the checkpoint is not one of {checkpoint['model']}: {error}") from error


def check_optimizer(optimizer: torch.optim.Optimizer, trained: bool) -> None:
    """What `load_state_dict` takes on trust: a state for every parameter, and of its shape.

    Raises:
        ValueError: it is not so.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    adam, momentum = isinstance(optimizer, torch.optim.Adam), optimizer.defaults.get("momentum", 0)
    stateful = momentum > 0 or (adam and trained)  # Adam's is made in its first step
    for p in params:
        state = optimizer.state.get(p, {})
        tensors = [v for v in state.values() if isinstance(v, Tensor) and v.dim()]
        if any(v.shape != p.shape for v in tensors) or (stateful and not tensors):
            raise ValueError("the optimizer's state does not fit the network")


def load_model(path: str | Path) -> nn.Module:
    """The network that a checkpoint holds, with its weights, on the CPU and in eval mode.

    `path` is a checkpoint, or a run folder, whose `best.pt` or else `last.pt` is taken.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not a checkpoint of torchcnn, or its weights do not fit.
    """
    return open_checkpoint(path)[0]


def open_checkpoint(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """`load_model`'s network, and the whole checkpoint: its classes, its configuration."""
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / ("best.pt" if (path / "best.pt").exists() else "last.pt")
    checkpoint = load_checkpoint(path)
    try:
        net = build_model(**checkpoint["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} describes no network: {checkpoint['model']}") from error
    if len(checkpoint["classes"]) != checkpoint["model"]["num_classes"]:
        raise ValueError(f"{path} is a damaged checkpoint: its classes are not the network's")
    restore(checkpoint, net)
    return net.eval(), checkpoint
