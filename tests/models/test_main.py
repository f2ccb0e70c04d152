"""The command that shows what networks are made of."""

import json

import pytest

from torchcnn.models import MODELS
from torchcnn.models.__main__ import main


def test_the_table_of_all_networks(capsys):
    names = list(MODELS)
    main([])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["name", "parameters", "MACs", "input", "layers"]
    assert [row.split()[0] for row in rows] == names
    lenet = rows[names.index("lenet")]
    assert lenet.split()[1:5] == ["44,878", "281,640", "1×28×28", "5"]
    main(["--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == names
    assert rows[names.index("lenet")]["macs"] == 281_640


def test_one_network_layer_by_layer(capsys):
    main(["resnet18", "--input-size", "96"])
    head, stem, first, *_, total, _, depth = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["layer", "kind", "kernel", "stride"] and stem == "stem"
    assert " ".join(first.split()) == "stem.0 Conv2d 7 2 64×48×48 3,200 7,225,344 7 2"
    assert total.split()[:2] == ["total", "11,178,378"]
    assert depth == "the longest path has 18 layers with weights"
    main(["lenet"])
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "stage2.3 MaxPool2d 2 2 16×4×4 0 0 16 4" in rows  # its own stride, and all of it
    assert "head.1 Linear 120 30,840 30,720 all 4" in rows
    assert [row for row in rows if row.isalnum()] == ["stage1", "stage2", "head"]
    main(["lenet", "--json"])
    layers = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert layers[0]["output"] == [6, 24, 24] and layers[-1]["receptive_field"] is None


def test_the_drawing(tmp_path):
    main(["lenet", "--graph", str(tmp_path / "net.png")])
    main(["lenet", "--graph", str(tmp_path / "net.svg")])
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "net.svg").read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lenett"], "did you mean lenet"),
        (["lenet", "--input-size", "9"], "at least 16 pixels"),
        (["lenet", "--graph", "net.pdf"], "draws .svg or .png files, got net.pdf"),
        (["--graph", "net.svg"], "require the name of a network"),
    ],
)
def test_bad_input_is_refused(argv, message, refused):
    assert message in refused(main, *argv)
