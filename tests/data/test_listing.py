"""Lists of pictures: CSV files, good and bad."""

import re
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from torchcnn import evaluate, train
from torchcnn.data.folder import FolderOptions, load_folder
from torchcnn.data.listing import read_listing


def write(folder, count=12):
    """Pictures of two kinds, bright and dark."""
    (folder / "p").mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 100, (12, 12)) + 100 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "p" / f"{i}.png")
    return [(f"p/{i}.png", ("dark", "light")[i % 2]) for i in range(count)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_list_is_the_folder_that_it_describes(separator, mark, tmp_path):
    """In other words: columns in any order, one more, blanks, an empty line, CRLF."""
    pictures = write(tmp_path)
    rows = [(f"{label} ", str(i), f" {path}") for i, (path, label) in enumerate(pictures)]
    lines = [separator.join(row) for row in ((" label", "id", "Path"), *rows)]
    file = tmp_path / "list.csv"
    file.write_bytes((mark + "\r\n".join([*lines, "", ""])).encode())
    for path, label in pictures:
        place = tmp_path / "folder" / label / path.split("/")[1]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((tmp_path / path).read_bytes())
    a, b = (load_folder(p, FolderOptions(12)) for p in (file, tmp_path / "folder"))
    assert a.classes == b.classes == ("dark", "light") and a.digests == b.digests
    assert torch.equal(a.train_images, b.train_images)
    assert torch.equal(a.test_labels, b.test_labels)
    assert set(a.names["train"] + a.names["test"]) == {path for path, _ in pictures}


@pytest.mark.parametrize("file", ["NFC", "NFD"])
@pytest.mark.parametrize("text", ["NFC", "NFD"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_a_list_finds_its_pictures_on_another_system(separator, text, file, tmp_path):
    """Accents in both forms, as on macOS and elsewhere, and the separators of Windows."""
    pictures = write(tmp_path)
    for path, _ in pictures:
        (tmp_path / path).rename(tmp_path / unicodedata.normalize(file, path.replace("/", "/é")))
    rows = [path.replace("/", f"{separator}é") + f",ö{label}" for path, label in pictures]
    lines = unicodedata.normalize(text, "\n".join(["path,label", *rows]))
    (tmp_path / "list.csv").write_text(lines, encoding="utf-8")
    (found,) = read_listing(tmp_path / "list.csv").values()
    assert {name: len(pictures) for name, pictures in found.items()} == {"ödark": 6, "ölight": 6}


def test_a_run_on_a_list_with_splits(tmp_path, capsys):
    parts = ["Train"] * 18 + ["valid"] * 6 + ["test"] * 6
    rows = [(*pair, part) for pair, part in zip(write(tmp_path, 30), parts, strict=True)]
    (tmp_path / "list.csv").write_text("path,label,split\n" + "\n".join(map(",".join, rows)))
    run = tmp_path / "run"
    train.main(["--data", str(tmp_path / "list.csv"), "--arch", "mlp", "--recipe", "fast",
                "--epochs", "2", "--input-size", "12", "--device", "cpu",
                "--out", str(run)])  # fmt: skip
    out = capsys.readouterr().out
    assert re.search(
        r"^class +train +val +test\ndark +9 +3 +3\nlight +9 +3 +3\n", out, re.MULTILINE
    )
    assert "val_fraction" not in out  # which has no meaning here
    assert "chosen by 6 validation images, whose accuracy moves in steps of 0.17" in out
    evaluate.main(["--checkpoint", str(run)])
    assert "6 test images of" in capsys.readouterr().out


BAD = {
    "image,label\na.png,b": "must begin with the names of its columns, path and label; got 'im",
    "": "got 'nothing'",
    "path,label": "names no pictures",
    "path,label\np/0.png,": "line 2: there is no label",
    "path,label\n,dark": "line 2: there is no path",
    "path,label\np/0.png,dark\nno.png,dark\ngone.png,light": "no picture no.png (line 3), gone",
    "path,label,split\np/0.png,dark,foo": "line 2: got the split 'foo', allowed are train, val",
    "path,label,split\np/0.png,dark,": "got the split ''",
    "path,label\np/0.png,dark\np/1.png,dark": "holds one class, dark; at least 2",
    "path,label\np/0.png,a\np/1.png,b\np/0.png,b": "line 4: p/0.png has another label or split",
    "path,label\np/0.png,a\np/1.png,b\np/2.png,a": "holds one picture of b; at least 2",
    "path,label,split\np/0.png,a,test\np/1.png,b,test": "holds test; there must be train",
    "path,label,split\np/0.png,a,train\np/1.png,b,train\np/2.png,c,test": "holds c in test, but",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_a_bad_list_is_refused_in_a_line(text, tmp_path, refused):
    write(tmp_path)
    file = tmp_path / "list.csv"
    file.write_text(text)
    assert BAD[text] in refused(train.main, "--data", file, "--out", tmp_path / "run")


def test_what_is_no_text_or_no_file(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"path,label\n\xff\xfe,a")
    with pytest.raises(ValueError, match=r"x\.csv is not text in UTF-8"):
        read_listing(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError, match=r"there is no list .*gone\.csv"):
        read_listing(tmp_path / "gone.csv")
