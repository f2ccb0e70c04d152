"""Runs side by side: what is one row, its numbers, and what is refused."""

import json
import shutil
from functools import partial

import pytest
import torch
from matplotlib.collections import PolyCollection
from PIL import Image
from torch import nn

from torchcnn import train
from torchcnn.compare import main
from torchcnn.run.comparison import find_runs, group, plot_rows, read_run

SETTINGS = {"arch": "lenet", "lr": 0.1, "epochs": 2, "val_fraction": 0.1, "data": "sample",
            "recipe": "source", "root": "data", "device": "cpu", "out": "x", "resume": "",
            "checkpoint_every": 0, "model_kwargs": "", "patience": 0}  # fmt: skip


def write_run(folder, accuracy, seed=0, split="test", decided=(), **changes):
    """A run as it is on the disk; its epochs took 1.5 seconds each."""
    config = SETTINGS | {"seed": seed, "out": str(folder)} | changes
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    result = {f"{split}_acc": accuracy, "parameters": 1234, "decided": dict(decided),
              "network": {"arch": config["arch"]}, "digests": {}}  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    lines = ["epoch,train_loss,val_acc,seconds"]
    lines += [f"{i},{1 / i},{accuracy - 0.1 / i},1.5" for i in range(1, config["epochs"] + 1)]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_runs_that_differ_in_their_seed_are_one_row(tmp_path):
    # (0.80, 0.82, 0.90): the mean is 0.84, and the squares of the distances 16 + 4 + 36 = 56
    # (1e-4); half of that is 28, whose root is 5.2915.
    for seed, accuracy in enumerate((0.80, 0.82, 0.90)):
        other = {"root": f"data{seed}", "device": f"cuda:{seed}", "channels_last": seed == 1}
        decided = {"channels_last": "auto"}
        write_run(tmp_path / f"a{seed}", accuracy, seed, decided=decided, **other)
    write_run(tmp_path / "b", 0.85, lr=0.01)
    first, second = group([read_run(path) for path in find_runs([str(tmp_path)])[0]])
    assert first.cells()[:-1] == ["lenet", "1", "2", "1,234", "0.8500", "3.0"]
    assert first.differs == {"lr": 0.01}
    assert second.cells() == ["lenet", "3", "2", "1,234", "0.8400 ± 0.0529", "3.0",
                              "lr=0.1 channels_last=auto"]  # fmt: skip


def test_epochs_and_network_have_columns_of_their_own(tmp_path):
    write_run(tmp_path / "a", 0.8)
    write_run(tmp_path / "b", 0.7, arch="mlp", epochs=3, small_input=True)
    first, second = group([read_run(path) for path in find_runs([str(tmp_path)])[0]])
    assert (first.name, second.name) == ("lenet", "mlp")
    assert first.differs == {} and second.differs == {"small_input": True}
    assert second.cells()[2] == "3"


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
    for link, target in (
        (runs / "best", a),
        (runs / "more", far.parent),
        (far.parent / "up", runs),
    ):
        link.symlink_to(target)
    assert find_runs([str(runs)]) == ([a, runs / "more" / "far"], [])
    assert find_runs([str(runs / "best"), str(a)]) == ([runs / "best"], [])


def test_a_table_markdown_json_and_a_picture(tmp_path, capsys):
    for seed, accuracy in enumerate((0.5, 0.75)):
        write_run(tmp_path / f"a{seed}", accuracy, seed)
    write_run(tmp_path / "b", 0.7, split="val", val_fraction=0.2)
    main([str(tmp_path), "--out", str(tmp_path / "c.png")])
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[0].split()) == (
        "network runs epochs parameters test / val accuracy seconds differs in")  # fmt: skip
    assert lines[1].startswith("lenet       1") and lines[1].endswith("val_fraction=0.2")
    assert "0.7000 (val) " in lines[1] and "0.6250 ± 0.1768 (test) " in lines[2]
    assert lines[-2:] == [
        "for all of them data=sample recipe=source", f"{tmp_path / 'c.png'} is drawn"]  # fmt: skip
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size[0] == 1650
    main([str(tmp_path), "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "| lenet | 2 | 2 | 1,234 | 0.6250 ± 0.1768 (test) | 3.0 | val_fraction=0.1 |"
    main([str(tmp_path), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows[1]["accuracy"] == [0.5, 0.75] and rows[1]["seeds"] == [0, 1]
    assert rows[0]["mean"] == 0.7 and rows[0]["std"] is None
    assert [row["split"] for row in rows] == ["val", "test"]


def test_the_picture_names_what_tells_rows_apart_and_stays_between_0_and_1(tmp_path):
    """Three of four rows are of one network; accuracies of 1 and 0.5 deviate by 0.35."""
    write_run(tmp_path / "mlp", 0.9, arch="mlp", lr=0.5)
    for seed, accuracy in enumerate((0.6, 1.0)):
        write_run(tmp_path / f"a{seed}", accuracy, seed)
        write_run(tmp_path / f"b{seed}", accuracy - 0.1, seed, epochs=1)
    write_run(tmp_path / "c", 0.2, lr=0.01, momentum=0.9)
    figure = plot_rows(group([read_run(path) for path in find_runs([str(tmp_path)])[0]]))
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


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_head_says_of_which_images_the_accuracy_is(split, tmp_path, capsys):
    write_run(tmp_path / "a", 0.5, split=split)
    main([str(tmp_path)])
    head, row, *_ = capsys.readouterr().out.splitlines()
    assert f"  {split} accuracy  " in head and "(" not in row


def test_accuracies_of_other_images_are_never_averaged(tmp_path):
    runs = [write_run(tmp_path / split, 0.5, split=split) for split in ("test", "val")]
    assert [len(row.runs) for row in group([read_run(run) for run in runs])] == [1, 1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"result.json": '{"test_acc": 2}'}, "is not a run, or is damaged"),
        ({"result.json": "[]"}, "is not a run, or is damaged"),
        ({"result.json": "{}"}, "is not a run, or is damaged"),
        ({"history.csv": "epoch,train_loss\n1,x\n"}, "is not a run, or is damaged"),
        ({"history.csv": "epoch,train_loss,val_acc,seconds\n"}, "is not a run, or is damaged"),
        ({"config.json": '{"arch": 5}'}, "is not a run, or is damaged"),
        ({"history.csv": "epoch,train_loss,val_acc,seconds\n1,1,0.5,1\n"}, "or is damaged"),
    ],
)
def test_a_damaged_run_is_one_line(damage, message, tmp_path, capsys):
    write_run(tmp_path / "a", 0.8)
    for name, text in damage.items():
        (tmp_path / "a" / name).write_text(text)
    refused(capsys, message, tmp_path / "a")


def test_a_damaged_run_among_others_is_left_out_and_said_at_the_end(tmp_path, capsys):
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", 0.8, seed)
    (tmp_path / "a1" / "result.json").write_text('{"test_acc": ')
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), "--json"])
    out, error = capsys.readouterr()
    assert stop.value.code == 2 and json.loads(out)[0]["seeds"] == [0, 2]
    assert error.count("\n") == 1 and f"left out: {tmp_path / 'a1'} is not a run" in error


def test_a_run_that_is_named_twice_counts_once(tmp_path, capsys, monkeypatch):
    run = write_run(tmp_path / "runs" / "a", 0.8)
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "all").symlink_to(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    names = ["runs/a", str(run), "link", "all/a", "all", "runs/../runs/*", "link/"]
    main([*names, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["runs"] == ["runs/a"] and row["std"] is None


def test_a_seed_that_a_row_has_twice_is_said(tmp_path, capsys):
    for name, seed in (("a", 3), ("b", 4), ("c", 3)):
        write_run(tmp_path / name, 0.8, seed)
    write_run(tmp_path / "d", 0.8, 3, lr=0.2)  # of another row
    main([str(tmp_path)])
    said = f"note: lenet has seed 3 2 times: {tmp_path / 'a'}, {tmp_path / 'c'}\n"
    assert capsys.readouterr().err == said


def refused(capsys, message, *argv):
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in argv])
    out, error = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and error.splitlines()[-1].count("compare: ") == 1
    assert message in error


def test_what_is_no_run_is_refused(tmp_path, capsys):
    refused(capsys, "there is no run in", tmp_path / "nothing-*")
    refused(capsys, "there is no run in", tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    refused(capsys, "none of these runs is finished", tmp_path)
    write_run(tmp_path / "a", 0.8)
    refused(capsys, "--out draws a .png", tmp_path, "--out", "x.jpg")
    refused(capsys, "allowed is one of them", tmp_path, "--json", "--markdown")


def test_three_seeds_of_two_networks_are_two_commands(tmp_path, monkeypatch, capsys):
    """Real runs: `train --seed 0,1`, twice, and `compare`."""
    monkeypatch.chdir(tmp_path)
    flags = ["--data", "sample", "--device", "cpu", "--epochs", "1", "--batch-size", "500"]
    train.main(["--arch", "softmax_regression,mlp", "--seed", "0,1", "--out", "both", *flags])
    printed = capsys.readouterr().out
    assert "run 4 of 4: mlp, seed 1" in printed and "mlp, 2 seeds: test acc 0." in printed
    both = sorted(p.name for p in (tmp_path / "both").iterdir())
    assert both == [f"{arch}-seed{k}" for arch in ("mlp", "softmax_regression") for k in (0, 1)]
    train.main(["--arch", "softmax_regression", "--seed", "0,1", *flags])
    assert "softmax_regression, 2 seeds: test acc 0." in capsys.readouterr().out
    train.main(["--arch", "lenet", "--seed", "3,4", "--out", "lenets", *flags])
    assert sorted(p.name for p in (tmp_path / "lenets").iterdir()) == ["seed3", "seed4"]
    names = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert [name.split("-2")[0] for name in names] == [
        "softmax_regression-sample-seed0", "softmax_regression-sample-seed1"]  # fmt: skip
    capsys.readouterr()
    main(["runs", "lenets", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["arch"]: row["seeds"] for row in rows} == {
        "softmax_regression": [0, 1], "lenet": [3, 4]}  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seed", "0,0"], "allowed are different seeds"),
        (["--seed", "0,x"], "got x, allowed is a whole number"),
        (["--seed", "0,1", "--resume", "r"], "--resume takes one network and one seed, got "),
        (["--arch", "lenet,lenett", "--out", "never"], "did you mean lenet"),
    ],
)
def test_seeds_that_are_refused(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(argv)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_the_function_trains_from_one_seed():
    with pytest.raises(ValueError, match="takes one seed, got"):
        train.train(arch="lenet", seed="0,1")


def write_pictures(folder, shade):
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for i in range(20):
            image = Image.frombytes(
                "L", (8, 8), bytes((shade + i * 7 * j) % 256 for j in range(64))
            )
            image.save(folder / name / f"{i}.png")
    return folder


class Net(nn.Sequential):
    def __init__(self, width, activation=nn.ReLU):
        super().__init__(nn.Flatten(), nn.Linear(64, width), activation(), nn.Linear(width, 2))


def rows_of(*runs):
    """The names of the runs of each row."""
    rows = group([read_run(run) for run in runs])
    return sorted(sorted(run.path.name for run in row.runs) for row in rows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that trains for real on pictures of 8 pixels, and returns the run's folder."""
    folder = tmp_path_factory.mktemp("real")
    data = write_pictures(folder / "one" / "data", 0)

    def make(name, net=None, **flags):
        torch.manual_seed(0)
        usual = {"data": str(data), "epochs": 1, "device": "cpu", "input_size": 8}
        path = folder / name
        train.train(net=net, out=str(path), **usual | ({} if net else {"arch": "mlp"}) | flags)
        return path

    return make


def test_modules_of_one_class_and_other_sizes_are_other_networks(trained):
    # 64 w + w + 2 w + 2 parameters
    runs = [trained(f"w{width}", Net(width)) for width in (4, 8)]
    runs += [trained("again", Net(4), seed=1), trained("tanh", Net(4, nn.Tanh))]
    assert rows_of(*runs) == [["again", "w4"], ["tanh"], ["w8"]]
    found = {row.name + row.cells()[3] for row in group([read_run(run) for run in runs])}
    assert found == {"Net270", "Net538"}


def test_options_in_another_order_are_the_same_network(trained):
    make = partial(trained, arch="densenet", input_size=32, small_input=True)
    a, b = {"growth_rate": 4, "num_layers": (1,)}, {"num_layers": (1,), "growth_rate": 4}
    runs = [make("a", model_kwargs=a), make("b", model_kwargs=b, seed=1)]
    assert rows_of(*runs, make("c", model_kwargs=a | {"growth_rate": 2})) == [["a", "b"], ["c"]]


def test_pictures_are_the_same_wherever_they_lie(trained, tmp_path):
    source = trained("here")
    data = json.loads((source / "config.json").read_text())["data"]
    copied = shutil.copytree(data, tmp_path / "elsewhere")
    others = write_pictures(tmp_path / "data", 100)  # of the same name
    runs = [source, trained("copy", data=str(copied), seed=1), trained("other", data=str(others))]
    runs += [trained("sample", data="sample"), trained("sample2", data="sample", root="x", seed=2)]
    assert rows_of(*runs) == [["copy", "here"], ["other"], ["sample", "sample2"]]
    shown = {row.differs["data"] for row in group([read_run(run) for run in runs])}
    assert len(shown) == 3 and {name.split("#")[0] for name in shown} == {"data", "sample"}


def test_flags_count_as_they_were_given(trained, tmp_path):
    auto = {"amp": "auto", "channels_last": "auto", "epochs": 2}
    straight = trained("auto", **auto)
    # The 36 images to train on leave room for batches of at most a tenth of them.
    config = json.loads((straight / "config.json").read_text())
    assert config["batch_size"] == 2 and config["amp"] in ("off", "bf16")
    elsewhere = shutil.copytree(straight, tmp_path / "elsewhere")  # another machine chose so
    chosen = {"amp": "bf16", "channels_last": not config["channels_last"], "batch_size": 3}
    (elsewhere / "config.json").write_text(json.dumps(config | chosen | {"seed": 1}))
    resumed = trained("resumed", **auto | {"epochs": 1}, seed=2)
    train.train(resume=str(resumed), epochs=2)
    given = {name: config[name] for name in ("amp", "channels_last", "batch_size")}
    others = [trained(name, **auto | {name: value}) for name, value in given.items()]
    assert rows_of(straight, elsewhere, resumed, *others) == [
        ["amp"], ["auto", "elsewhere", "resumed"], ["batch_size"], ["channels_last"]]  # fmt: skip
