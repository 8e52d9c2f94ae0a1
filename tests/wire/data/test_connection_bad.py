"""One end of a data connection against what no honest peer sends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.data.connection import LAST, DataConnection, Ended, WasReset
from tests.wire.data.connection_parts import REFUSED, after_both_ends, client, fresh, receive, server, takes_next
from tests.wire.data.ends import (
    ALIVE,
    DATA,
    DONE,
    END,
    OPEN,
    RESET,
    Record,
    opening,
    parse,
)


@pytest.mark.parametrize("number", [0, 2, LAST])
@pytest.mark.parametrize("kind", [DATA, END, RESET, DONE])
@pytest.mark.parametrize("make", [server, client])
def test_another_stream(make: Callable[[], DataConnection], kind: int, number: int) -> None:
    with pytest.raises(ValueError, match=rf"^a record of stream {number} where 1 is the present one$"):
        receive(make(), kind, number)


@pytest.mark.parametrize("kind", [DATA, END, RESET, DONE])
@pytest.mark.parametrize("is_server", [True, False])
def test_before_the_first_stream(kind: int, is_server: bool) -> None:
    with pytest.raises(ValueError, match=r"^a record of stream 0 where 0 is the present one$"):
        receive(fresh(is_server=is_server), kind, 0)


def after_both_resets() -> list[DataConnection]:
    ends = [server(), client()]
    for end in ends:
        receive(end, RESET, 1)
    return ends


@pytest.mark.parametrize("make", [after_both_ends, after_both_resets])
@pytest.mark.parametrize("kind", [DATA, END, DONE])
def test_a_late_record_of_a_stream_that_is_over(make: Callable[[], list[DataConnection]], kind: int) -> None:
    for end in make():
        assert end.is_free
        assert not end.takes_data
        with pytest.raises(ValueError, match=r"^a record behind the end of a stream$"):
            receive(end, kind, 1)


def test_a_late_reset() -> None:
    at_server, at_client = after_both_ends()
    assert isinstance(receive(at_client, RESET, 1), WasReset)
    for end in (at_server, at_client, *after_both_resets()):
        with pytest.raises(ValueError, match=r"^RESET of a stream that is over$"):
            receive(end, RESET, 1)


@pytest.mark.parametrize("kind", [DATA, END, RESET, DONE])
def test_a_record_of_the_last_stream_after_the_next_was_opened(kind: int) -> None:
    """No late byte reaches the next visitor."""
    for end in after_both_ends():
        assert takes_next(end)
        with pytest.raises(ValueError, match=r"^a record of stream 1 where 2 is the present one$"):
            receive(end, kind, 1)


@pytest.mark.parametrize("make", [server, client])
@pytest.mark.parametrize("kind", [DATA, END])
def test_a_record_behind_end(make: Callable[[], DataConnection], kind: int) -> None:
    end = make()
    receive(end, END, 1)
    with pytest.raises(ValueError, match=r"^a record behind the end of a stream$"):
        receive(end, kind, 1)


def test_done_where_it_does_not_belong() -> None:
    at_client = client()
    at_client.end()
    for end in (at_client, server()):
        with pytest.raises(ValueError, match=r"^DONE before END$"):
            receive(end, DONE, 1)


@pytest.mark.parametrize("make", [server, client, lambda: fresh(is_server=True)])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_open_where_it_does_not_belong(make: Callable[[], DataConnection], number: int) -> None:
    with pytest.raises(ValueError, match=rf"^OPEN of stream {number} behind"):
        receive(make(), OPEN, number, opening(0))


@pytest.mark.parametrize("number", [0, 2, LAST])
def test_open_of_another_number(number: int) -> None:
    with pytest.raises(ValueError, match=rf"^OPEN of stream {number} behind 0$"):
        receive(fresh(is_server=False), OPEN, number, opening(0))


def test_open_that_is_cut() -> None:
    end = fresh(is_server=False)
    with pytest.raises(ValueError, match=r"^a malformed OPEN record$"):
        receive(end, OPEN, 1, bytes(7))
    assert end.is_free


@pytest.mark.parametrize("make", [server, client])
def test_unknown_kinds(make: Callable[[], DataConnection]) -> None:
    end = make()
    for kind in range(0x80, 0x100):
        for number in (0, 1, 2):
            assert receive(end, kind, number, b"?") is None
    for kind in (0, *range(DONE + 1, 0x80)):
        with pytest.raises(ValueError, match=rf"^a record of the unknown kind 0x{kind:02x}$"):
            receive(end, kind, 1, b"?")


@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from([DATA, END, RESET, ALIVE, OPEN, DONE, 0x07, 0x85]),
            st.integers(0, 3),
            st.sampled_from([b"", opening(0), REFUSED]),
        )
        | st.sampled_from(["end", "reset", "open"]),
        max_size=30,
    ),
)
def test_whatever_comes(is_server: bool, steps: list[tuple[int, int, bytes] | str]) -> None:
    """The only exception is ``ValueError``; what is sent is for the present stream, and nothing follows RESET."""
    end = fresh(is_server=is_server)
    sent: list[Record] = []
    why = ""
    for step in steps:
        if step == "end":
            sent += parse(end.end())
        elif step == "reset":
            sent += parse(end.reset("test", ""))
        elif step == "open":
            sent += parse(end.open(0, "")) if is_server and end.can_open else []
        else:
            assert not isinstance(step, str)
            try:
                event = receive(end, *step)
            except ValueError as error:
                why = str(error)
                break
            sent += parse(event.answer) if isinstance(event, Ended | WasReset) else []
        assert not (end.takes_data and end.is_free)
        assert all(number <= end.number for _, number, _ in sent)
        of_this = [kind for kind, number, _ in sent if number == end.number and kind not in (OPEN, ALIVE)]
        assert of_this in ([], [END], [DONE], [END, DONE], [RESET], [END, RESET], [DONE, RESET], [END, DONE, RESET])
    assert why.isprintable()
