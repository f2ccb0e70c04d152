"""Recipes: the sources' is the default, and the fast one is more accurate in less time."""

import json
from dataclasses import replace

import pytest
import torch
from comparing import killed
from small_networks import EVERY
from torch import nn

from torchcnn import cli, train
from torchcnn.models import MODELS
from torchcnn.training.config import Config
from torchcnn.training.plan import check_batches, make_spec
from torchcnn.training.recipes import RECIPES, complete, fast, source
from torchcnn.training.state import TrainState


@pytest.mark.parametrize("arch", EVERY)
def test_every_network_can_take_its_fast_recipe(arch):
    """The network takes its images; there are at most as many epochs as the source has.

    Without batch norm it is trained with AdamW: at the rates that batch norm allows, or with SGD at
    all, GoogLeNet stays at ln 10.
    """
    config, classes = Config(arch=arch, **fast(arch)), tuple("0123456789")
    spec = make_spec(config, 1 if MODELS[arch].input[0] == 1 else 3, classes)
    with torch.device("meta"):  # which computes nothing but shapes
        check_batches(config, spec, world_size=1)
        norms = any(isinstance(module, nn.BatchNorm2d) for module in spec.build().modules())
    assert config.optimizer == ("sgd" if norms else "adamw")
    assert config.epochs <= source(arch)["epochs"]
    assert config.input_size <= source(arch)["input_size"]
    mlp = make_spec(replace(config, arch="mlp", small_input=False), 1, classes)
    TrainState.create(config, mlp, torch.device("cpu"))


def test_what_is_given_wins_over_the_recipe(tmp_path, capsys):
    flags = ["--data", "sample", "--device", "cpu", "--recipe", "fast", "--lr", "0.3", "--verbose"]
    with killed(lambda *_: True):  # before its first step
        train.main([*flags, "--out", str(tmp_path / "r")])
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert (config["recipe"], config["lr"], config["schedule"]) == ("fast", 0.3, "one-cycle")
    out = capsys.readouterr().out
    assert "lr               0.3\n" in out
    assert "schedule         one-cycle (fast recipe)\n" in out


def test_what_a_recipe_turns_on_can_be_turned_off():
    own = {"momentum", "nesterov", "weight_decay"}
    assert not complete("lenet", "fast", {"optimizer": "adam", "lr": 1e-3}).keys() & own
    flags = cli.parse(Config, "x", ["--no-nesterov", "--no-small-input", "--momentum", "0"])
    config = Config(arch="densenet", **complete("densenet", "fast", flags))
    assert (config.nesterov, config.small_input, config.momentum) == (False, False, 0)


@pytest.mark.parametrize(
    ("arch", "recipe", "optimizer", "own"),
    [("mlp", "fast", "sgd", "0.005 is for adamw"), ("lenet", "fast", "adam", "0.5 is for sgd")],
)
def test_a_rate_is_not_taken_over_by_another_kind_of_optimizer(arch, recipe, optimizer, own):
    with pytest.raises(ValueError, match=f"--optimizer {optimizer} needs a --lr.* {own}"):
        complete(arch, recipe, {"optimizer": optimizer})
    assert complete(arch, recipe, {"optimizer": optimizer, "lr": 0.1})["lr"] == 0.1


def test_the_kinds_of_adam_share_a_rate():
    flags = complete("mlp", "fast", {"optimizer": "adam"})
    assert flags["lr"] == 5e-3 and "weight_decay" not in flags


def test_the_default_is_the_sources():
    """LeNet's in the tutorial: Adam, rate 0.001, batches of 256, 5 epochs."""
    assert Config.recipe == "source" and set(RECIPES) == {"source", "fast", "best", "finetune"}
    assert source("lenet") == {
        "optimizer": "adam", "lr": 1e-3, "batch_size": 256, "epochs": 5, "input_size": 28,
    }  # fmt: skip


@pytest.mark.slow
def test_the_fast_recipe_reaches_in_an_epoch_what_the_tutorial_reaches_in_five(
    real_fashion_mnist, tmp_path
):
    """LeNet: the tutorial's log ends at 0.859."""
    train.main(["--arch", "lenet", "--recipe", "fast", "--val-fraction", "0", "--device", "cpu",
                "--data", "fashion-mnist", "--out", str(tmp_path / "r")])  # fmt: skip
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert result["epochs"] == 1 and result["test_acc"] > 0.859
