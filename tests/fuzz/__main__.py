"""Fuzz the targets, two at a time; see the package. Exit code 1 if any was broken."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path(__file__).parents[2] / ".fuzz"
"""Bytes that reached something new, kept for the next run."""
MOST_BYTES = 8192
ONE_INPUT = 10
"""Seconds that one input may take."""
MEBIBYTES = 1024
"""How large a process may grow."""


def fuzz(target: str, seconds: int) -> bool:
    """Fuzz one target. Return whether it held."""
    found = FOUND / target
    found.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.fuzz.one",
            target,
            f"-max_total_time={seconds}",
            f"-max_len={MOST_BYTES}",
            f"-timeout={ONE_INPUT}",
            f"-rss_limit_mb={MEBIBYTES}",
            f"-artifact_prefix={CORPUS / target}{os.sep}",
            "-print_final_stats=1",
            str(found),
            str(CORPUS / target),
        ],
        capture_output=True,
        check=False,
        timeout=seconds + 300,
    )
    output = done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace")
    runs = re.search(r"number_of_executed_units: (\d+)", output)
    reached = re.findall(r"cov: (\d+)", output)
    print(f"{target:16} {runs[1] if runs else '?':>9} inputs, coverage {reached[-1] if reached else '?'}", flush=True)
    if done.returncode or runs is None:
        print(f"\n{output[-6000:]}\n{target} is broken; the bytes are in {CORPUS / target}", flush=True)
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    names = sorted(path.name for path in CORPUS.iterdir())
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of: {', '.join(names)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(names):
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return 0 if all(list(pool.map(lambda name: fuzz(name, options.seconds), options.targets or names))) else 1


if __name__ == "__main__":
    sys.exit(main())
