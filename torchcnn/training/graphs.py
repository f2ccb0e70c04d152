"""CUDA graphs: a GPU is given all kernels of a pass at once, not one after another by Python.

The kernels are the same. A small network trains several times faster with them, because a GPU
computes its layers sooner than Python can launch them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchcnn.data.loader import Batches
from torchcnn.models import MODELS
from torchcnn.models.weights import frozen_norms
from torchcnn.training.config import Config
from torchcnn.training.fastest import autocast


class GraphedNetwork(nn.Module):
    """A network whose forward and backward pass on a whole batch are one CUDA graph each.

    Other batches, such as a smaller last one, and all of evaluation take the network as it is. The
    gradients of a pass are overwritten by the next one, so they cannot be accumulated.

    Args:
        net: a network on a GPU. What it does must not depend on the numbers of a batch, and it must
            keep its parameters where they are in memory, as optimizers do. It is not changed.
        shape: that of a whole batch, (n, c, h, w).
        amp: the precision of the passes, as the flag `--amp` has it: "off", "bf16" or "fp16".
    """

    def __init__(self, net: nn.Module, shape: Sequence[int], amp: str = "off") -> None:
        super().__init__()
        self.net, self.shape = net, tuple(shape)
        p = next(net.parameters())
        # The graph's own nodes for the gradients are of another stream, which is intended.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        net.train()
        for norm in frozen_norms(net):
            norm.eval()
        buffers = [buffer.clone() for buffer in net.buffers()]
        # Autograd's thread has no CUDA context before its first kernel, of which cuBLAS would warn.
        (torch.ones((), device=p.device, requires_grad=True) * 2).backward()
        with autocast(amp, p.device, cache=False):
            x = torch.zeros(self.shape, dtype=p.dtype, device=p.device)
            torch.cuda.make_graphed_callables(net, (x,), allow_unused_input=True)
        self.graph = net.__dict__.pop("forward")  # which torch has put in place of the module's own
        with torch.no_grad():  # the passes before the capture have changed moving statistics
            for buffer, before in zip(net.buffers(), buffers, strict=True):
                buffer.copy_(before)

    def forward(self, x: Tensor) -> Tensor:
        graphed: Tensor = (self.graph if self.training and x.shape == self.shape else self.net)(x)
        return graphed


def can_be_graphed(config: Config, batches: Batches) -> bool:
    """Whether passes of training can be CUDA graphs: on one GPU, of a network known to allow it.

    A module of your own may do what depends on the numbers of a batch.
    """
    cuda = batches.labels.is_cuda and batches.share[1] == 1
    known = config.arch in MODELS and config.layers == "torch"
    whole = config.accumulate == 1 and batches.count >= config.batch_size
    return cuda and known and whole
