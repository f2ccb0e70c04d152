"""Runs side by side: what is one row, its numbers, and what is refused."""

import json
import re
import shutil

import pytest
from matplotlib.collections import PolyCollection
from PIL import Image
from torch import nn

from torchcnn import train
from torchcnn.compare import main
from torchcnn.run.comparison import cells, find_runs, group, plot_rows, read_run

SETTINGS = {"arch": "lenet", "lr": 0.1, "epochs": 2, "val_fraction": 0.1, "data": "sample",
            "recipe": "source", "root": "data", "device": "cpu", "out": "x", "resume": "",
            "checkpoint_every": 0, "model_kwargs": {}, "patience": 0}  # fmt: skip


def write_run(folder, accuracy, seed=0, split="test", decided=(), digests=(), **changes):
    """A run as it is on the disk; its epochs took 1.5 seconds each."""
    config = SETTINGS | {"seed": seed, "out": str(folder)} | changes
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    result = {f"{split}_acc": accuracy, "parameters": 1234, "decided": dict(decided),
              "network": {"arch": config["arch"]}, "digests": dict(digests)}  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    lines = ["epoch,train_loss,val_acc,seconds"]
    lines += [f"{i},{1 / i},{accuracy - 0.1 / i},1.5" for i in range(1, config["epochs"] + 1)]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    return folder


def rows(*folders):
    """The rows of all runs in these folders."""
    return group([read_run(path) for path in find_runs(list(map(str, folders)))[0]])


def test_runs_that_differ_in_their_seed_are_one_row(tmp_path):
    """Whatever machine they ran on, and in whichever order their options were given."""
    # (0.80, 0.82, 0.90): the mean is 0.84, and the squares of the distances 16 + 4 + 36 = 56
    # (1e-4); half of that is 28, whose root is 5.2915.
    for seed, accuracy in enumerate((0.80, 0.82, 0.90)):
        options = {"depth": 2, "width": 8} if seed else {"width": 8, "depth": 2}
        other = {"root": f"data{seed}", "device": f"cuda:{seed}", "channels_last": seed == 1}
        write_run(tmp_path / f"a{seed}", accuracy, seed, decided={"channels_last": "auto"},
                  model_kwargs=options, **other)  # fmt: skip
    write_run(tmp_path / "b", 0.85, lr=0.01, model_kwargs=options)
    write_run(tmp_path / "c", 0.7, arch="mlp", epochs=3, model_kwargs=options)
    first, second, third = found = rows(tmp_path)
    assert cells(found)[0][4] == "test accuracy"
    assert first.cells() == ["lenet", "1", "2", "1,234", "0.8500", "3.0", "lr=0.01"]
    assert second.cells() == ["lenet", "3", "2", "1,234", "0.8400 ± 0.0529", "3.0",
                              "lr=0.1 channels_last=auto"]  # fmt: skip
    assert third.cells() == ["mlp", "1", "3", "1,234", "0.7000", "4.5", "lr=0.1"]


def test_pictures_are_the_same_wherever_they_lie(tmp_path):
    for seed, digest in enumerate("aab"):
        photos = {"data": f"/disk{seed}/photos", "digests": {"train": digest}}
        write_run(tmp_path / f"{seed}", 0.8 - seed / 10, seed, **photos)
    first, second = rows(tmp_path)
    assert [run.path.name for run in first.runs] == ["0", "1"]
    names = [row.differs["data"] for row in (first, second)]
    assert len(set(names)) == 2 and all(re.fullmatch("photos#[0-9a-f]{6}", x) for x in names)


def test_runs_are_found_by_folder_pattern_and_the_folder_above(tmp_path, monkeypatch):
    a, b = write_run(tmp_path / "runs" / "lenet-1", 0.8), write_run(tmp_path / "runs" / "mlp", 0.7)
    (tmp_path / "runs" / "begun").mkdir()
    (tmp_path / "runs" / "begun" / "config.json").write_text("{}")
    runs = tmp_path / "runs"
    assert find_runs([str(runs / "lenet-*")]) == ([a], [])
    assert find_runs([str(a), str(a), str(b)]) == ([a, b], [])
    assert find_runs([str(runs)]) == ([a, b], [runs / "begun"])
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in find_runs(["runs/m*"])[0]] == ["runs/mlp"]


def test_runs_behind_links_are_found_and_none_is_counted_twice(tmp_path):
    runs, far = tmp_path / "runs", write_run(tmp_path / "disk" / "far", 0.7)
    a = write_run(runs / "lenet-1", 0.8)
    (runs / "best").symlink_to(a)
    (runs / "more").symlink_to(far.parent)
    (far.parent / "up").symlink_to(runs)
    assert find_runs([str(runs)]) == ([a, runs / "more" / "far"], [])
    again = [runs / "best", a, runs / ".." / "runs" / "lenet-*"]
    assert find_runs(list(map(str, again))) == ([runs / "best"], [])


def test_a_table_markdown_json_and_a_picture(tmp_path, capsys):
    for seed, accuracy in enumerate((0.5, 0.75)):
        write_run(tmp_path / f"a{seed}", accuracy, seed)
    write_run(tmp_path / "b", 0.7, split="val")  # its accuracy is of other images
    main([str(tmp_path), "--out", str(tmp_path / "c.png")])
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[0].split()) == (
        "network runs epochs parameters test / val accuracy seconds differs in")  # fmt: skip
    assert lines[1].startswith("lenet       1") and "0.7000 (val) " in lines[1]
    assert "0.6250 ± 0.1768 (test) " in lines[2]
    assert lines[-2:] == ["for all of them data=sample recipe=source val_fraction=0.1",
                          f"{tmp_path / 'c.png'} is drawn"]  # fmt: skip
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size[0] == 1650
    main([str(tmp_path), "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "| lenet | 2 | 2 | 1,234 | 0.6250 ± 0.1768 (test) | 3.0 |  |"
    main([str(tmp_path), "--json"])
    first, second = json.loads(capsys.readouterr().out)
    assert (first["split"], first["mean"], first["std"]) == ("val", 0.7, None)
    assert (second["split"], second["accuracy"], second["seeds"]) == ("test", [0.5, 0.75], [0, 1])


def test_the_picture_names_what_tells_rows_apart_and_stays_between_0_and_1(tmp_path):
    """Three of four rows are of one network; accuracies of 1 and 0.5 deviate by 0.35."""
    write_run(tmp_path / "mlp", 0.9, arch="mlp", lr=0.5)
    for seed, accuracy in enumerate((0.6, 1.0)):
        write_run(tmp_path / f"a{seed}", accuracy, seed)
        write_run(tmp_path / f"b{seed}", accuracy - 0.1, seed, epochs=1)
    write_run(tmp_path / "c", 0.2, lr=0.01, momentum=0.9)
    figure = plot_rows(rows(tmp_path))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "mlp, 0.9000",
        "lenet lr=0.1 epochs=2, 0.8000 ± 0.2828",
        "lenet lr=0.1 epochs=1, 0.7000 ± 0.2828",
        "lenet lr=0.01 momentum=0.9 epochs=2, 0.2000",
    ]
    loss, accuracy = figure.axes
    (band,) = (x for x in accuracy.collections if isinstance(x, PolyCollection))
    heights = band.get_paths()[0].vertices[:, 1]  # 0.7 ± 0.283 and 0.75 ± 0.283
    assert heights.max() == 1 and heights.min() == pytest.approx(0.7 - 0.08**0.5)
    assert len(loss.containers) == 1 and len(accuracy.containers) == 1 + 4  # error bars


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"arch": 5}'),
        ("result.json", '{"test_acc": '),
        ("result.json", "[]"),
        ("history.csv", "epoch,train_loss\n1,x\n"),
        ("history.csv", "epoch,train_loss,val_acc,seconds\n1,1,0.5,1\n"),  # one of two epochs
    ],
)
def test_a_damaged_run_is_left_out_and_said_at_the_end(name, text, tmp_path, capsys, refused):
    damaged, *_ = (write_run(tmp_path / f"a{seed}", 0.8, seed) for seed in range(3))
    (damaged / name).write_text(text)
    assert f"{damaged} is not a run, or is damaged" in refused(main, damaged)
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), "--json"])
    out, error = capsys.readouterr()
    assert stop.value.code == 2 and json.loads(out)[0]["seeds"] == [1, 2]
    assert error.count("\n") == 1 and f"left out: {damaged} is not a run" in error


def test_a_seed_that_a_row_has_twice_is_said(tmp_path, capsys):
    for name, seed in (("a", 3), ("b", 4), ("c", 3)):
        write_run(tmp_path / name, 0.8, seed)
    write_run(tmp_path / "d", 0.8, 3, lr=0.2)  # of another row
    main([str(tmp_path)])
    said = f"note: lenet has seed 3 2 times: {tmp_path / 'a'}, {tmp_path / 'c'}\n"
    assert capsys.readouterr().err == said


def test_what_is_no_run_is_refused(tmp_path, refused):
    for place in (tmp_path / "nothing-*", tmp_path):
        assert "there is no run in" in refused(main, place)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    assert "none of these runs is finished" in refused(main, tmp_path)
    write_run(tmp_path / "a", 0.8)
    assert "--out draws a .png" in refused(main, tmp_path, "--out", "x.jpg")
    assert "allowed is one of them" in refused(main, tmp_path, "--json", "--markdown")


# --- real runs, on a part of the sample -------------------------------------------------------


class Net(nn.Sequential):
    def __init__(self, width, activation=nn.ReLU):
        super().__init__(nn.Flatten(), nn.Linear(784, width), activation(), nn.Linear(width, 10))


def rows_of(*runs):
    """The names of the runs of each row."""
    return sorted(sorted(run.path.name for run in row.runs) for row in rows(*runs))


@pytest.fixture
def trained(tmp_path, tenth_of_the_sample):
    """A function that trains, and returns the run's folder."""

    def make(name, net=None, **flags):
        flags = {"data": "sample", "epochs": 1, "device": "cpu"} | flags
        return train.train(net=net, out=tmp_path / name, **flags).path

    return make


def test_modules_of_one_class_and_other_sizes_are_other_networks(trained):
    runs = [trained(f"w{width}", Net(width)) for width in (4, 8)]
    runs += [trained("again", Net(4), seed=1), trained("tanh", Net(4, nn.Tanh))]
    assert rows_of(*runs) == [["again", "w4"], ["tanh"], ["w8"]]
    found = {(row.name, row.cells()[3]) for row in rows(*runs)}
    assert found == {("Net", "3,190"), ("Net", "6,370")}  # 784 w + w + 10 w + 10 parameters


def test_flags_count_as_they_were_given(trained, tmp_path):
    auto = {"arch": "softmax_regression", "amp": "auto", "channels_last": "auto"}
    straight = trained("auto", epochs=2, **auto)
    # In place of the recipe's 256: at most a tenth of 450 images to train on, a power of two.
    config = json.loads((straight / "config.json").read_text())
    assert config["batch_size"] == 32 and config["amp"] in ("off", "bf16")
    elsewhere = shutil.copytree(straight, tmp_path / "elsewhere")  # another machine chose so
    chosen = {"amp": "bf16", "channels_last": not config["channels_last"], "batch_size": 3}
    (elsewhere / "config.json").write_text(json.dumps(config | chosen | {"seed": 1}))
    resumed = trained("resumed", seed=2, **auto)
    train.train(resume=resumed, epochs=2)
    given = trained("given", epochs=2, **auto | {"amp": config["amp"]})
    assert rows_of(straight, elsewhere, resumed, given) == [
        ["auto", "elsewhere", "resumed"], ["given"]]  # fmt: skip
