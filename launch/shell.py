"""Runs commands, or shows them: a dry run is a shell script of what would be run."""

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from launch.source import ROOT

WIDTH = 100


@dataclass(frozen=True)
class Answer:
    """What a command that was asked said."""

    code: int
    out: str
    err: str = ""

    @property
    def complaint(self) -> str:
        """The last line of what it said of its failure."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"exit code {self.code}"


class Shell:
    """Every command goes through here, so that a dry run can tell all of them.

    `poll` is the wait between two looks, in seconds. No command is given a secret, and the
    environment is never shown.
    """

    def __init__(self, dry_run: bool, poll: float):
        self.dry_run = dry_run
        self.poll = poll

    def say(self, sentence: str) -> None:
        """What came of it; a dry run only supposes, and says nothing."""
        if not self.dry_run:
            print(f"launch: {sentence}", flush=True)

    def comment(self, sentence: str) -> None:
        """What only the reader of a dry run needs."""
        if self.dry_run:
            print(f"# {sentence}")

    def run(self, argv: list[str]) -> int:
        """Runs with its output passed through; returns the exit code."""
        print(layout(argv) if self.dry_run else f"$ {shlex.join(argv)}", flush=True)
        if self.dry_run:
            return 0
        try:
            return subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
        except FileNotFoundError:
            print(f"launch: there is no program {argv[0]} on the PATH", file=sys.stderr)
            return 127

    def ask(self, argv: list[str], supposing: Answer) -> Answer:
        """Runs and returns what it said; a dry run shows the command and supposes the answer."""
        if self.dry_run:
            print(layout(argv), flush=True)
            return supposing
        try:
            done = subprocess.run(
                argv, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
        except FileNotFoundError:
            return Answer(127, "", f"there is no program {argv[0]} on the PATH")
        return Answer(done.returncode, done.stdout, done.stderr)

    def write(self, path: str, text: str) -> None:
        """Writes a file, relative to the repository's root; a here-document in a dry run."""
        if self.dry_run:
            print(f"mkdir -p {shlex.quote(str(Path(path).parent))}")
            print(f"cat >{shlex.quote(path)} <<'END_OF_FILE'\n{text.rstrip()}\nEND_OF_FILE")
            return
        target = ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def wait(self) -> None:
        """The pause between two looks."""
        if self.dry_run:
            print(f"sleep {self.poll:g}")
        else:
            time.sleep(self.poll)


def layout(argv: list[str]) -> str:
    """A command as one line, or with a line for each flag where that is too long."""
    line = shlex.join(argv)
    if len(line) <= WIDTH:
        return line
    words = [shlex.quote(word) for word in argv]
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return " \\\n  ".join([" ".join(words[:first]), *words[first:]])
