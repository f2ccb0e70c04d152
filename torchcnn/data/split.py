"""Which images train, which validate and which test.

Every class has images in each part, if it has enough of them. Which they are follows from the seed,
and for pictures in a folder from their names, so that adding pictures moves few of the others.
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
    labels: Tensor, fraction: float, seed: int, names: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Hold out a fraction of each class; return the indices to train on and those held out, sorted.

    A class of two or more images has at least one in each part. The draw follows from the seed and,
    if there are any, from the names of the images.
    """
    if names is None:
        generator = torch.Generator().manual_seed(mix_seed(seed))
        draw = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    else:
        numbers = [uniform(f"{seed}/{name}") for name in names]
        draw = torch.tensor(numbers, dtype=torch.float64)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique():
        of_class = (labels == c).nonzero()[:, 0]
        n = len(of_class)
        count = min(max(1, round(n * fraction)), n - 1)
        held_out[of_class[draw[of_class].argsort()[:count]]] = True
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]


def is_for_test(names: Sequence[str]) -> list[bool]:
    """Choose a fifth of a class's pictures to test on, by their names alone.

    A picture keeps its part when others are added, except that a class always has one picture in
    each part: if none falls to the test part, the one with the lowest number does; if all do, the
    one with the highest trains.
    """
    numbers = [uniform(name) for name in names]
    chosen = [number < TEST_FRACTION for number in numbers]
    if not any(chosen):
        chosen[numbers.index(min(numbers))] = True
    if all(chosen):
        chosen[numbers.index(max(numbers))] = False
    return chosen


def uniform(name: str) -> float:
    """Return a number in [0, 1) that follows from a name."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


# --- how runs of version 3 of the checkpoints were split; they are resumed with this -------------


def hold_out_at_random(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out a fraction of all images, whatever their class."""
    count = len(labels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(mix_seed(seed)))
    held_out = round(count * fraction)
    return order[held_out:].sort().values, order[:held_out].sort().values


def is_for_test_by_seed(names: Sequence[str], seed: int, class_index: int) -> list[bool]:
    """Choose a fifth of a class's pictures by the seed; adding a picture changes all of it."""
    generator = torch.Generator().manual_seed((seed * 100_003 + class_index) % 2**63)
    order = torch.randperm(len(names), generator=generator).tolist()
    chosen = set(order[: max(1, round(len(names) * TEST_FRACTION))])
    return [i in chosen for i in range(len(names))]
