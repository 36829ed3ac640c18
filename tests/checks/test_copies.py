from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import draw_images
from frostline.checks.copies import findings, identical, versions, versions_of_known
from frostline.checks.look import look
from frostline.checks.samples import Samples, samples_of
from frostline.checks.thumbnails import telling
from frostline.data.images import Images

CLASSES = ("a", "b", "c")


def part(prefix: str, numbers: list[int], targets: list[int] | None = None) -> Images:
    """Some of the same drawn pictures, under names of their own."""
    drawn = draw_images(30)
    pictures = np.stack([drawn.pictures[i] for i in numbers])
    chosen = drawn.targets[numbers] if targets is None else np.array(targets, np.int64)
    return Images(pictures, chosen, [f"{prefix}{i}" for i in range(len(numbers))])


def found(**splits: Images) -> dict[str, list[tuple[str, ...]]]:
    checks = look(samples_of(splits, CLASSES))
    return {kind: [finding.paths for finding in checks.of(kind)] for kind, n in checks.counts.items() if n}


@given(st.lists(st.integers(0, 5), max_size=20))
def test_identical_images_are_grouped(contents):
    groups = identical(np.array(contents, np.int64))
    assert sorted(i for group in groups for i in group) == [
        i for i, content in enumerate(contents) if contents.count(content) > 1
    ]
    for group in groups:
        assert len({contents[i] for i in group}) == 1


def test_an_image_in_two_splits_is_a_leak_of_the_later_one():
    assert found(train=part("t", [0, 1, 2, 3, 4]), valid=part("v", [4, 5, 6, 7, 8])) == {"leak": [("v0", "t4")]}


def test_a_test_image_may_leak_from_training_and_validation():
    leaks = found(train=part("t", [0, 1, 2]), valid=part("v", [0, 4, 5]), test=part("s", [0, 7, 8]))["leak"]
    assert sorted(leaks) == [("s0", "t0", "v0"), ("v0", "t0")]


def test_copies_within_a_split_are_duplicates():
    kinds = found(train=part("t", [0, 0, 0, 1, 2]), valid=part("v", [6, 7, 8]))
    assert kinds == {"duplicate": [("t0", "t1", "t2")]}


def test_copies_with_two_labels_are_a_conflict():
    kinds = found(train=part("t", [0, 0, 1, 2], [0, 1, 1, 2]), valid=part("v", [6, 7, 8]))
    assert kinds == {"label-conflict": [("t0", "t1")], "duplicate": [("t0", "t1")]}


def again(images: Images) -> Images:
    """The pictures, a little darker: other bytes, and the same to look at."""
    return Images(np.stack([(p * 0.9).astype(np.uint8) for p in images.pictures]), images.targets, ["again"])


def with_features(train: Images, valid: Images, features: torch.Tensor) -> Samples:
    return samples_of({"train": train, "valid": valid}, CLASSES, features)


def test_a_picture_that_was_saved_again_leaks_where_features_and_thumbnails_agree():
    torch.manual_seed(0)
    train, valid = part("t", [0, 1, 2, 3, 4, 5]), again(part("v", [2]))
    features = torch.randn(7, 16)
    features[6] = features[2] + 0.02 * torch.randn(16)
    checks = look(with_features(train, valid, features))
    (leak,) = checks.of("leak")
    assert leak.paths == ("again", "t2")
    assert 0.9 < leak.score < 1
    features[6] = features[3] + 0.02 * torch.randn(16)  # alike to the network, not to the eye
    assert look(with_features(train, valid, features)).of("leak") == ()
    features[6] = torch.randn(16)  # alike to the eye, not to the network
    assert look(with_features(train, valid, features)).of("leak") == ()


def test_a_version_of_a_copied_image_leaks_from_both_copies():
    torch.manual_seed(0)
    train, valid = part("t", [2, 2, 0, 1, 3]), again(part("v", [2]))
    features = torch.randn(6, 16)
    features[1] = features[0]
    features[5] = features[0] + 0.02 * torch.randn(16)
    checks = look(with_features(train, valid, features))
    (leak,) = checks.of("leak")
    assert (leak.paths[0], sorted(leak.paths[1:])) == ("again", ["t0", "t1"])


def test_versions_in_one_split_are_near_duplicates():
    torch.manual_seed(0)
    both = Images(
        np.concatenate([part("t", [0, 1, 2, 3]).pictures, again(part("v", [1])).pictures]),
        np.arange(5) % 3,
        list("abcde"),
    )
    features = torch.randn(5, 16)
    features[4] = features[1] + 0.02 * torch.randn(16)
    checks = look(samples_of({"train": both}, CLASSES, features))
    assert [finding.paths for finding in checks.of("near-duplicate")] == [("b", "e")]


def test_a_file_that_is_gone_meanwhile_is_no_version(tmp_path):
    torch.manual_seed(0)
    drawn = part("t", [0, 1])
    images = Images([tmp_path / "one.png", tmp_path / "two.png"], drawn.targets, drawn.names)
    samples = Samples(images, np.zeros(2, np.int64), ("train",), CLASSES, torch.randn(2, 4))
    assert versions(samples, torch.ones(2, 1), torch.tensor([[1], [0]]), np.arange(2)) == []
    assert list(findings(samples, [], [])) == []


def remembered(width: int) -> tuple[Images, torch.Tensor, torch.Tensor]:
    """The third of six pictures, saved again; features (6, width) and thumbnails of the six."""
    torch.manual_seed(0)
    kept = part("t", [0, 1, 2, 3, 4, 5])
    return again(part("v", [2])), torch.randn(6, width), torch.from_numpy(np.stack([*map(telling, kept.pictures)]))


def test_versions_of_pictures_are_found_by_what_is_kept_of_them():
    new, known, glances = remembered(16)
    features = known[[2]] + 0.02 * torch.randn(1, 16)
    (found,) = versions_of_known(new, features, known, glances)
    assert (found.one, found.other) == (0, 2)
    assert found.alike > 0.985
    assert versions_of_known(new, torch.randn(1, 16), known, glances) == []
    assert versions_of_known(new, features, known, torch.zeros_like(glances)) == []  # nothing tells them
    assert versions_of_known(new, features, known[:0], glances[:0]) == []


def test_thumbnails_that_are_nearly_the_same_need_less_of_the_features():
    new, known, glances = remembered(64)
    features = known[[2]] + 1.6 * torch.randn(1, 64)
    (found,) = versions_of_known(new, features, known, glances)
    assert found.other == 2
    assert found.cosine < 0.7
