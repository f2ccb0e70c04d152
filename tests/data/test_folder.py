"""Your own images: folders of pictures, from the first to a trained network's answer."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from torchcnn import evaluate, predict, train
from torchcnn.data import decode
from torchcnn.data import folder as image_folder
from torchcnn.data.augment import crop, resize
from torchcnn.data.decode import LazyImages
from torchcnn.data.folder import load_folder
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
    data = load_folder(make(tmp_path / "d", 3, ("train", "test")), 12, seed=0)
    assert data.classes == ("blue", "red") and data.name == str(tmp_path / "d")
    assert data.train_images.shape == data.test_images.shape == (6, 3, 12, 12)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    pixels = np.array(Image.open(tmp_path / "d" / "train" / "red" / "1.png"))
    expected = resize(torch.from_numpy(pixels).permute(2, 0, 1)[None], 12)[0]
    assert torch.equal(data.train_images[4], expected)


def test_a_folder_without_parts_is_split_class_by_class_by_the_seed(tmp_path):
    root = make(tmp_path, 10)
    a, b, c = (load_folder(root, 8, seed) for seed in (1, 1, 2))
    assert a.train_labels.bincount().tolist() == [8, 8]
    assert a.test_labels.bincount().tolist() == [2, 2]
    assert torch.equal(a.train_images, b.train_images)
    assert not torch.equal(a.train_images, c.train_images)
    every = torch.cat((a.train_images, a.test_images)).flatten(1).tolist()
    assert len(set(map(tuple, every))) == 20  # none is in both


def test_grey_if_all_are_grey(tmp_path):
    for name in "ab":
        for i in range(2):
            picture(tmp_path / name / f"{i}.png", seed=i)
    assert load_folder(tmp_path, 8, 0).train_images.shape[1] == 1
    picture(tmp_path / "a" / "2.png", RED)
    assert load_folder(tmp_path, 8, 0).train_images.shape[1] == 3


def test_from_a_folder_to_a_trained_network_and_its_answers(tmp_path, capsys):
    root = make(tmp_path / "photos", 10)
    folder = tmp_path / "r"
    argv = ["--arch", "tf_baseline", "--data", str(root), "--input-size", "16", "--batch-size", "4",
            "--device", "cpu", "--out", str(folder)]  # fmt: skip
    train.main([*argv, "--epochs", "4"])
    found = float(re.search(r"test acc (\d\.\d+)", capsys.readouterr().out)[1])
    evaluate.main(["--checkpoint", str(folder)])
    out = capsys.readouterr().out
    assert f"test acc {found:.4f}" in out and "4 test images of" in out
    assert json.loads((folder / "config.json").read_text())["data"] == str(root)
    predict.main(["--checkpoint", str(folder), str(root / "red" / "3.png"), "--json"])
    (answer,) = json.loads(capsys.readouterr().out)
    assert {a["class"] for a in answer["top"]} == {"red", "blue"}
    train.main(["--resume", str(folder), "--epochs", "5"])
    assert "resuming after epoch 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r / "red" / "0.png").write_bytes(b"no"), "red/0.png cannot be decoded"),
        (lambda r: (r / "green").mkdir(), "holds no pictures in green"),
        (lambda r: [p.unlink() for p in (r / "red").iterdir()], "holds no pictures in red"),
        (lambda r: [(r / "red" / f"{i}.png").unlink() for i in (1, 2)], "at least 2 are needed"),
        (lambda r: (r / "red").rename(r.parent / "red"), "holds 1 folders of pictures"),
        (lambda r: r.rename(r.parent / "else"), "there is no folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_named(change, message, tmp_path, capsys):
    root = make(tmp_path / "d", 3)
    change(root)
    with pytest.raises(SystemExit) as stop:
        train.main(["--data", str(root), "--out", str(tmp_path / "r")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("parts", [("train", "val"), ("test", "val")])
def test_a_folder_with_one_part_of_two_is_no_folder_of_classes(parts, tmp_path):
    root = make(tmp_path, 2, parts)
    with pytest.raises(ValueError, match=rf"holds {parts[0]}/<class>/\*, but not both"):
        load_folder(root, 8, 0)
    for name in ("red", "blue"):  # but a class may have that name
        for path in (root / parts[0] / name).iterdir():
            path.rename(path.parent.parent / f"{name}{path.name}")
        (root / parts[0] / name).rmdir()
    assert load_folder(root, 8, 0).classes == parts


def test_a_test_class_that_is_not_trained_is_refused(tmp_path):
    root = make(tmp_path, 2, ("train", "test"))
    picture(root / "test" / "green" / "0.png")
    with pytest.raises(ValueError, match=r"test holds green, which .*train does not"):
        load_folder(root, 8, 0)


def test_a_folder_that_memory_does_not_hold_is_read_as_it_is_needed(tmp_path):
    """The same batches, to the bit, from any start and for any rank."""
    root = make(tmp_path, 10)
    stored, streamed = (
        load_folder(root, 12, 0),
        load_folder(root, 12, 0, max_bytes=16 * 3 * 12 * 12),
    )
    assert (
        isinstance(streamed.train_images, LazyImages) and "decoded in every pass" in streamed.note
    )
    assert streamed.train_images.shape == stored.train_images.shape == (16, 3, 12, 12)
    for start, share in ((0, (0, 1)), (2, (0, 1)), (1, (1, 2))):
        passes = []
        for data in (stored, streamed):
            batches = Batches(data.train_images, data.train_labels, 4, shuffle=True, seed=3,
                              size=12, augment=[crop], share=share)  # fmt: skip
            batches.start = start
            passes.append(list(batches))
        assert len(passes[0]) == 4 - start
        for (x, y), (x_streamed, y_streamed) in zip(*passes, strict=True):
            assert torch.equal(x, x_streamed) and torch.equal(y, y_streamed)


STREAMED = ["--arch", "tf_baseline", "--input-size", "16", "--batch-size", "4", "--device", "cpu",
            "--augment", "flip"]  # fmt: skip


def test_a_streamed_run_is_the_same_run(tmp_path, monkeypatch, capsys):
    root, histories = make(tmp_path / "d", 10), []
    for name, room in (("stored", 2**30), ("streamed", 0)):
        monkeypatch.setattr(image_folder, "free_memory", lambda _, room=room: room)
        folder = tmp_path / name
        train.main([*STREAMED, "--data", str(root), "--epochs", "2", "--out", str(folder)])
        histories.append(load_checkpoint(folder / "last.pt")["history"])
    assert "decoded in every pass" in capsys.readouterr().out
    for a, b in zip(*histories, strict=True):
        assert torch.equal(a["step_losses"], b["step_losses"]) and a["val_loss"] == b["val_loss"]
    evaluate.main(["--checkpoint", str(tmp_path / "streamed"), "--out", str(tmp_path / "p")])
    assert (tmp_path / "p" / "mistakes.png").exists()


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
    assert len(load_checkpoint(folder / "last.pt")["history"]) >= 1
    broken.write_bytes(whole)
    train.main(["--resume", str(folder)])
    assert "test acc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: (root / "blue").rename(root / "violet"),
            r"classes \['blue', 'red'\]; .* has",
        ),
        (lambda root: (root / "red" / "0.png").unlink(), "images 16; .* has 15"),
    ],
)
def test_a_run_goes_on_with_the_images_it_was_begun_with(change, message, tmp_path, capsys):
    """Another class or picture would change what the labels mean, or every batch."""
    root, folder = make(tmp_path / "d", 10), tmp_path / "r"
    train.main([*STREAMED, "--data", str(root), "--epochs", "1", "--out", str(folder)])
    change(root)
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        train.main(["--resume", str(folder), "--epochs", "2"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and re.search(message, error) and error.count("\n") == 1
    assert before == {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}


def test_grey_and_colour_are_not_taken_for_each_other(tmp_path, capsys):
    for name in ("blue", "red"):
        for i in range(4):
            picture(tmp_path / "grey" / name / f"{i}.png", seed=i)
    root, folder = make(tmp_path / "d", 4), tmp_path / "r"
    flags = ["--data", str(tmp_path / "grey"), "--epochs", "1", "--out", str(folder)]
    train.main([*STREAMED, *flags])
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--checkpoint", str(folder), "--data", str(root)])
    assert stop.value.code == 2
    assert "takes images of 1 channels; those of" in capsys.readouterr().err


def test_damaged_exif_is_named_too(tmp_path):
    """Pillow raises struct.error for it, and TypeError."""
    image = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    image.save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be decoded as a picture"):
        decode.read_image(tmp_path / "a.jpg", 3)


def test_transparency_is_laid_on_black(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0] = (200, 100, 50, 255), (200, 100, 50, 0), (200, 100, 50, 51)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x = decode.read_image(tmp_path / "a.png", 3)[:, 0].T.tolist()
    assert x == [[200, 100, 50], [0, 0, 0], [40, 20, 10]]


def test_a_seed_may_be_as_large_as_the_flag_allows(tmp_path):
    load_folder(make(tmp_path, 2), 8, seed=2**63 - 1)
