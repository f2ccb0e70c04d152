"""What a run will do, decided once: what a recipe becomes, and what a resumed run may change."""

import re
from functools import partial

import pytest
from comparing import killed

from torchcnn import cli, train
from torchcnn.benchmark.__main__ import Config as BenchmarkConfig
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.run.comparison import read_run
from torchcnn.training.config import Config
from torchcnn.training.distributed import World
from torchcnn.training.plan import Settings, fit, fit_to_few, planned
from torchcnn.training.recipes import complete

FLAGS = ["--arch", "softmax_regression", "--data", "sample", "--device", "cpu"]
FLAGS += ["--batch-size", "500"]


def rates(path):
    return [record.lr for record in load_checkpoint(path / "last.pt").history]


def test_a_plan_has_all_that_a_run_needs_and_writes_nothing(tmp_path, monkeypatch):
    """No "auto" is left, and every value has a source."""
    monkeypatch.chdir(tmp_path)
    flags = {"arch": "mlp", "recipe": "fast", "data": "sample", "device": "cpu", "epochs": 1}
    with planned(flags, None, World()) as plan:
        assert "auto" not in (plan.config.amp, plan.config.channels_last, plan.config.data)
        assert plan.sources.keys() == vars(plan.config).keys()
        assert plan.sources["epochs"] == "given" and plan.sources["lr"] == "fast recipe"
        assert plan.sources["seed"] == "default" and plan.decided["amp"] == "decided"
        assert plan.spec == plan.state.net.spec and plan.spec.shape == (1, 28, 28)
        assert plan.config.batch_size == 256  # as `recipes.TABLE` has it
        assert len(plan.loaders.train) == 18  # of 4500 images, a tenth of 5000 is held out
        assert not list(tmp_path.iterdir())


def test_a_jump_of_the_learning_rate_is_said_and_can_be_avoided(tmp_path, capsys, refused):
    flags = [*FLAGS, "--schedule", "cosine", "--lr", "0.01", "--epochs", "2"]
    for name in ("a", "b"):
        train.main([*flags, "--out", str(tmp_path / name)])
    last = rates(tmp_path / "a")[-1]
    capsys.readouterr()
    train.main(["--resume", str(tmp_path / "a"), "--epochs", "4"])
    line = re.search(
        r"the learning rate goes from (\S+) up to (\S+), since .*", capsys.readouterr().out
    )
    assert float(line[1]) == pytest.approx(last, rel=0.05)
    assert float(line[2]) > last and line[0].endswith(f"--schedule stay keeps {line[1]}")
    train.main(["--resume", str(tmp_path / "b"), "--epochs", "3", "--schedule", "stay"])
    assert rates(tmp_path / "b")[1:] == [last, last]
    config = load_checkpoint(tmp_path / "b" / "last.pt").config
    assert (config["schedule"], config["lr"]) == ("constant", last)
    assert "learning rate goes" not in capsys.readouterr().out
    error = refused(train.main, *FLAGS, "--schedule", "stay", "--out", tmp_path / "s")
    assert "--schedule stay is for --resume; allowed are constant, step" in error


def test_an_epoch_that_has_begun_is_not_cut_off(tmp_path, refused):
    """Killed in epoch 3 of 3: with two epochs its middle would pass for the second's end."""
    path = tmp_path / "r"
    flags = [*FLAGS, "--val-fraction", "0", "--epochs", "3", "--checkpoint-every", "4"]
    with killed(lambda _, checkpoint: len(checkpoint.history) == 2 and checkpoint.progress):
        train.main([*flags, "--out", str(path)])
    error = refused(train.main, "--resume", path, "--epochs", "2")
    assert "has begun epoch 3, got --epochs 2" in error
    train.main(["--resume", str(path)])
    assert len(rates(path)) == 3


def settings(values, *given):
    """The settings of a recipe, of which some flags are given."""
    sources = dict.fromkeys(vars(Config(**values)), "the recipe") | dict.fromkeys(given, "given")
    return Settings(Config(**values), sources)


RECIPE = {"epochs": 1, "lr": 0.1, "optimizer": "sgd", "input_size": 28, "batch_size": 128}


@pytest.mark.parametrize(
    ("n", "world_size", "size"),
    [(2000, 1, 128), (1279, 1, 64), (144, 1, 8), (145, 1, 10), (1, 1, 2), (5, 1, 3), (144, 3, 6)],
)
def test_a_batch_is_at_most_a_tenth_of_few_images(n, world_size, size):
    """The largest power of two; an image alone is avoided, with which batch norm cannot train."""
    config, sources = fit(settings(RECIPE), 28, n, world_size)
    assert config.batch_size == size
    assert sources["batch_size"].startswith("fitted: for so few") == (size != 128)
    assert fit(settings(RECIPE, "batch_size"), 28, n, world_size).config.batch_size == 128


@pytest.mark.parametrize(
    ("arch", "recipe", "given", "pixels", "size"),
    [
        ("resnet20", "fast", {}, 28, 20),
        ("resnet32", "fast", {}, 28, 28),
        ("resnet20", "best", {}, 28, 28),
        ("resnet20", "fast", {}, 32, 32),  # CIFAR-10, or a folder
        ("resnet20", "fast", {"input_size": 32}, 28, 32),
        ("resnet20", "source", {}, 28, 32),
        ("tf_baseline", "fast", {}, 28, 32),  # its dense layer depends on the size
        ("densenet", "fast", {}, 28, 56),
    ],
)
def test_small_images_are_taken_at_their_own_size(arch, recipe, given, pixels, size):
    values = complete(arch, recipe, {"arch": arch, "recipe": recipe, **given})
    assert fit(settings(values, *given), pixels, 10_000, 1).config.input_size == size


def test_few_pictures_are_passed_over_until_they_are_learned():
    """Three hundred steps: 40 images in batches of 4 are 10 steps, so 30 epochs."""
    recipe = RECIPE | {"batch_size": 4}
    fitted, sources = fit_to_few(settings(recipe), 40, vary=True)
    assert (fitted.epochs, fitted.augment) == (30, ("random-resized-crop", "flip"))
    assert sources["epochs"] == "fitted: for so few images, in place of the recipe's 1"
    given = settings(recipe, "epochs", "augment")
    assert fit_to_few(given, 40, vary=True) == given
    assert fit_to_few(settings(recipe), 4_000, vary=False) == settings(recipe)
    assert fit_to_few(settings(recipe), 40, vary=False).config.augment == ()


def test_patience_ends_a_run_that_learns_nothing(tmp_path, capsys, refused):
    """At no learning rate the first epoch stays the best, so that two more are waited for."""
    path = tmp_path / "r"
    train.main([*FLAGS, "--lr", "1e-30", "--epochs", "9", "--patience", "2", "--out", str(path)])
    out = capsys.readouterr().out
    assert len(rates(path)) == 3 and out.count(", best so far\n") == 1
    assert "the validation accuracy has not risen for 2 epochs\ntest acc " in out
    assert read_run(path).split == "test"  # a finished run as others
    assert "has finished 3 epochs; --patience asks for more" in refused(
        train.main, "--resume", path
    )
    train.main(["--resume", str(path), "--patience", "3"])
    assert len(rates(path)) == 4
    error = refused(train.main, *FLAGS, "--patience", "2", "--val-fraction", "0")
    assert "--patience waits for validation images; --val-fraction 0 has none" in error


def test_what_the_images_decided_is_said_and_what_was_given_is_not(tmp_path, capsys):
    """Also by the run that is resumed, which has neither from its own flags."""
    flags = ["--arch", "resnet20", "--recipe", "fast", "--data", "sample", "--device", "cpu"]
    for argv in ([*flags, "--batch-size", "90", "--out"], ["--resume"]):
        with killed(lambda *_: True):  # before its first step
            train.main([*argv, str(tmp_path / "r")])
        out = capsys.readouterr().out
        assert "input_size       20 (for images of 28 pixels, in place of the recipe's 32)\n" in out
        assert "batch_size       90\n" in out
    assert load_checkpoint(tmp_path / "r" / "last.pt").spec.input_size == 20


def test_huge_batches_are_answered_at_once(tmp_path, refused):
    train_on = ["--data", "sample", "--out", tmp_path / "r"]
    error = refused(train.main, *train_on, "--batch-size", 10**8, "--accumulate", 10**8)
    assert "cannot train on a batch of 1" in error
    error = refused(train.main, *train_on, "--batch-size", "4499")
    assert "which is what --batch-size 4499 makes of the last batch of 4,500 images" in error


def test_flags_that_say_the_same_again_are_no_change(tmp_path, refused):
    """What a run decided by itself may be left to it again; another value is refused."""
    path = tmp_path / "r"
    train.main([*FLAGS, "--augment", "flip", "--epochs", "1", "--out", str(path)])
    again = cli.parse(Config, "x", [*FLAGS, "--augment", "flip", "--amp", "auto"])
    train.train(resume=path, **(again | {"epochs": 2}))
    assert len(rates(path)) == 2
    error = refused(train.main, "--resume", path, "--epochs", "3", "--augment", "crop")
    assert "was run with --augment" in error and "flip" in error and "crop" in error


@pytest.mark.parametrize(
    ("config", "name", "text", "expected"),
    [
        (Config, "arch", "mlp, softmax_regression", "mlp,softmax_regression"),
        (Config, "augment", " flip ,crop", ("flip", "crop")),
        (Config, "freeze", "stem, stage1 ", ("stem", "stage1")),
        (Config, "seed", "0, 1 ,2", (0, 1, 2)),
        (BenchmarkConfig, "arch", "lenet, mlp", "lenet,mlp"),
    ],
)
def test_blanks_around_commas_count_nowhere(config, name, text, expected, refused):
    flag = cli.flag(name)
    assert cli.parse(config, "prog", [flag, text]) == {name: expected}
    assert cli.read_keywords(config, {name: text}) == {name: expected}
    for bad in (f"{text},", f",{text}", text.replace(",", ",,"), ","):
        error = refused(partial(cli.parse, config, "prog"), flag, bad)
        assert f"{flag}: got {bad!r}, allowed are " in error and ", with commas between" in error


def test_options_of_a_builder_are_read_from_words_from_a_text_and_from_a_dict():
    expected = {"model_kwargs": {"num_layers": (6, 12), "growth_rate": 8}}
    words = ["num_layers=(6, 12)", "growth_rate=8"]
    for argv in (words, [" ".join(words)]):
        assert cli.parse(Config, "prog", ["--model-kwargs", *argv]) == expected
    for value in (" ".join(words), expected["model_kwargs"]):
        assert cli.read_keywords(Config, {"model_kwargs": value}) == expected
