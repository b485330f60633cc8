"""What is to be run, and the words a user may put into commands and manifests."""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass

from launch.source import config_file_missing

SECRET = re.compile(r"^--?[\w.-]*(?<![a-z])(token|secret|password|api_?key)(=|$)", re.IGNORECASE)


class UserError(Exception):
    """A mistake of the user's, told in one sentence; exit code 2."""


class JobError(Exception):
    """What was asked for could not be done; exit code 1."""


@dataclass(frozen=True)
class Job:
    """One blip-jax command under a name. `commit` is what the machines will run."""

    name: str
    command: tuple[str, ...]
    commit: str
    workdir: str | None
    labels: dict[str, str]

    @property
    def argv(self) -> list[str]:
        """What follows `blip-jax`."""
        return [*self.command, *([f"--workdir={self.workdir}"] if self.workdir else [])]

    @property
    def env(self) -> dict[str, str]:
        """The environment of every process of the job."""
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{self.workdir}/xla"} if self.workdir else {}
        return {"BLIP_JAX_DISTRIBUTED": "1", **cache}

    @property
    def all_labels(self) -> dict[str, str]:
        """The user's labels, and what finds the job and its code again."""
        return {**self.labels, "blip_jax": self.name, "commit": self.commit[:12]}


def check_command(command: list[str], workdir: str | None) -> None:
    """Refuses before any machine is paid for what would fail on it.

    Raises:
      UserError: nothing to run, a secret among the arguments, a config file that is not in the
        commit, or no place for the checkpoints.
    """
    if not command or command[0].startswith("-") or command[0] == "blip-jax":
        raise UserError("expected a blip-jax command after --, as in -- train --config FILE.py")
    for argument in command:
        if not argument.isprintable():
            raise UserError(f"{argument!r} has a line break or another unprintable character")
        if SECRET.match(argument):
            raise UserError(
                f"{argument.split('=')[0]} looks like a secret, and commands are logged; "
                "grant it to the service account instead"
            )
    for flag in ("--workdir", "--dry-run"):
        if any(argument.split("=")[0] == flag for argument in command):
            raise UserError(f"{flag} is a flag of launch, and comes before --")
    if command[0] == "bootstrap":
        raise UserError(
            "bootstrap runs in one process, on the disk of one machine; log in there and start it, "
            "or launch its stages one by one with train"
        )
    if command[0] == "train" and not workdir:
        raise UserError("train needs --workdir: a machine that is taken back takes its disk along")
    if missing := config_file_missing(command):
        raise UserError(f"--config {missing} is no file of the commit that would be run")


def pattern(noun: str, regex: str, example: str) -> Callable[[str], str]:
    """An argparse type: the text itself where it fits, else one sentence."""

    def check(text: str) -> str:
        if not re.fullmatch(regex, text):
            raise argparse.ArgumentTypeError(f"{text!r} is no {noun}; expected one like {example}")
        return text

    return check


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number."""

    def check(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return int(text)

    return check


def seconds(text: str) -> float:
    """An argparse type: seconds, not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


# 40 characters leave room for what Kubernetes and Compute Engine append.
name = pattern("name", r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", "pretrain-14m (40 characters at most)")
zone = pattern("zone", r"[a-z]+-[a-z]+\d+-[a-z0-9]+", "us-east5-b")
project = pattern("project", r"([a-z][a-z0-9.-]*:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "my-project")
service_account = pattern(
    "service account", r"[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com",
    "trainer@my-project.iam.gserviceaccount.com",
)  # fmt: skip
bucket = pattern("bucket folder", r"gs://[a-z0-9][a-z0-9._-]+(/[\w.-]+)*", "gs://bucket/runs/one")
folder = pattern("absolute path", r"(/[\w.-]+)+", "/shared/runs/one")
label = pattern("label", r"[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}", "team=vision")
