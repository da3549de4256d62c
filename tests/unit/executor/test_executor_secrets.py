"""What references resolved to is masked, wherever a stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echosched.errors import ExecutionError
from echosched.executor.secrets import MASK, Redactor

VALUES = {
    "${env:A}": "abcdefgh",
    "${env:B}": "abcd",
    "${file:/k}": "first line\nsecond/line",
    "${env:S}": "yes",
}


def resolve(text: str) -> str:
    for reference, value in VALUES.items():
        text = text.replace(reference, value)
    if "${env:" in text:
        raise ExecutionError("unset")
    return text


def redactor(*references: str) -> Redactor:
    made = Redactor(resolve)
    for reference in references or VALUES:
        made.resolve(reference)
    return made


def test_resolving_is_unchanged_by_remembering() -> None:
    assert redactor().resolve("x ${env:A}-${env:B} y") == "x abcdefgh-abcd y"
    with pytest.raises(ExecutionError):
        redactor().resolve("${env:NONE}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key=abcdefgh.", f"key={MASK}."),
        ("key=abcd.", f"key={MASK}."),
        ("first line\nsecond/line", MASK),
        ("only second/line here", f"only {MASK} here"),
        ("second%2Fline", MASK),
        ("yes, short ones stay", "yes, short ones stay"),
        ("nothing", "nothing"),
    ],
)
def test_values_are_masked_in_text(text: str, shown: str) -> None:
    assert redactor().text(text) == shown


def test_without_references_nothing_is_held_back() -> None:
    made = Redactor(resolve)
    assert made.feed(b"abc") == b"abc"
    assert made.flush() == b""


@given(
    st.lists(
        st.sampled_from([b"abcdefgh", b"abcd", b"efgh", b"second/line", b"first line\n", b"x", b"a", b"ab"])
    ),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_a_stream_is_masked_the_same_however_it_is_cut(parts: list[bytes], sizes: list[int]) -> None:
    data = b"".join(parts)
    whole = redactor()
    expected = whole.text(data.decode()).encode()
    made = redactor()
    shown, at, turn = b"", 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        shown += made.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert shown + made.flush() == expected
