"""Several processes that train one network, as `torchrun` starts them.

A batch is shared out: each rank computes the gradients of its part, DistributedDataParallel
averages them, and the weights stay equal. A single process has rank 0 and a world size of 1, and
every operation does nothing.
"""

import functools
import gc
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torchcnn.system import world_size
from torchcnn.training.loop import Step, eval_mode, stack_steps, unstack_steps
from torchcnn.training.signals import Stopped, StopRequest

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all that train together."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes and prints."""
        return self.rank == 0

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum `x` over the ranks, in place, on all of them."""
        if self.world_size > 1:
            dist.all_reduce(x)
        return x

    def all_reduce_max(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        return self.ask_max(number)()

    def ask_max(self, number: int) -> Callable[[], int]:
        """Ask for the largest of the ranks' numbers; only the function returned waits for it."""
        if self.world_size == 1:
            return lambda: number
        numbers = torch.tensor(number)
        asked = dist.all_reduce(numbers, dist.ReduceOp.MAX, async_op=True)

        def answer() -> int:
            asked.wait()
            return int(numbers)

        return answer

    def all_gather(self, x: Tensor) -> list[Tensor]:
        """Every rank's `x`, in the order of the ranks; the shapes must be equal."""
        if self.world_size == 1:
            return [x]
        gathered = [torch.empty_like(x) for _ in range(self.world_size)]
        dist.all_gather(gathered, x)
        return gathered

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.all_reduce_max(0)

    def broadcast(self, net: nn.Module, buffers_only: bool = False) -> None:
        """Give all ranks the main one's weights and buffers.

        Between steps only the buffers differ, such as batch norm's moving statistics.
        """
        if self.world_size > 1:
            parameters = [] if buffers_only else list(net.parameters())
            for tensor in (*parameters, *net.buffers()):
                dist.broadcast(tensor.data, 0)

    def from_main(self, make: Callable[[], T]) -> T:
        """Let the main rank make something, such as what it reads from a file, for all ranks."""
        if self.world_size == 1:
            return make()
        made: list[Any] = [make() if self.is_main else None]
        dist.broadcast_object_list(made, 0, device=torch.device("cpu"))
        return made[0]

    def data_parallel(self, net: nn.Module, x: Tensor) -> nn.Module:
        """Wrap a network, so that `backward` averages all ranks' gradients; `x` is any input."""
        if self.world_size == 1:
            return net
        parallel = DistributedDataParallel(net)
        parallel.broadcast_buffers = _may_read_buffers(net)  # in each step; at first all are equal
        # After its first pass DDP lays the gradients out anew, which changes the order in which
        # those of three ranks are added. That pass is made here, so that a resumed run is exact.
        with eval_mode(net):
            parallel(x).sum().backward()
        net.zero_grad()
        return parallel

    def check_same(self, *what: object) -> None:
        """Raise a ValueError on all ranks, before they wait for each other, if they differ."""
        digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
        mine = torch.tensor(int.from_bytes(digest, "big", signed=True))
        if any(theirs != mine for theirs in self.all_gather(mine)):
            raise ValueError(
                "the ranks have found different images or flags; all must see the same images and "
                "be given the same flags"
            )


def _may_read_buffers(net: nn.Module) -> bool:
    """Whether a step of training may depend on buffers, which then must be equal on all ranks.

    The layers of torch and of this package only write their moving statistics. What counts is what
    the main rank writes, from its own share; the others are given it before anything reads it. Of
    a module of your own nothing is known.
    """
    owners = [type(m).__module__ for m in net.modules() if any(True for _ in m.buffers(False))]
    return not all(name.startswith(("torch.nn.", "torchcnn.")) for name in owners)


def with_signal(
    steps: Iterable[Step], stop: StopRequest, world: World
) -> Iterator[tuple[Step, int]]:
    """Yield each step with the signal for which all ranks stop after it, or with 0.

    Several ranks must stop after the same step. So that none waits for the others to exchange
    their signals, they ask before a step and read the answer after it: a signal that comes during
    a step ends the next one.
    """
    asked = world.ask_max(stop.signum)
    for step in steps:
        yield step, asked() if world.world_size > 1 else stop.signum
        asked = world.ask_max(stop.signum)
    asked()  # no exchange is left over, whatever the ranks do next


def gather_steps(steps: list[Step], world: World) -> list[Step]:
    """Turn the steps of one rank into those of the whole batch, of which all have equal shares."""
    if world.world_size == 1 or not steps:
        return steps

    def mean(values: Tensor) -> Tensor:
        # Gathered and added in the order of the ranks: in a sum of tensors over the ranks, the
        # order in which three numbers are added depends on their place, and a resumed run differs.
        return functools.reduce(torch.add, world.all_gather(values)) / world.world_size

    losses, correct, images, logged = stack_steps(steps)
    return unstack_steps(
        mean(losses),
        world.all_reduce(correct),
        [n * world.world_size for n in images],
        {name: mean(values) for name, values in logged.items()},
    )


def device_of_rank(name: str) -> str:
    """The device of this rank: a GPU of its own, or the CPU. A single process has any device.

    Raises:
        ValueError: several ranks cannot share the device.
    """
    if world_size() == 1:
        return name
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {name} is not for several ranks; allowed are auto, cpu, cuda")
    cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu"


_joined: list[bool] = []  # whether this process has joined the others: it can only do so once


@contextmanager
def join() -> Iterator[World]:
    """Join the ranks that torchrun started, if it started this process; only rank 0 prints."""
    if world_size() == 1:
        yield World()
        return
    if _joined:
        raise ValueError("torchrun started this process for one call of train()")
    _joined.append(True)
    with ExitStack() as stack:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        world = World(dist.get_rank(), world_size())
        if not world.is_main:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            yield world
        except (Stopped, FloatingPointError):  # which all ranks meet after the same step
            world.barrier()  # torchrun would end the job while the main rank still writes
            raise
        world.barrier()
        gc.collect()  # what else holds the group: its threads must not outlive the interpreter
        dist.destroy_process_group()  # not after an error: other ranks may be waiting, or gone
