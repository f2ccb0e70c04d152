"""Which pictures of a folder a trained network is judged by, and how many it was trained on."""

import json
import shutil

import pytest
import torch
from PIL import Image

from torchcnn import evaluate, train
from torchcnn.data.identity import identify
from torchcnn.run.checkpoint import load_checkpoint

CLASSES = ("blue", "green", "red")


def add(folder, numbers):
    """Pictures that are nearly of the class's colour, each number another one."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        generator = torch.Generator().manual_seed(10 * i + CLASSES.index(folder.name))
        pixels = torch.randint(60, (16, 16, 3), dtype=torch.uint8, generator=generator)
        pixels[..., 2 - CLASSES.index(folder.name)] += 180
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return folder


def run_on(root, out, *flags):
    train.main(["--arch", "tf_baseline", "--data", str(root), "--input-size", "16", "--epochs", "1",
                "--device", "cpu", "--batch-size", "4", *flags, "--out", str(out)])  # fmt: skip
    return json.loads((out / "result.json").read_text())


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder without parts, and a run on it."""
    place = tmp_path_factory.mktemp("judged")
    for name in CLASSES:
        add(place / "d" / name, range(20))
    run_on(place / "d", place / "r")
    return place


def judge(run, data, capsys):
    capsys.readouterr()
    flags = ["--checkpoint", str(run), "--data", str(data), "--device", "cpu"]
    evaluate.main([*flags, "--json"])
    found = json.loads(capsys.readouterr().out)
    evaluate.main(flags)
    return found, capsys.readouterr().out


def test_the_runs_own_folder_is_judged_by_what_it_kept(own, tmp_path, capsys):
    """Also if there are more pictures now, which move none, or fewer."""
    found, out = judge(own / "r", own / "d", capsys)
    result = json.loads((own / "r" / "result.json").read_text())
    n = found["images"]
    assert found["part"] == "test" and 6 <= n <= 18 and found["loss"] == result["test_loss"]
    assert found["images_in_training"] == result["test_images_in_training"] == 0
    assert f"{n} test images of {own / 'd'} (those that the run kept to test on)" in out
    grown = shutil.copytree(own / "d", tmp_path / "d")
    for name in CLASSES:
        add(grown / name, range(20, 60))
    more, _ = judge(own / "r", grown, capsys)
    assert more["part"] == "test" and n < more["images"] < 60 and not more["images_in_training"]
    for name in CLASSES:
        for i in range(15, 60):
            (grown / name / f"{i}.png").unlink()
    fewer, _ = judge(own / "r", grown, capsys)
    assert fewer["part"] == "test" and 3 <= fewer["images"] <= n
    assert not fewer["images_in_training"]


@pytest.mark.parametrize("inside", ["", "test", "Val", "train"])
def test_pictures_that_the_run_has_not_seen_are_judged_all(inside, own, tmp_path, capsys):
    """Two of three classes, one of them with one picture; the labels go by the names."""
    add(tmp_path / inside / "red", range(100, 107))
    add(tmp_path / inside / "green", [100])
    found, out = judge(own / "r", tmp_path, capsys)
    part = inside.lower() if inside in ("test", "Val") else "all"
    assert (found["part"], found["images"], found["images_in_training"]) == (part, 8, 0)
    assert [sum(row) for row in found["confusion"]] == [0, 1, 7]
    word = {"test": "test ", "val": "validation ", "all": ""}[part]
    assert f"8 {word}images of {tmp_path} (all in {inside or tmp_path.name})\n{word}acc" in out


def test_some_that_the_run_was_trained_on_are_counted(own, tmp_path, capsys):
    add(tmp_path / "red", range(100, 110))
    copies = [own / "d" / "red" / f"{i}.png" for i in range(5)]
    for path in copies:
        shutil.copy(path, tmp_path / "red" / f"copy of {path.name}")
    known = load_checkpoint(own / "r" / "last.pt").trained.tolist()
    trained = sum(picture.id in known for picture in identify(copies))  # others were held out
    found, out = judge(own / "r", tmp_path, capsys)
    assert (found["part"], found["images"]) == ("all", 15)
    assert found["images_in_training"] == trained > 1
    assert f"\n{trained} of 15 images are also among the training images, byte for byte\n" in out


def test_copies_in_the_parts_of_a_folder_are_said(tmp_path, capsys):
    """12 of 24 to test on, in other names, formats apart; 3 of 6 to validate on; one in a class
    that it is not of."""
    root = tmp_path / "d"
    for name in CLASSES:
        add(root / "train" / name, range(8))
        add(root / "test" / name, range(4, 12))
        add(root / "val" / name, (0, 50))
        for path in sorted((root / "test" / name).iterdir()):
            path.rename(path.with_name(f"x{path.stem} (1).PNG"))
    shutil.copy(root / "train" / "red" / "0.png", root / "val" / "blue" / "wrong.png")
    result = run_on(root, tmp_path / "r")
    out = capsys.readouterr().out
    assert "\n12 of 24 test images are also among the training images, byte for byte\n" in out
    assert "\n4 of 7 validation images are also among the training images" in out
    assert out.index("byte for byte") < out.index("epoch 1, ")
    assert result["test_images_in_training"] == 12 and result["val_images_in_training"] == 4
    found, out = judge(tmp_path / "r", root, capsys)
    assert found["images_in_training"] == 12 and "\n12 of 24 test images are also among" in out
    found, out = judge(tmp_path / "r", root / "train", capsys)
    assert (found["part"], found["images"], found["images_in_training"]) == ("all", 24, 24)
    result = run_on(root, tmp_path / "s", "--val-fraction", "0")  # the tutorials' protocol
    assert result["test_images_in_training"] == 12 and "val_images_in_training" not in result


def test_copies_beside_a_picture_stay_with_it(own, tmp_path, capsys):
    """Each picture twice in a class of a folder without parts: no copy is in another part."""
    twice = shutil.copytree(own / "d", tmp_path / "d")
    for path in list(twice.rglob("*.png")):
        shutil.copy(path, path.with_stem(f"{path.stem} (1)"))
    result = run_on(twice, tmp_path / "r")
    assert result["test_images_in_training"] == result["val_images_in_training"] == 0
    assert "byte for byte" not in capsys.readouterr().out


def test_what_cannot_be_judged_is_refused(own, tmp_path, refused):
    for name in ("violet", "red"):
        shutil.copytree(own / "d" / "red", tmp_path / name)
    words = ["--checkpoint", own / "r", "--data"]
    known = "holds violet; the network was trained on the classes blue, green, red"
    assert known in refused(evaluate.main, *words, tmp_path)
    hint = "red holds pictures and no folders, one for each class; give the folder above"
    assert hint in refused(evaluate.main, *words, tmp_path / "red")
