"""The machine in the head of a report."""

import platform

import torch

from torchcnn.benchmark import machine


def test_the_processor_is_named_as_the_system_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert machine.cpu_name() == "riscv64"  # there is no such file
    machine.CPUINFO.write_text("model\t\t: 1\nmodel name\t: A CPU @ 2 GHz\nmodel name\t: Another\n")
    assert machine.cpu_name() == "A CPU @ 2 GHz"


def test_the_head_names_versions_and_processors(monkeypatch):
    monkeypatch.setattr(machine, "cpu_name", lambda: "A CPU")
    monkeypatch.setattr(machine, "cores", lambda: 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    about = machine.about(torch.device("cpu"), {"keras": "3.0"})
    assert about["torch"] == torch.__version__ and about["keras"] == "3.0" and about["cores"] == 1
    expected = f"torch {torch.__version__}, keras 3.0, cpu, 2 threads, A CPU, 1 core"
    assert machine.head(about) == expected
