"""What SACKs report, against a set."""

from __future__ import annotations

from hypothesis import given, strategies as st

from rtunnel.wire.sctp.gaps import Gaps


@given(st.lists(st.tuples(st.sampled_from(["add", "pass"]), st.integers(0, 40), st.integers(0, 40))))
def test_only_what_is_new_is_told(steps: list[tuple[str, int, int]]) -> None:
    gaps, known, passed = Gaps(), set[int](), 0
    for step, first, last in steps:
        if step == "pass":
            passed = max(passed, first)
            gaps.pass_to(passed)
            known = {tsn for tsn in known if tsn > passed}
        else:
            some = set(range(max(first, passed + 1), last + 1))
            news = [tsn for begin, end in gaps.add(max(first, passed + 1), last) for tsn in range(begin, end + 1)]
            assert news == sorted(some - known)
            known |= some
        assert gaps.count == len(known)
