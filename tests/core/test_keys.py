"""Names to keys and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functionfuse.errors import InvalidNameError
from functionfuse.storage.keys import (
    LONGEST,
    earlier_name,
    folder_of,
    key_of,
    name_of,
    segment_of,
)

PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
names = st.text(st.characters(codec=None), min_size=1, max_size=400) | st.sampled_from(
    [".", "..", "...", ".tmp-0", "/", "a/b", "../../../x", "%", "%2F", "%-", "a%-b", "\0", "ä" * 90]
)


@pytest.mark.parametrize("name", ["node2", "a b", "x_1-2,3=4+5@(6)", "f.g_0000", "A" * LONGEST])
def test_plain_names_are_their_own_segment(name: str) -> None:
    """A name of letters, digits and `._-, =+@()` is its own file name."""
    assert name == segment_of(name)


@given(names)
def test_segments_are_safe_and_reversible(name: str) -> None:
    """Any text gives one portable segment, and the segment gives the text back if it was short."""
    segment = segment_of(name)
    assert re.fullmatch(r"[A-Za-z0-9_\-, =+@()%][A-Za-z0-9._\-, =+@()%]*", segment)
    assert len(segment) <= LONGEST
    assert name_of(segment) == (None if "%-" in segment else name)


@pytest.mark.parametrize("segment", ["100%FF", "50%E9.txt", "%", "%4", "%zz", "\udcff%41", "a%41"])
def test_a_file_name_that_no_name_has_stays(segment: str) -> None:
    """Another program's file can have any name; it is listed as it is."""
    assert segment == name_of(segment)


@given(names, names)
def test_a_call_leads_out_of_no_folder(task: str, call: str) -> None:
    """The key of an earlier result ends in one portable segment, whatever a header has as call."""
    segment = earlier_name(task, call)
    assert re.fullmatch(r"[0-9a-f]{32}-[A-Za-z0-9._\-, =+@()%]*", segment)
    assert len(segment) <= LONGEST


@given(names, names)
def test_no_two_names_share_a_key(one: str, other: str) -> None:
    """Different names have different keys; so do workflow and task of swapped names."""
    assert (one == other) == (segment_of(one) == segment_of(other))
    assert (one == other) == (key_of(one, other) == key_of(other, one))


def test_a_long_name_keeps_a_readable_beginning() -> None:
    """A segment over 200 bytes is cut between characters and ends in the name's digest."""
    one, other = "ä" * 100 + "1", "ä" * 100 + "2"
    assert segment_of(one) != segment_of(other)
    assert re.fullmatch(r"(%C3%A4|%C3)+%-[0-9a-f]{32}", segment_of(one))


@pytest.mark.parametrize("name", ["", None, 3, b"x"])
def test_what_is_no_name_is_refused(name: object) -> None:
    """An empty name, and what is no string, is an error of ours and a ValueError."""
    with pytest.raises(InvalidNameError):
        folder_of(name)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="task's name"):
        key_of("w", name)  # type: ignore[arg-type]
