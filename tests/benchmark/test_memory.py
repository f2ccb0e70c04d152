"""Peak memory: what comes after the restart is measured, and nothing else."""

import json
import subprocess
import sys
from functools import partial

import pytest
import torch

from torchcnn.benchmark.memory import peak_in_new_process
from torchcnn.benchmark.ways import Task, train_once

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux lets a process restart its peak"
)


def test_peak_memory_is_of_what_comes_after_the_restart():
    """In a process of its own, which has no freed memory to take from: MiB, by number."""
    code = """if True:
        import torch
        from torchcnn.benchmark.memory import PeakMemory

        peak = PeakMemory(torch.device("cpu"))
        torch.ones(2**26)  # 256 MiB, given back at once
        peak.restart()
        before = peak.read()
        big = torch.ones(2**25)
        print(peak.read() - before)"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 120 < float(out.stdout) < 140


@pytest.mark.slow
def test_a_way_alone_takes_its_images_and_its_network():
    """LeNet on 2 batches: far less than with torch and Python, which are not counted."""
    device = torch.device("cpu")
    task = Task(
        arch="lenet",
        data="sample",
        root="data",
        device=device,
        images=512,
        batch_size=256,
        input_size=28,
        small_input=False,
    )
    assert 1 < peak_in_new_process(partial(train_once, "torchcnn", task), device) < 300


@pytest.mark.slow
def test_the_command_measures_memory_in_new_processes():
    """What a new process is given can be unpickled there, though the command is `__main__`."""
    flags = "--arch mlp --data sample --images 32 --rounds 1 --device cpu --json"
    command = [sys.executable, "-m", "torchcnn.benchmark", *flags.split(" ")]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    memory = json.loads(out.stdout)["networks"]["mlp"]["peak_mib"]
    assert all(0 < mib < 300 for mib in memory.values())
