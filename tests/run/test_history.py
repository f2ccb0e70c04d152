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
    assert record.scalars() == {
        "train": {"loss": 0.5, "accuracy": 0.8, "learning rate": 0.1, "images per second": 50.0},
        "val": {"loss": 0.6, "accuracy": 0.7},
    }


def test_another_number_is_kept_and_shown():
    record = EpochRecord.from_dict(OLD | {"weight_norm": 3.0}, 2, "val")
    assert record.logged == {"weight_norm": 3.0} and record.scalars()["train"]["weight norm"] == 3.0
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


HOSTILE = [
    {5: 1.0}, {None: 1.0}, {"extra": 10**400}, {"lr": 10**400}, {"lr": True}, {"val_acc": [1]},
    {"step_losses": torch.tensor(1.0)}, {"step_losses": torch.ones(2, 2)}, {"epoch": 10**400},
    {"step_losses": torch.ones(3, device="meta")}, {"step_losses": torch.ones(3).to_sparse()},
    {"step_losses": torch.ones(3, dtype=torch.complex64)}, {"step_losses": torch.ones(3).int()},
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE, ids=str)
def test_a_hostile_record_is_refused(hostile):
    with pytest.raises(ValueError, match="epoch 2 of its history"):
        EpochRecord.from_dict(OLD | hostile, 2, "val")


def record(epoch, acc, loss=0.6, split="val"):
    stored = {k.replace("val", split): v for k, v in OLD.items()}
    stored |= {"epoch": epoch, f"{split}_acc": acc, f"{split}_loss": loss}
    return EpochRecord.from_dict(stored, epoch, split)


def test_of_equal_epochs_the_one_with_the_lower_loss_is_the_best():
    history = [record(1, 0.5), record(2, 0.7, 0.5), record(3, 0.7, 0.4), record(4, 0.7, 0.4)]
    assert best_epoch(history) == 3
    assert best_epoch([record(1, 0.5, split="test")]) is None and best_epoch([]) is None


def test_progress_is_read_with_and_without_what_is_logged():
    stored = {"losses": torch.ones(2), "correct": torch.ones(2, dtype=torch.int64),
              "images": [5, 5], "seconds": 1.0, "rng": [torch.get_rng_state()],
              "cuda_rng": []}  # fmt: skip
    old = EpochProgress.from_dict(stored)
    assert old.logged == {} and torch.equal(old.correct, stored["correct"])
    new = EpochProgress.from_dict(old.to_dict() | {"logged": {"norm": torch.ones(2)}})
    assert asdict(new)["logged"].keys() == {"norm"}
    with pytest.raises(ValueError, match="its unfinished epoch"):
        EpochProgress.from_dict(stored | {"logged": {"norm": torch.ones(3)}})
    for hostile in (
        {"images": [2**70, 5]},
        {"correct": torch.ones(2, dtype=torch.int64, device="meta")},
        {"losses": torch.ones(2, device="meta")},
        {"rng": [torch.zeros_like(torch.get_rng_state())]},
        {"rng": [torch.get_rng_state().to("meta")]},
        {"logged": {"norm": torch.ones(2, device="meta")}},
        {"logged": {5: torch.ones(2)}},
    ):
        with pytest.raises(ValueError, match="its unfinished epoch"):
            EpochProgress.from_dict(stored | hostile)
