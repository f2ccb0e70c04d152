"""A picture never costs a result, and names are text."""

import json

import pytest
import torch
from PIL import Image

from torchcnn import evaluate, predict, train
from torchcnn.data.datasets import load_data
from torchcnn.figures import results as plots
from torchcnn.figures.draw import drawing, save_figure

pytestmark = pytest.mark.usefixtures("real_figures")
NAMES = [
    "$5_to_$10",
    "$^$",
    "bad\udc80byte",
    "卷积",
    "a\nb\x00",
    "x" * 300,
    "ordinary",
    "<b>",
    "%s",
    "",
]


def test_any_name_of_a_class_is_drawn(tmp_path):
    confusion = torch.eye(10, dtype=torch.int64)
    images = [torch.zeros(1, 8, 8, dtype=torch.uint8)] * 10
    with drawing("names"):
        save_figure(plots.plot_confusion(confusion, NAMES), tmp_path / "c.png")
        save_figure(plots.plot_images(images, NAMES), tmp_path / "i.png")
    assert {p.name for p in tmp_path.iterdir()} == {"c.png", "i.png"}
    figure = plots.plot_confusion(confusion, NAMES)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:4] == ["$5_to_$10", "$^$", "bad?byte", "卷积"] and len(labels[5]) == 24


def test_two_hundred_classes_are_a_small_picture_without_labels(tmp_path):
    confusion = torch.randint(0, 50, (200, 200))
    figure = plots.plot_confusion(confusion, [f"class {i}" for i in range(200)])
    save_figure(figure, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert max(picture.size) < 2100
    assert len(figure.axes[0].texts) == 0


def broken(*_):
    raise ValueError("no\nfont")


def test_the_result_comes_before_the_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots, "plot_confusion", broken)
    monkeypatch.setattr(plots, "plot_curves", broken)
    run = tmp_path / "r"
    flags = ["--data", "sample", "--device", "cpu", "--batch-size", "1000", "--epochs", "1"]
    train.main([*flags, "--out", str(run)])
    out, error = capsys.readouterr()
    assert "test acc " in out and json.loads((run / "result.json").read_text())["epoch"] == 1
    assert error.splitlines() == [
        "warning: the confusion matrix could not be drawn (ValueError: no font)",
        "warning: curves.png could not be drawn (ValueError: no font)",
    ]
    train.main(["--resume", str(run), "--epochs", "2"])  # it is not locked
    capsys.readouterr()
    evaluate.main(["--checkpoint", str(run), "--out", str(tmp_path / "o")])
    out, error = capsys.readouterr()
    assert "test acc " in out and "confusion.png could not be drawn" in error
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["mistakes.png"]
    monkeypatch.setattr(plots, "plot_images", broken)
    picture = tmp_path / "a.png"
    Image.fromarray(load_data("sample").test_images[0, 0].numpy()).save(picture)
    predict.main(["--checkpoint", str(run), str(picture), "--out", str(tmp_path / "p.png")])
    out, error = capsys.readouterr()
    assert out.startswith(str(picture)) and error.startswith("warning: ")
    assert error.splitlines()[1:] == [f"by {run / 'best.pt'}, epoch 2"]
    assert not (tmp_path / "p.png").exists()


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    class Half:
        def savefig(self, path, **_):
            path.write_bytes(b"half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        save_figure(Half(), tmp_path / "c.png")
    assert not list(tmp_path.iterdir())
