"""Our own processes import aiortc without its codecs; whoever imports it for media of his own has them."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

NO_AV = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *where: None if name.partition(".")[0] == "av" else find(name, *where)
"""
OURS = """
from rtunnel.rtc.aiortc import NoMedia, import_without_codecs
import_without_codecs()
"""
NONE_LOADED = """
import sys
assert not [name for name in sys.modules if name.partition(".")[0] in ("av", "pylibsrtp", "dns")]
"""


def run(*parts: str) -> None:
    """Run a program that has to succeed, in a process of its own: what it imports stays imported."""
    done = subprocess.run([sys.executable, "-c", "\n".join(parts)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_codec_is_loaded() -> None:
    run(OURS, "import aiortc, rtunnel.rtc.host, rtunnel.rtc.client", NONE_LOADED)


def test_whoever_uses_one_hears_why_not() -> None:
    use = """
import aiortc.mediastreams
try:
    aiortc.mediastreams.AudioFrame(format="s16", layout="mono", samples=960)
except NoMedia as error:
    assert "import aiortc before" in str(error)
else:
    raise AssertionError
"""
    run(OURS, use, NONE_LOADED)


def test_what_is_imported_already_stays() -> None:
    used = """
import aioice.mdns
aioice.mdns.dns.message.make_query("x.local", "A")
"""
    run("import dns.message", OURS, used)


def test_other_code_has_the_codecs() -> None:
    """It imports ``av``, which is not the stand-in, not even after that has served."""
    run(OURS, 'import av; assert av.AudioFrame(format="s16", layout="mono", samples=960).samples == 960')
    run(OURS, "import dns.message, pylibsrtp; dns.message.make_query('x.local', 'A'); pylibsrtp.Policy()")


@pytest.mark.parametrize("before", ["import aiortc", "import rtunnel.rtc.host", "import av"])
def test_who_comes_first_decides(before: str) -> None:
    """A program that uses aiortc itself, or our services without their plugins, keeps its media."""
    used = 'import aiortc.mediastreams; aiortc.mediastreams.AudioFrame(format="s16", layout="mono", samples=960)'
    run(before, OURS, used)


def test_a_tac_file_keeps_them() -> None:
    """It is somebody else's program, and what it does after our lines we cannot know."""
    tac = """
from rtunnel.options.plugins import rtc_host, run
run.application(rtc_host.NAME, rtc_host.Options, rtc_host.makeService, ["--id=x", "--remote=:80"])
import aiortc.mediastreams
aiortc.mediastreams.AudioFrame(format="s16", layout="mono", samples=960)
"""
    run(tac)
    run(NO_AV, tac.partition("import aiortc")[0], NONE_LOADED)


def test_without_av() -> None:
    """Where it is not installed, aiortc alone cannot be imported, and ours can."""
    fails = """
try:
    import aiortc
except ModuleNotFoundError:
    pass
else:
    raise AssertionError
"""
    run(NO_AV, fails)
    run(NO_AV, OURS, "import rtunnel.rtc.host", NONE_LOADED)
