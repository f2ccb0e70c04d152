"""What learns: a network and all that changes with it."""

from typing import Any, NamedTuple

import torch
from torch import nn

from torchcnn.layers.sync_batch_norm import sync_batch_norm
from torchcnn.models.registry import build_model
from torchcnn.scratch import from_scratch
from torchcnn.training.config import Config
from torchcnn.training.distributed import Ranks
from torchcnn.training.ema import MovingAverage
from torchcnn.training.optim import make_optimizer


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
