"""Your own images: folders of pictures, from the first to a trained network's answer."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from torchcnn import evaluate, predict, train
from torchcnn.augment import resize
from torchcnn.images import load_folder

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
    assert "going on after epoch 4" in capsys.readouterr().out


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


def test_a_test_class_that_is_not_trained_is_refused(tmp_path):
    root = make(tmp_path, 2, ("train", "test"))
    picture(root / "test" / "green" / "0.png")
    with pytest.raises(ValueError, match=r"test holds green, which .*train does not"):
        load_folder(root, 8, 0)
