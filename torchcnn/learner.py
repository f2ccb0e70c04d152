"""What learns: a network and all that changes with it."""

from typing import Any, NamedTuple

import torch
from torch import nn

from torchcnn.average import MovingAverage
from torchcnn.config import Config
from torchcnn.layers.sync_batch_norm import sync_batch_norm
from torchcnn.models.registry import build_model
from torchcnn.ranks import Ranks
from torchcnn.scratch import from_scratch


class Learner(NamedTuple):
    """What learns: a network, its optimizer, the scaler of its gradients for float16, which is
    else disabled, and the moving average of its weights, if any."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None

    @property
    def judged(self) -> nn.Module:
        return self.average.module if self.average else self.net


def make_learner(
    config: Config, model: dict[str, Any], device: torch.device, ranks: Ranks
) -> Learner:
    """The network that `model` describes, with new weights, ready to train as the flags say."""
    torch.manual_seed(config.seed)
    net = build_model(**model).to(device)
    if config.layers == "scratch":
        net = from_scratch(net)
    if config.sync_bn:
        net = sync_batch_norm(net, ranks.count)
    if config.channels_last:
        net = net.to(memory_format=torch.channels_last)
    average = MovingAverage(net, config.ema) if config.ema else None
    scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
    return Learner(net, make_optimizer(config, net), scaler, average)


def make_optimizer(config: Config, net: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the flags; Adam and SGD take weight decay into the gradient, AdamW not.

    Fused: one kernel updates all weights, which is as exact, and faster the smaller they are.

    Raises:
        ValueError: momentum for another one than sgd, or Nesterov's form without momentum.
    """
    if config.optimizer != "sgd" and (config.momentum or config.nesterov):
        raise ValueError(
            f"--momentum and --nesterov are sgd's; the optimizer is {config.optimizer}"
        )
    if config.nesterov and not config.momentum:
        raise ValueError("--nesterov needs a --momentum above 0")
    params, lr = net.parameters(), config.lr
    same: dict[str, Any] = {"weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        sgd = torch.optim.SGD(params, lr, config.momentum, nesterov=config.nesterov, **same)
        if config.momentum:  # else left as it is in memory by a first float16 step that overflows
            for p in net.parameters():
                sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return sgd
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(params, lr, **same)
