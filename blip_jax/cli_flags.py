"""Words and flags of a command, which tell of themselves when asked."""

import itertools
from collections.abc import Callable, Mapping, Sequence

from absl import flags

HELP = ("-h", "--help")


class HelpAsked(Exception):
    """--help was given; says what flags there are."""


class Flags(flags.FlagValues):
    """absl's flags; --help raises `HelpAsked` instead of being unknown."""

    def __call__(self, argv: Sequence[str], known_only: bool = False) -> list[str]:
        given = itertools.takewhile(lambda word: word != "--", argv)
        if any(word in HELP for word in given):
            raise HelpAsked("\n".join(map(described, sorted(self._all(), key=lambda f: f.name))))
        return list(super().__call__(argv, known_only))

    def _all(self) -> list[flags.Flag]:
        return [self[name] for name in self if name == self[name].name]


def subcommand(
    name: str, commands: Mapping[str, Callable[[list[str]], None]], argv: list[str]
) -> None:
    """Hands a command's flags to the part of it that the first word names.

    Raises:
      ValueError: no such part.
    """
    if argv and argv[0] in HELP:
        raise HelpAsked("")
    if not argv or argv[0] not in commands:
        asked = f"not {argv[0]!r}" if argv else "nothing was asked"
        raise ValueError(f"{name}: expected one of {', '.join(commands)}; {asked}")
    commands[argv[0]](argv[1:])


def described(flag: flags.Flag) -> str:
    """A flag, what it is for, and what it is where not given."""
    default = "" if flag.default in (None, []) else f" (default: {flag.default})"
    return f"  --{flag.name}: {flag.help}{default}"
