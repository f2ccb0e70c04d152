"""Your own images: folders of pictures, from the first to a trained network's answer."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchcnn import evaluate, predict, train
from torchcnn.data import decode
from torchcnn.data import folder as image_folder
from torchcnn.data.augment import crop
from torchcnn.data.decode import LazyImages
from torchcnn.data.folder import FolderOptions, load_folder
from torchcnn.data.loader import Batches
from torchcnn.run.checkpoint import load_checkpoint

RED, BLUE = (220, 30, 30), (30, 30, 220)


def picture(path, colour=None, size=(20, 14), seed=0):
    """Noise, or noise about a colour."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, 3) if colour else size
    pixels = np.clip(rng.normal(colour or 128, 20, shape), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def make(root, count=10, parts=("",)):
    for part in parts:
        for i in range(count):
            picture(root / part / "red" / f"{i}.png", RED, (16 + i, 20), i)
            picture(root / part / "blue" / f"{i}.jpg", BLUE, (20, 16 + i), i)
    return root


def test_a_folder_with_two_parts(tmp_path):
    data = load_folder(make(tmp_path / "d", 3, ("train", "test")), FolderOptions(12))
    assert data.classes == ("blue", "red") and data.name == str(tmp_path / "d")
    assert data.train_images.shape == data.test_images.shape == (6, 3, 12, 12)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    with Image.open(tmp_path / "d" / "train" / "red" / "1.png") as image:
        pixels = np.array(image.resize((12, 12), Image.Resampling.BILINEAR))
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(data.train_images[data.names["train"].index("train/red/1.png")], expected)


def test_a_folder_without_parts_is_split_class_by_class_by_the_bytes(tmp_path):
    root = make(tmp_path, 10)
    data = load_folder(root, FolderOptions(8))
    both = data.train_labels.bincount() + data.test_labels.bincount()
    assert both.tolist() == [10, 10] and min(data.test_labels.bincount()) > 0
    every = torch.cat((data.train_images, data.test_images)).flatten(1).tolist()
    assert len(set(map(tuple, every))) == 20  # none is in both
    before = set(data.names["train"])
    picture(root / "red" / "new.png", RED)
    assert before <= set(load_folder(root, FolderOptions(8)).names["train"])


def test_grey_if_all_are_grey(tmp_path):
    for name in "ab":
        for i in range(2):
            picture(tmp_path / name / f"{i}.png", seed=i)
    Image.new("LA", (9, 9)).save(tmp_path / "b" / "transparent.png")
    assert load_folder(tmp_path, FolderOptions(8)).train_images.shape[1] == 1
    picture(tmp_path / "a" / "2.png", RED)
    assert load_folder(tmp_path, FolderOptions(8)).train_images.shape[1] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r / "red" / "0.png").write_bytes(b"no"), "red/0.png cannot be decoded"),
        (lambda r: (r / "green").mkdir(), "holds no pictures in green"),
        (lambda r: r.rename(r.parent / "else"), "there is no folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_named(change, message, tmp_path, refused):
    root = make(tmp_path / "d", 3)
    change(root)
    assert message in refused(train.main, "--data", root, "--out", tmp_path / "r")


@pytest.mark.parametrize("val", ["val", "Valid", "validation"])
def test_parts_are_found_in_any_case(val, tmp_path):
    root = make(tmp_path, 2, ("TRAIN", val, "Testing"))
    (root / "notes").mkdir()
    data = load_folder(root, FolderOptions(8))
    for labels in (data.train_labels, data.val_labels, data.test_labels):
        assert labels.tolist() == [0, 0, 1, 1]
    assert "passed over the folder notes" in data.note


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("train",), "holds train; there must be train"),
        (("test", "val"), "holds test, val; there must be train"),
        (("lern", "pruef"), "lern, pruef, each with only the folders blue, red: if"),
    ],
)
def test_parts_without_their_counterpart_are_refused(parts, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_folder(make(tmp_path, 2, parts), FolderOptions(8))


def test_a_class_may_have_the_name_of_a_part(tmp_path):
    for i in range(4):
        picture(tmp_path / ("test", "val")[i % 2] / f"{i}.png", seed=i)
    assert load_folder(tmp_path, FolderOptions(8)).classes == ("test", "val")


def test_hidden_files_companions_and_what_is_no_file_are_passed_over(tmp_path):
    """Copies in hidden folders would be trained and tested on; a pipe would be waited for."""
    root = make(tmp_path / "d", 3)
    plain = load_folder(root, FolderOptions(8))
    for place in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        picture(root / "red" / place / "0.png", RED)
        picture(root / place / "0.png", RED)
    picture(root / "red" / "._0.png", RED)
    (root / "red" / "Thumbs.db").write_bytes(b"x")
    (root / "red" / "notes.txt").write_text("x")
    os.mkfifo(root / "red" / "pipe.png")
    (root / "red" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "red" / "loop").symlink_to(root / "red")
    data = load_folder(root, FolderOptions(8))
    assert torch.equal(data.train_images, plain.train_images) and data.classes == plain.classes
    assert "; passed over 5 files (2 hidden, 2 no regular file, 1 .txt)" in data.note


def test_pictures_of_any_format_and_depth_are_found(tmp_path):
    for i, ext in enumerate([".ppm", ".jfif", ".PNG", ".tga", ".jp2"]):
        picture(tmp_path / "a" / "deep" / f"{i}{ext}", RED)
        picture(tmp_path / "b" / f"{i}{ext}", BLUE)
    data = load_folder(tmp_path, FolderOptions(8))
    assert len(data.train_labels) + len(data.test_labels) == 10
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "film.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    with pytest.raises(ValueError, match=r"no pictures in c; pictures end in .*\.jfif .*\.png .*"):
        load_folder(tmp_path, FolderOptions(8))


def test_a_run_without_a_test_part(tmp_path, refused, capsys):
    root, folder = make(tmp_path / "d", 6, ("train", "val")), tmp_path / "r"
    flags = [*STREAMED, "--data", str(root), "--epochs", "2"]
    train.main([*flags, "--out", str(folder)])
    out = capsys.readouterr().out
    assert "there is no test part" in out and "(best.pt, epoch " in out
    result = json.loads((folder / "result.json").read_text())
    best = max(r.eval_acc for r in load_checkpoint(folder / "last.pt").history)
    assert result["val_acc"] == best and "test_acc" not in result
    evaluate.main(["--checkpoint", str(folder)])
    out = capsys.readouterr().out
    assert "12 validation images of" in out and f"validation acc {best:.4f}" in out
    error = refused(train.main, *flags, "--val-fraction", "0", "--out", tmp_path / "s")
    assert "--val-fraction 0 needs a test part" in error


def test_the_centre_of_a_picture_is_kept_by_the_run(tmp_path, capsys):
    """A picture whose sides are another colour: they are cut off."""
    root, folder = make(tmp_path / "d", 8), tmp_path / "r"
    flags = [*STREAMED, "--data", str(root), "--epochs", "3", "--resize", "crop"]
    train.main([*flags, "--out", str(folder)])
    assert load_checkpoint(folder / "last.pt").config["resize"] == "crop"
    capsys.readouterr()
    whole, centre = tmp_path / "w.png", tmp_path / "c.png"
    pixels = picture(whole, RED, (20, 60))
    pixels[:, :20] = pixels[:, 40:] = BLUE
    Image.fromarray(pixels).save(whole)
    Image.fromarray(pixels[:, 20:40]).save(centre)
    predict.main(["--checkpoint", str(folder), str(whole), str(centre), "--json"])
    answers = json.loads(capsys.readouterr().out)
    for a, b in zip(*(answer["top"] for answer in answers), strict=True):
        assert a["class"] == b["class"]
        assert a["probability"] == pytest.approx(b["probability"], abs=0.01)  # blurred at its edges


def test_a_folder_that_memory_does_not_hold_is_read_as_it_is_needed(tmp_path):
    """The same batches, to the bit, from any start and for any rank."""
    root = make(tmp_path, 10)
    stored = load_folder(root, FolderOptions(12))
    streamed = load_folder(root, FolderOptions(12, max_bytes=16 * 3 * 12 * 12))
    assert isinstance(streamed.train_images, LazyImages)
    assert "decoded in every pass" in streamed.note
    n = len(stored.train_labels)
    assert streamed.train_images.shape == stored.train_images.shape == (n, 3, 12, 12)
    for start, share in ((0, (0, 1)), (2, (0, 1)), (1, (1, 2))):
        passes = []
        for data in (stored, streamed):
            batches = Batches(data.train_images, data.train_labels, 4, shuffle=True, seed=3,
                              size=12, augment=[crop], share=share)  # fmt: skip
            batches.start = start
            passes.append(list(batches))
        assert len(passes[0]) == -(-n // 4) - start
        for (x, y), (x_streamed, y_streamed) in zip(*passes, strict=True):
            assert torch.equal(x, x_streamed) and torch.equal(y, y_streamed)


STREAMED = ["--arch", "tf_baseline", "--input-size", "16", "--batch-size", "4", "--device", "cpu",
            "--augment", "flip"]  # fmt: skip


def test_a_picture_that_breaks_in_mid_run_is_named_and_the_run_goes_on_later(
    tmp_path, monkeypatch, capsys
):
    root, folder = make(tmp_path / "d", 10), tmp_path / "r"
    monkeypatch.setattr(image_folder, "free_memory", lambda _: 0)
    broken, seen = root / "red" / "4.png", []
    whole, decoded = broken.read_bytes(), decode.decode_batches

    def break_in_the_second_epoch(*args):
        seen.append(args)
        if len(seen) == 5:  # inputs, train, validate; train, validate
            broken.write_bytes(whole[:60])
        return decoded(*args)

    monkeypatch.setattr("torchcnn.data.loader.decode_batches", break_in_the_second_epoch)
    flags = [*STREAMED, "--data", str(root), "--val-fraction", "0", "--epochs", "3"]
    with pytest.raises(SystemExit) as stop:
        train.main([*flags, "--out", str(folder)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "red/4.png cannot be decoded" in error
    assert len(load_checkpoint(folder / "last.pt").history) >= 1
    broken.write_bytes(whole)
    train.main(["--resume", str(folder)])
    assert "test acc" in capsys.readouterr().out
    evaluate.main(["--checkpoint", str(folder), "--out", str(tmp_path / "p")])
    assert (tmp_path / "p" / "mistakes.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: [path.rename(path.with_name("violet")) for path in r.glob("*/blue")],
            r"classes \['blue', 'red'\]; .* has",
        ),
        (lambda r: (r / "train" / "red" / "0.png").unlink(), "images 20; .* has 19"),
        (lambda r: picture(r / "train" / "red" / "0.png", BLUE), "begun with other pictures than"),
    ],
)
def test_a_run_goes_on_with_the_images_it_was_begun_with(change, message, tmp_path, refused):
    """Another class or picture would change what the labels mean, or every batch."""
    root, folder = make(tmp_path / "d", 10, ("train", "test")), tmp_path / "r"
    train.main([*STREAMED, "--data", str(root), "--epochs", "1", "--out", str(folder)])
    change(root)
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert re.search(message, refused(train.main, "--resume", folder, "--epochs", "2"))
    assert before == {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}


@pytest.mark.parametrize("trained_on", ["grey", "colour"])
def test_pictures_are_read_in_the_channels_of_the_network(trained_on, tmp_path, capsys):
    """Of pictures of the other kind, `evaluate` counts as many right as `predict` names rightly."""
    for kind in ("grey", "colour"):
        for i, name in enumerate(("blue", "red")):
            for j in range(4):
                path = tmp_path / kind / name / f"{j}.png"
                pixels = picture(path, (RED, BLUE)[i] if kind == "colour" else None, seed=j)
                if kind == "grey" and name == "red":
                    Image.fromarray(pixels // 2).save(path)
    (other,) = {"grey", "colour"} - {trained_on}
    flags = [*STREAMED, "--data", str(tmp_path / trained_on), "--epochs", "1", "--seed", "1"]
    train.main([*flags, "--out", str(tmp_path / "r")])
    capsys.readouterr()
    run = ["--checkpoint", str(tmp_path / "r"), "--json"]
    evaluate.main([*run, "--data", str(tmp_path / other)])
    found = json.loads(capsys.readouterr().out)
    predict.main([*run, str(tmp_path / other)])
    answers = json.loads(capsys.readouterr().out)
    right = [answer["top"][0]["class"] == answer["file"].split("/")[-2] for answer in answers]
    assert (found["images"], found["correct"]) == (8, sum(right))


def test_a_resumed_run_keeps_its_channels(tmp_path, capsys):
    """It was in colour because of a picture to test on, which is gone."""
    for part in ("train", "test"):
        for name in "ab":
            for i in range(4):
                picture(tmp_path / "d" / part / name / f"{i}.png", seed=i)
    coloured = tmp_path / "d" / "test" / "a" / "4.png"
    picture(coloured, RED)
    flags = ["--data", str(tmp_path / "d"), "--epochs", "1", "--out", str(tmp_path / "r")]
    train.main([*STREAMED, *flags])
    coloured.unlink()
    train.main(["--resume", str(tmp_path / "r"), "--epochs", "2"])
    said = "note: the pictures to test on are others than when the run was begun, or none\n"
    assert said in capsys.readouterr().out
    checkpoint = load_checkpoint(tmp_path / "r" / "last.pt")
    assert len(checkpoint.history) == 2 and checkpoint.spec.in_channels == 3


def test_a_folder_with_the_name_of_a_data_set_is_named_by_its_path(tmp_path, monkeypatch, capsys):
    make(tmp_path / "sample", 10)
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("./sample", "sample/", str(tmp_path / "sample"), Path("sample"))):
        flags = {"data": name, "input_size": 16, "batch_size": 4, "epochs": 1, "device": "cpu"}
        result = train.train(arch="tf_baseline", out=f"r{i}", **flags)
        assert load_checkpoint(result.path / "last.pt").spec.classes == ("blue", "red")
    capsys.readouterr()
    train.main(["--arch", "mlp", "--data", "sample", "--epochs", "1", "--out", "s"])
    assert "of Fashion-MNIST; the folder of this name is ./sample" in capsys.readouterr().out
