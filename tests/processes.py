"""Processes that have imported torch already, which takes a new one longer than a small run."""

import os
import socket
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context

import torch
from matplotlib.figure import Figure

from torchcnn import train
from torchcnn.figures import results

context = get_context("forkserver")
context.set_forkserver_preload(
    ["torchcnn.figures.results", "torchcnn.train", "torch._dynamo", "torch.utils.tensorboard"]
)


def blank(*_):
    """Draw nothing: what a run draws of itself takes most of the time of a short one."""
    return Figure(figsize=(1, 1))


DRAWN_BY_RUNS = ("plot_inputs", "plot_curves", "plot_confusion")


def begin(function, *args, log=os.devnull, environment=None, cwd="."):
    """Call a function in a process of its own, where runs are drawn blank.

    `log` takes what it prints.
    """
    process = context.Process(target=_call, args=(function, args, log, environment or {}, cwd))
    process.start()
    return process


def _call(function, args, log, environment, cwd):
    torch.set_num_threads(1)
    for name in DRAWN_BY_RUNS:
        setattr(results, name, blank)
    os.environ |= environment
    os.chdir(cwd)
    with open(log, "w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        function(*args)


def run_ranks(n, function, *args, log=os.devnull, cwd="."):
    """Call a function on each of `n` ranks, as torchrun does; return their exit codes.

    `log` takes what the first of them prints.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n)}
    ranks = [
        begin(function, *args, log=os.devnull if rank else log, cwd=cwd,
              environment=world | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(n)
    ]  # fmt: skip
    for rank in ranks:
        rank.join(timeout=120)
    return [rank.exitcode for rank in ranks]


def train_on_ranks(n, *flags, log=os.devnull, cwd="."):
    return run_ranks(n, train.main, [*map(str, flags)], log=log, cwd=cwd)
