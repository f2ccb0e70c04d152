"""How a device computes: its precision, compiling, and CUDA graphs.

With CUDA graphs a GPU is given all kernels of a pass at once, not one after another by Python. The
kernels are the same. A small network trains several times faster with them, because a GPU computes
its layers sooner than Python can launch them.
"""

import gc
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from torchcnn.data.loader import Batches
from torchcnn.models import MODELS
from torchcnn.models.weights import train_mode
from torchcnn.training.config import Config

SLOWER_IN_BF16 = {"tf_baseline"}  # on a CPU: measured, 0.31 of the speed of float32 with AMX


def choose_precision(
    amp: str, channels_last: bool | str, arch: str, device: torch.device
) -> tuple[str, bool]:
    """Replace what is "auto" by a rule: what was measured to be faster on such a device.

    bfloat16 is for devices with matrix units for it, which are GPUs from NVIDIA's Ampere on and
    processors with AMX. There such units also take the channels-last format more quickly.
    """
    if amp == "auto":
        slower = device.type == "cpu" and arch in SLOWER_IN_BF16
        amp = "bf16" if has_bf16_units(device) and not slower else "off"
    if channels_last == "auto":
        channels_last = amp != "off" and (device.type == "cuda" or has_bf16_units(device))
    return amp, bool(channels_last)


def has_bf16_units(device: torch.device) -> bool:
    """Whether a device has matrix units for bfloat16; others are slower with it than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def describe(amp: str, channels_last: bool) -> str:
    """Name a precision and a memory format: "bf16, channels-last"."""
    return f"{'fp32' if amp == 'off' else amp}{', channels-last' * channels_last}"


def autocast(amp: str, device: torch.device, cache: bool = True) -> AbstractContextManager[Any]:
    """Return the context in which a network computes in the precision of the flag `--amp`.

    With `cache` a weight that is used twice is converted once; a CUDA graph is captured without.
    """
    if amp == "off":
        return nullcontext()
    dtype = torch.bfloat16 if amp == "bf16" else torch.float16
    return torch.autocast(device.type, dtype, cache_enabled=cache)


def compile_network(net: nn.Module, graphs: bool) -> None:
    """Compile a network in place, which keeps the names of its weights.

    It is compiled for each batch size by itself: code for any size has other bits, and a resumed
    run would compile it at another step.

    Args:
        graphs: launch the kernels as CUDA graphs, whose outputs the next pass overwrites.
    """
    net.compile(dynamic=False, mode="reduce-overhead" if graphs else None)


class GraphedNetwork(nn.Module):
    """A network whose forward and backward pass on a whole batch are one CUDA graph each.

    Other batches, such as a smaller last one, and all of evaluation take the network as it is. The
    outputs and gradients of a pass last until the next one: call `backward` before it, and
    `zero_grad()` too, since gradients cannot be accumulated. Save `net`, not the wrapper.

    Args:
        net: a network on a GPU, which is put into training mode; which layers are, and which
            parameters are frozen, must not change afterwards. What it does must not depend on the
            numbers of a batch, and its parameters must stay where they are in memory, as optimizers
            and `load_state_dict` leave them.
        shape: that of a whole batch, (n, c, h, w).
        amp: the precision of the passes, as the flag `--amp` has it: "off", "bf16" or "fp16"; an
            autocast of your own must be the same.
    """

    def __init__(self, net: nn.Module, shape: Sequence[int], amp: str = "off") -> None:
        super().__init__()
        self.net, self.shape = net, tuple(shape)
        p = next(net.parameters())
        # The graph's own nodes for the gradients are of another stream, which is intended.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        train_mode(net)
        buffers = [buffer.clone() for buffer in net.buffers()]
        gc.collect()  # or the graphs of earlier runs, which are in cycles, keep their memory
        with torch.cuda.device(p.device), autocast(amp, p.device, cache=False):
            torch.cuda.graph.default_capture_stream = None  # of the last GPU, in torch 2.11
            # Autograd's thread has no CUDA context before its first kernel: cuBLAS would warn.
            (torch.ones((), device=p.device, requires_grad=True) * 2).backward()
            x = torch.zeros(self.shape, dtype=p.dtype, device=p.device)
            torch.cuda.make_graphed_callables(net, (x,), allow_unused_input=True)
        self.graph = net.__dict__.pop("forward")  # which torch has put in place of the module's own
        with torch.no_grad():  # the passes before the capture have changed moving statistics
            for buffer, before in zip(net.buffers(), buffers, strict=True):
                buffer.copy_(before)

    def forward(self, x: Tensor) -> Tensor:
        """Pass a batch (n, c, h, w) on, by the graph if it is a whole one in training.

        Raises:
            ValueError: there are gradients, to which the graph would not add.
        """
        if not self.training or x.shape != self.shape:
            return cast(Tensor, self.net(x))
        if any(p.grad is not None for p in self.net.parameters()):
            raise ValueError("the last pass's gradients are still there; call zero_grad() first")
        return cast(Tensor, self.graph(x))


def can_be_graphed(config: Config, batches: Batches) -> bool:
    """Whether passes of training can be CUDA graphs: on one GPU, of a network known to allow it.

    A module of your own may do what depends on the numbers of a batch.
    """
    cuda = batches.labels.is_cuda and batches.share[1] == 1
    known = config.arch in MODELS and config.layers == "torch"
    whole = config.accumulate == 1 and batches.count >= config.batch_size
    return cuda and known and whole
