"""Mini-batches and cross-validation by hand."""

from collections.abc import Iterator

import torch
from torch import Tensor


def data_iter(batch_size: int, features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate once over the examples in random order, one batch at a time.

    (n, ...), (n, ...) -> batches (batch_size, ...), (batch_size, ...); the last may be smaller.
    `torch.manual_seed` determines the order. Each further epoch needs another call.
    Source: Zhang et al. 2021, arXiv:2106.11342.

    Raises:
        ValueError: if the batch size is below 1, or features and labels differ in length.
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


def k_fold(
    k: int, features: Tensor, labels: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Split the examples for k-fold cross-validation.

    (n, ...), (n, ...) -> k times (training x, training y, held-out x, held-out y). The i-th split
    holds out the i-th of k parts, whose sizes differ by at most 1, so that every example is held
    out once. The examples are not shuffled; if their order matters, shuffle them first.
    Source: Stone 1974.

    >>> [held.tolist() for _, _, held, _ in k_fold(3, torch.arange(5), torch.arange(5))]
    [[0, 1], [2, 3], [4]]

    Raises:
        ValueError: if k is not in [2, n], or features and labels differ in length.
    """
    n = len(features)
    if not 2 <= k <= n or n != len(labels):
        raise ValueError(
            f"expected as many labels as features and 2 to {n} folds, got {len(labels)} labels and "
            f"{k} folds"
        )
    folds = torch.arange(n).tensor_split(k)
    rests = [torch.cat([*folds[:i], *folds[i + 1 :]]) for i in range(k)]
    return (
        (features[rest], labels[rest], features[fold], labels[fold])
        for rest, fold in zip(rests, folds, strict=True)
    )
