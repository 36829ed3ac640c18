from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from frostline.report.canvas import save
from frostline.report.colours import palette
from frostline.report.sheets import LISTED, mistakes_sheet, overlay, overlay_sheet, views_sheet

chance = np.random.default_rng(0)


def pictures(*shape: int) -> np.ndarray:
    return chance.integers(0, 256, (*shape, 8, 8, 3)).astype(np.uint8)


def masks(count: int, classes: int) -> np.ndarray:
    return chance.integers(0, classes, (count, 8, 8)).astype(np.uint8)


def drawn(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(("images", "views"), [(1, 1), (3, 4), (6, 1)])
def test_a_row_is_an_image_and_a_column_a_view(images: int, views: int, tmp_path) -> None:
    grid = pictures(images, views)
    figure = views_sheet(grid, [f"金 {i} $.jpg" for i in range(images)])
    assert np.array_equal(np.stack(drawn(figure)), grid.reshape(-1, 8, 8, 3))
    titles = [axes.get_title() for axes in figure.axes[:views]]
    assert titles == ["view 0, as evaluated", *(f"view {i}" for i in range(1, views))]
    assert len({axes.get_position().y0.round(6) for axes in figure.axes}) == images
    assert len({axes.get_position().x0.round(6) for axes in figure.axes}) == views
    save(figure, tmp_path, "views")


def test_a_title_for_each_image() -> None:
    with pytest.raises(ValueError, match="zip"):
        views_sheet(pictures(2, 3), ["one"])


@pytest.mark.parametrize("count", [1, 2, 6, 7, 13])
def test_each_mistake_has_its_picture_and_caption(count: int, tmp_path) -> None:
    wrong = pictures(count)
    figure = mistakes_sheet(wrong, [f"{i} → b 0.5" for i in range(count)])
    assert np.array_equal(np.stack(drawn(figure)), wrong)
    assert [axes.get_xlabel() for axes in figure.axes] == [f"{i} → b 0.5" for i in range(count)]
    save(figure, tmp_path, "mistakes")


def test_a_long_caption_keeps_the_probability() -> None:
    caption = "Staffordshire bullterrier of the north → American Staffordshire terrier 0.91"
    true, predicted = mistakes_sheet(pictures(1), [caption]).axes[0].get_xlabel().split("\n")
    assert true.startswith("Staffordshir")
    assert predicted.startswith("→ American")
    assert predicted.endswith("0.91")


def test_pictures_do_not_overlap() -> None:
    boxes = [axes.get_position() for axes in mistakes_sheet(pictures(13), ["a → b 1"] * 13).axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    for i, one in enumerate(boxes):
        for two in boxes[:i]:
            assert one.x0 >= two.x1 or two.x0 >= one.x1 or one.y0 >= two.y1 or two.y0 >= one.y1


def test_masks_lie_over_their_pictures(tmp_path) -> None:
    shots, truth, predicted = pictures(2), masks(2, 3), masks(2, 3)
    figure = overlay_sheet(shots, truth, predicted, ["sky", "ant $", "金"])
    for i in range(2):
        row = drawn(figure)[3 * i : 3 * i + 3]
        assert np.array_equal(row[0], shots[i])
        assert np.array_equal(row[1], overlay(shots[i], truth[i], 3))
        assert np.array_equal(row[2], overlay(shots[i], predicted[i], 3))
    assert [axes.get_title() for axes in figure.axes[:3]] == ["picture", "true", "predicted"]
    assert legend(figure)[:2] == ["sky", "ant $"]
    save(figure, tmp_path, "masks")


@given(st.integers(1, 255), st.integers(0, 255))
def test_an_overlay_is_between_the_picture_and_the_colour(classes: int, value: int) -> None:
    picture = pictures()
    laid = overlay(picture, np.full((8, 8), value, np.uint8), classes).astype(int)
    if value >= classes:
        assert np.array_equal(laid, picture)
    else:
        colour = palette(classes)[value]
        assert np.all(laid >= np.minimum(picture, colour))
        assert np.all(laid <= np.maximum(picture, colour))


def test_the_legend_names_only_what_occurs() -> None:
    truth = np.zeros((1, 8, 8), np.uint8)
    truth[0, 0] = 255
    figure = overlay_sheet(pictures(1), truth, np.full((1, 8, 8), 2, np.uint8), ["sky", "ant", "bee"])
    assert legend(figure) == ["sky", "bee", "counts for nothing"]


def test_a_legend_of_many_classes_is_cut() -> None:
    truth = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    named = legend(overlay_sheet(pictures(1), truth, truth, [str(i) for i in range(64)]))
    assert len(named) == LISTED + 1
    assert named[-1] == f"and {64 - LISTED} more"


def test_sheets_of_nothing_say_so(tmp_path) -> None:
    empty = (
        views_sheet(pictures(0, 4), []),
        mistakes_sheet(pictures(0), []),
        overlay_sheet(pictures(0), masks(0, 2), masks(0, 2), ["a", "b"]),
    )
    for figure in empty:
        assert not figure.axes
        assert "no " in figure.texts[0].get_text()
        save(figure, tmp_path, "nothing")
