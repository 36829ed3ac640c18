"""Copies of an image, byte for byte or saved again in another size or quality, and the leaks that they cause."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional

from frostline.checks.findings import Finding
from frostline.checks.samples import Samples
from frostline.checks.thumbnails import NOTHING, all_telling, correlation
from frostline.data.images import Images

# Two versions of one picture have at least this cosine of features and this correlation of thumbnails:
RULES = ((0.8, 0.985), (0.25, 0.99))  # other images of a class rarely reach both
# Pairs from this cosine on are compared by thumbnails; thumbnails of all images would take minutes.
COSINE = 0.6
NEIGHBOURS = 5  # nearest neighbours per image that are compared
BLOCK = 256


@dataclass(frozen=True)
class Version:
    """Two images of one picture: their numbers, the cosine of their features, the correlation of their thumbnails."""

    one: int
    other: int
    cosine: float
    alike: float

    @property
    def how(self) -> str:
        return f"probably the same picture saved again (cosine {self.cosine:.3f}, thumbnails {self.alike:.3f})"


def identical(digests: np.ndarray) -> list[np.ndarray]:
    """The numbers of images with the same bytes, one array per repeated content.

    >>> identical(np.array([b"a", b"b", b"a"]))
    [array([0, 2])]
    """
    _, inverse, counts = np.unique(digests, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    return [group for group in np.split(order, np.cumsum(counts)[:-1]) if len(group) > 1]


def versions(samples: Samples, cosines: Tensor, numbers: Tensor, rows: np.ndarray) -> list[Version]:
    """The pairs of images that are versions of one picture.

    cosines, numbers: the neighbours of each row. rows: the image number of each row; no two rows have the same bytes.
    The features (content) and the thumbnails (layout) must both agree.
    """
    near = cosines >= COSINE
    both = np.sort(np.stack([rows[near.nonzero()[:, 0].numpy()], rows[numbers[near].numpy()]]), axis=0)
    pairs, first = np.unique(both, axis=1, return_index=True)  # most are neighbours of each other
    candidates = np.unique(pairs).tolist()
    glances = dict(zip(candidates, all_telling(samples.images.pictures[i] for i in candidates), strict=True))
    found = []
    for one, other, cosine in zip(*pairs.tolist(), cosines[near][first].tolist(), strict=True):
        if glances[one] is NOTHING or glances[other] is NOTHING:
            continue
        alike = correlation(glances[one], glances[other])
        if _same(cosine, alike):
            found.append(Version(one, other, cosine, alike))
    return found


def _same(cosine: float, alike: float) -> bool:
    return any(cosine >= least and alike >= most for least, most in RULES)


def versions_of_known(images: Images, features: Tensor, known: Tensor, glances: Tensor) -> list[Version]:
    """The images that are versions of known pictures: pairs (image, number of the known picture).

    features: of the images, (N, D). known: features of the known pictures, (M, D). glances: their thumbnails,
    (M, 1024).
    """
    if not len(known):
        return []
    mean, found = known.mean(0), list[Version]()
    others = functional.normalize(known - mean)
    for start, block in zip(range(0, len(features), BLOCK), features.split(BLOCK), strict=True):
        own = functional.normalize(block.float() - mean)
        cosines, numbers = (own @ others.T).topk(min(NEIGHBOURS, len(known)))
        candidates = (cosines[:, 0] >= RULES[-1][0]).nonzero().flatten().tolist()
        own_glances = all_telling(images.pictures[start + row] for row in candidates)
        for row, glance in zip(candidates, own_glances, strict=True):
            pairs = zip(numbers[row].tolist(), cosines[row].tolist(), strict=True)
            alike = [Version(start + row, n, cosine, correlation(glance, glances[n].numpy())) for n, cosine in pairs]
            same = [pair for pair in alike if _same(pair.cosine, pair.alike)]
            found += [max(same, key=lambda pair: pair.alike)] if same else []
    return found


def findings(samples: Samples, groups: Sequence[np.ndarray], pairs: Iterable[Version]) -> Iterator[Finding]:
    """Leaks, copies within a split, and copies with different labels.

    groups: identical images. pairs: versions of one picture; one image stands for all identical ones.
    """
    pairs = list(pairs)
    for group in groups:
        yield from _within(samples, group, "duplicate", 1.0, "the same bytes {count} times")
    for pair in pairs:
        both = np.array([pair.one, pair.other])
        yield from _within(samples, both, "near-duplicate", pair.cosine, pair.how)
    yield from _leaks(samples, groups, pairs)
    if samples.images.task != "segmentation":  # there the labels are names of masks
        yield from _conflicts(samples, groups, pairs)


def _within(samples: Samples, group: np.ndarray, kind: str, score: float, detail: str) -> Iterator[Finding]:
    """Copies within one split."""
    for split in np.unique(samples.split_of[group]):
        own = group[samples.split_of[group] == split]
        if len(own) > 1:
            yield _finding(samples, kind, own, score, detail.format(count=len(own)))


def _leaks(samples: Samples, groups: Sequence[np.ndarray], pairs: Sequence[Version]) -> Iterator[Finding]:
    """One finding per image with a copy in an earlier split."""
    twins = {int(i): group for group in groups for i in group}
    alike: dict[int, list[tuple[int, Version]]] = {}
    for pair in pairs:
        for here, there in ((pair.one, pair.other), (pair.other, pair.one)):
            for image in twins.get(here, [here]):
                alike.setdefault(int(image), []).extend((int(other), pair) for other in twins.get(there, [there]))
    for image in sorted({*twins, *alike}):
        before = samples.split_of[image]
        same = [int(i) for i in twins.get(image, ()) if samples.split_of[i] < before]
        if same:
            yield _leak(samples, image, same, 1.0, "the same bytes")
            continue
        near = [(other, pair) for other, pair in alike.get(image, ()) if samples.split_of[other] < before]
        if near:
            best = max((pair for _, pair in near), key=lambda pair: pair.cosine)
            yield _leak(samples, image, [other for other, _ in near], best.cosine, best.how)


def _leak(samples: Samples, image: int, others: list[int], score: float, how: str) -> Finding:
    where = " and ".join(dict.fromkeys(samples.splits_at(others)))
    return _finding(samples, "leak", [image, *others], score, f"also in {where}: {how}")


def _conflicts(samples: Samples, groups: Sequence[np.ndarray], pairs: Sequence[Version]) -> Iterator[Finding]:
    for group in groups:
        named = sorted(set(samples.labels_at(group)))
        if len(named) > 1:
            yield _finding(samples, "label-conflict", group, 1.0, f"the same bytes, labelled {' and '.join(named)}")
    for pair in pairs:
        one, other = samples.labels_at([pair.one, pair.other])
        if one != other:
            text = f"one picture, labelled {one} and {other}; {pair.how}"
            yield _finding(samples, "label-conflict", [pair.one, pair.other], pair.cosine, text)


def _finding(samples: Samples, kind: str, numbers: Sequence[int] | np.ndarray, score: float, detail: str) -> Finding:
    return Finding(kind, samples.names(numbers), samples.splits_at(numbers), samples.labels_at(numbers), score, detail)
