"""Completion, by the shells themselves."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.python import usage

from rtunnel.options.command import main
from rtunnel.options.help.completion import Options
from rtunnel.options.help.shells import SHELLS
from rtunnel.options.help.tree import tree
from rtunnel.tls.hedge.schemes import SCHEMES
from tests.patience import PATIENCE
from tests.process.harness import clean_environment, need

Complete = Callable[[str], list[str]]

CASES = {
    "rtunnel stat": "status",
    "rtunnel pki ini": "init",
    "rtunnel doctor cl": "client",
    # Which end is meant need not be said.
    "rtunnel doctor --ice-i": "--ice-interface",
    "rtunnel doctor --log-level w": "warn",
    "rtunnel server --http-l": "--http-listen",
    "rtunnel server --log-level w": "warn",
    "rtunnel client --data-plane di": "direct",
    "rtunnel service install serv": "server",
    "rtunnel completion fi": "fish",
    "rtunnel pki client --alg": "--algorithm",
    "rtunnel server --config {there}/serv": "{there}/server.yaml",
    "rtunnel pki import {there}/serv": "{there}/server.yaml",
    # The value of an option is not a command.
    "rtunnel client --id pki --tun": "--tunnel",
}
"""What is typed, and the only word that it can become."""


def run(argv: list[str], cwd: Path) -> str:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=clean_environment({"HOME": str(cwd)}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    def write(shell: str) -> Path:
        path = tmp_path / f"rtunnel.{shell}"
        path.write_text(SHELLS[shell](tree()))
        return path

    (tmp_path / "server.yaml").touch()
    return write


def check(complete: Complete, tmp_path: Path) -> None:
    typed = {line.format(there=tmp_path): word.format(there=tmp_path) for line, word in CASES.items()}
    assert {line: complete(line) for line in typed} == {line: [word] for line, word in typed.items()}


@pytest.mark.process
def test_bash(script: Callable[[str], Path], tmp_path: Path) -> None:
    bash = need("bash")
    source = f"source {script('bash')}"
    assert run([bash, "-c", f"{source}; complete -p rtunnel"], tmp_path).split()[-1] == "rtunnel"

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        # With no word of its own, bash completes names of files.
        ask = f'{source}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _rtunnel; printf "%s\\n" "${{COMPREPLY[@]}}"'
        found = run([bash, "-c", ask, "bash", *words], tmp_path).split()
        return found or run([bash, "-c", 'compgen -f -- "$1"', "bash", words[-1]], tmp_path).split()

    check(complete, tmp_path)
    # As bash splits --log-level=w.
    words = ["rtunnel", "server", "--log-level", "=", "w"]
    assert complete(" ".join(words)) == ["warn"]
    assert complete(" ".join(words[:-1])) == ["debug", "info", "warn", "error"]


@pytest.mark.process
def test_fish(script: Callable[[str], Path], tmp_path: Path) -> None:
    fish, path = need("fish"), script("fish")

    def complete(line: str) -> list[str]:
        found = run([fish, "-c", f"source {path}; complete -C {line!r}"], tmp_path)
        return [each.partition("\t")[0] for each in found.splitlines()]

    check(complete, tmp_path)
    assert complete("rtunnel server --log-level=w") == ["--log-level=warn"]


@pytest.mark.process
def test_zsh(script: Callable[[str], Path], tmp_path: Path) -> None:
    """It completes on a terminal only."""
    zsh, path = need("zsh"), script("zsh")
    terminal, its = pty.openpty()
    environment = clean_environment({"TERM": "dumb", "HOME": str(tmp_path), "COLUMNS": "500"})
    argv = [zsh, "-f", "-i"]
    with open(its, "r+b", buffering=0) as side:  # noqa: PTH123
        process = subprocess.Popen(argv, cwd=tmp_path, env=environment, stdin=side, stdout=side, stderr=side)
    output = ""

    def wait_for(pattern: str) -> re.Match[str]:
        nonlocal output
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(pattern, output)) is None:
            ready = select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, output
            output += os.read(terminal, 65536).decode(errors="replace")
        output = output[found.end() :]
        return found

    def complete(line: str) -> list[str]:
        os.write(terminal, f"{line}\t\n".encode())
        return [wait_for(r"ran: <(.*?)>")[1].split()[-1]]

    try:
        tell = """rtunnel() { print -r -- "ran: ""<$*>" }"""
        os.write(terminal, f"autoload -U compinit; compinit -u -D; source {path}; {tell}; print rea''dy\n".encode())
        wait_for("ready")
        check(complete, tmp_path)
        assert complete("rtunnel server --log-level=w") == ["--log-level=warn"]
    finally:
        process.kill()
        process.wait(PATIENCE)
        os.close(terminal)


@pytest.mark.parametrize("shell", SHELLS)
def test_everything_is_there(shell: str) -> None:
    text = SHELLS[shell](tree())
    for command in tree().walk():
        assert command.words[-1] in text
        for option in command.options:
            assert f"-l {option.flags[0][2:]} " in text if shell == "fish" else option.flags[0] in text


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == SHELLS["bash"](tree())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the shell: bash, zsh, fish"),
        (["bsh"], "'bsh' is not a shell known here; did you mean 'bash'?"),
        (["powershell"], "'powershell' is not a shell known here; there are scripts for bash, zsh, fish"),
        (["bash", "zsh"], "one shell at a time; remove 'zsh'"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(usage.UsageError) as caught:
        Options().parseOptions(arguments)
    assert str(caught.value) == message


def test_the_kinds_of_a_second_key() -> None:
    """They are all values of an option that is no setting."""
    [command] = [each for each in tree().walk() if each.path == "rtunnel id"]
    [found] = [option for option in command.options if option.choices]
    assert (found.flags[0], found.choices) == ("--second", tuple(SCHEMES))
