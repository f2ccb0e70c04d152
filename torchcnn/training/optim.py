"""The optimizers."""

from typing import Any

import torch
from torch import nn

from torchcnn.training.config import Config


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
