"""What visitors may see of a directory, and that there is no way out of it."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from rtunnel.errors import ConfigError
from rtunnel.services.files.tree import Found, NothingThere, check_directory, entries, find
from rtunnel.upkeep.descriptors import open_descriptors
from tests.services.files.conftest import SECRET


def read(root: Path, path: str) -> bytes | None:
    """What is at the end of a path; of a directory, empty; None: nothing that visitors may see."""
    try:
        found = find(root, [os.fsencode(name) for name in path.split("/")] if path else [])
    except NothingThere:
        return None
    try:
        return b"" if found.is_directory else os.read(found.descriptor, 100)
    finally:
        found.close()


def listed(root: Path, *names: bytes) -> list[str]:
    found = find(root, names)
    try:
        return sorted(os.fsdecode(entry.name) for entry in entries(root, names, found.descriptor) if entry is not None)
    finally:
        found.close()


def test_files_and_directories(share: Path) -> None:
    assert read(share, "a.txt") == b"0123456789"
    assert read(share, "sub/deep/c.txt") == b"c"
    assert read(share, "") == read(share, "sub/deep") == b""
    assert listed(share) == ["a.txt", "sub"]
    assert listed(share, b"sub") == ["b.txt", "deep"]


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        ".env",
        ".hidden/key",
        "sub/.b",
        "..",
        "../outside",
        "sub/../../outside",
        "sub/..",
        ".",
        "./a.txt",
        "sub//b.txt",
        "/a.txt",
        "a.txt/",
        "a.txt/x",
        "fifo",
        "fifo/x",
        "x\0y",
        "x" * 300,
        "sub/" * 5000,
    ],
)
def test_what_is_not_there(share: Path, path: str) -> None:
    assert read(share, path) is None


def test_a_slash_in_a_name_is_no_step(share: Path) -> None:
    """It is in what visitors send as ``%2F``."""
    for name in (b"../outside", b"sub/b.txt", b"/etc/passwd"):
        with pytest.raises(NothingThere):
            find(share, [name])


@pytest.mark.parametrize(
    ("target", "content"),
    [
        ("a.txt", b"0123456789"),
        ("sub/b.txt", b"b"),
        ("sub/../a.txt", b"0123456789"),
        ("./sub/deep/../../a.txt", b"0123456789"),
        ("{root}/a.txt", b"0123456789"),
        ("{root}/sub/../a.txt", b"0123456789"),
        ("{root}", b""),
        ("sub", b""),
        ("../outside", None),
        ("../share/a.txt", None),
        ("sub/../../outside", None),
        ("{root}/../outside", None),
        ("{root}-2/d.txt", None),
        ("/etc/passwd", None),
        ("/", None),
        (".env", None),
        (".hidden/key", None),
        ("fifo", None),
        ("/dev/zero", None),
        ("/proc/self/cwd", None),
        ("nothing", None),
        ("link", None),
        ("twice", None),
    ],
)
def test_links(share: Path, target: str, content: bytes | None) -> None:
    """Those that stay within the directory are followed. ``twice`` leads to ``link`` and back."""
    (share / "link").symlink_to(target.format(root=share))
    (share / "twice").symlink_to("link")
    (share / "sub" / "up").symlink_to("../twice")
    for path in ("link", "twice", "sub/up"):
        assert read(share, path) == content
    assert ("link" in listed(share)) == (content is not None)


def test_a_link_in_the_middle(share: Path) -> None:
    (share / "way").symlink_to("sub")
    (share / "out").symlink_to("..")
    (share / "sub" / "back").symlink_to("../sub/deep")
    assert read(share, "way/b.txt") == b"b"
    assert read(share, "way/back/c.txt") == b"c"
    assert read(share, "out/outside") is None
    assert listed(share, b"way") == ["b.txt", "back", "deep"]


def test_many_links(share: Path) -> None:
    for number in range(20):
        (share / f"link{number}").symlink_to(f"link{number + 1}" if number < 19 else "a.txt")
    assert read(share, "link10") == b"0123456789"
    assert read(share, "link0") is None


def test_the_directory_itself_may_be_a_link_or_hidden(share: Path, tmp_path: Path) -> None:
    hidden = tmp_path / ".way"
    hidden.symlink_to(share)
    (share / "own").symlink_to(hidden / "a.txt")
    (share / "real").symlink_to(share / "a.txt")
    for path in ("a.txt", "own", "real"):
        assert read(hidden, path) == b"0123456789"


@pytest.mark.usefixtures("steady_descriptors")
def test_nothing_stays_open(share: Path) -> None:
    (share / "loop").symlink_to("loop")
    (share / "out").symlink_to("../outside")
    before = open_descriptors()
    for path in ("a.txt", "sub/deep", "nothing", "sub/.b", "fifo", "loop", "out", "out/x", "a.txt/x"):
        read(share, path)
    listed(share)
    assert open_descriptors() == before


def test_no_file_is_opened_outside_whatever_is_renamed_meanwhile(share: Path, tmp_path: Path) -> None:
    """One thread turns a directory into a link that leads outside, and back, while another asks for a file in it."""
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "b.txt").write_bytes(SECRET)
    (share / "link").symlink_to("../evil")
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            (share / "sub").rename(share / "aside")
            (share / "link").rename(share / "sub")
            (share / "sub").rename(share / "link")
            (share / "aside").rename(share / "sub")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        got = {read(share, "sub/b.txt") for _ in range(5000)}
    finally:
        is_over.set()
        thread.join()
    assert got <= {b"b", None}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.sampled_from([b"sub", b"deep", b"..", b".", b"", b"way", b"out", b"abs", b"a.txt", b"b.txt", b"outside"]),
        max_size=8,
    ),
    st.lists(st.sampled_from(["..", ".", "", "sub", "deep", "way", "outside", "a.txt"]), min_size=1, max_size=6),
)
def test_no_way_out(share: Path, names: list[bytes], target: list[str]) -> None:
    for link, text in (("way", "/".join(target) or "."), ("out", "../" + "/".join(target)), ("abs", "/tmp")):
        (share / link).unlink(missing_ok=True)
        (share / link).symlink_to(text)
    try:
        found = find(share, names)
    except NothingThere:
        return
    path = Path(f"/proc/self/fd/{found.descriptor}").readlink()
    found.close()
    assert path.is_relative_to(share)


def test_it_tells_when_others_should_get_their_turn(share: Path) -> None:
    for number in range(450):
        (share / f"{number}").touch()
    found: Found = find(share, [])
    all_entries = list(entries(share, [], found.descriptor))
    found.close()
    assert all_entries.count(None) >= 2
    assert len(all_entries) - all_entries.count(None) == 452


def test_check(share: Path) -> None:
    check_directory(share)
    for wrong, why in ((share / "nothing", "no such file or directory"), (share / "a.txt", "not a directory")):
        with pytest.raises(ConfigError) as caught:
            check_directory(wrong)
        assert str(caught.value) == (f"files:{wrong} cannot be read: {why}; name a directory that this user may read")


def test_check_of_permissions(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **_more: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    for call in ("stat", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(ConfigError, match=r"cannot be read: permission denied; "):
                check_directory(share)
