"""Checkpoints: what was written is read, and nothing else is believed."""

import os
import pickle
import random
import shutil
import zipfile

import pytest
import torch

from torchcnn import create_model, evaluate, export, predict, train
from torchcnn.run.checkpoint import (
    FORMAT,
    load_checkpoint,
    load_model,
    load_weights,
    save_checkpoint,
)


def test_a_checkpoint_gives_its_network_back(finished_run):
    net, best = load_model(finished_run / "last.pt"), load_model(finished_run)
    assert not net.training and not best.training
    assert load_checkpoint(finished_run / "best.pt")["weights"].keys() == best.state_dict().keys()
    checkpoint = torch.load(finished_run / "last.pt", weights_only=True)
    assert checkpoint["model"] == {
        "arch": "lenet", "in_channels": 1, "num_classes": 10, "input_size": 28, "norm": "torch",
        "small_input": False,
    }  # fmt: skip
    assert all(torch.equal(a, checkpoint["weights"][k]) for k, a in net.state_dict().items())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def make_bad(path, good, kind):
    content = good.read_bytes()
    if kind == "cut":
        content = content[: len(content) // 2]
    elif kind == "empty":
        content = b""
    elif kind == "text":
        content = b"not a checkpoint\n" * 100
    elif kind == "pickle":
        content = pickle.dumps(Evil())
    path.write_bytes(content)
    if kind == "evil":
        torch.save({"torchcnn": FORMAT, "model": Evil()}, path)
    elif kind == "foreign":
        torch.save({"state_dict": {"w": torch.zeros(2)}}, path)
    elif kind == "version":
        torch.save({"torchcnn": torch.zeros(2)}, path)
    elif kind == "tensor":
        torch.save(torch.zeros(2), path)
    elif kind == "lacking":
        torch.save({"torchcnn": FORMAT, "model": {}}, path)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("../../evil", "x")


BAD = ["cut", "empty", "text", "pickle", "evil", "foreign", "tensor", "lacking", "zip", "version"]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_checkpoint_is_refused_in_one_line_and_nothing_executed(
    finished_run, tmp_path, monkeypatch, kind
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pt"
    make_bad(path, finished_run / "last.pt", kind)
    with pytest.raises(ValueError, match=r"bad\.pt is") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pt"]


def test_a_checkpoint_cut_at_any_kilobyte_is_refused(finished_run, tmp_path):
    content, path = (finished_run / "last.pt").read_bytes(), tmp_path / "a.pt"
    for size in range(0, len(content), 1024):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"a\.pt is (damaged|not a checkpoint)"):
            load_checkpoint(path)


def test_a_flipped_bit_is_refused_or_was_never_read(finished_run, tmp_path):
    """Only what stands between the records of the archive may change unnoticed."""
    content, path = (finished_run / "last.pt").read_bytes(), tmp_path / "a.pt"
    whole, dice, refused = torch.load(finished_run / "last.pt"), random.Random(0), 0
    for _ in range(500):
        damaged = bytearray(content)
        damaged[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        try:
            checkpoint = load_checkpoint(path)
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert repr(checkpoint) == repr(whole)
            assert all(
                torch.equal(w, whole["weights"][k]) for k, w in checkpoint["weights"].items()
            )
    assert refused > 400


def test_a_checkpoint_of_a_later_version_is_said_to_be_one(finished_run, tmp_path, capsys):
    later = torch.load(finished_run / "last.pt", weights_only=True) | {"torchcnn": FORMAT + 1}
    torch.save(later, tmp_path / "last.pt")
    for main, argv in (
        (evaluate.main, ["--checkpoint", str(tmp_path)]),
        (train.main, ["--resume", str(tmp_path)]),
        (train.main, ["--data", "sample", "--init", str(tmp_path)]),
    ):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1
        assert "last.pt was written by a later version of torchcnn, which can read it" in error
        assert f"its format is {FORMAT + 1}, and this version reads format {FORMAT}" in error


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*nope\.pt"):
        load_checkpoint(tmp_path / "nope.pt")


def test_weights_of_another_network_are_refused(finished_run, tmp_path):
    checkpoint = load_checkpoint(finished_run / "last.pt")
    with pytest.raises(ValueError, match="lenet"):
        load_weights(checkpoint, create_model("lenet", num_classes=7))
    for model in (
        {"arch": "lenet"},
        checkpoint["model"] | {"norm": "layer"},
        checkpoint["model"] | {"num_classes": "9"},
    ):
        save_checkpoint(tmp_path / "a.pt", checkpoint | {"model": model})
        with pytest.raises(ValueError, match=r"describes no network|must be a whole number"):
            load_model(tmp_path / "a.pt")


def test_a_failed_write_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"a": 1})
    for broken, error in (("torch.save", RuntimeError("disk")), ("os.replace", OSError("disk"))):

        def fail(*_, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(broken, fail)
            with pytest.raises(OSError, match=r"cannot write .*last\.pt: .*disk"):
                save_checkpoint(path, {"a": 2})
        assert torch.load(path, weights_only=True) == {"a": 1}
        assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


COMMANDS = {
    "evaluate": (evaluate.main, ["--checkpoint", "{path}"]),
    "predict": (predict.main, ["--checkpoint", "{path}", "picture.png"]),
    "export": (export.main, ["--checkpoint", "{path}", "--to", "torch-export", "--out", "a.pt2"]),
    "resume": (train.main, ["--resume", "{folder}", "--epochs", "9"]),
}


def test_a_thousand_damaged_checkpoints(finished_run, tmp_path, monkeypatch, capsys):
    """By the commands: one line, exit code 2, nothing executed, and the folder as it was.

    Cut at every kilobyte, with a bit flipped, foreign, malicious. Of the flipped bits those that
    are in no record of the archive, and that no reader sees, are left out.
    """
    monkeypatch.chdir(tmp_path)
    folder, dice = tmp_path / "run", random.Random(1)
    shutil.copytree(finished_run, folder)
    path, content = folder / "last.pt", (finished_run / "last.pt").read_bytes()

    def damaged():
        for kind in BAD:
            make_bad(path, finished_run / "last.pt", kind)
            yield path.read_bytes()
        for size in range(0, len(content), 1024):
            yield content[:size]
        while True:
            flipped = bytearray(content)
            flipped[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            path.write_bytes(flipped)
            try:
                load_checkpoint(path)
            except ValueError:
                yield bytes(flipped)

    def state():
        return {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir()}

    for i, bad in zip(range(1000), damaged(), strict=False):
        path.write_bytes(bad)
        before = state()
        command, argv = list(COMMANDS.values())[i % len(COMMANDS)]
        with pytest.raises(SystemExit) as stop:
            command([word.format(path=path, folder=folder) for word in argv])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1 and "last.pt is" in error, error
        assert state() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
