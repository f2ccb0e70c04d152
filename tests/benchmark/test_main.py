"""The command of the benchmark: what it prints, and what it refuses."""

import json

import pytest
import torch

from torchcnn.benchmark import __main__ as benchmark
from torchcnn.benchmark import ways


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command without other processes, and return what it prints."""
    monkeypatch.setattr(ways, "TUTORIAL_WORKERS", 0)
    monkeypatch.setattr(benchmark, "peak_in_new_process", lambda work, device: 12.5)

    def printed(flags):
        benchmark.main(["--data", "sample", "--device", "cpu", *flags.split()])
        return capsys.readouterr().out

    return printed


def columns(head):
    return [name.strip() for name in head.split("  ") if name]


def test_it_compares_three_ways_round_by_round(run):
    about, roof, _, head, row = run("--images 600 --rounds 2 --roofline").splitlines()
    assert about.startswith(f"torch {torch.__version__}, cpu, ") and "n = 2 rounds" in about
    assert roof.startswith("roofline: ")
    speeds = ["tutorial", "torchcnn", "bound", "torchcnn / tutorial", "torchcnn / bound"]
    memory = ["MiB, tutorial", "MiB, torchcnn"]
    assert columns(head) == ["batch", "pixels", *speeds, *memory, "of roofline"]
    assert row.split()[:3] == ["lenet", "256", "28"]
    assert 0 < float(row.split()[-1]) < 1  # nothing is faster than the machine


def test_several_networks_as_json_at_another_size(run):
    sizes = "--images 8 --rounds 2 --batch-size 4 --input-size 28 --small-input"
    result = json.loads(run(f"--arch mlp,resnet18 {sizes} --json"))
    assert result["rounds"] == 2 and list(result["networks"]) == ["mlp", "resnet18"]
    for network in result["networks"].values():
        speeds, memory = network["images_per_second"], network["peak_mib"]
        assert list(speeds) == ["tutorial", "torchcnn", "bound"]
        assert list(memory) == ["tutorial", "torchcnn"]
        assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in speeds.values())
        assert network["roofline"] is None


def test_it_compares_the_layers(run, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compiled.append(net))  # it is slow
    head = run("--layers scratch --images 300 --rounds 1").splitlines()[2]
    assert len(compiled) == 2
    assert columns(head)[2:6] == ["torch", "by hand", "torch, compiled", "by hand, compiled"]
    assert columns(head)[6:9] == [
        "by hand / torch",
        "by hand, compiled / torch",
        "by hand, compiled / torch, compiled",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--roofline", "--layers", "scratch"], "--roofline is only for torch's layers"),
        (["--arch", "lenett"], "did you mean lenet"),
        (["--images", "100", "--data", "sample"], "--images must be at least a batch of 256"),
    ],
)
def test_bad_input_is_refused(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        benchmark.main(argv)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and error.count("\n") == 1
