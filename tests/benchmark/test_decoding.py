"""The row about large photos."""

from torchcnn.benchmark import __main__ as benchmark
from torchcnn.benchmark import decoding


def test_a_photo_is_timed_in_three_ways(monkeypatch, capsys):
    monkeypatch.setattr(decoding, "WIDTH", 400)
    monkeypatch.setattr(decoding, "HEIGHT", 300)
    benchmark.main(["--decoding", "--rounds", "2"])
    head, _, _, ours, *theirs = capsys.readouterr().out.splitlines()
    assert head.startswith("a JPEG of 400×300 pixels and ") and head.endswith("one thread, n = 2")
    assert ours.split()[0] == "torchcnn" and ours.split()[2] == "1.00"
    assert [line.split("  ")[0] for line in theirs] == ["Pillow", "Pillow, draft"]
