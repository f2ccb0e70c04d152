"""The benchmark: the three ways train the same network on the same images."""

import json

import pytest
import torch

from torchcnn import benchmark


def test_it_compares_three_ways_round_by_round(capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "TUTORIAL_WORKERS", 0)
    benchmark.main(["--data", "sample", "--images", "600", "--rounds", "2", "--device", "cpu"])
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"torch {torch.__version__}, n = 2 rounds") and out[2] == "lenet"
    assert [line.split()[0] for line in out[3:6]] == ["tutorial", "torchcnn", "bound"]
    assert out[6].startswith("torchcnn / tutorial") and out[7].startswith("torchcnn / bound")


def test_several_networks_as_json_at_another_size(capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "TUTORIAL_WORKERS", 0)
    benchmark.main(["--arch", "mlp,resnet18", "--data", "sample", "--images", "8", "--rounds", "2",
                    "--device", "cpu", "--batch-size", "4", "--input-size", "28", "--small-input",
                    "--json"])  # fmt: skip
    result = json.loads(capsys.readouterr().out)
    assert result["rounds"] == 2 and list(result["images per second"]) == ["mlp", "resnet18"]
    for speeds in result["images per second"].values():
        assert list(speeds) == ["tutorial", "torchcnn", "bound"]
        assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in speeds.values())


def test_all_three_pass_over_as_many_images(monkeypatch):
    monkeypatch.setattr(benchmark, "TUTORIAL_WORKERS", 0)
    config = benchmark.Config(data="sample", images=512, device="cpu")
    assert {name: epoch() for name, epoch in benchmark.contenders("lenet", config).items()} == {
        "tutorial": 512,
        "torchcnn": 512,
        "bound": 512,
    }


def test_it_compares_the_layers(capsys, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compiled.append(net))  # it is slow
    benchmark.main(["--layers", "scratch", "--data", "sample", "--images", "300", "--rounds", "1",
                    "--device", "cpu"])  # fmt: skip
    assert len(compiled) == 2
    out = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[3:]]
    assert out == ["torch", "by hand", "torch, compiled", "by hand, compiled", "by hand / torch",
                   "by hand, compiled / torch", "by hand, compiled / torch, compiled"]  # fmt: skip


def test_the_tutorials_images_are_ours():
    """Pillow and `ToTensor` on one side, batches on the other: the same numbers."""
    sample = benchmark.load_data("sample")
    images, labels = sample.test_images[:9], sample.test_labels[:9]
    (x, y), *_ = benchmark.Batches(images, labels, 9)
    for i in range(9):
        image, label = benchmark.TutorialImages(images, labels, 28)[i]
        assert torch.equal(image, x[i]) and label == y[i]


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
