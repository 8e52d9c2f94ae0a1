"""Settings of all tests. In CI no skip goes unseen, and hypothesis repeats the same examples."""

from __future__ import annotations

import os

from hypothesis import settings

pytest_plugins = ["pytester", "tests.leftovers", "tests.no_skips"]

# No deadline: examples run inside the reactor, whose turns depend on the load of the machine.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
