"""The benchmark: the three ways train the same network on the same images."""

import pytest
import torch

from torchcnn import benchmark


def test_it_compares_three_ways_round_by_round(capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "TUTORIAL_WORKERS", 0)
    benchmark.main(["--data", "sample", "--images", "600", "--rounds", "2", "--device", "cpu"])
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"lenet, torch {torch.__version__}, ")
    assert [line.split()[0] for line in out[1:4]] == ["tutorial", "torchcnn", "bound"]
    assert out[4].startswith("torchcnn / tutorial") and out[5].startswith("torchcnn / bound")


def test_all_three_pass_over_as_many_images(monkeypatch):
    monkeypatch.setattr(benchmark, "TUTORIAL_WORKERS", 0)
    config = benchmark.Config(data="sample", images=512, device="cpu")
    assert {name: epoch() for name, epoch in benchmark.contenders(config).items()} == {
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
    out = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:]]
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
