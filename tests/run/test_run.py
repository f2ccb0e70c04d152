"""The run folder: what is in it, and that it agrees with itself."""

import csv
import json
import os
import time
from contextlib import nullcontext
from multiprocessing import get_context

import pytest
import torch
from comparing import events, points, result
from PIL import Image
from small_networks import describe, write_checkpoint
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter

from torchcnn import explain, train
from torchcnn.run import run
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.run.run import Run, check_out, make_folder
from torchcnn.run.tensorboard import CHOSEN

SMALL = ["--data", "sample", "--batch-size", "500", "--arch", "softmax_regression", "--epochs", "1",
         "--device", "cpu"]  # fmt: skip


def test_the_folder_holds_what_the_readme_says(finished_run):
    names = {p.name.split(".vm")[0].split(".1")[0] for p in finished_run.iterdir()}
    assert names == {"config.json", "result.json", "history.csv", "curves.png", "inputs.png",
                     "last.pt", "best.pt", "events.out.tfevents",
                     "train", "val", "test"}  # fmt: skip
    config = json.loads((finished_run / "config.json").read_text())
    assert config["arch"] == "lenet" and config["data"] == "sample" and config["batch_size"] == 256
    with Image.open(finished_run / "curves.png") as picture:
        assert picture.size == (1350, 570)


def test_the_curves_have_the_accuracy_of_the_result_as_title(tmp_path):
    run = Run(tmp_path, {"arch": "lenet", "data": "my/photos"}, "val", write=False)
    assert run.title() == "lenet on photos"
    run.write_result({"test_acc": 0.5, "val_acc": 0.6})
    assert run.title() == "lenet on photos, test accuracy 0.5000"
    run.write_result({"val_acc": 0.6})
    assert run.title() == "lenet on photos, validation accuracy 0.6000"


def test_history_events_and_checkpoint_agree(finished_run):
    history = load_checkpoint(finished_run / "last.pt").history
    with open(finished_run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    shown, board = points(finished_run), events(finished_run)
    both = {f"{part}/{tag}" for part in ("train", "val", "test") for tag in ("loss", "accuracy")}
    more = {"train/loss by step", "train/learning rate", "train/images per second"}
    assert shown.keys() == both | more | CHOSEN.keys()
    # 4,500 images in batches of 256 are 18 steps an epoch.
    assert [step for step, _ in shown["train/loss by step"]] == list(range(1, 3 * 18 + 1))
    assert len(rows) == len(history) == 3
    for i, (row, record) in enumerate(zip(rows, history, strict=True)):
        assert float(row["val_acc"]) == record.eval_acc
        for tag, value in (("train/loss", record.train_loss), ("val/accuracy", record.eval_acc)):
            assert shown[tag][i] == (i + 1, pytest.approx(value))
        # The epoch's loss is the mean of its steps', by their images: 17 of 256, one of 148.
        sizes = torch.tensor([256.0] * 17 + [148.0])
        mean = (record.step_losses * sizes).sum() / 4500
        assert record.train_loss == pytest.approx(mean.item(), rel=1e-5)
    tags = board.Tags()
    assert tags["graph"] and set(tags["images"]) == {"inputs", "confusion matrix"}
    (text,) = board.Tensors("configuration/text_summary")
    assert b"| arch | lenet |" in text.tensor_proto.string_val[0]


def test_best_is_the_best_validation_epoch_and_the_tested_one(finished_run):
    history = load_checkpoint(finished_run / "last.pt").history
    accuracies = [record.eval_acc for record in history]
    epoch = accuracies.index(max(accuracies)) + 1
    assert len(load_checkpoint(finished_run / "best.pt").history) == epoch
    seconds = json.loads((finished_run / "result.json").read_text())["seconds"]
    assert seconds == pytest.approx(sum(record.seconds for record in history))
    tested = result(finished_run)
    # Layers 156 + 2,416 + 30,840 + 10,164 + 850, and two numbers for each of 226 norms.
    assert tested.items() >= {
        "arch": "lenet", "data": "sample", "seed": 0, "epochs": 3, "parameters": 44_878,
        "checkpoint": "best.pt", "epoch": epoch,
    }.items()  # fmt: skip
    assert points(finished_run)["test/accuracy"] == [(epoch, pytest.approx(tested["test_acc"]))]
    assert points(finished_run)["chosen/val accuracy"] == [(epoch, pytest.approx(max(accuracies)))]
    assert events(finished_run).Images("confusion matrix")[0].step == epoch


def test_tensorboard_lists_what_was_set_and_what_the_chosen_epoch_reached(finished_run):
    """All runs have the same columns: of numbers, or of texts if a flag also is a word."""
    metadata = events(finished_run).summary_metadata
    found = [HParamsPluginData.FromString(metadata[f"_hparams_/{what}"].plugin_data.content)
             for what in ("experiment", "session_start_info")]  # fmt: skip
    columns, values = found[0].experiment, found[1].session_start_info.hparams
    assert {column.name for column in columns.hparam_infos} == values.keys()
    assert values["arch"].string_value == "lenet" and values["epochs"].number_value == 3
    assert values["nesterov"].string_value == "False" and "out" not in values
    assert {metric.name.tag for metric in columns.metric_infos} == CHOSEN.keys()


def test_a_resumed_run_leaves_the_events_of_others(tmp_path):
    """And without images held out the test curve is beside that of training."""
    path, picture = tmp_path / "r", tmp_path / "a.png"
    train.main([*SMALL, "--val-fraction", "0", "--out", str(path)])
    shown = points(path)
    assert {tag.split("/")[0] for tag in shown} == {"train", "test", "chosen"}
    assert len(shown["test/accuracy"]) == 1  # the epoch's, which is the result's
    assert shown["chosen/test accuracy"] == shown["test/accuracy"]
    Image.new("L", (28, 28)).save(picture)
    looked = ["--checkpoint", str(path), str(picture), "--out", str(path)]
    explain.main([*looked, "--tensorboard"])
    for place in (path, path / "train"):
        with SummaryWriter(str(place)) as own:
            own.add_scalar("mine", 7.0, 1)
    train.main(["--resume", str(path), "--epochs", "2"])
    assert {"a-attention", "inputs"} <= set(events(path).Tags()["images"])
    shown = points(path)
    assert shown["mine"] == shown["train/mine"] == [(1, 7.0)]
    assert [step for step, _ in shown["train/loss"]] == [1, 2]  # those of the run are replaced
    assert len(list(path.glob("events.*"))) == 3


OURS = {"config.json": '{"arch": "lenet", "data": "sample", "seed": 0}'}
EVENTS = "events.out.tfevents.1"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, ""),
        ({".tmp-config.json": ""}, ""),
        (OURS | {f"{EVENTS}.torchcnn": "", f"val/{EVENTS}.torchcnn": ""}, ""),
        (OURS | {"last.pt": ""}, "already holds a run; --resume"),
        (OURS | {f"{EVENTS}.explain": ""}, "is not empty"),
        (OURS | {f"train/{EVENTS}": ""}, "is not empty"),
        (OURS | {"train/notes": ""}, "is not empty"),
        (OURS | {f"x/{EVENTS}.torchcnn": ""}, "is not empty"),
        ({f"{EVENTS}.torchcnn": ""}, "is not empty"),
        ({"config.json": '{"hidden_size": 768}'}, "is not empty"),
        ({"config.json": ""}, "is not empty"),
    ],
)
def test_only_what_a_run_left_is_written_over(files, message, tmp_path):
    """A run that died before its first checkpoint leaves a folder for the next one."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        check_out(tmp_path)


def test_folders_of_runs_are_their_own_or_cannot_be_made(tmp_path, monkeypatch):
    """Those of one second have a number."""
    monkeypatch.setattr(run, "RUNS", tmp_path)
    assert len({make_folder("", "lenet-sample") for _ in range(3)}) == 3
    (tmp_path / "file").touch()
    for out in ("file", "file/r"):
        with pytest.raises(OSError, match="cannot make the run folder"):
            make_folder(str(tmp_path / out), "lenet")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_two_that_found_a_folder_free_do_not_share_it(tmp_path):
    """Until the first is closed, though a worker of it may live longer."""
    config, context = json.loads(OURS["config.json"]), get_context("fork")
    with Run(tmp_path, config, "val"):
        check_out(tmp_path)  # it holds nothing yet that is worth keeping
        with pytest.raises(ValueError, match="is being written by another process"):
            Run(tmp_path, config, "val")
        begun = context.Event()
        worker = context.Process(target=lambda: begun.set() or time.sleep(60))
        worker.start()
        assert begun.wait(60)
    write_checkpoint(tmp_path / "last.pt", describe().build())
    with pytest.raises(ValueError, match="already holds a run; --resume"):
        Run(tmp_path, config, "val")
    with Run(tmp_path, config, "val", history=[]):
        worker.kill()
        worker.join()
