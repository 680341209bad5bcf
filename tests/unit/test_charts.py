"""Charts: well-formed SVG whose marks sit where the values say."""

from xml.etree import ElementTree

import pytest

from longrl.evaluation.charts import Axis, Bar, Line, bar_chart, line_chart, nice_axis, percent_axis

NAMESPACE = "{http://www.w3.org/2000/svg}"


def parse(svg):
    return ElementTree.fromstring(svg)


def test_a_point_is_placed_in_proportion():
    line = Line("rl", "rl", [(0, 0), (5, 25), (10, 100)])
    svg = parse(line_chart([line], Axis(0, 10, ()), percent_axis("accuracy"), dots=True))
    (ax, ay), (bx, by), (cx, cy) = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
    assert (bx - ax) / (cx - ax) == pytest.approx(0.5, abs=0.01)
    assert (by - ay) / (cy - ay) == pytest.approx(0.25, abs=0.01)


def test_a_bar_is_as_tall_as_its_value():
    svg = parse(bar_chart([("all", [Bar("SFT", "sft", 30.0), Bar("RL", "rl", 60.0)])], percent_axis("accuracy")))
    first, second = [float(bar.get("height")) for bar in svg.iter("rect")]
    assert second == pytest.approx(2 * first, rel=0.01)


def test_a_missing_value_leaves_a_gap():
    svg = parse(bar_chart([("all", [Bar("SFT", "sft", None), Bar("RL", "rl", 60.0)])], percent_axis("accuracy")))
    assert len(list(svg.iter("rect"))) == 1


def test_an_error_bar_spans_one_standard_error_each_way():
    svg = parse(bar_chart([("all", [Bar("RL", "rl", 50.0, 10.0)])], percent_axis("accuracy")))
    (path,) = [path.get("d") for path in svg.iter("path")]
    top, bottom = float(path.split("V")[0].split(" ")[1]), float(path.split("V")[1].split("M")[0])
    height = float(next(svg.iter("rect")).get("height"))
    assert (bottom - top) / height == pytest.approx(20 / 50, abs=0.01)


def test_names_are_escaped():
    hostile = "<script>alert(1)</script>"
    svg = line_chart(
        [Line(hostile, "rl", [(0, 1)])], Axis(0, 1, ()), Axis(0, 1, (), hostile), [(0, 1, hostile)], (0.5, hostile)
    )
    assert "<script" not in svg
    parse(svg)


@pytest.mark.parametrize("values", [[], [0.0], [5.0], [3.0, 3.0], [1e-7, 2e-7], [-4.0, 9.0], [12345.0]])
def test_any_values_have_an_axis_that_holds_them(values):
    axis = nice_axis(values, "loss")
    assert axis.low < axis.high
    assert all(axis.low <= value <= axis.high + 1e-12 for value in values)
    assert 2 <= len(axis.ticks) <= 8
