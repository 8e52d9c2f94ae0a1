"""``rtunnel completion``: what a shell needs to complete the words of ``rtunnel``."""

from __future__ import annotations

import sys

from twisted.python import usage

from rtunnel.endpoint_strings import suggestion
from rtunnel.options.help.shells import SHELLS
from rtunnel.options.help.tree import tree
from rtunnel.options.verbs import Verb


class Options(Verb):
    """Print a script with which the shell completes the commands and options of rtunnel, and the values of options
    where there are only a few. Read it at the start of each shell, as below, or put it where the shell looks for such
    scripts: /etc/bash_completion.d/rtunnel, a file _rtunnel in zsh's $fpath, fish's completions/rtunnel.fish."""

    synopsis = "bash|zsh|fish"
    examples = (
        "echo 'source <(rtunnel completion bash)' >> ~/.bashrc",
        "echo 'source <(rtunnel completion zsh)' >> ~/.zshrc    # after compinit",
        "rtunnel completion fish > ~/.config/fish/completions/rtunnel.fish",
    )

    def __init__(self) -> None:
        super().__init__()
        self.shell = ""

    def parseArgs(self, *arguments: str) -> None:
        """Take the name of the shell.

        :raises usage.UsageError: there is none, it is unknown, or there are several.
        """
        if not arguments:
            raise usage.UsageError(f"name the shell: {', '.join(SHELLS)}")
        self.shell, *others = arguments
        if self.shell not in SHELLS:
            hint = suggestion(self.shell, SHELLS) or f"; there are scripts for {', '.join(SHELLS)}"
            raise usage.UsageError(f"'{self.shell}' is not a shell known here{hint}")
        if others:
            raise usage.UsageError(f"one shell at a time; remove '{others[0]}'")

    def run(self) -> None:
        """Print the script."""
        sys.stdout.write(SHELLS[self.shell](tree()))
