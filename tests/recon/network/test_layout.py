"""Layouts parse in every form, print in the short one, and say where a bad one is bad."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon.errors import InputError
from recon.network.layout import Layout

kinds = st.text("IYV", min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("text", "long", "short"),
    [
        ("IIVVVVVVVVVV", "IIVVVVVVVVVV", "I2V10"),
        ("I2V10", "IIVVVVVVVVVV", "I2V10"),
        ("I12", "I" * 12, "I12"),
        ("IYV", "IYV", "IYV"),
        ("I1Y1I1", "IYI", "IYI"),
        ("I2I3VV2", "IIIIIVVV", "I5V3"),
    ],
)
def test_long_short_and_mixed_forms_are_one_layout(text, long, short):
    layout = Layout.parse(text)
    assert layout.kinds == long
    assert str(layout) == short
    assert len(layout) == len(long)
    assert layout == Layout(long)


@given(kinds)
def test_what_is_printed_parses_to_the_same(text):
    layout = Layout(text)
    assert Layout.parse(str(layout)) == layout
    assert Layout.parse(text) == layout
    assert len(str(layout)) <= len(text)


@given(kinds)
def test_changes_count_the_runs_between(text):
    layout = Layout(text)
    assert layout.changes == len([c for c in str(layout) if c in "IYV"]) - 1


@given(st.text(max_size=12))
def test_any_text_parses_or_is_refused_in_one_sentence(text):
    try:
        layout = Layout.parse(text)
    except InputError as error:
        message = str(error)
    else:
        message = f"the layout {layout}"
        assert Layout.parse(str(layout)) == layout
    assert "layout" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("I2X10", "character 3 is 'X'"),
        ("2I", "character 1 is '2'"),
        ("x2V10", "character 1 is 'x'"),
        ("I2 V10", "character 3 is ' '"),
        ("I2V0", "count at character 4 is 0"),
        ("I1001", "count at character 2 is 1001"),
    ],
)
def test_a_bad_layout_says_where(text, message):
    with pytest.raises(InputError, match=message):
        Layout.parse(text)


def test_the_number_of_blocks_is_held_to():
    assert len(Layout.parse("I2V10", blocks=12)) == 12
    with pytest.raises(InputError, match="'I2V9' has 11 blocks, where 12 are wanted"):
        Layout.parse("I2V9", blocks=12)


def test_a_kind_that_does_not_exist_is_named_by_its_block():
    with pytest.raises(InputError, match="block 3 is 'Z'"):
        Layout("IIZ")
    with pytest.raises(InputError, match="at least one block"):
        Layout("")


def test_letters_of_either_case_are_one_layout():
    assert Layout.parse("i2yv3") == Layout.parse("I2YV3")
