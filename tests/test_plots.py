"""Line plots: a point is where its axes say."""

import math
import xml.etree.ElementTree as ET

import pytest

from sfumato.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Band, Curve, plot, ticks

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*curves: Curve, **options) -> ET.Element:
    """A plot from 0 to 2 by 1 to 100, parsed."""
    return ET.fromstring(plot(curves, "a plot", "x", "y", (0, 2), (1, 100), **options))


def places(svg: ET.Element, tag: str = "polyline") -> list[tuple[float, float]]:
    found = svg.find(f".//{SVG}{tag}")
    assert found is not None
    return [(float(a), float(b)) for a, b in (pair.split(",") for pair in found.attrib["points"].split())]


@pytest.mark.parametrize(("logarithmic", "middle"), [(False, (100 - 10) / 99), (True, 0.5)])
def test_a_point_is_where_the_axes_say(logarithmic, middle):
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    (x1, y1), (x2, y2), (x3, y3) = places(
        drawn(Curve("c", [0, 1, 2], [1, 10, 100], "red"), logarithmic=logarithmic)
    )  # fmt: skip

    assert (x1, x2, x3) == (0, width / 2, width)
    assert (y1, y3) == (height, 0)
    assert y2 == pytest.approx(height * middle, abs=0.1)


def test_a_mark_lies_on_its_curve():
    svg = drawn(Curve("c", [0, 1], [1, 50], "red", marks=[(1, 50)]))
    circle = svg.find(f".//{SVG}circle")
    x, y = places(svg)[1]

    assert circle is not None
    assert float(circle.attrib["cx"]) == pytest.approx(LEFT + x, abs=0.11)
    assert float(circle.attrib["cy"]) == pytest.approx(TOP + y, abs=0.11)


def test_a_band_goes_out_along_its_lower_edge_and_back_along_its_upper():
    ring = places(drawn(bands=[Band("b", [0, 2], [10, 20], [30, 40], "red")]), "polygon")

    assert [x for x, _ in ring] == [0, ring[1][0], ring[1][0], 0]
    assert ring[0][1] > ring[3][1] and ring[1][1] > ring[2][1]  # low values are further down


def test_infinite_values_are_left_out_and_names_are_escaped():
    svg = drawn(Curve("a < b", [0, 1, 2], [math.inf, 5, 6], "red"))

    assert len(places(svg)) == 2
    assert "a < b" in [text.text for text in svg.iter(f"{SVG}text")]


@pytest.mark.parametrize("ends", [(0, 1), (-14, 14), (0.9, 3.1), (1e-4, 7e-4), (-1.73, 0.4)])
def test_ticks_are_four_to_ten_round_numbers_inside(ends):
    low, high = ends
    found = ticks(low, high)
    step = found[1] - found[0]

    assert 4 <= len(found) <= 10
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)
    assert any(math.isclose(step / 10**k, m) for k in range(-6, 3) for m in (1, 2, 2.5, 5))


def test_ticks_of_powers_of_ten_are_whole():
    assert ticks(-6, 0, whole=True) == [-6, -5, -4, -3, -2, -1, 0]
    assert all(tick == round(tick) for tick in ticks(-0.5, 2, whole=True))
