"""`torchcnn.evaluate` and `torchcnn.predict`, on a run of the embedded sample."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from torchcnn import evaluate, predict
from torchcnn.data.datasets import load_data
from torchcnn.figures.results import plot_mistakes
from torchcnn.run.checkpoint import load_model
from torchcnn.run.report import by_class, confused_text, confusion_text


def width(path):
    with Image.open(path) as picture:
        return picture.width


def texts(sheet):
    return [text.get_text() for text in sheet.axes[0].texts]


@pytest.mark.usefixtures("real_figures")
def test_evaluate_finds_what_the_run_printed_to_the_image(finished_run, tmp_path, capsys):
    """In JSON, as text and as pictures."""
    result = json.loads((finished_run / "result.json").read_text())
    call = ["--checkpoint", str(finished_run), "--device", "cpu"]
    evaluate.main([*call, "--json", "--top", "10"])
    found = json.loads(capsys.readouterr().out)
    assert found["checkpoint"] == str(finished_run / result["checkpoint"])
    assert (found["part"], found["images"], found["top_10"]) == ("test", 1000, 1)
    assert found["accuracy"] == result["test_acc"] == found["correct"] / 1000
    confusion = torch.tensor(found["confusion"])
    assert int(confusion.diag().sum()) == found["correct"] and int(confusion.sum()) == 1000
    evaluate.main([*call, "--out", str(tmp_path / "o")])
    text = capsys.readouterr().out
    head = f"{found['checkpoint']}, epoch {found['epoch']}\n1,000 test images of"
    said = f"acc {result['test_acc']:.4f} ({found['correct']} correct), loss"
    assert text.startswith(head) and f"{said} {result['test_loss']:.4f}" in text
    rows = re.findall(r"^(.+?) +100 +(\d\.\d{3}) +(?:\d\.\d{3}|-)$", text, re.MULTILINE)
    recalls = [f"{right / 100:.3f}" for right in confusion.diag().tolist()]
    assert rows == list(zip(load_data("sample").classes, recalls, strict=True))
    assert [(row["class"], f"{row['recall']:.3f}") for row in found["classes"]] == rows
    assert all(width(tmp_path / "o" / f"{name}.png") > 500 for name in ("confusion", "mistakes"))


def test_the_tables_by_hand():
    # Of 4 cats 3 are found; of the 4 that are called cat one is a dog. No bird was ever seen.
    confusion, classes = torch.tensor([[3, 1, 0], [1, 5, 0], [0, 0, 0]]), ["cat", "dog", "bird"]
    assert by_class(confusion, classes).splitlines() == [
        "class  images  recall  precision",
        "cat         4   0.750      0.750",
        "dog         6   0.833      0.833",
        "bird        0       -          -",
    ]
    said = "most often mistaken: 1 of cat as dog, 1 of dog as cat"
    assert confused_text(confusion, classes) == said
    assert confused_text(confusion.diag().diag(), classes) == ""
    assert confusion_text(confusion, classes).splitlines()[1:3] == [
        "0 cat             3  1  .",
        "1 dog             1  5  .",
    ]


def test_predict_gives_the_runs_probabilities(finished_run, tmp_path, capsys):
    data, net = load_data("sample"), load_model(finished_run)
    images, paths = data.test_images[[0, 7]], [str(tmp_path / f"{i}.png") for i in range(2)]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image[0].numpy()).save(path)
    predict.main(["--checkpoint", str(finished_run), "--json", "--top", "10", *paths])
    answers = json.loads(capsys.readouterr().out)
    with torch.no_grad():
        expected = net(images / 255).softmax(1)
    for path, answer, shares in zip(paths, answers, expected, strict=True):
        assert answer["file"] == path
        for found in answer["top"]:
            share = float(shares[data.classes.index(found["class"])])
            assert found["probability"] == pytest.approx(share, abs=1e-6)
    predict.main(["--checkpoint", str(finished_run), *paths, "--out", str(tmp_path / "p.png")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"{paths[0]}: {answers[0]['top'][0]['class']} ")
    assert lines[0].count(",") == 2  # three names
    assert width(tmp_path / "p.png") > 500


def test_predict_a_folder_and_one_bad_file_ends_nothing(finished_run, tmp_path, capsys):
    pixels = load_data("sample").test_images[0, 0].numpy()
    good = [tmp_path / "in" / "a.png", tmp_path / "in" / "more" / "b.png"]
    good[1].parent.mkdir(parents=True)
    for path in good:
        Image.fromarray(pixels).save(path)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    call = ["--checkpoint", str(finished_run), str(tmp_path / "in")]
    predict.main(call)
    out, error = capsys.readouterr()
    assert [line.split(": ")[0] for line in out.splitlines()] == list(map(str, good))
    assert re.fullmatch(rf"by {finished_run}/best\.pt, epoch [123]\n", error)
    (tmp_path / "in" / "c.png").write_text("no picture")
    with pytest.raises(SystemExit) as stop:
        predict.main([*call, "gone.png"])
    again, error = capsys.readouterr()
    assert again == out and stop.value.code == 2
    first, second = error.splitlines()
    assert "c.png cannot be decoded" in first and "there is no picture gone.png" in second


def test_mistakes_are_named():
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    logits, labels = torch.eye(3)[[1, 1, 0]], torch.tensor([0, 1, 2])
    names = ["x/1.png", "2.png", "3.png"]
    figure = plot_mistakes(images, logits, labels, ["a", "b", "c"], names)
    assert texts(figure) == [
        "2 mistakes in 3 images, the surest first", "b 58%", "true: a", "1.png", "a 58%", "true: c",
        "3.png"]  # fmt: skip
    none = plot_mistakes(images[1:2], logits[1:2], labels[1:2], ["a", "b", "c"])
    assert texts(none) == ["no mistakes: 1 of 1 images are right"] and none.get_figheight() < 1


def test_answers_are_marked_if_a_folder_says_so(monkeypatch):
    """The top answer is bold, and below a wrong one is the class that the folder names."""
    drawn, image = [], torch.zeros(1, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(predict, "save_figure", lambda figure, path: drawn.append(figure))
    top = [{"class": "cat", "probability": 0.9}, {"class": "dog", "probability": 0.1}]
    answers = [predict.Answer(f"{folder}/1.png", image, top) for folder in ("any", "cat", "dog")]
    predict.draw(answers, ["cat", "dog"], Path("a.png"))
    assert texts(drawn[0]) == [
        "cat 90%", "dog 10%", "1.png", "✓ cat 90%", "dog 10%", "1.png",
        "✗ cat 90%", "dog 10%", "true: dog", "1.png"]  # fmt: skip
    bold = [text.get_text() for text in drawn[0].axes[0].texts if text.get_weight() == "bold"]
    assert bold == ["cat 90%", "✓ cat 90%", "✗ cat 90%"]


def test_what_predict_refuses(finished_run, refused):
    checkpoint = ["--checkpoint", str(finished_run)]
    for argv, message in [
        (["x.png"], "either --checkpoint or --arch"),
        ([*checkpoint, "--arch", "lenet", "x.png"], "either --checkpoint or --arch"),
        (["--arch", "vgg16", "x.png"], "--arch: got vgg16, allowed are densenet, lenet, "),
        ([*checkpoint, "x.png", "--out", "grid.svg"], "draws a .png"),
        (checkpoint, "required: FILE"),
    ]:
        assert message in refused(predict.main, *argv)
