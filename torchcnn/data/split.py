"""Which images train, which validate and which test.

Every class has images in each part, if it has enough of them. Which they are follows from the seed,
and for pictures in a folder from their bytes: names and places do not matter, copies of a picture
in its class are in the same part, and adding pictures moves few of the others.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

TEST_FRACTION = 0.2  # of a folder that has no test part


def mix_seed(*numbers: int) -> int:
    """Return one 64-bit seed that follows from several numbers, such as (seed, epoch)."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big")


def hold_out(
    labels: Tensor, fraction: float, seed: int, ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Hold out a fraction of each class; return the indices to train on and those held out, sorted.

    A class of two or more images has at least one in each part. The draw follows from the seed and,
    if there are any, from the numbers of the pictures.
    """
    if ids is None:
        generator = torch.Generator().manual_seed(mix_seed(seed))
        draw = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    else:
        numbers = [uniform(seed, number) for number in ids.tolist()]
        draw = torch.tensor(numbers, dtype=torch.float64)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique():
        of_class = labels == c
        numbers = draw[of_class].tolist()
        count = max(1, round(len(numbers) * fraction))
        held_out[of_class] = torch.tensor(_choose(numbers, sorted(numbers)[count - 1]))
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]


def is_for_test(ids: Sequence[int]) -> list[bool]:
    """Choose a fifth of a class's pictures to test on, by their numbers alone.

    Each falls to its part whatever the others are. Only a class that would be missing in a part
    gets one there: that with the lowest number is tested, or that with the highest trains.
    Therefore adding pictures moves none from training to test but that last one: all pictures of a
    class fall to the test part with a probability of 0.2^n, 4 % for two and 1 in 3,000 for five.
    """
    return _choose([uniform(number) for number in ids], TEST_FRACTION)


def _choose(numbers: Sequence[float], limit: float) -> list[bool]:
    """Choose those up to a limit, but at least one, and not all; equal ones go together."""
    chosen = [number <= limit for number in numbers]
    if not any(chosen):
        chosen = [number == min(numbers) for number in numbers]
    if all(chosen):
        chosen = [number < max(numbers) for number in numbers]
    if not any(chosen) and len(numbers) > 1:  # all are copies of one picture
        chosen[0] = True
    return chosen


def uniform(*numbers: int) -> float:
    """Return a number from 0 to 1 that follows from several."""
    return mix_seed(*numbers) / 2**64
