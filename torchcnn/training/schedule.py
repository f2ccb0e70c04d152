"""The learning rate as a function of the step.

To add a schedule, enter a function in `SCHEDULES`.
"""

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {  # fraction of all steps -> factor of the rate
    "constant": lambda t: 1.0,
    # A tenth from the middle on, a hundredth from three quarters: He et al. 2015, arXiv:1512.03385.
    "step": lambda t: 0.1 ** ((t >= 0.5) + (t >= 0.75)),
    # Loshchilov and Hutter 2016, arXiv:1608.03983, without restarts.
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    # Smith and Topin 2017, arXiv:1708.07120: up from a 25th, and down to next to nothing.
    "one-cycle": lambda t: (
        0.04 + 3.2 * t if t < 0.3 else (1 + math.cos((t - 0.3) / 0.7 * math.pi)) / 2
    ),
}


def learning_rate(kind: str, lr: float, step: int, steps: int, warmup: int = 0) -> float:
    """Return the learning rate of step number `step`, counted from 0, of `steps`.

    During the first `warmup` steps it rises linearly to that of the schedule.

    >>> learning_rate("cosine", 0.1, 50, 100)
    0.05
    >>> [learning_rate("constant", 1.0, step, 100, warmup=4) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return lr * SCHEDULES[kind](step / steps) * min(1.0, (step + 1) / max(1, warmup))
