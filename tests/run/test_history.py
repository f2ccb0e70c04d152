"""Records of epochs and the progress of an unfinished one write, check and read themselves."""

from dataclasses import asdict

import pytest
import torch

from torchcnn.run.history import EpochProgress, EpochRecord, best_epoch

OLD = {  # as checkpoints have it
    "epoch": 2, "time": 1.5, "lr": 0.1, "train_loss": 0.5, "train_acc": 0.8, "val_loss": 0.6,
    "val_acc": 0.7, "seconds": 2.0, "images_per_second": 50.0, "step_losses": torch.ones(3),
}  # fmt: skip


def test_a_record_is_what_it_was_on_the_disk():
    record = EpochRecord.from_dict(OLD, 2, "val")
    assert (record.eval_loss, record.eval_acc, record.split) == (0.6, 0.7, "val")
    assert list(record.to_dict()) == list(OLD) and record.to_dict() == OLD
    tags = record.scalars()
    assert tags["loss/val"] == 0.6 and tags["learning rate"] == 0.1 and len(tags) == 6


def test_another_number_is_kept_and_shown():
    record = EpochRecord.from_dict(OLD | {"weight_norm": 3.0}, 2, "val")
    assert record.logged == {"weight_norm": 3.0} and record.scalars()["weight norm"] == 3.0
    assert record.to_dict()["weight_norm"] == 3.0


@pytest.mark.parametrize(
    "damage",
    [{"epoch": 3}, {"lr": "fast"}, {"step_losses": None}, {"val_acc": None}, {"other": "text"}],
)
def test_a_damaged_record_is_refused(damage):
    for stored in (OLD | damage, {k: v for k, v in OLD.items() if k not in damage or "other" in k}):
        if stored == OLD:
            continue
        with pytest.raises(ValueError, match="epoch 2 of its history"):
            EpochRecord.from_dict(stored, 2, "val")
    with pytest.raises(ValueError, match="epoch 2 of its history"):
        EpochRecord.from_dict(OLD, 2, "test")


def test_the_first_of_the_best_epochs_is_the_best():
    def record(epoch, acc, split="val"):
        return EpochRecord.from_dict(
            {k.replace("val", split): v for k, v in OLD.items()} | {"epoch": epoch,
             f"{split}_acc": acc}, epoch, split,
        )  # fmt: skip

    assert best_epoch([record(1, 0.5), record(2, 0.7), record(3, 0.7)]) == 2
    assert best_epoch([record(1, 0.5, "test")]) is None and best_epoch([]) is None


def test_progress_is_read_with_and_without_what_is_logged():
    stored = {"losses": torch.ones(2), "hits": torch.ones(2, dtype=torch.int64), "images": [5, 5],
              "seconds": 1.0, "rng": [torch.get_rng_state()], "cuda_rng": []}  # fmt: skip
    old = EpochProgress.from_dict(stored)
    assert old.logged == {} and torch.equal(old.correct, stored["hits"])
    new = EpochProgress.from_dict(old.to_dict() | {"logged": {"norm": torch.ones(2)}})
    assert asdict(new)["logged"].keys() == {"norm"}
    with pytest.raises(ValueError, match="its unfinished epoch"):
        EpochProgress.from_dict(stored | {"logged": {"norm": torch.ones(3)}})
