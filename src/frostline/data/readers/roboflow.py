"""Roboflow's exports of several labels per image: tables with a column of 0 and 1 per class, one in each split."""

from __future__ import annotations

from pathlib import Path

from frostline.data.readers.columns import PATHS, Wanted, marked, roles_of
from frostline.data.readers.folder import split_folders
from frostline.data.readers.table import Table, listed, table_of

NAME = "_classes.csv"


def roboflow_table(root: Path) -> Table | None:
    """The table of a folder with `_classes.csv` in each of its splits, beside the images; None for another layout.

    Raises DataError, with the file and line, for tables without columns of 0 and 1.
    """
    files = {split: file for split, folder in split_folders(root).items() if (file := folder / NAME).is_file()}
    if not files and (root / NAME).is_file():
        files = {"": root / NAME}
    rows = []
    for split, file in files.items():
        table = table_of(file)
        if not {*PATHS} & table.columns.keys():  # of masks: the class of each value
            return None
        roles = roles_of(table, Wanted(), "")
        below = file.parent.relative_to(root)
        labels = marked(table.columns, roles.marks)
        rows += [
            ((below / str(name)).as_posix(), held, split)
            for name, held in zip(table.columns[roles.path], labels, strict=True)
        ]
    return listed(root, root, rows) if files else None
