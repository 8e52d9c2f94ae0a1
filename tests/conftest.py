"""Settings of all tests. In CI no skip goes unseen, and hypothesis repeats the same examples."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

from rtunnel.upkeep.debug_log import DebugLog
from tests.examples import USUAL
from tests.needs import LIBOQS, take_descriptors
from tests.no_collector import no_collector

pytest_plugins = ["pytester", "tests.leftovers", "tests.no_skips", "tests.processes", "tests.workers"]

# No deadline: examples run inside the reactor, whose turns depend on the load of the machine.
PART = USUAL * 2 // 5
settings.register_profile("dev", deadline=None, max_examples=PART)
settings.register_profile("ci", deadline=None, max_examples=PART, derandomize=True, database=None, print_blob=True)
settings.register_profile("thorough", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure(config: pytest.Config) -> None:
    take_descriptors()
    if LIBOQS:
        os.environ["OQS_INSTALL_PATH"] = LIBOQS
    # Control sockets and identities of services under test are nothing for the operator of this machine.
    directory = tempfile.TemporaryDirectory(prefix="rtunnel-tests-")
    os.environ["RUNTIME_DIRECTORY"] = os.environ["XDG_STATE_HOME"] = directory.name
    config.add_cleanup(directory.cleanup)
    # A shell ignores SIGINT for a job in the background, nohup SIGHUP, and processes that tests start would inherit it.
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


# Nothing that comes up before the first test is garbage.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Thousands of tests are no garbage. A collection, which hundreds of tests ask for, need not look at them."""
    gc.freeze()
    gc.enable()


def pytest_runtest_setup() -> None:
    """Debug lines are made. Setting up a log turns them off for the process, and other tests read them."""
    DebugLog.is_wanted = True


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cold", action="store_true", help="start each twistd with all its imports, as a user does")


@pytest.fixture
def steady_descriptors() -> Iterator[None]:
    """What tests before this one have left to the garbage collector is closed by now, and not in the middle of it."""
    with no_collector():
        yield
