"""What is known of a queued resource's machines, and commands to all of them."""

import json
import re
from typing import Any

from launch.gcloud import QueuedResource
from launch.job import JobError
from launch.shell import Answer, Shell

COMING = ("CREATING", "STARTING", "RESTARTING", "REIMAGING", "REPAIRING")  # states of a node
SSH_FAILED = 255
TRIES = 3  # of ssh, which fails now and then on a machine that is well
PATIENCE = 20  # looks at machines that are given but not ready


class Lost(Exception):
    """The machines are gone or of no use; new ones may do better."""


class Blind(JobError):
    """The machines cannot be seen from here; the job may well be running on them."""


class Machines:
    """The workers of all slices. `expected` of them were there at the last look."""

    def __init__(self, commands: QueuedResource, slices: int, shell: Shell):
        self.commands, self.slices, self.shell = commands, slices, shell
        self.name, self.expected = commands.name, 0
        self.seen = False  # whether gcloud has answered at all

    def look(self, argv: list[str], supposing: Answer) -> Answer:
        """What gcloud says, asked again where it fails for reasons of its own.

        Raises:
          Blind: it keeps failing, or has never answered.
        """
        for _ in range(PATIENCE):
            answer = self.shell.ask(argv, supposing)
            if answer.code == 0 or "NOT_FOUND" in answer.err:
                self.seen = True
                return answer
            if not self.seen:
                break
            self.shell.say(f"gcloud failed, and is asked again: {answer.complaint}")
            self.shell.wait()
        raise Blind(f"gcloud tells nothing of {self.name}: {answer.complaint}")

    def state(self, supposing: Answer | None = None) -> tuple[str, str]:
        """State of the request, or 'absent', and what it says of a failure."""
        granted = Answer(0, '{"state": {"state": "ACTIVE"}}')
        answer = self.look(self.commands.describe(), supposing or granted)
        if answer.code:
            return "absent", ""
        found = json.loads(answer.out)["state"]
        message = found.get("failedData", {}).get("error", {}).get("message", "")
        return found["state"], f": {message}" if message else ""

    def nodes(self) -> list[dict[str, Any]]:
        """The slices that exist."""
        well = {"name": self.name, "state": "READY", "networkEndpoints": [{}]}
        supposing = Answer(0, json.dumps([well] * self.slices))
        return json.loads(self.look(self.commands.nodes(), supposing).out)

    def unready(self) -> str:
        """What keeps the slices from being all ready; '' where nothing does.

        Raises:
          JobError: somebody deleted the machines.
          Lost: the request is suspended, or a slice is gone for good.
        """
        state, complaint = self.state()
        if state == "absent":
            raise JobError(f"{self.name} was deleted")
        if state != "ACTIVE":
            raise Lost(f"{self.name} is {state}{complaint}")
        nodes = self.nodes()
        self.expected = sum(len(node.get("networkEndpoints", [])) for node in nodes)
        gone = [node for node in nodes if node["state"] not in ("READY", *COMING)]
        if gone:
            raise Lost(f"{basename(gone[0])} is {gone[0]['state']}")
        ready = sum(node["state"] == "READY" for node in nodes)
        return "" if ready == self.slices else f"{ready} of {self.slices} slices are ready"

    def workers(self) -> list[tuple[str, str]]:
        """(host, 'new', 'running' or exit code) of every worker that answers."""
        well = Answer(0, "worker 0\n" * self.slices)
        answer = self.shell.ask(self.commands.script("state"), well)
        return re.findall(r"^(\S+) (new|running|\d+)$", answer.out, re.MULTILINE)

    def answers(self) -> list[str]:
        """What the workers answer; it is asked again where none does, which is seldom their fault.

        Raises:
          Blind: none ever answers.
        """
        for _ in range(PATIENCE):
            if answers := [answer for _, answer in self.workers()]:
                return answers
            self.shell.say(f"{self.name}: no worker answers")
            self.shell.wait()
            self.unready()
        raise Blind(f"no worker of {self.name} can be reached by ssh")

    def on_all_workers(self, argv: list[str]) -> None:
        """Tries a command a few times; it may be done again where it was done."""
        for _ in range(TRIES):
            code = self.shell.run(argv)
            if code == 0:
                return
            self.shell.say(f"that ended with {code} on some worker")
            self.shell.wait()
            self.unready()
        if code != SSH_FAILED:
            raise JobError(f"{self.name}: the workers could not be set up")
        answer = self.shell.ask(self.commands.ssh("hostname"), Answer(0, ""))
        reached = len(answer.out.split())
        if reached == 0:
            raise JobError(f"{self.name}: no worker can be reached by ssh; is it let through?")
        raise Lost(f"{self.name}: {reached} of {self.expected} workers can be reached")


def basename(node: dict[str, Any]) -> str:
    """NAME-0 of projects/P/locations/Z/nodes/NAME-0."""
    return node["name"].rpartition("/")[2]
