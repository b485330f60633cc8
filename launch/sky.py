"""SkyPilot: a managed job, which recovers from preemption by itself."""

import argparse

from launch import gcloud, tpu
from launch import job as words
from launch.job import Job
from launch.render import render
from launch.shell import Shell

accelerators = words.pattern(
    "accelerator of SkyPilot", r"[A-Za-z0-9][\w.-]*(:\d+)?", "tpu-v6e-16 or H100:8"
)


def where(parser: argparse.ArgumentParser) -> None:
    """Flags of every verb: none."""


def what(parser: argparse.ArgumentParser) -> None:
    """Flags of `up`."""
    parser.add_argument("--workdir", type=words.bucket, help="gs://BUCKET/FOLDER of the run")
    parser.add_argument("--accelerators", type=accelerators, required=True, help="tpu-v6e-16")
    parser.add_argument("--zone", type=words.zone, help="of Google Cloud; anywhere by default")
    parser.add_argument("--spot", action="store_true")


class Backend:
    """One managed job: a TPU slice, or the GPUs of one machine."""

    def __init__(self, args: argparse.Namespace, shell: Shell):
        self.args, self.shell, self.name = args, shell, args.name

    def up(self, job: Job) -> int:
        """Submits; SkyPilot's controller does the rest."""
        args = self.args
        is_tpu = args.accelerators.startswith("tpu-")
        runtime = gcloud.runtime_version(tpu.accelerator(args.accelerators[4:])) if is_tpu else None
        env = dict(job.env)
        if not is_tpu:  # one machine, one process
            del env["BLIP_JAX_DISTRIBUTED"]
        path = f"runs/launch/{self.name}/sky.yaml"
        self.shell.write(path, render(
            "sky.yaml.j2", job=job, zone=args.zone, accelerators=args.accelerators, env=env,
            runtime_version=runtime, spot=args.spot, venv=".venv", bucket=True,
            accelerator="tpu" if is_tpu else "cuda12",
        ))  # fmt: skip
        launch = ["sky", "jobs", "launch", "--yes", "--detach-run", f"--name={self.name}", path]
        return min(self.shell.run(launch), 1)

    def status(self) -> int:
        """All managed jobs; SkyPilot lists no single one."""
        return self.shell.run(["sky", "jobs", "queue"])

    def logs(self) -> int:
        """The end of the log; the lines of a slice's workers are marked by SkyPilot."""
        tail = f"--tail={self.args.lines}"
        return self.shell.run(["sky", "jobs", "logs", f"--name={self.name}", "--no-follow", tail])

    def down(self) -> int:
        """Cancels; SkyPilot deletes the machines."""
        return self.shell.run(["sky", "jobs", "cancel", "--yes", f"--name={self.name}"])
