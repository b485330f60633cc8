"""python -m launch BACKEND VERB. Exit codes: 0 done, 1 the job failed, 2 the user's mistake."""

import argparse
import sys
from typing import NoReturn

from launch import gke, sky, slurm, source, tpu
from launch import job as words
from launch.job import Job, JobError, UserError, check_command
from launch.shell import Shell

BACKENDS = {"tpu": tpu, "gke": gke, "slurm": slurm, "sky": sky}
VERBS = {
    "up": "run a job to its end (tpu, gke) or submit it (slurm, sky)",
    "status": "tell how it stands",
    "logs": "the end of every worker's log",
    "down": "delete its machines, or cancel it",
}


class Parser(argparse.ArgumentParser):
    """One sentence for a mistake, in place of a page."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def main(argv: list[str]) -> int:
    """Runs one verb; returns the exit code."""
    at = argv.index("--") if "--" in argv else len(argv)
    own, command = argv[:at], argv[at + 1 :]
    try:
        args = parser().parse_args(own)
        shell = Shell(args.dry_run, getattr(args, "poll", 0.0))
        backend = BACKENDS[args.backend].Backend(args, shell)
        if args.verb == "up":
            return backend.up(make_job(args, command))
        if command:
            raise UserError(f"{args.verb} takes no command")
        return min(getattr(backend, args.verb)(), 1)
    except (UserError, argparse.ArgumentTypeError) as error:
        print(f"launch: {error}", file=sys.stderr)
        return 2
    except JobError as error:
        print(f"launch: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("launch: left; the job goes on, and the same command joins it", file=sys.stderr)
        return 130


def parser() -> Parser:
    """Backends, verbs, flags."""
    top = Parser(
        prog="python -m launch",
        description=__doc__,
        epilog="All after -- is the command: ... -- train --config configs/pretrain.py",
    )
    backends = top.add_subparsers(dest="backend", required=True, metavar="|".join(BACKENDS))
    for name, backend in BACKENDS.items():
        description = (backend.__doc__ or "").partition("\n")[0]
        verbs = backends.add_parser(name, help=description, description=description)
        of_backend = verbs.add_subparsers(dest="verb", required=True, metavar="|".join(VERBS))
        for verb, meaning in VERBS.items():
            flags = of_backend.add_parser(
                verb, help=meaning, description=meaning, allow_abbrev=False
            )
            flags.add_argument("--name", type=words.name, required=True)
            flags.add_argument("--dry-run", action="store_true", help="print what would be run")
            backend.where(flags)
            if verb in ("up", "logs"):
                lines = "of each log; 100 by default"
                flags.add_argument("--lines", type=words.at_least(1), default=100, help=lines)
            if verb == "up":
                wait = "between two looks; 30 by default"
                flags.add_argument(
                    "--poll", type=words.seconds, default=30.0, metavar="SECONDS", help=wait
                )
                flags.add_argument("--label", type=words.label, action="append", default=[])
                backend.what(flags)
    return top


def make_job(args: argparse.Namespace, command: list[str]) -> Job:
    """The job that is asked for.

    Raises:
      UserError: see `check_command`; or what would be shipped is not what is on the disk.
    """
    commit = source.commit()
    if commit is None:
        raise UserError("launch ships a commit, and there is no git repository here")
    if changed := source.uncommitted():
        raise UserError(f"launch ships a commit; commit or stash {', '.join(changed[:3])} first")
    check_command(command, args.workdir)
    labels = dict(label.split("=", 1) for label in args.label)
    return Job(args.name, tuple(command), commit, args.workdir, labels)
