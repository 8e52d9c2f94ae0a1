"""``rtunnel service``: the ends of the tunnels as systemd services.

The units, the user and the sample settings are files of the package, in ``rtunnel/etc``. ``install`` puts them where
systemd looks, with the path of this installation in them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from twisted.plugin import IPlugin, getPlugins
from twisted.python import usage

from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import RtunnelError
from rtunnel.options.plugins import rtc_signal
from rtunnel.options.verbs import Verb, Verbs
from rtunnel.pki.locations import default_pki_dir

PLUGINS = {
    "server": "rtunnel-server",
    "client": "rtunnel-client",
    "signal": "rtc-signal",
    "host": "rtc-host",
    "connect": "rtc-client",
}
CONFIGS = {"server": "server.yaml", "client": "client.yaml"}
PKI = "etc/rtunnel/pki"
#: Where a service cannot read because of ProtectHome.
HOMES = ("/home", "/root", "/run/user")
GROUP = "rtunnel"


class ServiceError(RtunnelError):
    """A service cannot be installed or removed. The message says why, and what to do."""


class _Command(Verb):
    """What ``install`` and ``uninstall`` share."""

    synopsis = "[options] server|client|signal|host|connect"

    def __init__(self) -> None:
        super().__init__()
        self.root = Path("/")
        self.name = ""

    def opt_root(self, value: str) -> None:
        """Work on the files below this directory, such as an image, and start and stop nothing."""
        self.root = Path(value).absolute()

    def parseArgs(self, *arguments: str) -> None:
        """Take the name of the service.

        :raises usage.UsageError: there is none, or it is unknown, or there are several.
        """
        if not arguments:
            raise usage.UsageError(f"name a service: {', '.join(PLUGINS)}")
        self.name, *others = arguments
        if self.name not in PLUGINS:
            hint = suggestion(self.name, PLUGINS) or f"; name one of {', '.join(PLUGINS)}"
            raise usage.UsageError(f"'{self.name}' is not a service{hint}")
        if others:
            raise usage.UsageError(f"one service at a time; remove '{others[0]}'")

    @property
    def unit(self) -> str:
        """The name of the unit."""
        return f"{PLUGINS[self.name]}.service"

    @property
    def units(self) -> Path:
        """The directory of the units."""
        return self.root / "etc/systemd/system"

    @property
    def live(self) -> bool:
        """Whether this is the running system."""
        return self.root == Path("/")

    def socket_files(self) -> list[Path]:
        """Return the files of socket activation: the socket's unit, and what tells the service to take it."""
        plugin = PLUGINS[self.name]
        return [self.units / f"{plugin}.socket", self.units / f"{plugin}.service.d" / "socket-activation.conf"]

    def check_root(self) -> None:
        """Check that this is root, which the running system needs.

        :raises ServiceError: it is not.
        """
        if self.live and os.geteuid() != 0:
            raise ServiceError("needs root; write sudo before it, or --root DIR to see what it would write")


class Install(_Command):
    """Install a systemd service: its unit, the user rtunnel, and the file with its settings, which is kept if it
    exists. Certificates that 'rtunnel pki' made for the user who calls sudo move to /etc/rtunnel/pki, unless there are
    some already. Nothing starts before you say so; the last lines say how."""

    examples = (
        "sudo /opt/rtunnel/bin/rtunnel service install server",
        "sudo /opt/rtunnel/bin/rtunnel service install server --socket",
        "rtunnel service install client --root /mnt/image",
    )

    def __init__(self) -> None:
        super().__init__()
        self.with_socket = False
        self.group = -1

    def opt_socket(self) -> None:
        """Let systemd hold the control port of the server, so that clients wait while it restarts."""
        self.with_socket = True

    def run(self) -> None:
        if self.with_socket and self.name != "server":
            raise ServiceError("--socket is for 'server' only")
        self.check_root()
        if self.live and sys.prefix.startswith(HOMES):
            raise ServiceError(
                f"the service may not read {sys.prefix}, which is in a home directory; install rtunnel elsewhere "
                "first: python3 -m venv /opt/rtunnel && /opt/rtunnel/bin/pip install ."
            )
        self._add_user()
        config = self._add_config()
        pki = self._keep_pki()
        # The service could not write Twisted's cache of plugins.
        list(getPlugins(IPlugin))
        text = _packaged(f"systemd/{self.unit}")
        for program in ("twistd", "rtunnel"):
            text = text.replace(f"/opt/rtunnel/bin/{program}", str(_program(program)))
        self._write(self.units / self.unit, text)
        if self.with_socket:
            for path in self.socket_files():
                self._write(path, _packaged(f"systemd/{path.relative_to(self.units)}"))
        if self.live:
            _systemctl("daemon-reload")
        self._say_next(config, pki)

    def _add_user(self) -> None:
        declaration = self.root / "etc/sysusers.d/rtunnel.conf"
        self._write(declaration, _packaged("sysusers.d/rtunnel.conf"))
        if os.geteuid() == 0:
            _call("systemd-sysusers", *([] if self.live else [f"--root={self.root}"]), str(declaration))
            self.group = _group(self.root)

    def _add_config(self) -> Path:
        name = CONFIGS.get(self.name, "rtc.yaml")
        path = self.root / "etc/rtunnel" / name
        if path.exists():
            _say(f"kept     {path}")
        else:
            text = _packaged(name)
            if self.name == "signal":
                text = _with_token(text, secrets.token_hex(16))
            # It may hold tokens, so nobody else may read it, not even before it is given to the group.
            _make_parents(path)
            path.touch(0o600)
            self._give(path, 0o640)
            path.write_text(text)
            _say(f"wrote    {path}")
        return path

    def _keep_pki(self) -> Path:
        directory = self.root / PKI
        if not directory.exists():
            own = _pki_of_caller(self.root)
            if own is not None:
                _move(own, directory)
                _say(f"moved    {own} to {directory}: run 'rtunnel pki' as root from now on")
        if directory.exists():
            self._give(directory.resolve(), 0o750)
            for name in ("server.key", "client.key"):
                if (directory / name).exists():
                    self._give(directory / name, 0o640)
        return directory

    def _write(self, path: Path, content: str) -> None:
        _make_parents(path)
        path.write_text(content)
        path.chmod(0o644)
        _say(f"wrote    {path}")

    def _give(self, path: Path, mode: int) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if not path.is_symlink():
                raise
            # It may come from a user, and could lead to any file of the system.
            raise ServiceError(f"{path} is a link; put what it leads to in its place") from error
        try:
            if os.geteuid() == 0:
                os.fchown(descriptor, 0, self.group)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)

    def _say_next(self, config: Path, pki: Path) -> None:
        steps = [f"edit {config}"]
        command = _program("rtunnel")
        if self.name == "server" and not (pki / "server.crt").exists():
            steps.append(f"{command} pki init --name tunnel.example.org --group {GROUP}    # the name of this machine")
        if self.name == "client" and not (pki / "client.crt").exists():
            steps.append(f"{command} pki import laptop.pem --group {GROUP}    # made by 'rtunnel pki client laptop'")
        if self.name == "signal":
            steps[0] += f"    # {_about_tokens(config)}"
        also = f"{PLUGINS[self.name]}.socket " if self.with_socket else ""
        steps.append(f"systemctl enable --now {also}{self.unit}")
        _say("Next, as root:", *(f"    {step}" for step in steps))


class Uninstall(_Command):
    """Stop a service and remove its unit. Settings, certificates and the user rtunnel stay."""

    examples = ("sudo /opt/rtunnel/bin/rtunnel service uninstall server",)

    def run(self) -> None:
        self.check_root()
        unit = self.units / self.unit
        if not unit.exists():
            raise ServiceError(f"{unit} does not exist, so there is nothing to remove")
        socket, drop_in = self.socket_files()
        if self.live:
            _systemctl("disable", "--now", self.unit, *([socket.name] if socket.exists() else []))
        for path in (unit, socket, drop_in):
            if path.exists():
                path.unlink()
                _say(f"removed  {path}")
        if drop_in.parent.exists() and not any(drop_in.parent.iterdir()):
            drop_in.parent.rmdir()
        if self.live:
            _systemctl("daemon-reload")
        _say(f"kept     {self.root / 'etc/rtunnel'}, the user {GROUP}")


class Options(Verbs):
    """The ends of the tunnels as systemd services, which start with the machine and restart after a failure."""

    synopsis = "COMMAND"
    subCommands: ClassVar = [
        ["install", None, Install, "Install a service."],
        ["uninstall", None, Uninstall, "Remove a service; keep its settings."],
    ]


def _packaged(name: str) -> str:
    return (files("rtunnel") / "etc" / name).read_text()


def _with_token(text: str, token: str) -> str:
    """Return the sample of the WebRTC tunnel's settings with a token, so that the signaling server is not open."""
    note = "    # Made at random when this file was written; hosts and clients need it too.\n"
    for line, filled in (
        ("#server:\n", "server:\n"),
        ("#  auth:\n", "  auth:\n"),
        ("#    valid_tokens: []\n", f"{note}    valid_tokens: [{token}]\n"),
    ):
        assert line in text
        text = text.replace(line, filled)
    return text


def _about_tokens(config: Path) -> str:
    options = rtc_signal.Options()
    try:
        options.parseOptions(["--config", str(config)])
    except usage.UsageError as error:
        return str(error)
    if options["valid-tokens"]:
        return "hosts and clients need the token that is in it"
    return "it has no server.auth.valid_tokens, so everybody may use the signaling server"


def _program(name: str) -> Path:
    """Return the path of a program of this installation."""
    return Path(sysconfig.get_path("scripts")) / name


def _pki_of_caller(root: Path) -> Path | None:
    """Return the directory of certificates of whoever called sudo, if it exists below *root*."""
    user = os.environ.get("SUDO_USER")
    home = Path(f"~{user}").expanduser() if user else Path.home()
    found = root / default_pki_dir({"HOME": str(home)}, root=False).relative_to("/")
    return found if found.is_dir() else None


def _make_parents(path: Path) -> None:
    """Make the directories above *path*. The service may enter them, whatever root's umask is."""
    missing = [directory for directory in path.parents if not directory.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        directory.chmod(0o755)


def _move(source: Path, target: Path) -> None:
    """Move a directory of certificates, so that there is one of it, and give it to root."""
    if not source.is_symlink():
        _make_parents(target)
        shutil.move(source, target)
    if source.is_symlink() or target.is_symlink():
        raise ServiceError(f"{source} is a link; move what it leads to, to {target}")
    if os.geteuid() == 0:
        _take(target)


def _take(path: Path) -> None:
    """Give a directory, and then all that is in it, to root, so that its former owner adds nothing meanwhile."""
    os.chown(path, 0, 0, follow_symlinks=False)
    if path.is_dir() and not path.is_symlink():
        for each in path.iterdir():
            _take(each)


def _group(root: Path) -> int:
    for line in (root / "etc/group").read_text().splitlines():
        name, _, number, *_ = line.split(":")
        if name == GROUP:
            return int(number)
    raise ServiceError(f"{root / 'etc/group'} has no group {GROUP}; did systemd-sysusers fail?")


def _systemctl(*arguments: str) -> None:
    _call("systemctl", *arguments)


def _call(*argv: str) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ServiceError(f"there is no {argv[0]} here; is this a system with systemd?") from None
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ServiceError(f"{' '.join(argv)} failed: {why}")


def _say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
