"""What the options of all plugins share: flags, help and checks made from the declared settings."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from twisted.python import usage

from rtunnel import __version__
from rtunnel.coercions import show_seconds, show_size
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError
from rtunnel.options.settings import reverse, rtc
from rtunnel.options.settings.declaration import Setting
from rtunnel.options.settings.sources import Resolved, find_config_file, resolve
from rtunnel.wire.limits import LinkLimits
from twisted import copyright

#: The environment variables of all plugins: what means nothing to one of them is no mistake if it does to another.
VARIABLES = reverse.VARIABLES | rtc.VARIABLES


class PluginOptions(usage.Options):
    """Options of one plugin.

    A flag is only noted when it is seen. When all have been, :meth:`postOptions` decides every setting (flag, else
    environment, else file, else default) and hands them to :meth:`build`.
    """

    #: The settings that this plugin has.
    declared: ClassVar[Sequence[Setting]] = ()
    #: The settings that may be in its file besides, since other plugins have them.
    file_settings: ClassVar[Sequence[Setting]] = ()
    #: The file that is read if it is there and no other is named.
    default_config: ClassVar[str] = ""
    #: Command lines, shown as they are at the end of the help.
    examples: ClassVar[Sequence[str]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for setting in cls.declared:
            setattr(cls, f"opt_{setting.name.replace('-', '_')}", _flag_handler(setting))

    def __init__(self) -> None:
        self.flags: dict[str, Any] = {}
        #: The file that was read; empty: none was.
        self.config_path = ""
        self._is_mistaken = False
        super().__init__()
        # For the help only: a setting that was not given must stay so until all sources are known.
        self.defaults.update({setting.name: setting.shown_default or None for setting in self.declared})

    def opt_config(self, value: str) -> None:
        """A YAML or JSON file with settings; its keys are the names of the options, with underscores."""
        self.flags["config"] = value

    def opt_version(self) -> None:
        """Print the versions of rtunnel and Twisted, and exit."""
        sys.stdout.write(f"rtunnel {__version__} (Twisted {copyright.version})\n")
        sys.exit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """See :meth:`twisted.python.usage.Options.parseOptions`.

        :raises usage.UsageError: something is wrong; one line that says where, and what to write instead.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            self._is_mistaken = True
            unknown = re.match(r"option --?([^ ]+) not recognized", str(error))
            if unknown is None:
                raise
            name = unknown[1]
            if len(name) == 1:
                hint = "; options begin with two dashes"
            else:
                hint = suggestion(name, [setting.name for setting in self.declared] + ["config"])
                hint = hint.replace("'", "'--", 1)
            raise usage.UsageError(f"{error}{hint}") from error

    def parseArgs(self, *arguments: str) -> None:
        """Refuse what is not an option.

        :raises usage.UsageError: there is something.
        """
        if arguments:
            raise usage.UsageError(f"'{arguments[0]}' is not an option; options begin with two dashes")

    def postOptions(self) -> None:
        """Decide all settings; the values are then in the mapping, under the names of the options.

        :raises usage.UsageError: one of them is wrong.
        """
        try:
            file = find_config_file(self.flags, os.environ, self.default_config)
            keys = [setting.key for setting in self.file_settings]
            resolved = resolve(self.declared, self.flags, os.environ, file, VARIABLES, keys)
            self.config_path = file.path if file else ""
            self.build(resolved)
        except ConfigError as error:
            raise usage.UsageError(str(error)) from error
        self.update(resolved.values)

    def build(self, resolved: Resolved) -> None:
        """Keep the settings in the form that the service wants.

        :raises ConfigError: they do not fit together.
        """
        raise NotImplementedError

    def getUsage(self, width: int | None = None) -> str:
        """The help: options, sources, examples.

        After a mistake, where twistd shows it above the line that says what is wrong, only how to get it.
        """
        command = getattr(self.parent, "subCommand", None)
        if self._is_mistaken and command:
            return f"'twistd {command} --help' lists the options of {command}.\n"
        sources = (
            "Each option may also come from the environment (RTUNNEL_ and its name, such as RTUNNEL_LOG_LEVEL for "
            "--log-level) or from the file of --config (key log_level). The flag wins over the environment, and that "
            "over the file. Sizes take K, M and G; times are seconds and take ms, s, m and h."
        )
        if any(setting.in_reference for setting in self.declared):
            sources += " Variables of the reference program, such as WTT_SIGNAL, count where ours are not set."
        if self.default_config:
            sources += f" Without --config, {self.default_config} in the current directory is read if it is there."
        self.longdesc = f"{' '.join((type(self).__doc__ or '').split())} {sources}"
        examples = "".join(f"    {line}\n" for line in self.examples)
        return f"{super().getUsage(width)}\nExamples:\n{examples}"


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


def check_order(resolved: Resolved, lower: str, higher: str, *, equal: bool = True) -> None:
    """Refuse two settings whose values are in the wrong order.

    :param equal: whether they may be the same.
    :raises ConfigError: the message names both, and begins with the one of the stronger source.
    """
    small, big = resolved.values[lower], resolved.values[higher]
    show: Callable[[Any], str] = show_size if isinstance(small, int) else show_seconds
    if small < big or (equal and small == big):
        return
    if resolved.sources[higher].rank >= resolved.sources[lower].rank:
        limit = f"{'at least' if equal else 'more than'} --{lower}, which is {show(small)}"
        raise resolved.error(higher, f"{show(big)} is too little; it must be {limit}")
    limit = f"{'at most' if equal else 'less than'} --{higher}, which is {show(big)}"
    raise resolved.error(lower, f"{show(small)} is too much; it must be {limit}")


def link_limits(resolved: Resolved) -> LinkLimits:
    """The bounds of each link.

    :raises ConfigError: they do not fit together.
    """
    check_order(resolved, "keepalive-interval", "dead-after", equal=False)
    check_order(resolved, "initial-credit", "max-window")
    check_order(resolved, "initial-credit", "link-buffer")
    return LinkLimits(**resolved.fields_of(LinkLimits))
