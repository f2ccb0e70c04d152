"""Runs side by side: what is one row, its numbers, and what is refused."""

import json

import pytest
from PIL import Image

from torchcnn import train
from torchcnn.compare import main
from torchcnn.run.comparison import COLUMNS, find_runs, group, read_run

SETTINGS = {"arch": "lenet", "lr": 0.1, "epochs": 2, "val_fraction": 0.1, "data": "sample",
            "recipe": "source", "root": "data", "device": "cpu", "out": "x", "resume": "",
            "checkpoint_every": 0}  # fmt: skip


def write_run(folder, accuracy, seed=0, split="test", **changes):
    """A run as it is on the disk; its epochs took 1.5 seconds each."""
    config = SETTINGS | {"seed": seed, "out": str(folder)} | changes
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    result = {f"{split}_acc": accuracy, "parameters": 1234}
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
        write_run(tmp_path / f"a{seed}", accuracy, seed, **other)
    write_run(tmp_path / "b", 0.85, lr=0.01)
    first, second = group([read_run(path) for path in find_runs([str(tmp_path)])[0]])
    assert first.cells() == ["lenet", "1", "2", "1,234", "0.8500", "3.0", "lr=0.01"]
    assert second.cells() == ["lenet", "3", "2", "1,234", "0.8400 ± 0.0529", "3.0", "lr=0.1"]


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


def test_a_table_markdown_json_and_a_picture(tmp_path, capsys):
    for seed, accuracy in enumerate((0.5, 0.75)):
        write_run(tmp_path / f"a{seed}", accuracy, seed)
    write_run(tmp_path / "b", 0.7, split="val", val_fraction=0.2)
    main([str(tmp_path), "--out", str(tmp_path / "c.png")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [*COLUMNS[:-1], "differs", "in"]
    assert lines[1].startswith("lenet       1") and lines[1].endswith("val_fraction=0.2")
    assert lines[-2:] == [
        "for all of them data=sample recipe=source", f"{tmp_path / 'c.png'} is drawn"]  # fmt: skip
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size == (1650, 600)
    main([str(tmp_path), "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "| lenet | 2 | 2 | 1,234 | 0.6250 ± 0.1768 | 3.0 | val_fraction=0.1 |"
    main([str(tmp_path), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows[1]["accuracy"] == [0.5, 0.75] and rows[1]["seeds"] == [0, 1]
    assert rows[0]["mean"] == 0.7 and rows[0]["std"] is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"result.json": '{"test_acc": 2}'}, "is not a run, or is damaged"),
        ({"result.json": "[]"}, "is not a run, or is damaged"),
        ({"result.json": "{}"}, "is not a run, or is damaged"),
        ({"history.csv": "epoch,train_loss\n1,x\n"}, "is not a run, or is damaged"),
        ({"history.csv": "epoch,train_loss,val_acc,seconds\n"}, "is not a run, or is damaged"),
        ({"config.json": '{"arch": 5}'}, "is not a run, or is damaged"),
    ],
)
def test_a_damaged_run_is_one_line(damage, message, tmp_path, capsys):
    write_run(tmp_path / "a", 0.8)
    for name, text in damage.items():
        (tmp_path / "a" / name).write_text(text)
    refused(capsys, message, tmp_path / "a")


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
    # A run of several seeds is what one of a single seed is.
    train.main(["--arch", "lenet", "--seed", "4", "--out", "alone", *flags])
    first, second = (json.loads((tmp_path / p / "result.json").read_text()) for p in
                     ("lenets/seed4", "alone"))  # fmt: skip
    assert first["test_loss"] == second["test_loss"] and first["seed"] == 4


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
    with pytest.raises(ValueError, match="takes one seed, got 0,1"):
        train.train(arch="lenet", seed="0,1")
