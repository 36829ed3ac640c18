"""The images of the work units, written once as train/ and val/ of class folders that every library reads."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

READ_BY_ALL = (".jpg", ".jpeg", ".png")  # a GIF counts as an image in some libraries only
VALIDATION = {"fashion": 500, "mnist": 1000}


def make_folder(name: str, root: Path, sources: dict[str, Path]) -> Path:
    """The folder `root`/`name`: "hymenoptera", or "fashion-2000" and "mnist-60000", of so many training images.

    sources: of "hymenoptera" its folder, of "fashion" and "mnist" the folders of the IDX files.
    """
    target = root / name
    if target.is_dir():
        return target
    kind, _, count = name.partition("-")
    source = sources[kind]
    if not source.is_dir():
        raise SystemExit(f"no images of {kind} at {source}; see --shared and --fashion-mnist")
    unfinished = root / f"{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    if count:
        write_idx_images(source, unfinished, int(count), VALIDATION[kind])
    else:
        copy_images(source, unfinished)
    unfinished.rename(target)
    return target


def copy_images(source: Path, target: Path) -> None:
    """Class folders without the files that only some libraries take for images."""
    for file in sorted(source.rglob("*")):
        if file.suffix.lower() in READ_BY_ALL:
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def write_idx_images(source: Path, target: Path, train: int, valid: int) -> None:
    """PNG files from IDX files as MNIST has them: training images from its training part, others from its test part."""
    for split, prefix, count in (("train", "train", train), ("val", "t10k", valid)):
        images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")
        for label in np.unique(labels):
            (target / split / str(label)).mkdir(parents=True)
        for i in stratified(labels, count):
            Image.fromarray(images[i]).save(target / split / str(labels[i]) / f"{i:05}.png")


def read_idx(file: Path) -> np.ndarray:
    """An array of uint8 from a packed IDX file: two zeros, the type (8), the number of axes, lengths, values."""
    content = gzip.decompress(file.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def stratified(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Indices of `count` images drawn with a seed, each class by its share: evenly spread over them sorted by class."""
    if count > len(labels):
        raise ValueError(f"{count} images of {len(labels)}")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_class[np.arange(count) * len(labels) // count])


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
