"""The command of the benchmark: what it prints, and what it refuses."""

import json

import pytest
import torch

from torchcnn.benchmark import __main__ as benchmark
from torchcnn.benchmark import machine, speed, ways


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command without other processes, and return what it prints."""
    monkeypatch.setattr(ways, "TUTORIAL_WORKERS", 0)

    def printed(flags):
        benchmark.main(["--data", "sample", "--device", "cpu", *flags.split()])
        return capsys.readouterr().out

    return printed


def columns(head):
    return [name.strip() for name in head.split("  ") if name]


def test_it_compares_three_ways_round_by_round(run):
    about, _, head, row = run("--images 600 --rounds 2").splitlines()
    assert about.startswith(f"torch {torch.__version__}, cpu, ") and "n = 2 rounds" in about
    speeds = ["tutorial", "torchcnn", "bound", "torchcnn / tutorial", "torchcnn / bound"]
    assert columns(head) == ["batch", "pixels", *speeds]
    assert row.split()[:3] == ["lenet", "256", "28"]


@pytest.mark.slow
def test_several_networks_as_json_at_another_size(run):
    sizes = "--images 8 --rounds 2 --batch-size 4 --input-size 28 --small-input"
    result = json.loads(run(f"--arch mlp,resnet18 {sizes} --json"))
    assert result["torch"] == torch.__version__ and result["cores"] >= 1 and result["cpu"]
    assert result["rounds"] == 2 and list(result["networks"]) == ["mlp", "resnet18"]
    for network in result["networks"].values():
        speeds = network["images_per_second"]
        assert list(speeds) == ["tutorial", "torchcnn", "bound"]
        assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in speeds.values())
        assert network["chose"] == {}


def test_it_compares_the_layers(run, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **_: compiled.append(net))
    head = run("--layers scratch --images 300 --rounds 1").splitlines()[2]  # compiling is slow
    assert len(compiled) == 2
    assert columns(head)[2:6] == ["torch", "by hand", "torch, compiled", "by hand, compiled"]
    assert columns(head)[6:9] == [
        "by hand / torch",
        "by hand, compiled / torch",
        "by hand, compiled / torch, compiled",
    ]


def test_on_a_gpu_it_compares_with_the_loop_without_graphs_too(monkeypatch, capsys):
    asked = []

    def measure(task, comparison, rounds):
        asked.append((task.device.type, comparison))
        return speed.Measured({way: [1.0] for way in ways.WAYS[comparison]}, {})

    monkeypatch.setattr(benchmark.cli, "pick_device", torch.device)
    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(machine, "device_name", lambda device: "a GPU")
    for device in ("cuda", "cpu"):
        benchmark.main(["--device", device, "--json"])
        result = json.loads(capsys.readouterr().out)
        without = "torchcnn, no graphs" in result["networks"]["lenet"]["images_per_second"]
        assert without == (device == "cuda")
    assert asked == [("cuda", "cuda"), ("cpu", "tutorial")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--images 100 --data sample", "--images must be at least a batch of 256"),
        ("--versus jax", "got jax, allowed are tutorial, keras"),
        ("--to-accuracy --seeds 0", "allowed is a whole number from 1"),
        # Before the device is looked for, which is not there.
        ("--device cuda:99 --arch lenett", "did you mean lenet"),
        ("--device cuda:99 --layers scratch --versus keras", "are two comparisons"),
        ("--device cuda:99 --seeds 2", "--seeds is only for --to-accuracy"),
        ("--device cuda:99 --to-accuracy --rounds 2", "--to-accuracy does not take --rounds"),
    ],
)
def test_bad_input_is_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as caught:
        benchmark.main(flags.split())
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and error.count("\n") == 1
