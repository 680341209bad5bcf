"""Progress where there is no terminal."""

import io

from longrl.progress import Progress, track


def test_track_yields_everything_in_order(capsys):
    assert list(track(range(5), "count")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""  # less than ten seconds: no line


def test_lines_are_sparse():
    out = io.StringIO()
    with Progress("render", total=3, stream=out, every=3600.0) as progress:
        for done in (1, 2, 3):
            progress.update(done)
    assert out.getvalue() == ""


def test_line_names_what_is_counted():
    out = io.StringIO()
    with Progress("render", stream=out, every=0.0) as progress:
        progress.update(2, "loss 0.3")
    assert out.getvalue() == "render: 2, 0 s, loss 0.3\n"
