"""Slurm: code and environment on the shared disk, one sbatch script that queues itself again."""

import argparse

from launch import job as words
from launch import source
from launch.job import Job, JobError, UserError
from launch.render import render
from launch.shell import Answer, Shell

word = words.pattern("name of Slurm", r"[\w.,-]+", "gpu")
time = words.pattern("time of Slurm", r"(\d+-)?\d+(:\d\d){0,2}", "24:00:00 or 2-00:00:00")


def where(parser: argparse.ArgumentParser) -> None:
    """Flags of every verb."""
    parser.add_argument(
        "--workdir", type=words.folder, required=True, help="folder that every node sees"
    )


def what(parser: argparse.ArgumentParser) -> None:
    """Flags of `up`."""
    parser.add_argument("--nodes", type=words.at_least(1), default=1)
    parser.add_argument("--gpus-per-node", type=words.at_least(1), default=8)
    parser.add_argument("--time", type=time, default="24:00:00")
    parser.add_argument("--partition", type=word)
    parser.add_argument("--account", type=word)
    parser.add_argument("--max-restarts", type=words.at_least(0), default=20)


class Backend:
    """Jobs of one name and user."""

    def __init__(self, args: argparse.Namespace, shell: Shell):
        self.args, self.shell, self.name = args, shell, args.name
        self.place = f"{args.workdir}/launch/{args.name}"

    def up(self, job: Job) -> int:
        """Unpacks, installs and submits; Slurm does the rest."""
        args, place = self.args, self.place
        queued = self.shell.ask(self.squeue("--noheader"), Answer(0, ""))
        if queued.code:
            raise JobError(f"Slurm does not answer: {queued.complaint}")
        if queued.out.strip():
            raise UserError(f"{self.name} is queued or running already; down it, or choose a name")
        script = render(
            "sbatch.sh.j2", job=job, place=place, nodes=args.nodes, gpus=args.gpus_per_node,
            time=args.time, partition=args.partition, account=args.account,
            max_restarts=args.max_restarts,
            comment=",".join(f"{key}={value}" for key, value in job.all_labels.items()),
        )  # fmt: skip
        install = render("install.sh.j2", venv=".venv", accelerator="cuda12", bucket=False)
        steps = [
            ["rm", "-rf", f"{place}/code"],
            ["mkdir", "-p", f"{place}/code", f"{place}/logs"],
            source.archive_command(f"{place}/code.tar.gz"),
            ["tar", "-xzf", f"{place}/code.tar.gz", "-C", f"{place}/code"],
            ["bash", f"{place}/install.sh"],
            ["sbatch", f"{place}/job.sh"],
        ]
        self.shell.write(
            f"{place}/install.sh", f"#!/usr/bin/env bash\nset -e\ncd {place}/code\n{install}"
        )
        self.shell.write(f"{place}/job.sh", script)
        for step in steps:
            if code := self.shell.run(step):
                raise JobError(f"{step[0]} ended with {code}; {self.name} was not submitted")
        return 0

    def squeue(self, *more: str) -> list[str]:
        """The user's jobs of this name that have not ended."""
        return ["squeue", "--me", f"--name={self.name}", *more]

    def status(self) -> int:
        """Queued and running."""
        return self.shell.run(self.squeue("--long"))

    def logs(self) -> int:
        """The end of every task's log."""
        tail = f"tail -n {self.args.lines} {self.place}/logs/*.log"
        return self.shell.run(["bash", "-c", tail])

    def down(self) -> int:
        """Cancels; code, logs and checkpoints stay."""
        return self.shell.run(["scancel", "--me", f"--name={self.name}"])
