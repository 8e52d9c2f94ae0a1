"""``python -m rtunnel`` is the command ``rtunnel``."""

import sys

from rtunnel.options.command import main

sys.exit(main())
