"""Rows of activations as a Parquet file, for other tools: one record per image and view."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline.data.images import Images
from frostline.errors import MachineError, UsageError, reason
from frostline.extras import refuse_missing
from frostline.files import refuse_overwriting, replacing
from frostline.remote import is_address
from frostline.store.activations import Activations
from frostline.store.reading import StoredRows
from frostline.store.rows import Rows

ENDING = ".parquet"
GROUP = 32_000_000  # bytes of vectors per row group, and so about the memory that writing takes


def refuse_target(to: str | Path | None) -> None:
    """Raises UsageError for a file that exists, has another extension or no folder, MachineError without pyarrow."""
    if to is None:
        return
    if is_address(to):
        raise UsageError(f"{to} is a URL, but rows are written to a local file: --to rows{ENDING}, and copy it there")
    file = Path(to)
    if file.suffix.lower() != ENDING:
        raise UsageError(
            f"{file} does not end in {ENDING}; rows are written as Parquet: --to {file.stem or 'rows'}{ENDING}"
        )
    refuse_overwriting(file, "another --to")
    if not file.parent.is_dir():
        raise UsageError(f"no folder {file.parent} to write {file.name} in; create it: mkdir -p {file.parent}")
    refuse_missing(f"--to {file.name}", ["pyarrow"], ["parquet"])


def write_rows(
    file: Path, found: Mapping[str, Activations], classes: tuple[str, ...], backbone: str, rows: Rows
) -> None:
    """Write all rows of some splits; readers see the whole file or none.

    found: the activations by split. rows: what they are.
    Columns: path, split, label (text; a list of texts for several labels per image; null for masks), view (int32; 0 is
    the plain image), digest (32 hexadecimal digits of the image's content), vector (a list of float32 of fixed size;
    maps (C, H, W) are flattened). Metadata: backbone, frostline, shape (of a row, as JSON), key (of the rows).
    Raises MachineError if the file cannot be written.
    """
    from pyarrow import parquet  # an optional dependency, imported where it is needed

    size = math.prod(rows.lower.output_shape)
    about = {"backbone": backbone, "frostline": rows.lower.frostline, "key": rows.key()}
    about["shape"] = json.dumps(list(rows.lower.output_shape))
    schema = _schema(next(iter(found.values())).images.task, size, about)
    try:
        with (
            replacing(file) as stream,
            parquet.ParquetWriter(stream, schema, use_dictionary=["split", "label"], write_statistics=False) as writer,
        ):
            for split, own in found.items():
                for numbers in np.array_split(np.arange(len(own)), max(1, -(-len(own) * size * 4 // GROUP))):
                    if len(numbers):
                        writer.write_table(_table(split, own, numbers, classes, schema))
    except OSError as error:
        raise MachineError(f"cannot write {file}: {error.strerror or reason(error)}") from error


def _schema(task: str, size: int, about: Mapping[str, str]) -> Any:
    import pyarrow

    label = pyarrow.list_(pyarrow.string()) if task == "multilabel" else pyarrow.string()
    fields = {
        "path": pyarrow.string(),
        "split": pyarrow.string(),
        "label": label,
        "view": pyarrow.int32(),
        "digest": pyarrow.string(),
        "vector": pyarrow.list_(pyarrow.float32(), size),
    }
    return pyarrow.schema(list(fields.items()), about)


def _table(split: str, rows: Activations, numbers: np.ndarray, classes: tuple[str, ...], schema: Any) -> Any:
    import pyarrow

    fetch = rows.fetch.once if isinstance(rows.fetch, StoredRows) else rows.fetch  # nothing is kept in memory
    vectors = fetch(torch.from_numpy(numbers)).numpy()
    own, of = np.unique(numbers // rows.views, return_inverse=True)
    images = rows.images.take(own)
    paths, labels = list(images.names), _labels(images, classes)
    digests = [images.digests[i].hex() for i in range(len(own))]
    columns = {
        "path": [_plain(paths[i]) for i in of],
        "split": [split] * len(numbers),
        "label": [labels[i] for i in of],
        "view": (numbers % rows.views).astype(np.int32),
        "digest": [digests[i] for i in of],
        "vector": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors[0].size),
    }
    return pyarrow.Table.from_pydict(columns, schema)


def _plain(name: str) -> str:
    """A name of a file as text that Parquet can hold: bytes that are not UTF-8 are written as \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _labels(images: Images, classes: tuple[str, ...]) -> Sequence[object]:
    if not isinstance(images.targets, np.ndarray):  # a mask is no label
        return [None] * len(images)
    if images.targets.ndim == 1:
        return images.labels(classes)
    return [[classes[i] for i in np.flatnonzero(marks)] for marks in images.targets]
