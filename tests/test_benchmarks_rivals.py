"""Benchmarks beside other programs, and beside an earlier version."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from benchmarks import parts, rivals, table, ways
from benchmarks.rivals import Job


def test_rivals_are_also_looked_for_in_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(parts.RIVALS, str(tmp_path))
    for name in ("rathole", "frps", "frpc", "bore", "wstunnel", "chisel"):
        (tmp_path / name).touch(0o755)
        assert parts.find(name) == str(tmp_path / name)
    monkeypatch.delenv(parts.RIVALS)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(parts.Failed, match="rathole is not installed"):
        parts.find("rathole")


def test_rivals_get_a_forward_for_each_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By TCP and by UDP. Only bore carries no UDP."""
    monkeypatch.setattr(rivals, "find", lambda name: name)
    job = Job({41: 51, 42: 52}, {41: 51, 43: 53}, "192.0.2.1", "192.0.2.2")
    chisel = rivals.chisel(tmp_path, job)
    assert chisel.clients[0][3:] == [
        "R:127.0.0.1:41:192.0.2.2:51",
        "R:127.0.0.1:42:192.0.2.2:52",
        "R:127.0.0.1:41:192.0.2.2:51/udp",
        "R:127.0.0.1:43:192.0.2.2:53/udp",
    ]
    assert chisel.clients[0][2] == f"http://192.0.2.1:{chisel.control[1]}"
    assert rivals.wstunnel("ws")(tmp_path, job).clients[0][8:10] == ["-R", "udp://127.0.0.1:43:192.0.2.2:53"]
    assert [client[2] for client in rivals.bore(tmp_path, job).clients] == ["51", "52"]
    rivals.rathole(True)(tmp_path, job)
    rivals.frp(True)(tmp_path, job)
    written = {
        name: tomllib.loads((tmp_path / f"{name}.toml").read_text()) for name in ("server", "client", "frps", "frpc")
    }
    assert [tuple(each.values()) for each in written["server"]["server"]["services"].values()] == [
        ("tcp", "127.0.0.1:41"),
        ("tcp", "127.0.0.1:42"),
        ("udp", "127.0.0.1:41"),
        ("udp", "127.0.0.1:43"),
    ]
    assert written["client"]["client"]["services"]["s3"] == {"type": "udp", "local_addr": "192.0.2.2:53"}
    assert written["client"]["client"]["remote_addr"] == written["server"]["server"]["bind_addr"]
    assert written["server"]["server"]["bind_addr"].startswith("192.0.2.1:")
    assert [(each["type"], each["localPort"], each["remotePort"]) for each in written["frpc"]["proxies"]] == [
        ("tcp", 51, 41),
        ("tcp", 52, 42),
        ("udp", 51, 41),
        ("udp", 53, 43),
    ]
    assert len({each["name"] for each in written["frpc"]["proxies"]}) == 4
    assert written["frpc"]["serverPort"] == written["frps"]["bindPort"]
    assert written["frpc"]["transport"]["tls"]["enable"]


@pytest.mark.process
def test_baseline_is_checked_out_while_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("before")
    git("add", "file")
    git("commit", "--quiet", "--message=a")
    (tmp_path / "file").write_text("now")
    monkeypatch.setattr(ways, "ROOT", tmp_path)
    with ways.baseline("", tmp_path) as columns:
        assert columns == ()
    with ways.baseline("HEAD", tmp_path) as columns:
        assert (tmp_path / "baseline/file").read_text() == "before"
        assert [column.key for column in columns] == list(table.BASELINES.values())
        assert all(git("rev-parse", "--short", "HEAD") in column.title for column in columns)
    assert not (tmp_path / "baseline").exists()
    assert len(git("worktree", "list").splitlines()) == 1
    with pytest.raises(parts.Failed, match="the baseline no-such: "), ways.baseline("no-such", tmp_path):
        pytest.fail("there is no such revision")
