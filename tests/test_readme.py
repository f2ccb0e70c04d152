"""What both READMEs tell a reader to type works, and what they point at and measure is there."""

import json
import re
import shlex
import statistics
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors import safe_open

from torchcnn import __main__ as commands
from torchcnn import cli
from torchcnn.data.datasets import load_data
from torchcnn.files import read_dataclass
from torchcnn.models import MODELS
from torchcnn.models.registry import FOLDER
from torchcnn.run.comparison import group, read_run
from torchcnn.training import plan
from torchcnn.training.config import Config
from torchcnn.training.plan import begin, fit, make_spec

ROOT = Path(__file__).parent.parent
READMES = ["README.md", "README.zh.md"]
REFERENCE = ROOT / "runs" / "reference"
MEASURED = json.loads((REFERENCE / "accuracy.json").read_text())
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in READMES}


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", TEXTS[name], re.DOTALL)


def typed(name):
    """The commands of torchcnn, in their order."""
    texts = [block.replace("\\\n", " ") for block in blocks(name, "bash")]
    lines = [line for text in texts for line in text.splitlines()]
    return [line.split("#")[0].split("&& ")[-1].strip() for line in lines if "torchcnn." in line]


@pytest.mark.slow
def test_the_commands_run_as_they_are_written(tmp_path, monkeypatch, capsys):
    """In their order, on the sample, with pictures of two classes in the folder `photos`, and with
    weights of torchvision's ResNet-18 where `torch.hub` keeps them.

    Both READMEs have the same, see below.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "STEPS", 30)  # of runs on few images: 300 of them take minutes
    images = load_data("sample").train_images
    for i in range(24):
        place = tmp_path / "photos" / ("cat", "dog")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i, 0].numpy()).save(place / f"{i}.png")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    lines = typed("README.md")
    assert len(lines) >= 7
    for line in lines:
        _, _, command, *arguments = shlex.split(line)
        if "imagenet" in arguments:  # its 300 steps take minutes
            arguments += ["--epochs", "1"]
        commands.main([command.removeprefix("torchcnn."), *arguments])
    out = capsys.readouterr().out
    assert "lenet, 3 seeds: test acc 0." in out and "± " in out
    for path in ("curves.png", "answers.png", "inside", "judged/mistakes.png"):
        assert (tmp_path / path).exists(), path


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("README.md", "python")
    names = {}
    exec(code, names)
    assert names["features"].shape[0] == 2 and names["trained"].spec.classes
    assert names["pretrained"].spec.classes[0] == "t-shirt"


def test_both_name_the_same_commands_networks_and_numbers():
    ours, theirs = (
        [blocks(name, language) for language in ("bash", "python", "text")] for name in READMES
    )
    assert ours == theirs
    code = "".join(block for of_language in ours for block in of_language)
    assert max(map(len, code.splitlines())) <= 80  # or else a page shows a part of it
    rows = [re.findall(r"^\| \[`\w+`\].*", TEXTS[name], re.MULTILINE) for name in READMES]
    assert rows[0] == rows[1] and len(rows[0]) == len(MODELS)
    for pattern in (r"\]\((?!README)([^)]+)\)", r"\d[\d,.]*\d"):
        found = [sorted(set(re.findall(pattern, TEXTS[name]))) for name in READMES]
        assert found[0] == found[1]
    # A line break between Chinese characters would be shown as a space.
    assert not re.search("[^\x00-\xff]\n[^\x00-\xff]", TEXTS["README.zh.md"])


def test_the_table_is_that_of_the_networks():
    rows = re.findall(r"^\| \[`(\w+)`\]\((\S+)\) \| (.*) \| (\S+) \| ([\d,]+) \|",
                      TEXTS["README.md"], re.MULTILINE)  # fmt: skip
    assert [arch for arch, *_ in rows] == list(MODELS)
    for arch, file, paper, shape, parameters in rows:
        model = MODELS[arch]
        assert (shape, parameters) == ("×".join(map(str, model.input)), f"{model.parameters:,}")
        assert file == f"torchcnn/models/{model.file}.py"
        assert model.paper.partition("arXiv:")[2] in paper and "](https://" in paper


@pytest.mark.parametrize("name", READMES)
def test_accuracies_are_those_of_the_weights(name):
    """As the files say, which `test_weights` holds them to."""
    for arch in ("tf_inception10", "densenet", "resnet20", "lenet"):
        with safe_open(FOLDER / f"{arch}.safetensors", framework="pt") as file:
            accuracy = json.loads(file.metadata()["training"])["accuracy"]
        assert re.search(rf"{accuracy:.4f}(?: \(|（)`{arch}`", TEXTS[name]), arch


def test_the_reference_says_what_was_trained():
    """Its table is that of accuracy.json, and pixels and parameters are what the command takes."""
    text = (REFERENCE / "README.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    for line, row in zip(lines, MEASURED, strict=True):
        *cells, more, _ = (cell.strip() for cell in line.removeprefix("|").split("|"))
        command = f"--arch {row['arch']} --recipe {row['recipe']} {more.replace('`', '')}"
        assert row["seeds"] == list(range(row["n"]))
        spread = f" ± {row['std']:.4f}" if row["n"] > 1 else ""
        (channels, pixels, _), parameters = row["input"], row["parameters"]
        # The exact one, which four digits never halve if it is of five runs or one.
        mean = float(statistics.mean(Fraction(str(a)) for a in row["accuracy"]))
        assert cells == [
            f"`{row['arch']}`", row["recipe"], str(row["n"]), str(row["epochs"]), str(pixels),
            f"{parameters:,}", f"{mean:.4f}{spread}", f"{statistics.mean(row['seconds']):,.0f}",
        ]  # fmt: skip
        given = cli.parse(Config, "train", shlex.split(command)) | {"seed": 0}
        config = fit(begin(given), pixels=28, n=54_000, world_size=1).config
        assert (config.arch, config.recipe, config.epochs, config.input_size) == (
            row["arch"], row["recipe"], row["epochs"], pixels,
        )  # fmt: skip
        with torch.device("meta"):
            net = make_spec(config, channels, tuple("0123456789")).build()
        assert sum(p.numel() for p in net.parameters()) == parameters, row["arch"]


def test_the_reference_run_is_one_of_todays():
    """With every setting, and as `compare` and `evaluate` read it."""
    run = read_run(REFERENCE)
    read_dataclass(Config, run.config, "the configuration")
    assert group([run])[0].cells()[:4] == ["lenet", "1", "15", "44,878"]
    assert run.setting().keys() >= {"options", "patience", "body_lr"}


@pytest.mark.parametrize("name", READMES)
def test_every_link_leads_somewhere(name):
    """Files exist, and a line that is pointed at holds what is said of it."""
    links = re.findall(r"\[(`?)([^]`]+)\1\]\(([^)]+)\)", TEXTS[name])
    files = [(text, target) for _, text, target in links if not target.startswith("https://")]
    assert len(files) > 40
    for text, target in files:
        path, _, line = target.partition("#L")
        assert (ROOT / path).exists(), target
        if line:
            assert (ROOT / path).read_text().splitlines()[int(line) - 1].strip() == text, target
