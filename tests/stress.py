"""The whole suite again and again on a machine that has no time: ``make stress``.

A test that asserts what another process or the kernel has still to do passes on a quiet machine, and fails at somebody
else's. So each round runs everything once, in another random order, beside processes that use all the processor time
that they get; the rounds take turns with the number of workers, and with how ``twistd`` starts. The last round has one
core. The seed of each order is printed, and with ``--seed`` the rounds repeat.

A failure is not run again: it is a fault of the test or of the program.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

WORKERS = (2, 4, 1)
"""Workers of the first round, the second, the third, and so on."""
BUSY = "while True: pass"


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes beside this one that do nothing, as fast as they can."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def cores(count: int | None) -> Iterator[None]:
    """Everything that is started meanwhile shares so many cores (Linux)."""
    if count is None:
        yield
        return
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def run(number: int, seed: int, workers: int, more: Sequence[str], *, cold: bool) -> list[str]:
    """Run the suite once, with its output; the tests that failed."""
    argv = [sys.executable, "-m", "pytest", f"--workers={workers}", f"--randomly-seed={seed}"]
    argv += ["--hypothesis-profile=thorough", *(["--cold"] if cold else [])]
    began = time.monotonic()
    failed: list[str] = []
    with subprocess.Popen([*argv, *more], stdout=subprocess.PIPE, text=True) as suite:
        assert suite.stdout is not None
        for line in suite.stdout:
            print(line, end="", flush=True)
            if found := re.match(r"(?:FAILED|ERROR) (\S+)", line):
                failed.append(found[1])
    if suite.returncode and not failed:
        failed.append(f"pytest ended with exit code {suite.returncode}")
    print(f"=== round {number}: {len(failed)} failed, {time.monotonic() - began:.0f} s", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="rounds on all cores; the one on one core comes after")
    parser.add_argument("--load", type=int, default=2, help="processes that run beside the suite, at full speed")
    parser.add_argument("--seed", type=int, help="of the first round; those of the others follow from it")
    options, more = parser.parse_known_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    seeds = random.Random(seed)
    failed: dict[str, list[str]] = {}
    for number in range(1, options.rounds + 2):
        last = number > options.rounds
        workers = WORKERS[(number - 1) % len(WORKERS)]
        order = seed if number == 1 else seeds.randrange(2**32)
        cold = number % 2 == 0
        where = "one core" if last else "all cores"
        starts = "cold starts" if cold else "forked starts"
        print(
            f"=== round {number}: order {order}, {workers} workers, {options.load} busy loops, {starts}, {where}",
            flush=True,
        )
        with cores(1 if last else None), busy_loops(options.load):
            for test in run(number, order, workers, more, cold=cold):
                failed.setdefault(test, []).append(f"round {number}")
    for test, rounds in failed.items():
        print(f"{test}: {', '.join(rounds)}")
    print(f"=== {options.rounds + 1} rounds from seed {seed}: {len(failed)} tests failed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
