"""``zfabric completion``: what a shell needs to complete commands, options, topics and groups on Tab.

click's protocol, with one change for bash: bash cuts words at ``:`` and ``=``, so ``--url zf://HOST:PORT`` would arrive
in pieces. Our script hands over the line up to the cursor, and it is cut here, as a shell would.
"""

from __future__ import annotations

import os

import click
from click.shell_completion import BashComplete, add_completion_class, get_completion_class, split_arg_string

from zfabric import cli

SHELLS = ("bash", "zsh", "fish")
LINE = "ZFABRIC_COMPLETE_LINE"
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' completion kind value
    for completion in $(env ZFABRIC_COMPLETE_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete $1); do
        IFS=',' read -r kind value <<< "$completion"
        case $kind in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) COMPREPLY=(); compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """Bash, with whole words."""

    source_template = _BASH

    @staticmethod
    def _check_version() -> None:
        """Nothing is asked of bash: the script runs in every version from 4.4."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get(LINE)
        if line is None:
            return super().get_completion_args()
        words = split_arg_string(line)
        incomplete = "" if not words or line.endswith(" ") else words.pop()
        return words[1:], incomplete


add_completion_class(_Bash)


def answer(root: click.Command, instruction: str) -> int:
    """Do what a shell asks for, ``SHELL_complete`` or ``SHELL_source``; returns the exit status."""
    from click.shell_completion import shell_complete

    return shell_complete(root, {}, cli.NAME, cli.COMPLETE_VARIABLE, instruction)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the script by which SHELL completes commands, options, topics and groups on Tab.

    \b
    bash:  echo 'eval "$(zfabric completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(zfabric completion zsh)"' >> ~/.zshrc
    fish:  zfabric completion fish > ~/.config/fish/completions/zfabric.fish

    Names come from the fabric that --url or ZFABRIC_URL names, if it answers within a second.
    """  # noqa: D301 - click wants the character, a raw string would print the escape
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli.command, {}, cli.NAME, cli.COMPLETE_VARIABLE).source())
