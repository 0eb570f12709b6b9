"""An option that is given twice and has one value: the last is used, as scripts that add to a command expect, and it is said."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand

from fanlight import console


class Once(TyperCommand):
    """A command that says which of its options were repeated, but for those that collect, such as `--set`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))  # parameters, each as often as it was given
        for option, count in Counter(each for each in given if isinstance(each, typer.core.TyperOption)).items():
            is_harmless = option.multiple or (option.is_flag and not option.secondary_opts)  # --json --json
            if count > 1 and not is_harmless:
                names = " or ".join((*option.opts, *option.secondary_opts))
                console.warn(
                    f"{names} is given {count} times",
                    why="It has one value, and the last is used",
                    do="Leave the others out",
                )
        return super().parse_args(ctx, args)


def tell_repeats(*apps: typer.Typer) -> None:
    """Makes every command of these, registered by now, such a command."""
    for app in apps:
        for command in app.registered_commands:
            command.cls = Once
