"""Classes, order, split and digests of a folder are the same wherever it was copied to."""

import os
import shutil
import unicodedata
from pathlib import Path

import pytest
import torch
from PIL import Image

from torchcnn import evaluate, train
from torchcnn.data.folder import FolderOptions, load_folder
from torchcnn.data.identity import class_folders
from torchcnn.pictures import true_class
from torchcnn.run.checkpoint import load_checkpoint

CLASSES = ["Zebra", "a b", "a-b", "birne", "Äpfel"]  # by code points, whatever the system's order


def make(root, parts=("",), count=8):
    """Pictures of other noise each, with names that systems spell in several ways."""
    generator = torch.Generator().manual_seed(0)
    for part in parts:
        for name in CLASSES:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = torch.randint(256, (8, 8, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(noise.numpy()).save(folder / f"é{i:02}.png")
    return root


def copy_elsewhere(root, copy):
    """As by way of macOS, an old USB stick and someone who tidies up: only the bytes are the same.

    Accents are characters of their own, names and extensions are in capitals, numbers lost their
    zeros, a class has a blank at its end, and pictures lie in folders of their own.
    """
    for path in root.rglob("*.png"):
        *parts, name, file = path.relative_to(root).parts
        name = unicodedata.normalize("NFD", name) + " " * (name == "birne")
        place = copy.joinpath(*(part.upper() for part in parts), name, f"{name[0]}-{file[2]}")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / unicodedata.normalize("NFD", file).replace("0", "").upper())
    return copy


@pytest.mark.parametrize("parts", [("",), ("train", "val", "test")])
def test_a_copy_on_another_system_is_the_same_data_set(parts, tmp_path):
    root = make(tmp_path / "d", parts)
    copy = copy_elsewhere(root, tmp_path / "copy")
    assert {os.fsencode(p.name) for p in root.rglob("*.png")}.isdisjoint(
        os.fsencode(p.name) for p in copy.rglob("*.PNG")
    )
    here, there = (load_folder(place, FolderOptions(8)) for place in (root, copy))
    assert here.classes == there.classes == tuple(CLASSES)
    assert here.digests == there.digests
    for part in ("train", "test", *("val" for name in parts if name == "val")):
        for what in ("images", "labels"):
            assert torch.equal(*(getattr(data, f"{part}_{what}") for data in (here, there)))
        assert len(here.names[part]) == len(getattr(here, f"{part}_labels"))
    assert here.names["train"][-1].startswith("train/Äpfel/é" if len(parts) > 1 else "Äpfel/é")
    some = next((root / parts[0] / "birne").iterdir())  # another label is another data set
    some.rename(root / parts[0] / "Zebra" / "moved.png")
    assert load_folder(root, FolderOptions(8)).digests["train"] != here.digests["train"]


def test_a_run_knows_a_copy_on_another_system(tmp_path, refused, capsys):
    root, run = make(tmp_path / "d", ("train", "test"), 2), str(tmp_path / "r")
    flags = ["--arch", "tf_baseline", "--input-size", "16", "--batch-size", "4", "--device", "cpu"]
    train.main([*flags, "--data", str(root), "--out", run, "--epochs", "1"])
    copy = str(copy_elsewhere(root, tmp_path / "copy"))
    shutil.rmtree(root)
    assert "--data says where" in refused(train.main, "--resume", run, "--epochs", "2")
    train.main(["--resume", run, "--data", copy, "--epochs", "2"])
    checkpoint = load_checkpoint(tmp_path / "r" / "last.pt")
    assert checkpoint.spec.classes == tuple(CLASSES) and checkpoint.config["data"] == copy
    evaluate.main(["--checkpoint", run])
    assert "note:" not in capsys.readouterr().err
    folders = {path.parent.parent for path in Path(copy, "TEST").rglob("*.PNG")}
    truths = [true_class(f"{folder}/a.png", CLASSES) for folder in folders]
    assert sorted(map(str, truths)) == sorted(CLASSES)  # to say whether an answer is right


@pytest.mark.parametrize("other", [unicodedata.normalize("NFD", "Äpfel"), "Äpfel.", "Äpfel "])
def test_classes_that_other_systems_do_not_tell_apart_are_refused(other, tmp_path):
    shutil.copytree(make(tmp_path / "d") / "Äpfel", tmp_path / "d" / other)
    with pytest.raises(ValueError, match=r"d holds '.*pfel.*' and '.*pfel.*', which are one name"):
        load_folder(tmp_path / "d", FolderOptions(8))


def test_a_name_that_is_no_text_can_be_shown(tmp_path):
    """Latin-1's é and more of it, as in old archives."""
    try:
        os.makedirs(os.fsencode(tmp_path) + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert list(class_folders(tmp_path)) == ["caf\N{REPLACEMENT CHARACTER}"]
