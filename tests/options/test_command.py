"""The command ``rtunnel``: what it says about itself, and the ends of the tunnels in the foreground."""

from __future__ import annotations

import gc
import io
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.logger import LogEvent, LogLevel
from twisted.python.failure import Failure

import rtunnel.__main__
from rtunnel.errors import StartupError
from rtunnel.options.command import Options, main
from rtunnel.options.plugins import common
from rtunnel.options.plugins.foreground import run_in_foreground
from rtunnel.options.plugins.terminal import terminal_line
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, clean_environment, twistd_program

ENDS = ["server", "client", "signal", "host", "connect"]
FIRST_OPTIONS = {"server": "tls", "client": "server", "signal": "addr", "host": "signal", "connect": "signal"}
WIDTH = 80
LOOPBACK = "tcp:0:interface=127.0.0.1"
LISTENS = {
    "server": ("--control-listen", LOOPBACK, "control port listening on 127.0.0.1:"),
    "signal": ("--addr", LOOPBACK, "signaling port listening on 127.0.0.1:"),
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def event(text: str, level: str = "info", **fields: object) -> LogEvent:
    return {"log_time": 0.0, "log_level": LogLevel.levelWithName(level), "log_format": text, **fields}


@pytest.fixture
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()


@pytest.mark.usefixtures("width")
class TestLines:
    LONG = "link 192.0.2.7:51784: TLS 1.3, key exchange X25519MLKEM768, certificate of 'laptop' (ML-DSA-65)"

    @pytest.mark.parametrize("file", [io.StringIO(), Terminal()])
    def test_has_the_time_and_the_message(self, file: io.StringIO) -> None:
        line = terminal_line(file)(event("{port} listens", port=80, log_system="x", log_namespace="rtunnel.y"))
        assert line == "00:00:00 80 listens\n"

    def test_fits_a_terminal(self) -> None:
        line = terminal_line(Terminal())(event(self.LONG))
        assert line is not None
        assert all(len(part) <= WIDTH for part in line.splitlines())
        first, second = line.splitlines()
        assert second.startswith(" " * 9)
        assert f"{first[9:]} {second.strip()}" == self.LONG

    def test_is_one_line_in_a_file(self) -> None:
        assert terminal_line(io.StringIO())(event(self.LONG)) == f"00:00:00 {self.LONG}\n"

    @pytest.mark.parametrize(
        ("level", "text"),
        [
            ("debug", "\x1b[2m00:00:00 x\x1b[0m\n"),
            ("warn", "\x1b[33m00:00:00 warning: x\x1b[0m\n"),
            ("error", "\x1b[31m00:00:00 error: x\x1b[0m\n"),
            ("critical", "\x1b[31m00:00:00 error: x\x1b[0m\n"),
        ],
    )
    def test_level(self, level: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = re.sub(r"\x1b\[\d+m", "", text)
        assert terminal_line(Terminal())(event("x", level)) == text
        assert terminal_line(io.StringIO())(event("x", level)) == plain
        monkeypatch.setenv("NO_COLOR", "1")
        assert terminal_line(Terminal())(event("x", level)) == plain

    def test_traceback_stays_as_it_is(self) -> None:
        failure = Failure(ValueError("y" * 100))
        line = terminal_line(Terminal())(event("x", "error", log_failure=failure))
        assert line is not None
        assert line.startswith("\x1b[31m00:00:00 error: x\nTraceback")
        assert "y" * 100 in line

    def test_event_without_a_message(self) -> None:
        assert terminal_line(io.StringIO())(event("")) is None


def test_alone_it_explains_both_tunnels_in_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 10
    assert all(len(line) <= WIDTH for line in lines)
    for word in (*(f"rtunnel {end} " for end in ENDS), "rtunnel pki init", "--tls", "--valid-tokens"):
        assert any(word in line for line in lines), word


@pytest.mark.parametrize(("end", "first"), FIRST_OPTIONS.items())
def test_help_begins_with_what_people_need(
    end: str, first: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    with pytest.raises(SystemExit) as ended:
        main([end, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: rtunnel {end} ")
    assert all(len(line) <= WIDTH for line in text.splitlines())
    places = [text.index(title) for title in ("Examples:", "What most people need:", "All other options:")]
    assert places == sorted(places)
    assert f"    rtunnel {end} " in text[places[0] : places[1]]
    assert "--drain=" in text[places[2] :] or end == "signal"
    options = re.findall(r"^ {6}--([a-z-]+)", text, re.MULTILINE)
    assert len(options) == len(set(options)), "each once"
    assert options[0] == first
    assert not re.search(r"\w-$", text, re.MULTILINE), "a line that ends within a word"


def test_help_has_a_short_option(capsys: pytest.CaptureFixture[str]) -> None:
    texts = set()
    for option in ("-h", "--help"):
        with pytest.raises(SystemExit) as ended:
            main(["client", option])
        assert ended.value.code == 0
        texts.add(capsys.readouterr().out)
    assert len(texts) == 1


@pytest.mark.parametrize("width", ["5", "0", "-1", "x"])
@pytest.mark.parametrize("command", [["server"], ["pki"], ["pki", "init"], ["service", "install"], []])
def test_help_whatever_the_width(
    command: list[str], width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("Usage: rtunnel")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["client"], "rtunnel client: --server is missing"),
        (["server", "--allow-prots", "1"], "rtunnel server: option --allow-prots not recognized; did you mean"),
        (["signal", "--log-level=x"], "rtunnel signal: flag --log-level: 'x' is not one of"),
        (["host", "x"], "rtunnel host: 'x' is not an option"),
        (["conect"], "rtunnel: 'conect' is not a command; did you mean 'connect'?"),
        ([""], "rtunnel: '' is not a command; see 'rtunnel --help'"),
        (["help"], "rtunnel: 'help' is not a command; see 'rtunnel --help'"),
        (["pki", "xyz"], "rtunnel pki: 'xyz' is not a command; see 'rtunnel pki --help'"),
    ],
)
@pytest.mark.usefixtures("nothing_from_outside")
def test_mistakes_are_one_line(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(complaint)
    assert err.count("\n") == 1


@pytest.mark.usefixtures("nothing_from_outside")
def test_ctrl_c_while_options_are_read_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twisted's search for plugins, which reading an address may begin, would swallow a KeyboardInterrupt."""
    seen = []
    monkeypatch.setattr(common, "find_config_file", lambda *_, **__: seen.append(signal.getsignal(signal.SIGINT)))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["client"]) == 1
        after = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (seen, after) == ([signal.SIG_DFL], signal.default_int_handler)


@pytest.mark.process
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_output_that_the_caller_has_closed(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" {closed}', twistd_program("rtunnel")],
        capture_output=True,
        env=clean_environment(),
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_interrupt_ends_the_process_until_the_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later it raises KeyboardInterrupt, so that a command can tidy up."""
    seen = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(Options, "parseOptions", lambda *_: seen.append(signal.getsignal(signal.SIGINT)))
    monkeypatch.setattr(Options, "run", lambda _: seen.append(signal.getsignal(signal.SIGINT)))
    monkeypatch.setattr("sys.argv", ["rtunnel"])
    try:
        assert rtunnel.__main__.main() == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIG_DFL, signal.default_int_handler]


def test_nothing_is_collected_while_modules_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of the options nor, later, those of a service."""
    seen = []

    def make_service() -> None:
        seen.append(gc.isenabled())
        raise StartupError("not here")

    def run(_: Options) -> None:
        seen.append(gc.isenabled())
        run_in_foreground(make_service)  # type: ignore[arg-type]

    monkeypatch.setattr(Options, "parseOptions", lambda *_: seen.append(gc.isenabled()))
    monkeypatch.setattr(Options, "run", run)
    monkeypatch.setattr("sys.argv", ["rtunnel"])
    assert rtunnel.__main__.main() == 1
    assert (seen, gc.isenabled()) == ([False, True, False], True)


@pytest.mark.parametrize("end", ENDS)
def test_version(end: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([end, "--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("rtunnel ")


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Twistds]:
    """Starts processes by the fork server."""
    started = Twistds(tmp_path, cold=False)
    yield started
    started.end_all()


@pytest.mark.process
class TestForeground:
    @pytest.mark.parametrize("end", list(LISTENS))
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_stops_it_with_exit_code_0(self, end: str, number: signal.Signals, warm: Twistds) -> None:
        option, address, line = LISTENS[end]
        process = warm.rtunnel(end, option, address)
        process.wait_for(line)
        assert process.terminate(number=number) == 0
        lines = process.output.splitlines()
        assert lines[-1].endswith(f"{number.name}: stopping")
        # No pid file, and nothing that only Twisted cares about.
        assert not list(warm.directory.iterdir())
        for boilerplate in ("twistd", "reactor", "Starting", "Log opened", "Main loop"):
            assert boilerplate not in process.output
        assert all(re.match(r"\d\d:\d\d:\d\d \S", line) for line in lines)

    @pytest.mark.parametrize("end", ["host", "connect"])
    def test_ends_of_the_webrtc_tunnel_run(self, end: str, warm: Twistds) -> None:
        """On asyncio: any other reactor would be refused."""
        service = ("--remote", ":1") if end == "host" else ("--local", LOOPBACK)
        process = warm.rtunnel(end, "--id", "x", "--signal", f"ws://127.0.0.1:{free_port()}", *service)
        process.wait_for("next attempt in")
        assert process.terminate() == 0
        assert "Traceback" not in process.output

    def test_busy_port_is_one_line(self, warm: Twistds) -> None:
        first = warm.rtunnel("server", "--control-listen", LOOPBACK)
        port = first.wait_for(r"listening on 127\.0\.0\.1:(\d+)")[1]
        second = warm.rtunnel("server", "--control-listen", f"127.0.0.1:{port}")
        assert second.wait() == 1
        (line,) = second.output.splitlines()
        assert line.startswith(f"rtunnel server: cannot listen on 127.0.0.1:{port} (control port): ")

    @pytest.mark.parametrize("how", ["rtunnel", "twistd"])
    def test_open_server_starts_and_its_last_line_says_two_ways_out(self, how: str, warm: Twistds) -> None:
        options = ("--control-listen", "tcp:0", "--public-listen", LOOPBACK)
        process = warm.rtunnel("server", *options) if how == "rtunnel" else warm("rtunnel-server", *options)
        process.wait_for("through SSH$")
        control, shared, udp, last = process.output.splitlines()[-4:]
        assert "control port listening on" in control
        assert "UDP paths of clients at" in udp
        assert "is closed until somebody serves it" in shared
        assert re.search(r"ANYBODY WHO REACHES 0\.0\.0\.0:\d+ CAN OPEN PORTS ON THIS MACHINE: ", last)
        assert "--tls" in last
        assert "--control-listen 127.0.0.1:7000" in last
        assert process.terminate() == 0

    def test_json(self, warm: Twistds) -> None:
        process = warm.rtunnel("server", "--control-listen", LOOPBACK, "--log-format=json")
        process.wait_for(r'^\{"time": .*"message": "control port listening on 127')
        assert process.terminate() == 0

    def test_at_a_terminal(self, tmp_path: Path) -> None:
        """Without the fork server, whose processes have no terminal."""
        ours, theirs = pty.openpty()
        argv = [twistd_program("rtunnel"), "host", "--id=x", "--signal", f"ws://127.0.0.1:{free_port()}", "--remote=:1"]
        env = clean_environment({"COLUMNS": str(WIDTH)})
        env.pop("NO_COLOR", None)
        process = subprocess.Popen(argv, stdout=theirs, stderr=theirs, cwd=tmp_path, env=env)
        os.close(theirs)
        try:
            output = ""
            while "next attempt" not in " ".join(output.split()):
                output += os.read(ours, 4096).decode()
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait(PATIENCE)
            os.close(ours)
        assert re.search(r"^\x1b\[33m[0-9:]{8} warning: ", output, re.MULTILINE)
        assert all(len(re.sub(r"\x1b\[\d+m", "", line)) <= WIDTH for line in output.splitlines())
