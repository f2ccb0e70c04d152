"""The run folder: what is in it, and that it agrees with itself."""

import csv
import json

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchcnn import run
from torchcnn.checkpoint import load_checkpoint
from torchcnn.plots import plot_confusion
from torchcnn.run import check_out, claim_folder

SCALARS = {"loss/train", "loss/val", "accuracy/train", "accuracy/val", "loss by step/train",
           "learning rate", "images per second", "test/loss", "test/acc"}  # fmt: skip


def events(path):
    accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def test_the_folder_holds_what_the_readme_says(finished_run):
    names = {p.name.split(".vm")[0].split(".1")[0] for p in finished_run.iterdir()}
    assert names == {"config.json", "result.json", "history.csv", "curves.png", "last.pt",
                     "best.pt", "events.out.tfevents"}  # fmt: skip
    config = json.loads((finished_run / "config.json").read_text())
    assert config["arch"] == "lenet" and config["data"] == "sample" and config["batch_size"] == 256


def test_tensorboard_shows_scalars_graph_inputs_and_confusion(finished_run):
    board = events(finished_run)
    tags = board.Tags()
    assert set(tags["scalars"]) == SCALARS
    assert tags["graph"] and set(tags["images"]) == {"inputs", "confusion matrix"}
    assert [e.step for e in board.Scalars("accuracy/val")] == [1, 2, 3]
    # 4,500 images in batches of 256 are 18 steps an epoch.
    assert [e.step for e in board.Scalars("loss by step/train")] == list(range(1, 3 * 18 + 1))


def test_history_events_and_checkpoint_agree(finished_run):
    history = load_checkpoint(finished_run / "last.pt")["history"]
    with open(finished_run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    board = events(finished_run)
    assert len(rows) == len(history) == 3
    for i, (row, record) in enumerate(zip(rows, history, strict=True)):
        assert float(row["val_acc"]) == record["val_acc"]
        for tag, key in (("loss/train", "train_loss"), ("accuracy/val", "val_acc")):
            assert board.Scalars(tag)[i].value == pytest.approx(record[key])
        # The epoch's loss is the mean of its steps', by their images: 17 of 256, one of 148.
        sizes = torch.tensor([256.0] * 17 + [148.0])
        mean = (record["step_losses"] * sizes).sum() / 4500
        assert record["train_loss"] == pytest.approx(mean.item(), rel=1e-5)


def test_best_is_the_best_validation_epoch_and_the_tested_one(finished_run):
    best = load_checkpoint(finished_run / "best.pt")["history"]
    history = load_checkpoint(finished_run / "last.pt")["history"]
    accuracies = [record["val_acc"] for record in history]
    assert len(best) == accuracies.index(max(accuracies)) + 1
    result = json.loads((finished_run / "result.json").read_text())
    assert result["checkpoint"] == "best.pt" and result["epoch"] == len(best)


def test_curves_are_a_picture(finished_run):
    with Image.open(finished_run / "curves.png") as picture:
        assert picture.size == (1350, 525)


def test_a_confusion_matrix_can_have_empty_rows():
    confusion = torch.tensor([[3, 1], [0, 0]])
    figure = plot_confusion(confusion, ["a", "b"])
    assert [t.get_text() for t in figure.axes[0].texts] == ["3", "1", "0", "0"]


def test_check_out_creates_nothing(tmp_path):
    check_out(tmp_path / "a" / "b")
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty")
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]
    (tmp_path / "file").touch()
    for path, message in [(tmp_path, "is not empty"), (tmp_path / "file", "no writable folder"),
                          (tmp_path / "file" / "x", "no writable folder")]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            check_out(path)
    (tmp_path / "last.pt").touch()
    with pytest.raises(ValueError, match="already holds a run; --resume"):
        check_out(tmp_path)


def test_runs_of_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RUNS", tmp_path)
    assert len({claim_folder("", "lenet-sample") for _ in range(3)}) == 3


def test_a_folder_is_taken_once(tmp_path):
    """Two runs with one --out that both found it free: one of them is refused."""
    claim_folder(str(tmp_path / "r"), "lenet")
    with pytest.raises(ValueError, match=r"r already holds a run"):
        claim_folder(str(tmp_path / "r"), "lenet")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot make the run folder"):
        claim_folder(str(tmp_path / "file" / "r"), "lenet")
