"""The picture of a curve."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from stateless_app import schedule

from gradstep_server.schedulers import SCHEDULERS, Curve, window
from gradstep_server.web.picture import jumps, picture

SVG = "{http://www.w3.org/2000/svg}"
STEP = schedule("StepLR", step_size=30)


def _draw(curve: Curve, title: str = "StepLR", subtitle: str = "") -> ET.Element:
    return ET.fromstring(picture(curve, title, subtitle))  # noqa: S314 - our own output


def _lines(root: ET.Element) -> list[str]:
    paths = root.iter(f"{SVG}path")
    return [p.attrib["d"] for p in paths if re.search(r"H\d.*V|L", p.attrib["d"])]


def _texts(root: ET.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def test_a_picture_stands_alone() -> None:
    page = picture(Curve(STEP, (0.1,), window(100)), "StepLR").decode()
    assert page.replace("http://www.w3.org/2000/svg", "").count("http") == 0
    assert "<script" not in page
    assert "prefers-color-scheme:dark" in page


def test_a_picture_has_a_title_labels_and_names_of_its_axes() -> None:
    texts = _texts(_draw(Curve(STEP, (0.1,), window(100)), "StepLR", "step_size=30"))
    assert {"StepLR", "step_size=30", "learning rate", "step", "0.10", "80"} <= set(texts)


def test_a_jump_is_drawn_upright_at_the_step_that_first_uses_the_new_rate() -> None:
    (line,) = _lines(_draw(Curve(STEP, (0.1,), window(91))))
    # 91 points over 664 units: step 30 is a third of the way.
    third = 72 + 664 / 3
    assert f"H{third:.2f}V" in line
    assert line.count("V") == 2  # the last change of rate is at the end of the window


def test_a_glide_is_drawn_as_straight_pieces() -> None:
    cosine = schedule("CosineAnnealingLR", T_max=100)
    (line,) = _lines(_draw(Curve(cosine, (0.1,), window(100))))
    assert "H" not in line
    assert line.count("L") == 99


def test_a_level_stretch_is_one_piece() -> None:
    (line,) = _lines(_draw(Curve(STEP, (0.1,), window(91))))
    assert len(re.findall("[MHVL]", line)) <= 8


def test_each_group_has_a_line_of_its_own_colour_and_an_entry_in_the_legend() -> None:
    root = _draw(Curve(STEP, (0.1, 0.02), window(100)))
    assert len(_lines(root)) == 2
    assert {"group 0: 0.1", "group 1: 0.02"} <= set(_texts(root))


def test_one_group_needs_no_legend() -> None:
    assert not any("group" in text for text in _texts(_draw(Curve(STEP, (0.1,), window(9)))))


def test_a_long_legend_is_cut() -> None:
    texts = _texts(_draw(Curve(STEP, tuple(0.1 * i for i in range(9)), window(100))))
    assert sum(text.startswith("group") for text in texts) == 4
    assert "and 5 more" in texts


@pytest.mark.parametrize(("points", "dots"), [(1, 1), (40, 40), (41, 0)])
def test_few_points_are_marked(points: int, dots: int) -> None:
    root = _draw(Curve(STEP, (0.1,), window(points)))
    assert len(list(root.iter(f"{SVG}circle"))) == dots


def test_all_points_are_inside_the_frame() -> None:
    linear = schedule("LinearLR", start_factor=0.1, total_iters=50)
    root = _draw(Curve(linear, (0.37, 1e-9, 0.0), window(60, start=10**9)))
    for line in _lines(root):
        pairs = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", line)
        assert all(72 <= float(x) <= 736 and 94 <= float(y) <= 326 for x, y in pairs)


def test_text_is_escaped_and_a_long_subtitle_cut() -> None:
    root = _draw(Curve(STEP, (0.1,), window(9)), "<b>&", "x" * 500)
    texts = _texts(root)
    assert "<b>&" in texts
    assert max(map(len, texts)) <= 110


def test_only_a_change_steeper_than_both_its_neighbours_is_a_jump() -> None:
    t = np.arange(8)
    assert jumps(t, np.array([1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1])) == [
        *[False] * 2,
        True,
        *[False] * 4,
    ]
    assert not any(jumps(t, np.power(0.1, t)))
    assert not any(jumps(t, np.linspace(0, 1, 8)))
    assert jumps(np.arange(1), np.ones(1)) == []


def test_a_jump_is_found_where_points_are_far_apart() -> None:
    t = np.array([0, 400, 499, 500, 900])
    assert jumps(t, np.array([1.0, 1.0, 1.0, 0.1, 0.1])) == [False, False, True, False]


def test_a_long_title_is_cut() -> None:
    curve = Curve(SCHEDULERS["StepLR"].model_validate({"step_size": 3}), (0.1,), range(10))
    title = next(text for text in _texts(_draw(curve, title="x" * 200)) if text.startswith("x"))
    assert len(title) <= 70
    assert title.endswith("…")
