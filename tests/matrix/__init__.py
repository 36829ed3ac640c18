"""Rows of the test matrix, each a test with the name of the row; and the rows that are not worth a test."""

from __future__ import annotations

DROPPED: dict[str, str] = {  # row: why it has no test
    "C15": "a configuration has no version: an option that is not known is refused by name (C02), and the format of a "
    "classifier is checked when it is read (D11)",
}
