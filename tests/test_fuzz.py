"""Random command lines over odd folders: each ends in good order, whatever is asked."""

import os
import random

import numpy as np
import pytest
from PIL import Image

from torchcnn import evaluate, export, predict, train
from torchcnn.data.augment import AUGMENTATIONS
from torchcnn.models.__main__ import main as models_main
from torchcnn.run.checkpoint import load_checkpoint

CLASSES = ["cat", "dog", "$5_to_$10", "卷积", "-rf", "a b", "b\udcffd", "x" * 120, "train", "Test"]


def picture(path, dice):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = dice.choice([(8, 8), (9, 31, 3), (40, 12, 3), (1, 1, 3), (16, 16, 4)])  # h, w, c
    pixels = np.random.default_rng(dice.randrange(99)).integers(0, 255, shape, np.uint8)
    Image.fromarray(pixels).save(path)


def odd_folder(root, dice):
    """A folder of pictures with something odd in it, or nothing."""
    usual = [("",)] * 6 + [("train", "test"), ("Train", "Val", "TEST"), ("train", "val")] * 2
    parts = dice.choice([*usual, ("train",), ("lern", "pruef"), ("test", "val")])
    classes = dice.sample(CLASSES, dice.choice([1, 2, 2, 3, 4]))
    for part in parts:
        for name in classes:
            for i in range(dice.choice([1, 2, 3, 6, 12])):
                picture(root / part / name / f"{i}{dice.choice(['.png', '.PNG', '.tga'])}", dice)
    somewhere = root / parts[0] / classes[0]
    dice.choice([
        lambda: (somewhere / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\r"),
        lambda: os.mkfifo(somewhere / "pipe.jpg"),
        lambda: (somewhere / "loop").symlink_to(root),
        lambda: (root / "empty").mkdir(exist_ok=True),
        lambda: picture(somewhere / ".hidden" / "0.png", dice),
        lambda: (somewhere / "notes.txt").write_text("text"),
        lambda: (somewhere / "zero.png").touch(),
        lambda: Image.fromarray(np.full((4, 4), 7.0, np.float32)).save(somewhere / "f.tif"),
        lambda: (root / "file.png").write_bytes(b"x"),
        *3 * [lambda: None],
    ])()  # fmt: skip
    return root


VALUES = {  # flag: values that may be right, and values that never are
    "--batch-size": (["1", "2", "7", "64", "999999999"], ["-1", "2.5"]),
    "--lr": (["0.1", "1e-3", "1e30"], ["nan", "0"]),
    "--input-size": (["16", "28", "33", "4"], ["2147483647", "0"]),
    "--resize": (["crop", "crop-232", "squeeze"], ["fit"]),
    "--augment": ([*AUGMENTATIONS, "crop,flip"], ["spin"]),
    "--mix": (["mixup", "cutmix", "off"], ["blend"]),
    "--seed": (["3", str(2**63 - 1)], ["-1", str(2**63)]),
    "--schedule": (["cosine", "one-cycle", "step"], ["stay", "linear"]),
    "--val-fraction": (["0", "0.5", "0.999"], ["1"]),
    "--accumulate": (["2", "100000000"], ["0"]),
    "--optimizer": (["sgd", "adamw"], ["lion"]),
    "--layers": (["scratch"], ["keras"]),
    "--recipe": (["fast", "best"], ["slow"]),
    "--normalize": (["none", "data"], ["pixels", "imagenet"]),
    "--init": (["lenet", "tf_baseline"], ["nowhere"]),
    "--freeze": (["stage1", "head.1"], ["stage9", ","]),
    "--model-kwargs": (["hidden=20"], ["width", "x=y"]),
    "--amp": (["bf16"], ["fp8"]),
    "--checkpoint-every": (["1", "3"], ["-1"]),
    "--device": (["cpu"], ["tpu"]),
    "--arch": (["softmax_regression", "mlp", "lenet", "tf_baseline", "tf_lenet5"], ["lenett"]),
    "--data": ([], ["~nosuchuser/x", "/nowhere", "", "mnist"]),
    "--epochs": (["1", "2"], ["0"]),
}


def train_line(dice, folders, out):
    chosen = {"--data", "--device", "--arch", "--epochs"}
    chosen |= set(dice.sample(sorted(VALUES), dice.randrange(5)))
    line = ["--out", str(out)]
    for name in sorted(chosen):
        right, wrong = VALUES[name]
        if name == "--data":
            right = [*map(str, folders), *["sample"] * 20]
        line += [name, dice.choice(wrong if dice.random() < 0.04 else right)]
    return line + dice.choice([*[[]] * 9, ["--channels-last"], ["--nesterov"], ["--no-such-flag"]])


def other_line(dice, folders, runs, out):
    """A command that reads what is there: its main function and its words."""
    run = str(dice.choice(runs))
    files = [str(p) for folder in folders for p in folder.rglob("*.png")][:40]
    predicted = [dice.choice([*files, "nowhere.png", run, str(dice.choice(folders))])]
    data = dice.choice([[], ["--data", str(dice.choice(folders))], ["--data", "sample"]])
    moved = ["--data", str(dice.choice(folders)), "--epochs", "2"]
    return dice.choice([
        (evaluate.main, ["--checkpoint", run, *data, *dice.choice([[], ["--out", str(out)]])]),
        (predict.main, ["--checkpoint", run, *predicted, *dice.choice([[], ["--json"]])]),
        (export.main, ["--checkpoint", run, "--to", "safetensors", "--out", f"{out}.safetensors"]),
        (train.main, ["--resume", run, *dice.choice([[], ["--epochs", "2"], moved])]),
        (models_main, dice.choice([[], ["lenet"], ["lenett"], ["lenet", "--input-size", "9"]])),
    ])  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch and Pillow, about such sizes
def test_random_command_lines_end_in_good_order(tmp_path, monkeypatch, capsys, tenth_of_the_sample):
    monkeypatch.chdir(tmp_path)
    dice, codes = random.Random(0), []
    folders = [odd_folder(tmp_path / f"d{i}", dice) for i in range(40)]
    runs = [tmp_path / "none"]
    for i in range(60):
        out = tmp_path / f"r{i}"
        if dice.random() < 0.6 or len(runs) < 3:
            main, line = train.main, train_line(dice, folders, out)
        else:
            main, line = other_line(dice, folders, runs, out)
        code = 0
        try:
            main(line)
        except SystemExit as stop:
            code = stop.code
        error = capsys.readouterr().err
        words = f"{main.__module__} {line}: {error}"
        wrong = [x for x in error.splitlines() if not x.startswith(("note: ", "by "))]
        several = main is predict.main and code == 2 and wrong  # a line for each picture
        assert code in (0, 2) and "Traceback" not in error, words
        assert several or len(wrong) == (code == 2), words
        assert not list(tmp_path.rglob(".tmp-*")), words
        if main is train.main and out.exists():
            load_checkpoint(out / "last.pt")
            runs += [out] * (code == 0)
        codes.append(code)
    assert codes.count(0) > 12 and codes.count(2) > 12
