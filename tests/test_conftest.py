"""The checks of conftest.py catch what they are there for: each is shown by a small suite in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).parent.parent

LEFTOVERS = """
    import gc
    import socket
    import pytest_twisted
    from twisted.internet import defer, protocol, reactor, task
    from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
    from twisted.logger import Logger
    from tests.leftovers import LoggedError

    log = Logger()

    def test_good_pure():
        pass

    async def listen():
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        return await endpoint.listen(protocol.Factory.forProtocol(protocol.Protocol))

    async def connect(port):
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        return await endpoint.connect(protocol.Factory.forProtocol(protocol.Protocol))

    @pytest_twisted.ensureDeferred
    async def test_good_that_closes_without_waiting():
        port = await listen()
        client = await connect(port)
        client.transport.loseConnection()
        port.stopListening()

    @pytest_twisted.ensureDeferred
    async def test_good_that_waits():
        await task.deferLater(reactor, 0.01)

    def test_good_flushed(flush_logged_errors):
        try:
            1 / 0
        except ZeroDivisionError:
            log.failure("expected")
        log.error("expected too")
        assert [error.type for error in flush_logged_errors(ZeroDivisionError)] == [ZeroDivisionError]
        assert [error.type for error in flush_logged_errors(LoggedError)] == [LoggedError]
        assert not flush_logged_errors()

    def test_bad_error_logged():
        log.error("no {what}", what="bananas")

    def test_bad_failure_logged():
        try:
            1 / 0
        except ZeroDivisionError:
            log.failure("oh")

    def test_bad_other_error_flushed(flush_logged_errors):
        try:
            1 / 0
        except ZeroDivisionError:
            log.failure("oh")
        flush_logged_errors(KeyError)

    def test_bad_closed_and_still_watched():
        ours, theirs = socket.socketpair()
        reactor._asyncioEventloop.add_reader(ours, print)
        ours.close()
        theirs.close()

    def test_bad_unhandled_in_deferred():
        defer.fail(KeyError("nobody listens"))

    @pytest_twisted.ensureDeferred
    async def test_bad_exception_in_callback():
        reactor.callLater(0, lambda: 1 / 0)
        await task.deferLater(reactor, 0.01)

    def test_bad_delayed_call():
        reactor.callLater(60, print)

    @pytest_twisted.ensureDeferred
    async def test_bad_port():
        await listen()

    @pytest_twisted.ensureDeferred
    async def test_bad_connection():
        port = await listen()
        client = await connect(port)
        await port.stopListening()

    def test_good_after_bad_ones():
        gc.collect()
"""

SKIPS = """
    import pytest

    @pytest.mark.skip(reason="no bananas")
    def test_marked():
        pass

    def test_called():
        pytest.skip("no apples")

    @pytest.fixture
    def pears():
        pytest.skip("no pears")

    def test_in_fixture(pears):
        pass

    @pytest.mark.xfail(reason="known")
    def test_expected_failure():
        assert False
"""


PROCESSES = """
    import subprocess
    import sys
    import pytest

    def start():
        subprocess.run([sys.executable, "-c", ""], check=True)

    def test_starts_one():
        start()

    @pytest.mark.process
    def test_says_so():
        start()

    def test_starts_none():
        pass

    def test_takes_the_fixture(twistd):
        start()

    @pytest.fixture
    def twistd():
        pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory for tests that run under our plugins."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    plugins = " ".join(f"-p tests.{name}" for name in ("leftovers", "no_skips", "processes"))
    pytester.makeini(f"[pytest]\naddopts = --reactor=asyncio {plugins}\nmarkers = process\n")
    return pytester


def outcomes(result: pytest.RunResult) -> dict[str, set[str]]:
    """Test names by outcome, from the lines that ``-rA`` adds."""
    found: dict[str, set[str]] = {}
    for line in result.outlines:
        outcome, _, rest = line.partition(" ")
        if outcome in ("PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL") and "::" in rest:
            found.setdefault(outcome, set()).add(rest.split("::")[1].split()[0])
    return found


def test_leftovers(suite: pytest.Pytester) -> None:
    suite.makepyfile(LEFTOVERS)
    result = suite.runpytest_subprocess("-rA", timeout=PATIENCE)
    seen = outcomes(result)
    every = {line.split("test_")[1].split("(")[0] for line in LEFTOVERS.splitlines() if "def test_" in line}
    assert seen["ERROR"] == {f"test_{name}" for name in every if name.startswith("bad_")}
    assert "FAILED" not in seen
    result.stdout.fnmatch_lines(["*logged: LoggedError*no bananas*"])
    result.stdout.fnmatch_lines(["*left in the reactor: <DelayedCall*"])
    result.stdout.fnmatch_lines(["*left in the selector: descriptor * events 1*"])
    result.stdout.fnmatch_lines(["*twisted log*"])
    result.stdout.fnmatch_lines(["*network net:*"])


def test_skips_are_skips_without_the_option(suite: pytest.Pytester) -> None:
    suite.makepyfile(SKIPS)
    suite.runpytest_subprocess(timeout=PATIENCE).assert_outcomes(skipped=3, xfailed=1)


def test_no_skips(suite: pytest.Pytester) -> None:
    suite.makepyfile(SKIPS, test_module='import pytest\npytest.skip("no plums", allow_module_level=True)\n')
    result = suite.runpytest_subprocess("--no-skips", "--continue-on-collection-errors", timeout=PATIENCE)
    result.assert_outcomes(failed=1, errors=3, xfailed=1)
    for fruit in ("bananas", "apples", "pears", "plums"):
        result.stdout.fnmatch_lines([f"*no {fruit}*"])


def test_processes_need_the_marker(suite: pytest.Pytester) -> None:
    suite.makepyfile(PROCESSES)
    result = suite.runpytest_subprocess("-rA", timeout=PATIENCE)
    assert outcomes(result)["ERROR"] == {"test_starts_one"}
    result.stdout.fnmatch_lines(["*needs the marker 'process': *subprocess.Popen*"])
    quick = outcomes(suite.runpytest_subprocess("-rA", "-m", "not process", timeout=PATIENCE))
    assert quick["PASSED"] == {"test_starts_one", "test_starts_none"}


@pytest.mark.process
def test_stress_runs_each_round_in_its_own_order() -> None:
    argv = [sys.executable, "-m", "tests.stress", "--rounds=1", "--load=0", "--seed=5"]
    argv += ["tests/wire/test_credit.py"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout
    first, last = re.findall(
        r"^=== round \d: order (\d+), \d workers, 0 busy loops, \w+ starts, (.*)$", done.stdout, re.MULTILINE
    )
    assert first == ("5", "all cores")
    assert (last[0] != "5", last[1]) == (True, "one core")
    assert done.stdout.endswith("=== 2 rounds from seed 5: 0 tests failed\n")


@pytest.mark.process
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_signals_that_a_shell_ignores(name: str) -> None:
    """Processes that tests start have them as if a terminal had started the suite."""
    code = (
        f"import signal, sys, pytest; signal.signal(signal.{name}, signal.SIG_IGN); "
        "pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', 'tests/test_ports.py']); "
        f"sys.exit(signal.getsignal(signal.{name}) is signal.SIG_IGN)"
    )
    subprocess.run((sys.executable, "-c", code), cwd=ROOT, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)


def test_whoever_gives_files_away_asks_for_root() -> None:
    """CI is root. For anybody else such a test must skip, and not fail."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text()
        if re.search(r"\bos\.l?chown\(", text):
            assert re.search(r"\bneed_root\(\)|\bgeteuid\(\)", text), f"{path}: call need_root() before chown"
