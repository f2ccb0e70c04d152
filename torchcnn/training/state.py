"""The state of training: a network and all that changes with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchcnn.layers.sync_batch_norm import sync_batch_norm
from torchcnn.models.registry import build_model
from torchcnn.models.weights import FROZEN, freeze
from torchcnn.run.checkpoint import fits
from torchcnn.run.history import EpochProgress, EpochRecord, eval_split, read_history, read_progress
from torchcnn.scratch import from_scratch
from torchcnn.training.config import Config
from torchcnn.training.device import seed_generators
from torchcnn.training.ema import MovingAverage
from torchcnn.training.optim import check_optimizer, make_optimizer


@dataclass(frozen=True)
class TrainState:
    """All that training changes.

    The scaler is disabled unless training is in float16; without `--ema` there is no average.
    """

    net: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: MovingAverage | None

    @classmethod
    def create(
        cls,
        config: Config,
        model_spec: dict[str, Any],
        device: torch.device,
        world_size: int = 1,
        net: nn.Module | None = None,
        begin: Callable[[nn.Module], str] | None = None,
    ) -> "TrainState":
        """Return a new state: the network that `model_spec` describes, or `net`, untrained.

        Args:
            begin: copies weights into the network, and returns what is to be said of it.

        Raises:
            ValueError: flags that contradict each other, or do not fit the network.
        """
        seed_generators(config.seed, device)
        net = build_model(**model_spec) if net is None else net
        if begin and (said := begin(net)):
            print(said)
        net = net.to(device)
        if config.layers == "scratch":
            net = from_scratch(net)
        if config.sync_bn:
            net = sync_batch_norm(net, world_size)
        if config.channels_last:
            net = net.to(memory_format=torch.channels_last)
        if config.freeze:
            freeze(net, config.freeze.split(","))
        ema = MovingAverage(net, config.ema) if config.ema else None
        scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        optimizer = make_optimizer(
            net,
            config.optimizer,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            nesterov=config.nesterov,
        )
        return cls(net, optimizer, scaler, ema)

    @property
    def eval_net(self) -> nn.Module:
        """The network to evaluate: the moving average, if there is one."""
        return self.ema.module if self.ema else self.net

    def state_dict(self) -> dict[str, Any]:
        """The state by its names in a checkpoint."""
        return {
            "weights": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.ema and self.ema.state_dict(),
        }

    def load_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Load the state of a checkpoint.

        Resume restores two things more: the history, and the progress of an unfinished epoch with
        the state of the random number generators (for dropout), see `Trainer.fit`. The order of the
        images, augmentation and the learning rate follow from the seed, the epoch and the step.

        Raises:
            ValueError: it does not fit.
        """
        with fits(checkpoint):
            self.net.load_state_dict(checkpoint["weights"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            trained = bool(checkpoint["history"] or checkpoint["partial"])
            registered = (
                "arch" in checkpoint["model"]
            )  # modules of your own may have idle parameters
            check_optimizer(self.optimizer, trained, all_used=registered)
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(checkpoint["scaler"])
            if self.ema:
                self.ema.load_state_dict(checkpoint["average"])


def restore(
    state: TrainState, checkpoint: dict[str, Any] | None, out: str
) -> tuple[list[EpochRecord] | None, EpochProgress | None]:
    """Load a checkpoint into the state; return the history and the progress of an unfinished epoch.

    Raises:
        ValueError: it does not fit.
    """
    if checkpoint is None:
        return None, None
    state.load_state_dict(checkpoint)
    path = Path(out) / "last.pt"
    split = eval_split(checkpoint["config"])
    return read_history(path, checkpoint, split), read_progress(path, checkpoint)


@contextmanager
def left_as_it_was(net: nn.Module | None) -> Iterator[None]:
    """Afterwards a network's layers are in the modes, and its parameters as frozen, as before."""
    if net is None:
        yield
        return
    modules = [(module, module.training, FROZEN in vars(module)) for module in net.modules()]
    parameters = [(p, p.requires_grad) for p in net.parameters()]
    try:
        yield
    finally:
        for module, training, frozen in modules:
            module.training = training
            if not frozen:
                module.__dict__.pop(FROZEN, None)
        for p, requires_grad in parameters:
            p.requires_grad_(requires_grad)
