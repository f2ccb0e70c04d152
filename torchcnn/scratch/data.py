"""Batches by hand."""

from collections.abc import Iterator

import torch
from torch import Tensor


def data_iter(batch_size: int, features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over the examples in random order, a batch at a time.

    (n, ...), (n, ...) -> batches (batch_size, ...), (batch_size, ...); the last may be smaller.
    The order follows `torch.manual_seed`. To pass over the data again, call it again.

    Raises:
        ValueError: a batch size below one, or features and labels of different length.
    """
    if batch_size < 1 or len(features) != len(labels):
        raise ValueError(
            f"expected a batch size of at least 1 and as many labels as features, got "
            f"{batch_size}, {len(features)} features and {len(labels)} labels"
        )
    return (
        (features[index.to(features.device)], labels[index.to(labels.device)])
        for index in torch.randperm(len(features)).split(batch_size)
    )
