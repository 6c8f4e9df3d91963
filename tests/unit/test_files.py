"""Tables between stages: what is written with one type is read with it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neurotransfer.files import TEXT_COLUMNS, read_table, table_text, write_table

TEXT = pd.DataFrame({"image_id": ["a", "b"], "visit": ["01", "02"]})


def test_a_text_column_that_is_not_declared_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeError, match="'visit' holds text"):
        write_table(TEXT, tmp_path / "table.tsv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["object", "str", "category"])
def test_text_of_every_dtype_is_found(kind):
    with pytest.raises(TypeError, match="'visit' holds text"):
        table_text(TEXT.astype({"visit": kind}))
    assert table_text(TEXT[["image_id"]].astype(kind)) == "image_id\na\nb\n"


def test_text_among_numbers_is_found():
    with pytest.raises(TypeError, match="'visit' holds text"):
        table_text(TEXT.assign(visit=[1, "02"]))


@pytest.mark.parametrize("values", [[1, 2], [1.0, None], [True, False], ["01", 2]])
def test_a_declared_column_holds_nothing_but_text(values):
    with pytest.raises(TypeError, match="'session' is in files"):
        table_text(pd.DataFrame({"session": values}))


@given(st.lists(st.one_of(st.none(), st.text("0123456789.-eNA", min_size=1)), min_size=1))
def test_text_that_looks_like_numbers_is_read_as_it_was_written(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("table") / "table.tsv"
    columns = ["session", "participant_id"]
    write_table(pd.DataFrame({name: pd.Series(values, dtype=object) for name in columns}), path)
    for name in columns:
        assert read_table(path)[name].astype(object).where(lambda cells: cells.notna(), None).tolist() == values


def test_numbers_and_missing_values_need_no_declaration(tmp_path):
    table = pd.DataFrame(
        {"age": [60.1, np.nan], "row": [0, 1], "used": [True, False], "volume": [None, None], "session": [None, None]}
    )
    write_table(table, tmp_path / "table.tsv", {"unit": "years"})
    found = read_table(tmp_path / "table.tsv")
    pd.testing.assert_frame_equal(found[["age", "row", "used"]], table[["age", "row", "used"]])
    assert found["volume"].isna().all() and found["session"].isna().all()
    assert not {"age", "row", "used", "volume"} & TEXT_COLUMNS
