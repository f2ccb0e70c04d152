"""The command that shows what networks are made of."""

import json
import shutil

import pytest

from torchcnn.models import MODELS
from torchcnn.models import __main__ as module
from torchcnn.models.__main__ import main


def test_the_table_of_all_networks(capsys):
    main([])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["name", "parameters", "MACs", "input", "layers"]
    assert [row.split()[0] for row in rows] == list(MODELS)
    lenet = next(row for row in rows if row.startswith("lenet"))
    assert lenet.split()[1:5] == ["44,878", "281,640", "1×28×28", "5"]


def test_the_table_as_json(capsys, monkeypatch):
    monkeypatch.setattr(module, "MODELS", {name: MODELS[name] for name in ("lenet", "nin")})
    main(["--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["lenet", "nin"] and rows[0]["macs"] == 281_640


def test_one_network_layer_by_layer(capsys):
    main(["resnet18", "--input-size", "96"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].split() == ["stem.0", "Conv2d", "64×48×48", "3,200", "7,225,344", "7", "2"]
    assert rows[-1].split()[0] == "11,178,378"
    main(["lenet"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[8].split() == ["stage2.3", "MaxPool2d", "16×4×4", "0", "0", "16", "4"]
    assert rows[10].split() == ["head.1", "Linear", "120", "30,840", "30,720", "all", "4"]
    main(["lenet", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["output"] == [6, 24, 24]


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_drawing(tmp_path, ending):
    if not shutil.which("dot"):
        pytest.skip("Graphviz's program dot is not installed")
    path = tmp_path / f"net.{ending}"
    main(["tf_resnet18", "--graph", str(path)])
    content = path.read_bytes()
    if ending == "png":
        assert content.startswith(b"\x89PNG")
    else:
        text = content.decode()
        assert "stage4.0.conv1" in text
        # Nine nodes and eight (an identity) in the last two blocks, the sums and ReLUs among them.
        assert text.count("512×4×4") == 17


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lenett"], "did you mean lenet"),
        (["lenet", "--input-size", "9"], "at least 16 pixels"),
        (["lenet", "--graph", "net.pdf"], "draws .svg or .png files, got net.pdf"),
        (["--graph", "net.svg"], "require the name of a network"),
    ],
)
def test_bad_input_is_refused(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and error.count("\n") == 1


def test_no_graphviz_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        main(["lenet", "--graph", str(tmp_path / "net.svg")])
    assert caught.value.code == 2 and "dot, which is not installed" in capsys.readouterr().err
    assert not (tmp_path / "net.svg").exists()
