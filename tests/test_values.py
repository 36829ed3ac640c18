"""Values as text: what is written comes back, and nothing else gets in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline import values
from frostline.errors import UsageError
from frostline.values import parse_bytes, plain_cell, read_yaml, safe_cell


@given(st.integers(0, 10**15))
def test_a_number_of_bytes_is_itself(count):
    assert parse_bytes(count) == parse_bytes(str(count)) == parse_bytes(f"{count} B") == count


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20 * 10**9), ("1.5 kb", 1500), ("500 MB", 5 * 10**8), ("2T", 2 * 10**12), ("0", 0)]
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@given(st.text().filter(lambda text: not any(c.isdigit() for c in text)))
def test_what_has_no_digits_is_no_size(text):
    with pytest.raises(UsageError, match="is no size"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["-1", "1 PB", "1e999 GB", "ten", "1 2 GB", ""])
def test_no_sizes(text):
    with pytest.raises(UsageError, match="is no size"):
        parse_bytes(text)


@given(st.one_of(st.text(), st.integers(), st.floats()))
def test_a_cell_is_never_a_formula(value):
    safe = safe_cell(value)
    assert not str(safe).startswith(("=", "+", "@", "\t", "\r")) or not isinstance(value, str)
    assert str(safe).removeprefix("'") == str(value).removeprefix("'")


@pytest.mark.parametrize("content", ["a: [1", "\x00", "{" * 100_000, "!!python/object/apply:os.system [ls]"])
def test_what_is_no_yaml_is_refused(content, tmp_path):
    (tmp_path / "file.yaml").write_text(content)
    with pytest.raises(UsageError):
        read_yaml(tmp_path / "file.yaml")


def test_a_file_of_settings_is_small(tmp_path):
    (tmp_path / "file.yaml").write_text("#" * (values.MOST_YAML_BYTES + 1))
    with pytest.raises(UsageError, match="larger than"):
        read_yaml(tmp_path / "file.yaml")
    (tmp_path / "file.yaml").write_text("a: [1, x]")
    assert read_yaml(tmp_path / "file.yaml") == {"a": [1, "x"]}


@given(st.text(alphabet="'=+-@\ta", max_size=6))
def test_every_text_comes_back_from_its_cell(text):
    assert plain_cell(str(safe_cell(text))) == text


def test_keys_that_yaml_takes_for_booleans_stay_names(tmp_path):
    (tmp_path / "file.yaml").write_text("on: ray\nclass_weights: {yes: 1, no: 2}\nquiet: yes")
    assert read_yaml(tmp_path / "file.yaml") == {"on": "ray", "class_weights": {"yes": 1, "no": 2}, "quiet": True}
