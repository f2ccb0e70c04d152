"""The optimizers: a table of them, and building one as the flags say.

To add an optimizer, enter it in `OPTIMIZERS`.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.models.weights import head_of

# An optimizer is given those of the flags lr, weight_decay, momentum and nesterov that it takes.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,  # adds weight decay to the gradient, as sgd does
    "adamw": torch.optim.AdamW,  # arXiv:1711.05101
    "sgd": torch.optim.SGD,
}


def make_optimizer(
    net: nn.Module, name: str, lr: float, body_lr: float = 1.0, **options: Any
) -> torch.optim.Optimizer:
    """Return the optimizer of this name for all parameters of a network.

    It is fused: one kernel updates all weights, with the same results, which saves most for
    networks of many small layers.

    Args:
        body_lr: the learning rate of all but the head, as a share of `lr`.
        options: weight_decay, momentum and nesterov; what the optimizer does not have must be 0.

    Raises:
        ValueError: momentum for an optimizer that has none, or Nesterov's form without momentum.
    """
    kind = OPTIMIZERS[name]
    known = inspect.signature(kind).parameters
    momentum = options.get("momentum")
    for flag, value in options.items():
        if value and flag not in known:
            raise ValueError(f"--{flag} is not for the optimizer {name}")
    if options.get("nesterov") and not momentum:
        raise ValueError("--nesterov needs a --momentum above 0")
    options = {option: value for option, value in options.items() if option in known}
    options["fused"] = True
    groups: Any = net.parameters()
    if body_lr != 1:
        head = {id(p) for p in head_of(net).parameters()}
        groups = [
            {"params": [p for p in net.parameters() if (id(p) in head) == is_head], "scale": scale}
            for is_head, scale in ((True, 1.0), (False, body_lr))
        ]
    optimizer = kind(groups, lr=lr, **options)
    if isinstance(optimizer, torch.optim.SGD) and momentum:
        # Fused SGD would leave unwritten memory in it if a first float16 step overflows.
        for p in net.parameters():
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def check_optimizer(optimizer: torch.optim.Optimizer, trained: bool, all_used: bool) -> None:
    """Raise a ValueError if what `load_state_dict` takes on trust does not fit.

    That is: the options of the optimizer, and a state for each parameter.

    Args:
        trained: whether the optimizer has made a step.
        all_used: whether every parameter takes part in the network's output.
    """
    sgd, momentum = isinstance(optimizer, torch.optim.SGD), optimizer.defaults.get("momentum")
    # Optimizers make their state in their first step; `make_optimizer` gives SGD its momentum
    # before it, and SGD without momentum has no state.
    stateful = bool(momentum) if sgd else trained
    params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    states = {p: optimizer.state.get(p, {}).values() for p in params}
    tensors = {p: [v for v in s if isinstance(v, Tensor) and v.dim()] for p, s in states.items()}
    shapes = all(v.shape == p.shape for p, vs in tensors.items() for v in vs)
    enough = all if all_used else any
    if not shapes or (stateful and not enough(map(bool, tensors.values()))):
        raise ValueError("the optimizer's state does not fit the network")
    for group in optimizer.param_groups:
        rate = group["lr"]
        options = {name: group.get(name, value) for name, value in optimizer.defaults.items()}
        if not isinstance(rate, float) or options | {"lr": 0} != optimizer.defaults | {"lr": 0}:
            raise ValueError("the optimizer's options are not those of the run")
