"""The steps of etc/container/Containerfile, without an engine: all of its paths are below a temporary directory.

What that leaves out is the user, as he may not enter that directory, and the base image, whose part this machine plays.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, made_once, run
from tests.patience import PATIENCE
from tests.process.first import First
from tests.process.harness import clean_environment, need, poll

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to the user, and makes namespaces"),
]

FILE = ROOT / "etc" / "container" / "Containerfile"


def instructions() -> Iterator[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        yield word, rest.strip()


@dataclass
class Image:
    """What the file makes, below a directory.

    :ivar given: the directories that it gives to the user; then they are ours, as we run instead of him.
    :ivar mounts: what an engine mounts, by its path in the image.
    """

    root: Path
    given: set[Path] = field(default_factory=set)
    env: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    mounts: dict[str, Path] = field(default_factory=dict)

    def here(self, path: str) -> str:
        """A path of the image on this machine; other words as they are."""
        if path in self.mounts:
            return str(self.mounts[path])
        return f"{self.root}{path}" if path.startswith("/") and not path.startswith("/usr/") else path

    def argv(self, words: str) -> list[str]:
        """A command of the image. An image has no use for pip's cache, and a test has."""
        given = [each for each in json.loads(words) if each != "--no-cache-dir"]
        return [sys.executable if each == "python" else self.here(each) for each in given]

    @property
    def environment(self) -> dict[str, str]:
        return {name: ":".join(map(self.here, value.split(":"))) for name, value in self.env.items()}


@pytest.fixture
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image, made once, with directories of this test's own where it writes."""

    def build(directory: Path) -> None:
        (directory / "pickled").write_bytes(pickle.dumps(built(directory / "root")))

    made: Image = pickle.loads((made_once(tmp_path_factory, "image", build) / "pickled").read_bytes())
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY"):
        made.mounts[made.env[name]] = tmp_path_factory.mktemp("own")  # A short name, as there are sockets in it.
    return made


def built(root: Path) -> Image:
    root.mkdir()
    made = Image(root)
    taken: list[str] = []
    for word, rest in instructions():
        match word:
            case "FROM":
                assert re.fullmatch(r"python:3\.\d+-slim( AS build)?", rest), "the base image is one of the host's own"
                stage = made.root / "src"
                if stage.exists():
                    # What the last stage does not take is gone.
                    shutil.rmtree(stage)
            case "COPY" if rest.startswith("--from=build "):
                taken = rest.split()[1:]
                assert taken == ["/opt/rtunnel", "/opt/rtunnel"]
            case "COPY":
                *sources, target = rest.split()
                for source in sources:
                    _copy(ROOT / source, Path(made.here(target)), into=target.endswith("/"))
            case "RUN":
                run(made.argv(rest), made.root, made.environment)
            case "ENV":
                made.env |= dict(pair.split("=", 1) for pair in rest.split())
            case _:
                made.settings[word] = rest
    assert taken
    for directory in [made.root / each / "rtunnel" for each in ("etc", "run", "var/lib")]:
        found = directory.stat()
        if (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65532, 65532, 0o700):
            made.given.add(directory)
        os.chown(directory, 0, 0)
    return made


def _copy(source: Path, target: Path, *, into: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    else:
        target.mkdir(parents=True, exist_ok=True)
        assert into
        shutil.copy(source, target)


def start(image: Image, *arguments: str) -> First:
    entry = image.argv(image.settings["ENTRYPOINT"])
    return First([*entry, *arguments], cwd=image.root, env=image.environment)


def health(image: Image, process: First) -> subprocess.CompletedProcess[str]:
    """Run the health check beside the process, as the engine does."""
    words = image.settings["HEALTHCHECK"].partition("CMD ")[2]
    argv = [need("nsenter"), f"--target={process.inside}", "--pid", "--mount", *image.argv(words)]
    env = clean_environment(image.environment)
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)


def healthy(image: Image, process: First) -> str:
    """What the health check says if all is well, else nothing."""
    found = health(image, process)
    return "" if found.returncode else found.stdout


def test_it_serves_is_healthy_and_stops(image: Image) -> None:
    with start(image, "server", "--control-listen=127.0.0.1:0") as server:
        server.wait_for("control port listening")
        assert "rtunnel-server" in poll(lambda: healthy(image, server), PATIENCE, "it is healthy")
        assert server.stop() == 0


def test_one_that_is_not_well(image: Image) -> None:
    with start(image, "client", "--server=127.0.0.1:1", "--tunnel=1:80") as client:
        client.wait_for("cannot reach server")
        poll(lambda: "127.0.0.1:1" in health(image, client).stderr, PATIENCE, "what is wrong")
        assert health(image, client).returncode == 1
        assert client.stop() == 0


def test_it_ends_by_a_signal_before_it_serves(image: Image) -> None:
    """The kernel would keep the first process from it; then the engine waits, and kills."""
    with start(image, "status", "--watch", "--json") as process:
        process.wait_for(r"\[\]")
        assert process.stop() == 128 + 15


def test_a_user_without_privileges(image: Image) -> None:
    assert image.settings["USER"] == "65532:65532"
    assert {str(each.relative_to(image.root)) for each in image.given} == {
        "etc/rtunnel",
        "run/rtunnel",
        "var/lib/rtunnel",
    }


def test_what_is_in_it(image: Image) -> None:
    """All ends, no codecs, no pip."""
    (packages,) = (image.root / "opt/rtunnel/lib").glob("*/site-packages")
    assert (packages / "twisted/plugins/dropin.cache").exists()
    assert not [name for name in ("av", "av.libs", "pip") if (packages / name).exists()]
    for end in ("server", "client", "signal", "host", "connect"):
        run([*image.argv(image.settings["ENTRYPOINT"]), end, "--help"], image.root, image.environment)


def test_no_image_of_a_registry_is_named() -> None:
    assert not re.search(r"^FROM \S*/", FILE.read_text(), re.MULTILINE)
