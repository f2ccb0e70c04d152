"""The benchmark: the three ways train the same network on the same images."""

import json
import subprocess
import sys

import pytest
import torch

from torchcnn.benchmark import __main__ as benchmark
from torchcnn.benchmark import roofline


def in_this_process(monkeypatch):
    monkeypatch.setattr(benchmark, "TUTORIAL_WORKERS", 0)
    monkeypatch.setattr(benchmark, "peak_alone", lambda arch, config, way: 12.5)


def test_it_compares_three_ways_round_by_round(capsys, monkeypatch):
    in_this_process(monkeypatch)
    benchmark.main(["--data", "sample", "--images", "600", "--rounds", "2", "--device", "cpu",
                    "--roofline"])  # fmt: skip
    about, roof, _, head, row = capsys.readouterr().out.splitlines()
    assert about.startswith(f"torch {torch.__version__}, cpu, ") and "n = 2 rounds" in about
    assert roof.startswith("roofline: ")
    assert [name.strip() for name in head.split("  ") if name] == [
        "batch", "pixels", "tutorial", "torchcnn", "bound", "torchcnn / tutorial",
        "torchcnn / bound", "MiB, tutorial", "MiB, torchcnn", "of roofline",
    ]  # fmt: skip
    assert row.split()[:3] == ["lenet", "256", "28"]
    assert 0 < float(row.split()[-1]) < 1  # nothing is faster than the machine


def test_several_networks_as_json_at_another_size(capsys, monkeypatch):
    in_this_process(monkeypatch)
    benchmark.main(["--arch", "mlp,resnet18", "--data", "sample", "--images", "8", "--rounds", "2",
                    "--device", "cpu", "--batch-size", "4", "--input-size", "28", "--small-input",
                    "--json"])  # fmt: skip
    result = json.loads(capsys.readouterr().out)
    assert result["rounds"] == 2 and list(result["networks"]) == ["mlp", "resnet18"]
    for network in result["networks"].values():
        speeds, memory = network["images_per_second"], network["peak_mib"]
        assert list(speeds) == ["tutorial", "torchcnn", "bound"]
        assert list(memory) == ["tutorial", "torchcnn"]
        assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in speeds.values())
        assert network["roofline"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process restart its peak")
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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process restart its peak")
def test_a_way_alone_takes_its_images_and_its_network():
    """LeNet on 2 batches: far less than with torch and Python, which are not counted."""
    config = benchmark.Config(data="sample", images=512, device="cpu")
    assert 1 < benchmark.peak_alone("lenet", config, "torchcnn") < 300


def test_operations_and_bytes_of_a_matrix_product():
    """2·3·4·5 operations; 12 + 20 numbers read and 15 written, of 4 bytes; views cost nothing."""
    a, b = torch.ones(3, 4), torch.ones(5, 4)
    assert roofline.count(lambda: a @ b.T) == (2 * 3 * 4 * 5, 4 * (12 + 20 + 15))
    assert roofline.least_seconds(200, 100, (100.0, 20.0)) == 5
    assert roofline.least_seconds(200, 10, (100.0, 20.0)) == 2
    assert roofline.count(lambda: a.add_(1)) == (0, 4 * (12 + 12))
    assert min(roofline.machine_rates(torch.device("cpu"), repeats=1)) > 1e8


def test_all_three_pass_over_as_many_images(monkeypatch):
    monkeypatch.setattr(benchmark, "TUTORIAL_WORKERS", 0)
    config = benchmark.Config(data="sample", images=600, device="cpu")
    for way in benchmark.WAYS["torch"]:
        assert benchmark.contender("lenet", config, way)() == 512


def test_it_compares_the_layers(capsys, monkeypatch):
    compiled = []
    in_this_process(monkeypatch)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compiled.append(net))  # it is slow
    benchmark.main(["--layers", "scratch", "--data", "sample", "--images", "300", "--rounds", "1",
                    "--device", "cpu"])  # fmt: skip
    assert len(compiled) == 2
    head = [name.strip() for name in capsys.readouterr().out.splitlines()[2].split("  ") if name]
    assert head[2:9] == ["torch", "by hand", "torch, compiled", "by hand, compiled",
                         "by hand / torch", "by hand, compiled / torch",
                         "by hand, compiled / torch, compiled"]  # fmt: skip


def test_the_tutorials_images_are_ours():
    """Pillow and `ToTensor` on one side, batches on the other: the same numbers."""
    sample = benchmark.load_data("sample")
    images, labels = sample.test_images[:9], sample.test_labels[:9]
    (x, y), *_ = benchmark.Batches(images, labels, 9)
    for i in range(9):
        image, label = benchmark.TutorialImages(images, labels, 28)[i]
        assert torch.equal(image, x[i]) and label == y[i]


def test_the_roofline_of_hand_written_layers_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["--roofline", "--layers", "scratch"])
    assert caught.value.code == 2 and "--roofline is of torch's layers" in capsys.readouterr().err


def test_an_unknown_network_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["--arch", "lenett"])
    assert caught.value.code == 2
    assert "did you mean lenet" in capsys.readouterr().err


def test_less_than_a_batch_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["--images", "100", "--data", "sample"])
    assert caught.value.code == 2
    assert "--images must be at least a batch of 256" in capsys.readouterr().err
