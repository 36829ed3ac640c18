from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from frostline.report.canvas import save
from frostline.report.colours import palette
from frostline.report.pictures import Masked, Shot
from frostline.report.sheets import (
    LETTERS,
    LISTED,
    ORDER,
    VEIL,
    mistakes_sheet,
    overlay,
    overlay_sheet,
    views_sheet,
)

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


def shot(number: int, true: str = "ant", predicted: str = "bee", p: float = 0.5) -> Shot:
    return Shot(number, f"val/ants/{number}.jpg", true, predicted, p, pictures())


def masked(truth: np.ndarray, predicted: np.ndarray, name: str = "a.jpg", iou: float = 0.5) -> Masked:
    return Masked(name, iou, pictures(), truth, predicted)


@pytest.mark.parametrize("count", [1, 2, 6, 7, 13])
def test_each_mistake_has_its_picture_its_file_and_its_caption(count: int, tmp_path) -> None:
    wrong = [shot(i) for i in range(count)]
    figure = mistakes_sheet(wrong, count, "99 validation images")
    assert np.array_equal(np.stack(drawn(figure)), np.stack([own.pixels for own in wrong]))
    assert [axes.get_xlabel() for axes in figure.axes] == ["ant → bee 0.50"] * count
    assert [axes.get_title() for axes in figure.axes] == [f"{i}.jpg" for i in range(count)]
    save(figure, tmp_path, "mistakes")


def test_the_heading_says_how_many_of_how_many_and_how_to_read_it() -> None:
    def heading(shown: int, count: int) -> str:
        (text,) = mistakes_sheet([shot(i) for i in range(shown)], count, "153 validation images").texts
        return text.get_text().replace("\n", " ")

    read = "Read: true → predicted, with the probability of the prediction."
    assert heading(16, 55) == f"16 of 55 mistakes among 153 validation images {read}{ORDER}"
    assert heading(7, 7) == f"7 mistakes among 153 validation images {read}{ORDER}"
    assert heading(1, 1) == f"1 mistake among 153 validation images {read}"


@pytest.mark.parametrize("count", range(1, 19))
def test_pictures_fill_their_sheet(count: int) -> None:
    figure = mistakes_sheet([shot(i) for i in range(count)], count, "20 images")
    covered = sum(axes.get_position().width * axes.get_position().height for axes in figure.axes)
    assert covered > 0.5


def test_the_heading_lies_above_the_pictures_and_within_the_sheet(tmp_path) -> None:
    for count in (1, 2, 5, 18):
        figure = mistakes_sheet([shot(i) for i in range(count)], 1234, "10,000 cross-fitted images")
        save(figure, tmp_path, "mistakes")
        box = figure.texts[0].get_window_extent()
        assert box.x1 <= figure.bbox.x1
        assert box.y0 > max(axes.title.get_window_extent().y1 for axes in figure.axes)


def test_long_names_keep_their_ends_and_the_probability() -> None:
    long = shot(0, "Staffordshire bullterrier of the north", "American Staffordshire terrier", 0.91)
    three = [Shot(0, "a/" + "x" * 80 + "7.jpeg", long.true, long.predicted, long.p, long.pixels)] * 4
    axes = mistakes_sheet(three, 4, "9 images").axes[0]
    true, predicted = axes.get_xlabel().split("\n")
    assert true.startswith("Staffordshir")
    assert predicted.startswith("→ American")
    assert predicted.endswith("0.91")
    assert axes.get_title().startswith("xxx")
    assert axes.get_title().endswith("7.jpeg")
    assert len(axes.get_title()) <= LETTERS


def test_several_labels_or_none_are_named() -> None:
    figure = mistakes_sheet([shot(0, "", "a|b"), shot(1, "a|b", "")], 2, "9 images")
    assert [axes.get_xlabel() for axes in figure.axes] == ["none → a|b 0.50", "a|b → none 0.50"]


def test_pictures_do_not_overlap() -> None:
    boxes = [axes.get_position() for axes in mistakes_sheet([shot(i) for i in range(13)], 13, "20 images").axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    for i, one in enumerate(boxes):
        for two in boxes[:i]:
            assert one.x0 >= two.x1 or two.x0 >= one.x1 or one.y0 >= two.y1 or two.y0 >= one.y1


def test_masks_lie_over_their_pictures_with_names_and_values(tmp_path) -> None:
    own = [masked(*masks(2, 3), name=f"images/garden {i} $.jpg", iou=0.25 * i) for i in range(2)]
    figure = overlay_sheet(own, ["sky", "ant $", "金"], "2 of 9 validation images")
    for i, each in enumerate(own):
        row = drawn(figure)[3 * i : 3 * i + 3]
        assert np.array_equal(row[0], each.pixels)
        assert np.array_equal(row[1], overlay(each.pixels, each.truth, palette(3), edges=each.truth))
        assert np.array_equal(row[2], overlay(each.pixels, each.predicted, palette(3), edges=each.truth))
        assert figure.axes[3 * i].xaxis.get_label_text() == f"garden {i} $.jpg · mean IoU {0.25 * i:.3f}"
    assert [axes.get_title() for axes in figure.axes[:3]] == ["picture", "true", "predicted"]
    assert figure.texts[0].get_text() == "2 of 9 validation images"
    assert legend(figure)[:2] == ["sky (bare)", "ant $"]
    assert legend(figure)[-1] == "edge of the ground truth"
    save(figure, tmp_path, "masks")


@given(st.integers(2, 255), st.integers(0, 255))
def test_the_first_class_is_bare_and_the_others_are_coloured(classes: int, value: int) -> None:
    picture = pictures()
    laid = overlay(picture, np.full((8, 8), value, np.uint8), palette(classes)).astype(int)
    if value == 0:
        assert np.array_equal(laid, picture)
    elif value >= classes:
        assert np.all(laid >= picture)
        assert np.all(laid >= 255 * VEIL - 1)
    else:
        colour = palette(classes)[value]
        assert np.all(laid >= np.minimum(picture, colour))
        assert np.all(laid <= np.maximum(picture, colour))
        assert np.array_equal(laid[0, 0], colour)  # the edge of a region has its full colour


def test_a_grey_picture_is_coloured_too() -> None:
    grey = chance.integers(0, 256, (8, 8, 1)).astype(np.uint8)
    laid = overlay(grey, np.zeros((8, 8), np.uint8), palette(3))
    assert np.array_equal(laid, np.repeat(grey, 3, 2))


def test_true_and_predicted_regions_have_edges_of_their_own() -> None:
    picture = np.full((40, 40, 3), 120, np.uint8)
    truth, predicted = np.zeros((2, 40, 40), np.uint8)
    truth[5:20, 5:20] = 1
    predicted[10:35, 10:35] = 1
    laid = overlay(picture, predicted, palette(2), edges=truth)
    assert np.array_equal(laid[5, 5:20], np.full((15, 3), 255))  # white: an edge of the ground truth
    assert np.array_equal(laid[34, 25:35], np.broadcast_to(palette(2)[1], (10, 3)))  # of what is predicted
    assert np.array_equal(laid[7, 7], [120, 120, 120])  # missed: bare inside a white edge
    assert not np.array_equal(laid[30, 30], [120, 120, 120])  # too much: coloured outside it
    assert laid[4, 10].max() < 60  # dark beside the white, for bright pictures


def test_the_legend_names_only_what_occurs() -> None:
    truth = np.zeros((8, 8), np.uint8)
    truth[0] = 255
    figure = overlay_sheet([masked(truth, np.full((8, 8), 2, np.uint8))], ["sky", "ant", "bee"], "1 image")
    assert legend(figure) == ["sky (bare)", "bee", "ignored", "edge of the ground truth"]


def test_classes_have_the_colours_of_the_user() -> None:
    truth = np.full((8, 8), 1, np.uint8)
    figure = overlay_sheet([masked(truth, truth)], ["sky", "ant"], "1 image", (0, 0xFF00C8))
    assert figure.legends[0].get_patches()[0].get_facecolor() == (1, 0, 200 / 255, 1)
    assert drawn(figure)[2][0, 4].tolist() == [255, 255, 255]  # the edge of the truth
    assert np.array_equal(
        drawn(figure)[2], overlay(figure.axes[0].images[0].get_array(), truth, palette(2, (0, 0xFF00C8)), truth)
    )


def test_a_legend_of_many_classes_is_cut() -> None:
    truth = np.arange(64, dtype=np.uint8).reshape(8, 8)
    named = legend(overlay_sheet([masked(truth, truth)], [str(i) for i in range(64)], "1 image"))
    assert len(named) == LISTED + 2
    assert named[-2] == f"and {64 - LISTED} more"


def test_sheets_of_nothing_say_so(tmp_path) -> None:
    empty = (
        views_sheet(pictures(0, 4), []),
        mistakes_sheet([], 0, "12 validation images"),
        overlay_sheet([], ["a", "b"], "none"),
    )
    for figure in empty:
        assert not figure.axes
        assert "no " in figure.texts[0].get_text()
        save(figure, tmp_path, "nothing")
