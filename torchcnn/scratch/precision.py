"""Half precision: what is summed or exponentiated is computed in float32, as PyTorch does."""

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def widen(x: Tensor) -> Tensor:
    """Return a half-precision tensor in float32, and any other tensor as it is: (...) -> (...).

    Squares and exponentials overflow in float16, where 256^2 and e^12 are infinite already, and a
    running sum loses its last terms in either half precision. Callers convert their result back.
    """
    return x.float() if x.dtype in HALF else x
