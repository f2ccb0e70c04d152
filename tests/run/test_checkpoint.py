"""Checkpoints: what was written is read, and nothing else is believed."""

import json
import os
import pickle
import random
import re
import shutil
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from comparing import same
from small_networks import describe, write_checkpoint

from torchcnn import compare, create_model, evaluate, export, predict, train
from torchcnn.models.weights import read_weights
from torchcnn.run.checkpoint import (
    FORMAT,
    Checkpoint,
    EpochProgress,
    EpochRecord,
    State,
    best_epoch,
    load_checkpoint,
    load_model,
    save_checkpoint,
)

RECORD = EpochRecord(2, 1.5, 0.1, 0.5, 0.8, "val", 0.6, 0.7, 2.0, 50.0, torch.ones(3))
PROGRESS = EpochProgress(torch.ones(2), torch.ones(2, dtype=torch.int64), [5, 5], 1.0,
                         [torch.get_rng_state()], [], {"norm": torch.ones(2)})  # fmt: skip
WHOLE = Checkpoint(
    describe(), {"lr": 0.1}, {"lr": "given"}, 9, {"train": "ab"}, torch.arange(3),
    [replace(RECORD, epoch=1), replace(RECORD, logged={"weight_norm": 3.0})], PROGRESS,
    State({"w": torch.ones(2, 2)}, {"state": {0: torch.ones(2)}}, {}, {"weights": {}}),
)  # fmt: skip


def test_a_checkpoint_gives_its_network_back(finished_run):
    net, best = load_model(finished_run / "last.pt"), load_model(finished_run)
    assert not net.training and not best.training
    for model, name in ((net, "last.pt"), (best, "best.pt")):
        stored = torch.load(finished_run / name, weights_only=True)
        assert same(dict(model.state_dict()), stored["weights"])
    assert json.loads(stored["spec"]) == json.loads(net.spec.to_json())
    # Other weights can be loaded into it, and those of another network cannot.
    with pytest.raises(ValueError, match="the weights are not those of lenet"):
        load_model(finished_run, create_model("lenet", num_classes=7))


@pytest.mark.parametrize("progress", [None, PROGRESS])
def test_everything_that_was_written_is_read(progress, tmp_path):
    whole = replace(WHOLE, progress=progress)
    save_checkpoint(tmp_path / "a.pt", whole)
    assert same(asdict(load_checkpoint(tmp_path / "a.pt")), asdict(whole))


def test_of_equal_epochs_the_one_with_the_lower_loss_is_the_best():
    history = [
        replace(RECORD, epoch=epoch, eval_acc=acc, eval_loss=loss)
        for epoch, (acc, loss) in enumerate([(0.5, 0.6), (0.7, 0.5), (0.7, 0.4), (0.7, 0.4)], 1)
    ]
    assert best_epoch(history) == 3
    assert best_epoch([replace(RECORD, split="test")]) is None and best_epoch([]) is None


@pytest.mark.filterwarnings("ignore:.*sparse tensor invariants")
def test_a_hostile_history_is_refused(tmp_path):
    """Each field of another type, shape or device, or missing; so in an unfinished epoch."""
    wrong = ["text", None, [1], True, {5: 1.0}, 10**400, torch.ones(2, 2), torch.ones(3).cfloat(),
             torch.ones(3).to_sparse(), torch.ones(3, device="meta")]  # fmt: skip
    path = tmp_path / "a.pt"
    save_checkpoint(path, WHOLE)
    good = torch.load(path, weights_only=True)
    (first, second), progress = good["history"], good["progress"]

    def changed(part):
        yield from (1, part | {"more": 1.0})
        for name in part:
            yield {k: v for k, v in part.items() if k != name}
            yield from (part | {name: value} for value in wrong)

    others = [second | {"split": "test"}, second | {"logged": {"norm": 10**400}}]
    for record in (*changed(second), *others):
        torch.save(good | {"history": [first, record]}, path)
        with pytest.raises(ValueError, match=r"a\.pt is .*epoch 2 of its history is damaged"):
            load_checkpoint(path)
    others = [progress | {"images": [2**70, 5]}, progress | {"rng": [torch.zeros(5056).byte()]}]
    for part in (*changed(progress), *others):
        torch.save(good | {"progress": part}, path)
        with pytest.raises(ValueError, match=r"a\.pt is .*its unfinished epoch is damaged"):
            load_checkpoint(path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def damaged(good):
    """What a checkpoint is not: cut, foreign, malicious, or with a part missing."""
    stored = torch.load(good, weights_only=True)
    path = good.with_name("other.pt")
    yield from (b"", b"not a checkpoint\n" * 100, pickle.dumps(Evil()))
    for content in (
        {"torchcnn": FORMAT, "spec": Evil()}, {"state_dict": {"w": torch.zeros(2)}},
        {"torchcnn": torch.zeros(2)}, {"torchcnn": FORMAT - 1}, torch.zeros(2),
        *({k: v for k, v in stored.items() if k != name} for name in stored),
        *(stored | {name: 5.5} for name in stored), stored | {"more": 1},
    ):  # fmt: skip
        torch.save(content, path)
        yield path.read_bytes()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../../evil", "x")
    yield path.read_bytes()
    path.unlink()


def test_a_checkpoint_cut_anywhere_or_with_a_flipped_bit_is_refused(tmp_path):
    """Of the bits only those between the records of the archive, which nobody reads, may change."""
    path, dice, refused = tmp_path / "a.pt", random.Random(0), 0
    write_checkpoint(path, describe("softmax_regression").build())
    content, whole = path.read_bytes(), asdict(load_checkpoint(path))
    for size in range(0, len(content), 512):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"a\.pt is (damaged|not a checkpoint)"):
            load_checkpoint(path)
    for _ in range(500):
        changed = bytearray(content)
        changed[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        try:
            assert same(asdict(load_checkpoint(path)), whole)
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 400


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, monkeypatch):
    """And nothing in it is executed."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    write_checkpoint(path, describe("softmax_regression").build())
    for content in list(damaged(path)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.pt is ") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_commands_refuse_a_damaged_checkpoint_and_leave_the_folder_as_it_was(
    finished_run, tmp_path, monkeypatch, refused
):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    monkeypatch.chdir(tmp_path)
    path = folder / "last.pt"
    path.write_bytes(path.read_bytes()[:-1])

    def state():
        return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")}

    before = state()
    for command, argv in (
        (evaluate.main, ["--checkpoint", path]),
        (predict.main, ["--checkpoint", path, "picture.png"]),
        (export.main, ["--checkpoint", path, "--to", "torch-export", "--out", "a.pt2"]),
        (train.main, ["--resume", folder, "--epochs", "9"]),
    ):
        assert "last.pt is" in refused(command, *argv)
    assert state() == before


def test_a_checkpoint_of_a_later_version_is_said_to_be_one(tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"torchcnn": FORMAT + 1}, path)
    said = (
        r"last\.pt was written by a later version of torchcnn, which can read it.*"
        f"its format is {FORMAT + 1}, and this version reads format {FORMAT}"
    )
    for read in (load_checkpoint, lambda path: read_weights(str(path), "lenet")):
        with pytest.raises(ValueError, match=said):
            read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of files")
def test_a_full_disk_leaves_what_was_there(tmp_path):
    """As a limit on the size of files has it."""
    import resource

    path = tmp_path / "last.pt"
    save_checkpoint(path, WHOLE)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*last\.pt: .*(too large|may be full)"):
            save_checkpoint(path, replace(WHOLE, images=10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_folder_of_runs_is_not_a_run(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.pt").touch()
    with pytest.raises(FileNotFoundError, match=r"is a folder of runs; give one of them: a, b$"):
        load_model(tmp_path)


def test_a_run_that_lies_with_the_tests_is_read_by_all_commands(tmp_path, capsys):
    """Later versions may write another format; a run in this one goes on, or is refused at once."""
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).parent.parent / "stored" / "run", run)
    stored = json.loads((run / "result.json").read_text())
    evaluate.main(["--checkpoint", str(run), "--json", "--device", "cpu"])
    found = json.loads(capsys.readouterr().out)
    assert found["correct"] == round(1000 * stored["test_acc"]) == 547
    compare.main([str(run)])
    assert re.search(r"^softmax_regression .* 0\.5470", capsys.readouterr().out, re.MULTILINE)
    train.main(["--resume", str(run), "--epochs", "2"])
    assert [record.epoch for record in load_checkpoint(run / "last.pt").history] == [1, 2]
