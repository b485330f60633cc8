"""The code that is shipped: one commit of this repository, nothing else."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def git(*argv: str) -> subprocess.CompletedProcess[str]:
    """git in the repository's root."""
    return subprocess.run(["git", *argv], cwd=ROOT, capture_output=True, text=True, check=False)


def commit() -> str | None:
    """The hash of HEAD; None outside a repository."""
    found = git("rev-parse", "HEAD")
    return found.stdout.strip() if found.returncode == 0 else None


def uncommitted() -> list[str]:
    """Paths that differ from HEAD or are new; what runs is a commit, so it would lack them."""
    return [line[3:] for line in git("status", "--porcelain").stdout.splitlines()]


def config_file_missing(command: list[str]) -> str | None:
    """The --config file of a command, where HEAD has none of that name."""
    for argument, following in zip(command, [*command[1:], ""], strict=True):
        flag, _, value = argument.partition("=")
        if flag == "--config":
            path = (value or following).partition(":")[0]
            return path if git("cat-file", "-e", f"HEAD:{path}").returncode else None
    return None


def archive_command(target: str) -> list[str]:
    """Packs HEAD into a .tar.gz."""
    return ["git", "archive", f"--output={target}", "HEAD"]
