"""The gcloud commands of one queued resource.

Flags as of `gcloud compute tpus queued-resources` and `gcloud compute tpus tpu-vm`, SDK 528.
"""

import argparse
from dataclasses import dataclass

RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}


def runtime_version(accelerator_type: str) -> str:
    """The software of the machines for v6e-16 and its like."""
    return RUNTIMES[accelerator_type.partition("-")[0]]


@dataclass(frozen=True)
class QueuedResource:
    """A request for slices; the one node of it, or nodes NAME-0, NAME-1, ..., bear its name."""

    name: str
    project: str
    zone: str

    def tpus(self, group: str, verb: str, *rest: str) -> list[str]:
        """One gcloud command on Cloud TPU."""
        place = (f"--project={self.project}", f"--zone={self.zone}")
        return ["gcloud", "compute", "tpus", group, verb, *rest, *place]

    def create(self, args: argparse.Namespace, labels: dict[str, str]) -> list[str]:
        """Asks for the machines that the flags of `up` describe."""
        nodes = [f"--node-id={self.name}"]
        if args.slices > 1:
            nodes = [f"--node-count={args.slices}", f"--node-prefix={self.name}"]
        more = ["--spot"] * args.spot + ["--reserved"] * args.reserved
        if args.service_account:
            more += [f"--service-account={args.service_account}"]
        return self.tpus(
            "queued-resources", "create", self.name, *nodes,
            f"--accelerator-type={args.accelerator}",
            f"--runtime-version={runtime_version(args.accelerator)}",
            *more, "--scopes=https://www.googleapis.com/auth/cloud-platform",
            "--labels=" + ",".join(f"{key}={value}" for key, value in labels.items()),
        )  # fmt: skip

    def describe(self) -> list[str]:
        """The state of the request."""
        return self.tpus("queued-resources", "describe", self.name, "--format=json")

    def nodes(self) -> list[str]:
        """The state of each slice."""
        only = f"--filter=labels.blip_jax={self.name}"
        return self.tpus("tpu-vm", "list", only, "--format=json")

    def copy(self, *files: str) -> list[str]:
        """Copies files to the home folder of every worker of every slice."""
        return self.tpus(
            "queued-resources", "scp", *files, f"{self.name}:",
            "--node=all", "--worker=all", "--quiet",
        )  # fmt: skip

    def ssh(self, command: str) -> list[str]:
        """A command on every worker of every slice at once."""
        return self.tpus(
            "queued-resources", "ssh", self.name, "--node=all", "--worker=all", "--quiet",
            f"--command={command}",
        )  # fmt: skip

    def script(self, verb: str) -> list[str]:
        """A verb of the script that was copied, on every worker of every slice at once."""
        return self.ssh(f"bash {self.name}.sh {verb}")

    def delete(self) -> list[str]:
        """Deletes the request and its nodes."""
        return self.tpus("queued-resources", "delete", self.name, "--force", "--quiet")
