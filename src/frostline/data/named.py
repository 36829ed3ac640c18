"""Known data sets by name."""

from __future__ import annotations

import numpy as np

from frostline.data.images import Images, ImageSet
from frostline.data.split import split


def read_digits(seed: int) -> ImageSet:
    """1,797 handwritten digits of 8 × 8 pixels that come with scikit-learn (Alpaydin & Kaynak, 1998).

    A fixed fifth is the test split, whatever the seed; a stratified fifth of the rest is for validation.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    names = [f"digit-{i:04d}" for i in range(len(pictures))]
    whole = Images(pictures, digits.target.astype(np.int64), names)
    rest, test = split(whole, 0.2, seed=0)
    train, valid = split(rest, 0.2, seed)
    return ImageSet("digits", tuple("0123456789"), train, valid, test)


NAMED = {"digits": read_digits}
