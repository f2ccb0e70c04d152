"""Several processes at one training, as `torchrun` starts them: what they have to agree on.

A batch is dealt out: each rank computes the gradients of its share, DistributedDataParallel takes
their mean, so that all weights stay equal. A process alone is one rank, for which nothing is done.
"""

import gc
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torchcnn.cli import Stopped
from torchcnn.system import world_size
from torchcnn.training.loop import eval_mode


@dataclass(frozen=True)
class Ranks:
    """This process among its equals."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """The one that writes."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """The sum of what the ranks have, on all of them; in place."""
        if self.count > 1:
            dist.all_reduce(x)
        return x

    def largest(self, number: int) -> int:
        if self.count == 1:
            return number
        numbers = torch.tensor(number)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers)

    def gather(self, x: Tensor) -> list[Tensor]:
        """What each rank has; equal shapes."""
        if self.count == 1:
            return [x]
        every = [torch.empty_like(x) for _ in range(self.count)]
        dist.all_gather(every, x)
        return every

    def copy_first(self, net: nn.Module, buffers_only: bool = False) -> None:
        """Give all ranks the first one's weights and statistics; between steps only the latter,
        such as those of batch norm, differ."""
        if self.count > 1:
            parameters = [] if buffers_only else list(net.parameters())
            for tensor in (*parameters, *net.buffers()):
                dist.broadcast(tensor.data, 0)

    def parallel(self, net: nn.Module, x: Tensor) -> nn.Module:
        """The network whose `backward` takes the mean of all ranks' gradients; `x` is any input."""
        if self.count == 1:
            return net
        parallel = DistributedDataParallel(net)
        # After its first pass it lays out the gradients anew, which changes the order in which
        # those of three ranks are added up. That pass is this one, so that a resumed run is exact.
        with eval_mode(net):
            parallel(x).sum().backward()
        net.zero_grad()
        return parallel

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The others wait for the first: what it downloads, they find."""
        if self.count > 1 and not self.first:
            self.largest(0)
        yield
        if self.count > 1 and self.first:
            self.largest(0)

    def check_same(self, *what: object) -> None:
        """Fail on all ranks, before they wait for each other, if they have not found the same.

        Raises:
            ValueError: they differ.
        """
        digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
        mine = torch.tensor(int.from_bytes(digest, "big", signed=True))
        if any(theirs != mine for theirs in self.gather(mine)):
            raise ValueError("the ranks have found different images, flags or checkpoints; all "
                             "must see the same folders and be given the same flags")  # fmt: skip


def device_of_rank(name: str) -> str:
    """Of several ranks each has a GPU of its own, or the CPU.

    Raises:
        ValueError: a device that ranks cannot share.
    """
    if world_size() == 1:
        return name
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {name} is not for several ranks; allowed are auto, cpu, cuda")
    cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu"


@contextmanager
def join(device: torch.device) -> Iterator[Ranks]:
    """Become a rank of those that torchrun started, if it did; only the first one prints."""
    if (count := world_size()) == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with ExitStack() as stack:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        ranks = Ranks(dist.get_rank(), count)
        if not ranks.first:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            yield ranks
        except (Stopped, FloatingPointError):  # which all ranks meet after the same step
            ranks.largest(0)  # that none leaves, and torchrun ends the job, while the first writes
            raise
        ranks.largest(0)
        gc.collect()  # what else holds the group: its threads must not outlive the interpreter
        dist.destroy_process_group()  # not after an error: the others may be waiting, or gone
