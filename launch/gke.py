"""GKE: a JobSet through plain kubectl; it restarts by itself what may be restarted.

The manifest is one that XPK's clusters take too; those want --queue.
"""

import argparse
import json
import math
from typing import Any

from launch import job as words
from launch.job import Job, JobError, UserError
from launch.render import render
from launch.shell import Answer, Shell

ACCELERATORS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}
TRIES = 3  # of asking the cluster
DNS_NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"

image = words.pattern(
    "image", r"[a-z0-9][\w.:-]*(/[\w.-]+)+(:[\w.-]+)?(@sha256:[0-9a-f]{64})?",
    "us-docker.pkg.dev/my-project/blip/blip-jax",
)  # fmt: skip
topology = words.pattern("topology", r"\d+x\d+(x\d+)?", "4x4 or 2x2x4")
dns_name = words.pattern("name of Kubernetes", DNS_NAME, "training")
context = words.pattern("kubectl context", r"[\w.@:/-]+", "gke_my-project_us-east5_my-cluster")


def where(parser: argparse.ArgumentParser) -> None:
    """Flags of every verb."""
    parser.add_argument("--context", type=context, help="of kubectl; the current one by default")
    parser.add_argument("--namespace", type=dns_name, default="default")


def what(parser: argparse.ArgumentParser) -> None:
    """Flags of `up`."""
    parser.add_argument("--workdir", type=words.bucket, help="gs://BUCKET/FOLDER of the run")
    parser.add_argument(
        "--image", type=image, required=True,
        help="built and pushed under the commit's tag; one that has a tag or digest is used as is",
    )  # fmt: skip
    parser.add_argument("--accelerator", choices=ACCELERATORS, required=True)
    parser.add_argument("--topology", type=topology, required=True, help="chips of one slice, 4x4")
    parser.add_argument(
        "--chips-per-host", type=words.at_least(1), default=4, help="of the node pool's machines"
    )
    parser.add_argument("--slices", type=words.at_least(1), default=1)
    capacity = parser.add_mutually_exclusive_group()
    capacity.add_argument("--spot", action="store_true")
    capacity.add_argument("--reservation", type=dns_name, help="its name")
    parser.add_argument("--service-account", type=dns_name, help="of Kubernetes")
    parser.add_argument("--queue", type=dns_name, help="local queue of Kueue")
    parser.add_argument("--max-restarts", type=words.at_least(0), default=20)
    parser.add_argument("--keep", action="store_true", help="do not delete the JobSet at the end")


class Backend:
    """One JobSet."""

    def __init__(self, args: argparse.Namespace, shell: Shell):
        self.args, self.shell, self.name = args, shell, args.name

    def kubectl(self, *rest: str) -> list[str]:
        """One kubectl command in the job's namespace."""
        chosen = [f"--context={self.args.context}"] if self.args.context else []
        return ["kubectl", *rest, *chosen, f"--namespace={self.args.namespace}"]

    def pods(self) -> str:
        """What selects the job's pods."""
        return f"--selector=jobset.sigs.k8s.io/jobset-name={self.name}"

    def manifest(self, job: Job, tagged: str) -> str:
        """The JobSet.

        Raises:
          UserError: a topology that does not fill whole machines.
        """
        args = self.args
        chips = math.prod(int(side) for side in args.topology.split("x"))
        chips_per_host = min(args.chips_per_host, chips)
        if chips % chips_per_host:
            raise UserError(
                f"--topology {args.topology} has {chips} chips, which --chips-per-host "
                f"{args.chips_per_host} does not divide"
            )
        return render(
            "jobset.yaml.j2", job=job, image=tagged, namespace=args.namespace, queue=args.queue,
            slices=args.slices, hosts=chips // chips_per_host, chips_per_host=chips_per_host,
            accelerator=ACCELERATORS[args.accelerator], topology=args.topology, spot=args.spot,
            reservation=args.reservation, service_account=args.service_account,
            max_restarts=args.max_restarts,
        )  # fmt: skip

    def up(self, job: Job) -> int:
        """Builds the image, applies the JobSet and waits for its end.

        Returns: 0 done, 1 failed, 2 the user's mistake.
        """
        tagged = self.args.image
        build = ":" not in tagged.rpartition("/")[2]
        if build:
            tagged = f"{tagged}:{job.commit[:12]}"
        path = f"runs/launch/{self.name}/jobset.yaml"
        self.shell.write(path, self.manifest(job, tagged))
        if build:
            self.must(["docker", "build", f"--tag={tagged}", "--build-arg=JAX=tpu", "."])
            self.must(["docker", "push", tagged])
        answer = self.shell.ask(self.kubectl("apply", f"--filename={path}"), Answer(0, ""))
        if answer.code:
            raise JobError(f"{self.name} was not created: {answer.complaint}")
        code = self.follow()
        if code:
            self.logs()
        if self.args.keep:
            self.shell.say(f"{self.name} is kept for 12 hours")
            return code
        deleted = self.down()
        return code or min(deleted, 1)

    def status(self) -> int:
        """The JobSet and its pods."""
        code = self.shell.run(self.kubectl("get", "jobset", self.name, "--output=wide"))
        return code or self.shell.run(self.kubectl("get", "pods", self.pods(), "--output=wide"))

    def logs(self) -> int:
        """The end of every pod's log."""
        return self.shell.run(self.kubectl(
            "logs", self.pods(), "--container=blip-jax", "--prefix", f"--tail={self.args.lines}",
            "--max-log-requests=1000", "--ignore-errors",
        ))  # fmt: skip

    def down(self) -> int:
        """Deletes the JobSet; nothing to delete is no failure."""
        delete = ("delete", "jobset", self.name, "--ignore-not-found")
        return self.shell.run(self.kubectl(*delete))

    def must(self, argv: list[str]) -> None:
        """Runs what has to succeed."""
        if code := self.shell.run(argv):
            raise JobError(f"{' '.join(argv[:2])} ended with {code}")

    def follow(self) -> int:
        """Tells of restarts and of slices that are not ready, until the JobSet has ended."""
        self.shell.comment(f"every {self.shell.poll:g} s, until it is Completed or Failed")
        told = ""
        while True:
            status = self.jobset_status()
            ends = {
                condition["type"]: condition.get("message", "")
                for condition in status.get("conditions", [])
                if condition["status"] == "True"
            }
            if "Completed" in ends:
                self.shell.say(f"{self.name} is done (exit code 0)")
                return 0
            if "Failed" in ends:
                code = 2 if 2 in self.exit_codes() else 1
                self.shell.say(f"{self.name} failed (exit code {code}): {ends['Failed']}")
                return code
            if (progress := self.progress(status)) != told:
                self.shell.say(f"{self.name}: {progress}")
                told = progress
            self.shell.wait()

    def jobset_status(self) -> dict[str, Any]:
        """What the cluster knows of the JobSet.

        Raises:
          JobError: it was deleted, or the cluster does not answer.
        """
        done = {"status": {"conditions": [{"type": "Completed", "status": "True"}]}}
        get = self.kubectl("get", "jobset", self.name, "--output=json")
        for _ in range(TRIES):
            answer = self.shell.ask(get, Answer(0, json.dumps(done)))
            if answer.code == 0:
                return json.loads(answer.out).get("status", {})
            if "NotFound" in answer.err:
                raise JobError(f"{self.name} was deleted")
            self.shell.wait()
        raise JobError(
            f"kubectl tells nothing of {self.name}, which goes on all the same: {answer.complaint}"
        )

    def progress(self, status: dict[str, Any]) -> str:
        """How many slices are ready, and the restarts so far."""
        jobs = status.get("replicatedJobsStatus") or [{}]
        ready = f"{jobs[0].get('ready', 0)} of {self.args.slices} slices are ready"
        restarts = status.get("restarts", 0)
        return f"{ready}, restart {restarts} of {self.args.max_restarts}" if restarts else ready

    def exit_codes(self) -> set[int]:
        """Of the job's containers that have ended."""
        get = self.kubectl("get", "pods", self.pods(), "--output=json")
        answer = self.shell.ask(get, Answer(0, '{"items": []}'))
        if answer.code:
            return set()
        statuses = [
            status
            for pod in json.loads(answer.out)["items"]
            for status in pod.get("status", {}).get("containerStatuses", [])
        ]
        ended = [status.get("state", {}).get("terminated") for status in statuses]
        return {end["exitCode"] for end in ended if end}
