"""Commands that end by themselves."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.patience import PATIENCE
from tests.process import fork_server
from tests.process.harness import clean_environment, twistd_program


def run_to_end(
    program: str,
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cold: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run ``rtunnel ARGUMENTS`` or ``twistd ARGUMENTS``, with its output and its errors apart.

    :param cold: as for :class:`Twistd`.
    """
    argv, environment = [twistd_program(program), *arguments], clean_environment(env)
    if fork_server.available() and not cold:
        done = fork_server.fork_server().run(argv, cwd, environment, stdin)
    else:
        done = subprocess.run(
            argv, cwd=cwd, env=environment, input=stdin, capture_output=True, check=False, timeout=PATIENCE
        )
    return subprocess.CompletedProcess(argv, done.returncode, done.stdout.decode(), done.stderr.decode())


def run_rtunnel(*arguments: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run ``rtunnel ARGUMENTS`` to its end; the exit code, the output and the errors."""
    done = run_to_end("rtunnel", *arguments, cwd=Path.cwd(), env=env, stdin=stdin)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr
