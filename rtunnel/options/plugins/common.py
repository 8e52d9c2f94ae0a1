"""What the options of all plugins share: flags, help and checks, derived from the declared settings."""

from __future__ import annotations

import os
import re
import stat
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, chdir, nullcontext, suppress
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from twisted.python import usage

from rtunnel.coercions import show_seconds, show_size
from rtunnel.config_file import ConfigFile
from rtunnel.errors import ConfigError, one_line
from rtunnel.options.base import HYPHEN, BaseOptions, help_width, option_hint, unbroken
from rtunnel.options.plugins.foreground import ctrl_c_ends, run_in_foreground
from rtunnel.options.plugins.pid_file import check_pid_file, close_to_others
from rtunnel.options.settings.declaration import Setting
from rtunnel.options.settings.sources import Resolved, find_config_file, resolve
from rtunnel.options.upgrade import predecessor
from rtunnel.trusted_files import trust
from rtunnel.wire.limits import LinkLimits


def all_variables() -> frozenset[str]:
    """Return the environment variables of all plugins. One that means something to another plugin is not an error."""
    from rtunnel.options.settings import reverse, rtc

    return reverse.VARIABLES | rtc.VARIABLES


class PluginOptions(BaseOptions):
    """Options of one plugin.

    Parsing the command line only notes the flags. Then :meth:`postOptions` decides every setting (flag, else
    environment, else file, else default) and passes the values to :meth:`build`.
    """

    #: The settings of this plugin.
    declared: ClassVar[Sequence[Setting]] = ()
    #: Settings of other plugins that may be in the same file.
    file_settings: ClassVar[Sequence[Setting]] = ()
    #: The settings that most people need; the help begins with them.
    needed: ClassVar[Sequence[str]] = ()
    #: The file that is read if it exists and no other is named.
    default_config: ClassVar[str] = ""
    #: Whether sections of the same name in the file are merged.
    merges_sections: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for setting in cls.declared:
            setattr(cls, f"opt_{setting.name.replace('-', '_')}", _flag_handler(setting))

    def __init__(self) -> None:
        self.flags: dict[str, Any] = {}
        #: The file that was read; empty if there was none.
        self.config_path = ""
        #: What the operator should know about the settings.
        self.notes: list[str] = []
        #: All values and where each came from, once they are decided.
        self.resolved: Resolved | None = None
        self._directory: Path | None = None
        self._is_mistaken = False
        super().__init__()
        # For the help only; postOptions decides the values.
        self.defaults.update({setting.name: setting.shown_default or None for setting in self.declared})

    opt_h = usage.Options.opt_help

    def opt_config(self, value: str) -> None:
        """A YAML or JSON file with settings; its keys are the names of the options, with underscores."""
        self.flags["config"] = value

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """See :meth:`twisted.python.usage.Options.parseOptions`.

        :raises usage.UsageError: something is wrong; its one line says where, and what to write instead.
        """
        try:
            with ctrl_c_ends() if isinstance(self.parent, BaseOptions) else nullcontext():
                super().parseOptions(options)
        except usage.UsageError as error:
            self._is_mistaken = True
            predecessor.failed(one_line(str(error)))
            unknown = re.match(r"option --?([^ ]+) not recognized", str(error))
            if unknown is None or self.subCommand is not None:
                raise usage.UsageError(one_line(str(error))) from error
            name = unknown[1]
            if len(name) == 1:
                hint = "; options begin with two dashes"
            else:
                hint = option_hint(name, [setting.name for setting in self.declared] + ["config"])
            raise usage.UsageError(one_line(f"{error}{hint}")) from error

    def parseArgs(self, *arguments: str) -> None:
        """Refuse arguments that are not options.

        :raises usage.UsageError: there is one.
        """
        if arguments:
            raise usage.UsageError(f"'{arguments[0]}' is not an option; options begin with two dashes")

    def postOptions(self) -> None:
        """Decide all settings and store their values in this mapping, by the names of the options.

        :raises usage.UsageError: a setting is wrong.
        """
        try:
            predecessor.find(os.environ)
            if self.parent is not None:
                self._heed_twistd(self.parent)
            with suppress(OSError):
                self._directory = Path.cwd()
            self._take(*self._read())
        except ConfigError as error:
            raise usage.UsageError(str(error)) from error

    def _read(self) -> tuple[Resolved, ConfigFile | None]:
        file = find_config_file(self.flags, os.environ, self.default_config, merge=self.merges_sections)
        keys = [key for setting in self.file_settings for key in setting.keys]
        return resolve(self.declared, self.flags, os.environ, file, all_variables, keys), file

    def _take(self, resolved: Resolved, file: ConfigFile | None) -> None:
        if file:
            self.config_path = file.path
            self.notes += [f"{file.path}: {note}" for note in file.notes]
        self.build(resolved)
        check_status(resolved)
        self.resolved = resolved
        self.update(resolved.values)

    def read_again(self) -> Self:
        """Return what these options are by now: the flags and the environment as at the start, and the file anew.

        :raises ConfigError: something is wrong with them, or they were never read.
        """
        if self.resolved is None:
            raise ConfigError("this process has no options that could be read again; restart it")
        other = self._copy()
        with self._where_started():
            if _is_stream(self.config_path):
                raise ConfigError(f"{self.config_path}: is a pipe, which cannot be read again; put a file in its place")
            resolved, file = self._read()
            if file is None and self.config_path:
                raise ConfigError(f"{self.config_path}: the file is gone from which settings were read; put it back")
            other._take(resolved, file)
        return other

    def _where_started(self) -> AbstractContextManager[None]:
        """Relative paths mean what they meant at the start; twistd --rundir changes the directory afterwards."""
        with suppress(OSError):
            if self._directory is not None and Path.cwd() != self._directory:
                return chdir(self._directory)
        return nullcontext()

    def take_over(self, other: Self) -> None:
        """Have the settings of *other*, which is of :meth:`with_settings`, from now on."""
        self.__dict__.update(other.__dict__)
        self.update(other)

    def with_settings(self, resolved: Resolved) -> Self:
        """Return these options with other values of settings.

        :raises ConfigError: they contradict each other.
        """
        other = self._copy()
        other._take(resolved, None)
        return other

    def _copy(self) -> Self:
        other = copy(self)
        other.notes = []
        return other

    def _heed_twistd(self, twistd: usage.Options) -> None:
        if not twistd.get("chroot"):
            check_pid_file(twistd.get("pidfile") or "")
        if twistd.get("pidfile"):
            close_to_others(twistd)
        if isinstance(twistd.get("uid"), int):
            trust(twistd["uid"])

    def build(self, resolved: Resolved) -> None:
        """Store the settings in the form that the service takes.

        :raises ConfigError: two settings contradict each other.
        """
        raise NotImplementedError

    def run(self) -> None:
        """Run the plugin in the foreground, as a command of ``rtunnel``.

        :raises StartupError: it cannot start; the message is one line.
        """
        run_in_foreground(partial(sys.modules[type(self).__module__].makeService, self))

    def getSynopsis(self) -> str:
        """Return the first line of the help."""
        if isinstance(self.parent, BaseOptions):
            return f"Usage: {' '.join(self.words())} {self.synopsis}"
        return super().getSynopsis()

    def getUsage(self, width: int | None = None) -> str:
        """Return the help: description, examples, the options that most people need, all others, sources of settings.

        After a mistake twistd prints this above the line that says what is wrong; then it only says how to get help.
        """
        command = getattr(self.parent, "subCommand", None)
        if self._is_mistaken and command:
            return f"'twistd {command} --help' lists the options of {command}.\n"
        width = width or help_width()
        needed = [*self.needed, "config"]
        others = sorted({option.rstrip("=") for option in self.longOpt}.difference(needed))
        text = "\n".join(
            (
                "\n" + textwrap.fill(unbroken(type(self).__doc__ or ""), width) + "\n",
                "Examples:\n" + "".join(f"    {line}\n" for line in self.examples),
                "What most people need:\n" + self._list(needed, width),
                "All other options:\n" + self._list(others, width),
                textwrap.fill(unbroken(self.sources()), width) + "\n",
            )
        )
        return text.replace(HYPHEN, "-")

    def _list(self, names: Sequence[str], width: int) -> str:
        chunks = usage.docMakeChunks([self._in_help(name) for name in names], width)
        # Twisted sorts them.
        return "".join(sorted(chunks, key=lambda chunk: names.index(chunk.split()[0].strip("-="))))

    def _in_help(self, name: str) -> dict[str, Any]:
        kind = "parameter" if f"{name}=" in self.longOpt else "flag"
        default = self.defaults.get(name)
        shown = unbroken(default) if default else None
        return {"long": name, "doc": unbroken(self.docs[name]), "optType": kind, "default": shown}

    def sources(self) -> str:
        """Return where the values of options may come from, for the help."""
        text = (
            "Each option may also come from the environment (RTUNNEL_ and its name, such as RTUNNEL_LOG_LEVEL for "
            "--log-level) or from the file of --config (key log_level). The flag wins over the environment, and the "
            "environment over the file. Sizes take K, M and G; times are seconds and take ms, s, m and h."
        )
        if any(setting.in_reference for setting in self.declared):
            text += " Variables of the reference program, such as WTT_SIGNAL, are used if those are not set."
        if self.default_config:
            text += f" Without --config, {self.default_config} in the current directory is read if it exists."
        return text


def _flag_handler(setting: Setting) -> Callable[..., None]:
    def switch_on(self: PluginOptions) -> None:
        self.flags[setting.name] = "true"

    def note(self: PluginOptions, value: str) -> None:
        if setting.repeatable:
            self.flags.setdefault(setting.name, []).append(value)
        else:
            self.flags[setting.name] = value

    note.__doc__ = switch_on.__doc__ = setting.help
    return switch_on if setting.is_switch else note


def _is_stream(path: str) -> bool:
    """Return whether what was read from a file is gone, so that it looks empty now."""
    try:
        mode = Path(path).stat().st_mode if path else stat.S_IFREG
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and path != os.devnull


def check_status(resolved: Resolved) -> None:
    """Check that not everybody can read the status, and that the files for it can be used.

    :raises ConfigError: everybody who reaches the status port can, or a file cannot be used.
    """
    names = ("listen", "token", "tls-cert", "tls-key", "tls-ca")
    listen, token, cert, key, ca = (resolved.values[f"status-{name}"] for name in names)
    if listen is None:
        for name in names[1:]:
            if resolved.values[f"status-{name}"] is not None:
                why = "has no effect without a status port; add --status-listen 127.0.0.1:7070"
                raise resolved.error(f"status-{name}", why)
        return
    for name, other in (("tls-cert", "tls-key"), ("tls-key", "tls-cert"), ("tls-ca", "tls-cert")):
        if resolved.values[f"status-{name}"] is not None and resolved.values[f"status-{other}"] is None:
            raise resolved.error(f"status-{name}", f"also needs --status-{other}")
    if token is None and ca is None and not listen.is_local:
        raise resolved.error(
            "status-listen",
            f"{listen} would tell everybody who reaches it who is connected; write 127.0.0.1:PORT, or add "
            "--status-token, or --status-tls-ca for client certificates",
        )
    if cert is not None:
        from rtunnel.control.port import OPTION
        from rtunnel.tls.web_server import load_web_files

        with resolved.reads_files("status-tls-cert", "status-tls-key", "status-tls-ca"):
            load_web_files(cert, key, ca, OPTION)


def check_order(resolved: Resolved, lower: str, higher: str, *, equal: bool = True) -> None:
    """Check that the value of one setting is below that of another.

    :param equal: whether the values may be the same.
    :raises ConfigError: it is not. The message names both settings, the one from the stronger source first.
    """
    small, big = resolved.values[lower], resolved.values[higher]
    show: Callable[[Any], str] = show_size if isinstance(small, int) else show_seconds
    if small < big or (equal and small == big):
        return
    if resolved.sources[higher].rank >= resolved.sources[lower].rank:
        limit = f"{'at least' if equal else 'more than'} --{lower}, which is {show(small)}"
        raise resolved.error(higher, f"{show(big)} is too low; it must be {limit}")
    limit = f"{'at most' if equal else 'less than'} --{higher}, which is {show(big)}"
    raise resolved.error(lower, f"{show(small)} is too high; it must be {limit}")


def link_limits(resolved: Resolved) -> LinkLimits:
    """Return the bounds of each link.

    :raises ConfigError: two of them contradict each other.
    """
    check_order(resolved, "keepalive-interval", "dead-after", equal=False)
    check_order(resolved, "initial-credit", "max-window")
    check_order(resolved, "initial-credit", "link-buffer")
    return LinkLimits(**resolved.fields_of(LinkLimits))
