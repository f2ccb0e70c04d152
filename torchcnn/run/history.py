"""What a run needs to go on: a history that holds together, and the epoch that was not over."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.training.distributed import Ranks
from torchcnn.training.loop import Step

Record = dict[str, Any]  # one epoch: numbers, and "step_losses", a tensor


def held_out_name(config: dict[str, Any]) -> str:
    """What is watched beside the training data: validation images, or the test set if none are."""
    return "val" if config["val_fraction"] else "test"


def best_epoch(history: list[Record], held_out: str) -> int | None:
    """The first epoch with the highest validation accuracy; None without validation data."""
    if held_out == "test" or not history:
        return None
    return max(history, key=lambda record: record["val_acc"])["epoch"]


def check_resumable(path: Path, checkpoint: dict[str, Any]) -> None:
    """Hold the history and `best.pt` of a run against each other before anything is written.

    Raises:
        FileNotFoundError, ValueError: `best.pt` is missing or of another run, or the history is
            damaged, or the folder cannot be written to.
    """
    history, held_out = checkpoint["history"], held_out_name(checkpoint["config"])
    check_history(path / "last.pt", history, held_out)
    if checkpoint["partial"] is not None:
        try:
            check_partial(checkpoint["partial"])
        except ValueError as error:
            raise ValueError(f"{path / 'last.pt'} is damaged: {error}") from error
    best = best_epoch(history, held_out)
    unwritten = best == len(history) and checkpoint["partial"] is None  # last.pt is the best
    if best and not unwritten:
        others = load_checkpoint(path / "best.pt")["history"]
        check_history(path / "best.pt", others, held_out)
        if [r["time"] for r in others] != [r["time"] for r in history[:best]]:
            raise ValueError(f"{path / 'best.pt'} is not that of epoch {best} of this run")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written")


def check_history(path: Path, history: list[Any], held_out: str) -> None:
    """Hold the history of the checkpoint at `path` against what `Run.add_epoch` makes.

    Raises:
        ValueError: it is damaged.
    """
    numbers = ("epoch", "time", "lr", "train_loss", "train_acc", f"{held_out}_loss",
               f"{held_out}_acc", "seconds", "images_per_second")  # fmt: skip
    for epoch, record in enumerate(history, start=1):
        if (
            not isinstance(record, dict)
            or not all(isinstance(record.get(key), int | float) for key in numbers)
            or not isinstance(record.get("step_losses"), Tensor)
            or record["epoch"] != epoch
        ):
            raise ValueError(f"{path} is damaged: epoch {epoch} of its history")


def pack_steps(
    steps: list[Step], seconds: float, device: torch.device, ranks: Ranks
) -> dict[str, Any]:
    """The steps of an epoch that is not over, and the state of every rank's randomness."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {
        "losses": torch.stack([step.loss for step in steps]).cpu(),
        "hits": torch.stack([step.hits for step in steps]).cpu(),
        "images": [step.images for step in steps], "seconds": seconds,
        "rng": ranks.gather(torch.get_rng_state()),
        "cuda_rng": [] if cuda is None else ranks.gather(cuda),
    }  # fmt: skip


def check_partial(partial: dict[str, Any]) -> None:
    """Hold an unfinished epoch against what `pack_steps` makes.

    Raises:
        ValueError: it is damaged.
    """
    losses, hits, images = (partial.get(key) for key in ("losses", "hits", "images"))
    rng, cuda_rng = partial.get("rng"), partial.get("cuda_rng")
    state = torch.get_rng_state()

    def states(x: Any) -> bool:
        return isinstance(x, list) and all(
            isinstance(one, Tensor) and one.dtype == state.dtype for one in x
        )

    good = (
        isinstance(losses, Tensor) and isinstance(hits, Tensor) and isinstance(images, list)
        and losses.shape == hits.shape == (len(images),) and len(images) > 0
        and all(isinstance(n, int) and n > 0 for n in images)
        and losses.is_floating_point() and hits.dtype == torch.int64
        and isinstance(partial.get("seconds"), float)
        and states(rng) and all(one.shape == state.shape for one in partial["rng"])
        and states(cuda_rng)
    )  # fmt: skip
    if not good:
        raise ValueError("its unfinished epoch")


def unpack_steps(
    partial: dict[str, Any], device: torch.device, ranks: Ranks
) -> tuple[list[Step], float]:
    """The steps that `pack_steps` packed, and their seconds.

    Randomness goes on where it was, if there are as many ranks as there were.
    """
    losses, hits = partial["losses"].to(device), partial["hits"].to(device)
    if len(partial["rng"]) == ranks.count:
        torch.set_rng_state(partial["rng"][ranks.rank])
    if device.type == "cuda" and len(partial["cuda_rng"]) == ranks.count:
        torch.cuda.set_rng_state(partial["cuda_rng"][ranks.rank], device)
    steps = [Step(*s) for s in zip(losses, hits, partial["images"], strict=True)]
    return steps, partial["seconds"]
