"""The state of training: a network and all that changes with it. This is what resume restores."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from torchcnn.models.spec import ModelSpec
from torchcnn.models.weights import FROZEN, Weights, freeze
from torchcnn.run.checkpoint import Checkpoint, State
from torchcnn.scratch import from_scratch
from torchcnn.training.config import Config
from torchcnn.training.device import seed_generators
from torchcnn.training.ema import MovingAverage
from torchcnn.training.optim import check_optimizer, make_optimizer
from torchcnn.training.sync_batch_norm import sync_batch_norm


@dataclass(frozen=True)
class TrainState:
    """All that training changes.

    The scaler is disabled unless training is in float16; without `--ema` there is no average.

    Resume restores these four from the checkpoint, and two things more: the history, and the
    progress of an epoch that is not over with the state of the random number generators, which
    dropout needs. All else follows: the order of the images and the augmentation from the seed and
    the epoch, the learning rate from the step.
    """

    net: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: MovingAverage | None

    @classmethod
    def create(
        cls,
        config: Config,
        spec: ModelSpec,
        device: torch.device,
        world_size: int = 1,
        net: nn.Module | None = None,
        weights: Weights | None = None,
    ) -> "TrainState":
        """Return a new state: the network that `spec` describes, or `net`, untrained.

        Args:
            weights: what the network starts from.

        Raises:
            ValueError: flags that contradict each other, or do not fit the network.
        """
        seed_generators(config.seed, device)
        net = spec.build() if net is None else net
        if weights and (new := weights.load_into(net, spec)):
            print(new)
        net = net.to(device)
        if config.layers == "scratch":
            net = from_scratch(net)
        if config.sync_bn:
            net = sync_batch_norm(net, world_size)
        if config.channels_last:
            net = net.to(memory_format=torch.channels_last)
        if config.freeze:
            freeze(net, config.freeze)
        ema = MovingAverage(net, config.ema) if config.ema else None
        scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        names = ("lr", "body_lr", "weight_decay", "momentum", "nesterov")
        options = {name: getattr(config, name) for name in names}
        return cls(net, make_optimizer(net, config.optimizer, **options), scaler, ema)

    @property
    def eval_net(self) -> nn.Module:
        """The network to evaluate: the moving average, if there is one."""
        return self.ema.module if self.ema else self.net

    def stored(self) -> State:
        """Return the state as a checkpoint holds it."""
        return State(
            weights=self.net.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            average=self.ema.state_dict() if self.ema else None,
        )

    def load(self, checkpoint: Checkpoint) -> None:
        """Load the state of a checkpoint, or raise a ValueError if it does not fit."""
        stored = checkpoint.state
        try:
            self.net.load_state_dict(stored.weights)
            self.optimizer.load_state_dict(stored.optimizer)
            trained = bool(checkpoint.history or checkpoint.progress)
            check_optimizer(self.optimizer, trained, all_used=not checkpoint.spec.own)
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(stored.scaler)
            if self.ema and stored.average:
                self.ema.load_state_dict(stored.average)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            what = checkpoint.spec.arch
            raise ValueError(f"the checkpoint is not one of {what}: {error}") from error


@contextmanager
def left_as_it_was(net: nn.Module | None) -> Iterator[None]:
    """Afterwards a network's layers are in the modes, and its parameters as frozen, as before."""
    net = nn.Module() if net is None else net
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
