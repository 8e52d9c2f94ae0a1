"""What all tests share: nothing may be left behind, no skip may go unseen in CI, and examples repeat there."""

from __future__ import annotations

import os

from hypothesis import settings

pytest_plugins = ["pytester", "tests.leftovers", "tests.no_skips"]

# Examples run inside the reactor, whose turns depend on the machine's load: no deadline.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
