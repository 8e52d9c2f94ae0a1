"""What tests do in workers is reported as if there were none; see :mod:`tests.workers`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).parent.parent

SUITE = """
    import os
    import signal
    import time
    import warnings
    import pytest
    import pytest_twisted
    from twisted.internet import reactor, task, threads

    BEFORE = os.getpid()

    def test_good():
        assert os.getpid() != BEFORE

    def test_bad():
        assert [1, 2] == [1, 3]

    def test_prints():
        print("by Python")
        os.write(1, b"by the descriptor")
        assert False

    def test_reads_what_it_prints(capfd):
        print("mine")
        assert capfd.readouterr().out == "mine\\n"

    def test_warns():
        warnings.warn("mind the gap")

    @pytest.mark.skip(reason="no bananas")
    def test_skipped():
        pass

    @pytest.fixture(scope="module")
    def bad():
        yield
        raise ValueError("at the end")

    def test_bad_end(bad):
        pass

    @pytest.mark.parametrize("number", range(20))
    @pytest_twisted.ensureDeferred
    async def test_reactor(number):
        await task.deferLater(reactor, 0.01)
        assert await threads.deferToThread(os.getpid) == os.getpid()
"""
DIES = """
    import os
    import signal

    def test_one(): pass
    def test_dies(): os.kill(os.getpid(), signal.SIGKILL)
    def test_two(): pass
    def test_leaves(): os._exit(0)
    def test_three(): pass
"""
DIRECTORIES = """
    import os
    from pathlib import Path
    import pytest

    @pytest.mark.parametrize("number", range(8))
    def test_it(number, tmp_path, tmp_path_factory):
        own = [Path(os.environ["RUNTIME_DIRECTORY"]), tmp_path_factory.getbasetemp()]
        for directory in own:
            mine = directory / "mine"
            assert not mine.exists() or mine.read_text() == str(os.getpid())
            mine.write_text(str(os.getpid()))
            assert os.environ["PYTEST_XDIST_WORKER"] in directory.name
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\naddopts = --reactor=asyncio -p tests.workers -p no:randomly\nmarkers = process\n")
    return pytester


def run(suite: pytest.Pytester, *more: str) -> pytest.RunResult:
    return suite.runpytest_subprocess("-rA", *more, timeout=PATIENCE)


@pytest.mark.parametrize("workers", ["1", "3", "auto"])
def test_reports(suite: pytest.Pytester, workers: str) -> None:
    suite.makepyfile(SUITE)
    result = run(suite, f"--workers={workers}")
    result.assert_outcomes(passed=24, failed=2, errors=1, skipped=1, warnings=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    for seen in ("*At index 1 diff: 2 != 3", "by Python", "by the descriptor", "*mind the gap", "*no bananas"):
        assert len([line for line in result.outlines if line.endswith(seen.strip("*"))]) >= 1, seen
    assert result.outlines.count("by the descriptor") == 1
    result.stdout.fnmatch_lines(["*ValueError: at the end"])


def test_a_worker_that_dies(suite: pytest.Pytester) -> None:
    """Its test has failed, and the others run."""
    suite.makepyfile(DIES)
    result = run(suite, "--workers=1")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["*ended in the middle of this test, with exit code -9*"])
    result.stdout.fnmatch_lines(["*ended in the middle of this test, with exit code 0*"])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_stops_at_the_first_failure(suite: pytest.Pytester, workers: str) -> None:
    suite.makepyfile("def test_bad(): assert 0\n" + "".join(f"def test_{n}(): pass\n" for n in range(500)))
    result = run(suite, f"--workers={workers}", "-x")
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])
    assert result.parseoutcomes()["failed"] == 1
    assert result.parseoutcomes().get("passed", 0) < 500


def test_fixtures_end_when_another_worker_stops(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import time
        from pathlib import Path
        import pytest

        def wait_for(name):
            for _ in range(3000):
                if Path(name).exists():
                    return
                time.sleep(0.01)

        @pytest.fixture(scope="module")
        def made():
            Path("begun").touch()
            yield
            Path("ended").touch()

        def test_bad():
            wait_for("begun")
            assert 0

        @pytest.mark.parametrize("number", range(200))
        def test_more(made, number):
            time.sleep(0.05)
    """)
    run(suite, "--workers=2", "-x")
    assert (suite.path / "ended").exists()


def test_each_has_directories_of_its_own(suite: pytest.Pytester) -> None:
    suite.makepyfile(DIRECTORIES)
    suite.makeconftest('import os\nos.environ["RUNTIME_DIRECTORY"] = os.environ["XDG_STATE_HOME"] = os.getcwd()\n')
    run(suite, "--workers=8").assert_outcomes(passed=8)


def test_errors_of_collection(suite: pytest.Pytester) -> None:
    suite.makepyfile("import nothing_of_this_name")
    run(suite, "--workers=2").assert_outcomes(errors=1)


def test_nothing_to_do(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_it(): pass")
    assert run(suite, "--workers=2", "-k", "other").ret == pytest.ExitCode.NO_TESTS_COLLECTED
