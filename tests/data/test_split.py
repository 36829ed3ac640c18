from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.data.images import Images
from frostline.data.masks import Masks
from frostline.data.split import chosen_splits, image_set, single, some_of_each, split, stratified, whole_groups
from frostline.errors import DataError

fractions = st.floats(0.05, 0.9)
seeds = st.integers()
labels = st.lists(st.integers(0, 5), min_size=1, max_size=80)


def names_of(targets: list[int]) -> list[str]:
    return [f"image-{i}" for i in range(len(targets))]


def images_of(targets: list[int]) -> Images:
    names = names_of(targets)
    pictures = [np.full((1, 1), i, np.uint8) for i in range(len(targets))]
    return Images(pictures, np.array(targets, np.int64), names)


@given(labels, fractions, seeds)
def test_split_is_a_partition_in_the_given_order(targets: list[int], fraction: float, seed: int) -> None:
    whole = images_of(targets)
    rest, chosen = split(whole, fraction, seed)
    assert sorted([*rest.names, *chosen.names]) == sorted(whole.names)
    for part in (rest, chosen):
        numbers = [whole.names.index(name) for name in part.names]
        assert numbers == sorted(numbers)
        assert part.targets.tolist() == [targets[i] for i in numbers]
        assert [picture[0, 0] for picture in part.pictures] == numbers


@given(labels, fractions, seeds)
def test_every_class_gives_its_share_and_keeps_an_image(targets: list[int], fraction: float, seed: int) -> None:
    chosen = stratified(np.array(targets), names_of(targets), fraction, seed)
    for target in set(targets):
        count = targets.count(target)
        taken = int(chosen[np.array(targets) == target].sum())
        assert taken < count
        assert taken >= 1 or count == 1
        if count > 1:
            assert taken == min(max(1, round(fraction * count)), count - 1)


@given(labels, fractions, seeds)
def test_same_seed_same_split(targets: list[int], fraction: float, seed: int) -> None:
    first = stratified(np.array(targets), names_of(targets), fraction, seed)
    assert np.array_equal(stratified(np.array(targets), names_of(targets), fraction, seed), first)


def test_other_seed_other_split() -> None:
    targets = np.arange(200) % 4
    splits = {stratified(targets, names_of(list(targets)), 0.2, seed).tobytes() for seed in range(20)}
    assert len(splits) == 20


def test_every_image_is_chosen_about_equally_often() -> None:
    targets = np.zeros(20, int)
    often = sum(stratified(targets, names_of(list(targets)), 0.25, seed).astype(int) for seed in range(400))
    assert often.sum() == 400 * 5
    assert often.min() > 60
    assert often.max() < 140


@given(labels, fractions, seeds, st.randoms(use_true_random=False))
def test_order_of_the_images_does_not_matter(targets: list[int], fraction: float, seed: int, chance) -> None:
    names, order = names_of(targets), list(range(len(targets)))
    chance.shuffle(order)
    chosen = stratified(np.array(targets), names, fraction, seed)
    shuffled = stratified(np.array(targets)[order], [names[i] for i in order], fraction, seed)
    assert np.array_equal(shuffled, chosen[order])


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), fractions, seeds, st.data())
def test_an_image_less_moves_at_most_one_other(
    targets: list[int], fraction: float, seed: int, data: st.DataObject
) -> None:
    gone = data.draw(st.integers(0, len(targets) - 1))
    kept = [i for i in range(len(targets)) if i != gone]
    names = names_of(targets)
    before = stratified(np.array(targets), names, fraction, seed)[kept]
    after = stratified(np.array(targets)[kept], [names[i] for i in kept], fraction, seed)
    assert (before != after).sum() <= 1


def test_names_that_are_no_unicode_split_too() -> None:
    names = [b"\xff.jpg".decode("utf-8", "surrogateescape"), "ö.jpg", "o\u0308.jpg", ""]
    assert stratified(np.zeros(4, int), names, 0.5, 0).sum() == 2


def test_split_of_nothing_is_nothing() -> None:
    assert len(stratified(np.zeros(0, np.int64), [], 0.2, 0)) == 0


label_sets = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=60)


@given(label_sets, fractions, seeds)
def test_of_several_labels_the_rarest_gives_its_share(marks: list[list[bool]], fraction: float, seed: int) -> None:
    targets = np.array(marks)
    often = targets.sum(axis=0)
    groups = [min(np.flatnonzero(row), key=lambda label: (often[label], label), default=-1) for row in targets]
    names = names_of(groups)
    assert np.array_equal(
        stratified(targets, names, fraction, seed), stratified(np.array(groups), names, fraction, seed)
    )


@given(labels, fractions, seeds)
def test_one_label_each_is_split_as_classes_are(targets: list[int], fraction: float, seed: int) -> None:
    marks = np.eye(6, dtype=bool)[targets]
    names = names_of(targets)
    assert np.array_equal(
        stratified(marks, names, fraction, seed), stratified(np.array(targets), names, fraction, seed)
    )


@given(st.integers(1, 60), fractions, seeds)
def test_masks_are_one_group(count: int, fraction: float, seed: int) -> None:
    masks = Masks([np.zeros((1, 1), np.uint8)] * count, np.arange(256, dtype=np.uint8))
    names = names_of([0] * count)
    assert np.array_equal(
        stratified(masks, names, fraction, seed), stratified(np.zeros(count, int), names, fraction, seed)
    )


@given(st.lists(st.integers(2, 40), min_size=2, max_size=30), st.integers(1, 60), seeds)
def test_a_limit_is_held_as_far_as_every_class_keeps_one(sizes: list[int], most: int, seed: int) -> None:
    targets = np.repeat(np.arange(len(sizes)), sizes)
    free = np.bincount(targets[stratified(targets, names_of(targets), 0.4, seed)])
    chosen = stratified(targets, names_of(targets), 0.4, seed, most)
    counts = np.bincount(targets[chosen], minlength=len(sizes))
    assert counts.min() >= 1
    assert counts.sum() == min(free.sum(), max(most, len(sizes)))
    assert (counts <= free).all()
    assert counts.max() - counts[counts < free].min(initial=counts.max()) <= 1  # those that were largest give


def test_validation_is_taken_from_training_only_where_there_is_none() -> None:
    whole = {"train": images_of([0, 1] * 10), "test": images_of([0, 1])}
    images = image_set("pets", ("cat", "dog"), whole, 0)
    assert {name: len(part) for name, part in images.splits.items()} == {"train": 16, "valid": 4, "test": 2}
    assert images.test is whole["test"]
    assert images.notes == ()
    again = image_set("pets", ("cat", "dog"), images.splits, 1, ["said before"])
    assert again.splits == images.splits
    assert again.notes == ("said before",)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": images_of([])}, "no training images in pets.csv$"),
        ({"train": images_of([0, 1]), "valid": images_of([])}, "no validation images in pets.csv; add some, or leave"),
    ],
)
def test_nothing_to_train_on_or_to_choose_by(splits: dict[str, Images], message: str) -> None:
    with pytest.raises(DataError, match=message):
        image_set("pets", ("cat", "dog"), splits, 0, where="pets.csv")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), seeds)
def test_the_smallest_sets_are_divided_with_notes(labels: list[int], seed: int) -> None:
    """Whatever there are of images and classes: nothing is lost, and what cannot be measured is said."""
    names = tuple("abcdefghij")
    whole = images_of(labels)
    images = image_set("few", names, {"train": whole}, seed)
    trained, measured = (np.bincount(part.targets, minlength=10) for part in (images.train, images.valid))
    notes = dict(note.split(": ") for note in images.notes if note.startswith(("only", "no validation")))
    if max(labels.count(label) for label in labels) == 1:
        assert images.valid is images.train
        assert "validation uses the training images" in images.notes[0]
    else:
        assert sorted([*images.train.names, *images.valid.names]) == sorted(whole.names)
        assert len(images.notes) == len(notes)
    assert ((trained > 0) == (np.bincount(labels, minlength=10) > 0)).all()
    for counts, value, key in ((trained, 1, "only one"), (measured, 0, "no validation")):
        note = next((note for start, note in notes.items() if start.startswith(key)), "")
        told = [name for name, count in zip(names, counts, strict=True) if count == value]
        more = f" and {len(told) - 5} more" if len(told) > 5 else ""
        assert note == ", ".join(told[:5]) + more


def test_notes_of_several_labels_count_each() -> None:
    marks = np.array([[True, False, True], [True, False, False]])
    part = Images([np.zeros((1, 1), np.uint8)] * 2, marks, ["0", "1"])
    notes = image_set("few", ("a", "b", "c"), {"train": part, "valid": part.take(np.array([1]))}, 0).notes
    assert notes == (
        "only one training image: c",
        "no validation images, so nothing measures their accuracy: b, c",
    )


@pytest.mark.parametrize(
    ("found", "wanted", "names", "choice"),
    [
        (["train", "valid", "test"], "", ["test"], "test"),
        (["train", "valid"], "", ["valid"], "valid"),
        (["train"], "", ["train"], "all"),
        (["train", "valid"], "train", ["train"], "train"),
        (["train", "test"], "all", ["train", "test"], "all"),
    ],
)
def test_which_splits_are_measured_on(found: list[str], wanted: str, names: list[str], choice: str) -> None:
    assert chosen_splits(found, wanted, "pets") == (names, choice)


def test_a_split_that_is_not_there() -> None:
    with pytest.raises(DataError, match="pets has no test split; it has train, valid$"):
        chosen_splits(["train", "valid"], "test", "pets")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=60), fractions, seeds)
def test_images_of_one_content_are_in_one_part(images: list[tuple[int, int]], fraction: float, seed: int) -> None:
    targets, contents = (np.array(column) for column in zip(*images, strict=True))
    chosen = stratified(targets, names_of(images), fraction, seed, contents=contents)
    for content in set(contents):
        own = chosen[contents == content]
        assert own.all() or not own.any()
        if len(set(targets[contents == content])) > 1:
            assert not own.any()  # no label can be the right one
    assert set(targets[~chosen]) == set(targets)


@given(labels, fractions, seeds)
def test_different_contents_change_nothing(targets: list[int], fraction: float, seed: int) -> None:
    names, contents = names_of(targets), np.arange(len(targets))[::-1]
    found = stratified(np.array(targets), names, fraction, seed, contents=contents)
    assert np.array_equal(found, stratified(np.array(targets), names, fraction, seed))


def test_many_groups_are_dealt_out_quickly() -> None:
    # 3,000 groups took seconds when each one was weighed against all others
    targets, groups = np.arange(3000) % 10, [str(i) for i in range(3000)]
    chosen = whole_groups(targets, groups, 0.2, 0)
    assert np.bincount(targets[chosen]).tolist() == [60] * 10


def test_the_only_image_of_a_class_is_known_and_of_several_labels_none_is() -> None:
    assert single(np.array([0, 1, 1, 2])).tolist() == [True, False, False, True]
    assert single(np.array([0, 1, 1, 2, 2]), np.array([0, 1, 2, 3, 3])).tolist() == [True, False, False, True, True]
    assert not single(np.eye(3, dtype=bool)).any()


@pytest.mark.parametrize("images_per_class", [1, 2, 50])
def test_some_of_each_are_never_none_and_never_too_many(images_per_class: int) -> None:
    """R24: of 20,000 classes of one image the stratified part is empty, of two images it has one of each."""
    chosen = some_of_each(images_of([number // images_per_class for number in range(250)]), 20)
    assert 0 < len(chosen) <= 20
    assert sorted(set(chosen.tolist())) == chosen.tolist()
