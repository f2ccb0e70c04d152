"""`torchcnn.evaluate` and `torchcnn.predict`, on a run of the embedded sample."""

import json
import re

import pytest
import torch
from PIL import Image

from torchcnn import evaluate, predict, train
from torchcnn.data.datasets import load_data
from torchcnn.figures.results import plot_mistakes
from torchcnn.run.checkpoint import load_model
from torchcnn.run.report import by_class, confused_text, confusion_text


@pytest.fixture(scope="session")
def run(once):
    flags = ["--arch", "lenet", "--data", "sample", "--epochs", "2", "--device", "cpu"]
    flags += ["--input-size", "20", "--out"]
    return once("evaluated", lambda folder: train.main([*flags, str(folder)]))


def width(path):
    with Image.open(path) as picture:
        return picture.width


def texts(sheet):
    return [text.get_text() for text in sheet.axes[0].texts]


def fails(main, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


def test_evaluate_in_json_is_what_the_text_says(run, capsys):
    evaluate.main(["--checkpoint", str(run)])
    text = capsys.readouterr().out
    evaluate.main(["--checkpoint", str(run), "--json", "--top", "10"])
    found = json.loads(capsys.readouterr().out)
    assert text.startswith(f"{found['checkpoint']}, epoch {found['epoch']}\n1,000 test images of")
    assert f"test acc {found['accuracy']:.4f} ({found['correct']} correct)" in text
    confusion = torch.tensor(found["confusion"])
    assert int(confusion.diag().sum()) == found["correct"] and int(confusion.sum()) == 1000
    assert found["top_10"] == 1 and found["confused"][0]["images"] == int(
        (confusion - confusion.diag().diag()).max()
    )
    first = found["classes"][0]
    assert first == {"class": "t-shirt", "images": 100, "recall": int(confusion[0, 0]) / 100,
                     "precision": first["precision"]}  # fmt: skip
    assert found["checkpoint"].endswith(".pt") and found["part"] == "test"


@pytest.mark.usefixtures("real_figures")
def test_evaluate_finds_what_the_run_printed_to_the_image(run, tmp_path, capsys):
    result = json.loads((run / "result.json").read_text())
    evaluate.main(
        ["--checkpoint", str(run / "best.pt"), "--out", str(tmp_path / "o"), "--device", "cpu"]
    )
    out = capsys.readouterr().out
    right = int(re.search(r"test acc \d\.\d{4} \(([\d,]+) correct\)", out)[1])
    assert right == round(result["test_acc"] * 1000)
    assert f"loss {result['test_loss']:.4f}" in out
    assert all(width(tmp_path / "o" / f"{name}.png") > 500 for name in ("confusion", "mistakes"))
    rows = re.findall(r"^(.+?) +100 +(\d\.\d{3}) +(\d\.\d{3}|-)$", out, re.MULTILINE)
    assert [name for name, *_ in rows] == list(load_data("sample").classes)
    assert sum(float(recall) for _, recall, _ in rows) == pytest.approx(right / 100, abs=0.006)


def test_the_tables_by_hand():
    # Of 4 cats 3 are found; of the 4 that are called cat one is a dog. No bird was ever seen.
    confusion, classes = torch.tensor([[3, 1, 0], [1, 5, 0], [0, 0, 0]]), ["cat", "dog", "bird"]
    assert by_class(confusion, classes).splitlines() == [
        "class  images  recall  precision",
        "cat         4   0.750      0.750",
        "dog         6   0.833      0.833",
        "bird        0       -          -",
    ]
    assert (
        confused_text(confusion, classes) == "most often mistaken: 1 of cat as dog, 1 of dog as cat"
    )
    assert confused_text(confusion.diag().diag(), classes) == ""
    assert confusion_text(confusion, classes).splitlines()[1:3] == [
        "0 cat             3  1  .",
        "1 dog             1  5  .",
    ]


def test_predict_gives_the_runs_probabilities(run, tmp_path, capsys):
    data, net = load_data("sample"), load_model(run)
    paths = []
    for i in (0, 7):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(data.test_images[i, 0].numpy()).save(paths[-1])
    predict.main(["--checkpoint", str(run / "best.pt"), "--json", "--top", "10", *paths])
    answers = json.loads(capsys.readouterr().out)
    from torchcnn.data.loader import Batches

    x, _ = next(iter(Batches(data.test_images[:8], data.test_labels[:8], 8, size=20)))
    with torch.no_grad():
        expected = net(x).softmax(1)
    for path, answer, i in zip(paths, answers, (0, 7), strict=True):
        assert answer["file"] == path
        for name, p in ((a["class"], a["probability"]) for a in answer["top"]):
            j = data.classes.index(name)
            assert p == pytest.approx(float(expected[i, j]), abs=1e-3)  # rounded otherwise
    predict.main(["--checkpoint", str(run), *paths, "--out", str(tmp_path / "p.png")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"{paths[0]}: {answers[0]['top'][0]['class']} ")
    assert lines[0].count(",") == 2  # three names
    assert width(tmp_path / "p.png") > 500


def test_predict_a_folder_and_one_bad_file_ends_nothing(run, tmp_path, capsys):
    data = load_data("sample")
    (tmp_path / "in" / "more").mkdir(parents=True)
    for i, name in enumerate(("a.png", "more/b.png")):
        Image.fromarray(data.test_images[i, 0].numpy()).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    call = ["--checkpoint", str(run), str(tmp_path / "in")]
    predict.main(call)
    out, error = capsys.readouterr()
    assert [line.split(": ")[0] for line in out.splitlines()] == [
        str(tmp_path / "in" / "a.png"), str(tmp_path / "in" / "more" / "b.png")]  # fmt: skip
    assert re.fullmatch(rf"by {run}/(best|last)\.pt, epoch [12]\n", error)
    (tmp_path / "in" / "c.png").write_text("no picture")
    with pytest.raises(SystemExit) as stop:
        predict.main([*call, "gone.png"])
    again, error = capsys.readouterr()
    assert again == out and stop.value.code == 2
    first, second = error.splitlines()
    assert "c.png cannot be decoded" in first and "there is no picture gone.png" in second


def test_mistakes_are_named(run):
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    logits, labels = torch.eye(3)[[1, 1, 0]], torch.tensor([0, 1, 2])
    names = ["x/1.png", "2.png", "3.png"]
    figure = plot_mistakes(images, logits, labels, ["a", "b", "c"], names)
    assert texts(figure) == [
        "2 mistakes in 3 images, the surest first", "b 58%", "true: a", "1.png", "a 58%", "true: c",
        "3.png"]  # fmt: skip
    none = plot_mistakes(images[1:2], logits[1:2], labels[1:2], ["a", "b", "c"])
    assert texts(none) == ["no mistakes: 1 of 1 images are right"] and none.get_figheight() < 1


def test_answers_are_right_or_wrong_if_a_folder_says_so(run, tmp_path, monkeypatch, capsys):
    """The top answer is bold, and below a wrong one is the class that the folder names."""
    data, drawn = load_data("sample"), []
    monkeypatch.setattr(predict, "save_figure", lambda figure, path: drawn.append(figure))
    for folder in ("any", *data.classes):
        (tmp_path / folder).mkdir()
        Image.fromarray(data.test_images[0, 0].numpy()).save(tmp_path / folder / "1.png")
    predict.main(["--checkpoint", str(run), str(tmp_path), "--out", "a.png", "--top", "1"])
    best = capsys.readouterr().out.split(": ")[1].rsplit(" ", 1)[0]
    lines = iter(texts(drawn[0]))
    for folder in sorted(("any", *data.classes)):
        mark = "" if folder == "any" else "✓ " if folder == best else "✗ "
        assert next(lines).startswith(f"{mark}{best} ")
        assert mark != "✗ " or next(lines) == f"true: {folder}"
        assert next(lines) == "1.png"
    bold = [text.get_text() for text in drawn[0].axes[0].texts if text.get_weight() == "bold"]
    assert len(bold) == 11 and all(f"{best} " in text for text in bold)


def test_which_network_is_meant(run, capsys):
    both = ["--checkpoint", str(run), "--arch", "lenet", "x.png"]
    for arguments in (["x.png"], both):
        assert "either --checkpoint or --arch" in fails(predict.main, arguments, capsys)
    assert "--arch: got vgg16, allowed are densenet, lenet, " in fails(
        predict.main, ["--arch", "vgg16", "x.png"], capsys
    )


def test_what_cannot_be_judged_is_refused(run, tmp_path, capsys):
    checkpoint = ["--checkpoint", run / "best.pt"]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert "a.png cannot be decoded" in fails(
        predict.main, [*checkpoint, tmp_path / "a.png"], capsys
    )
    assert "there is no picture" in fails(predict.main, [*checkpoint, tmp_path / "b.png"], capsys)
    assert "draws a .png" in fails(
        predict.main, [*checkpoint, "x.png", "--out", "grid.svg"], capsys
    )
    assert "required: FILE" in fails(predict.main, checkpoint, capsys)
    assert "there is no checkpoint" in fails(evaluate.main, ["--checkpoint", tmp_path], capsys)
    assert "damaged" in fails(evaluate.main, ["--checkpoint", tmp_path / "a.png"], capsys)
    assert "--device tpu is not" in fails(evaluate.main, [*checkpoint, "--device", "tpu"], capsys)
