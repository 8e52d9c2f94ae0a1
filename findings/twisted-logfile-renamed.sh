#!/usr/bin/env bash
# Twisted 26.10.0: LogFile.rotate() does nothing if the file was renamed, and goes on writing to the renamed one.
#
# twistd calls rotate() on SIGUSR1. logrotate renames a log and then signals its program, so that it opens a new file.
# rotate() first looks whether it may write to the path; the path is gone, so it returns without a word. The log goes on
# in the renamed file, which logrotate compresses or deletes in the end.
#
# Expected: a new file under the old name, with what is written afterwards. Seen: there is none.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install twisted==26.10.0
mkdir "$folder/log"
"$folder/venv/bin/python" - "$folder/log" <<'PYTHON'
import pathlib
import sys

import twisted
from twisted.python.logfile import LogFile

folder = pathlib.Path(sys.argv[1])
log = LogFile("x.log", str(folder))
log.write("before\n")
(folder / "x.log").rename(folder / "x.log.old")
log.rotate()
log.write("after\n")
log.flush()
files = {path.name: path.read_text() for path in folder.iterdir()}
print("twisted", twisted.__version__)
print(files)
sys.exit(0 if files == {"x.log.old": "before\nafter\n"} else "changed: see what is new")
PYTHON
