"""Cloud TPU VMs through queued resources: created, filled, followed, re-created, deleted.

They serve v4, v5e, v5p and v6e; TPU7x and later are reached through GKE.
"""

import argparse

from launch import job as words
from launch import source
from launch.gcloud import RUNTIMES, QueuedResource
from launch.job import Job, JobError
from launch.machines import PATIENCE, TRIES, Blind, Lost, Machines, basename
from launch.render import render
from launch.shell import Answer, Shell

WAITING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")
STOPPED_AFTER_SAVING = 42
KILLED = 137

accelerator = words.pattern(
    "accelerator type of queued resources", rf"({'|'.join(RUNTIMES)})-\d+", "v6e-16 or v5litepod-16"
)


def where(parser: argparse.ArgumentParser) -> None:
    """Flags of every verb."""
    parser.add_argument("--zone", type=words.zone, required=True)
    parser.add_argument("--project", type=words.project, required=True)


def what(parser: argparse.ArgumentParser) -> None:
    """Flags of `up`."""
    parser.add_argument("--workdir", type=words.bucket, help="gs://BUCKET/FOLDER of the run")
    parser.add_argument("--accelerator", type=accelerator, required=True, help="v6e-16")
    parser.add_argument("--slices", type=words.at_least(1), default=1)
    capacity = parser.add_mutually_exclusive_group()
    capacity.add_argument("--spot", action="store_true")
    capacity.add_argument("--reserved", action="store_true")
    parser.add_argument("--service-account", type=words.service_account)
    parser.add_argument("--max-restarts", type=words.at_least(0), default=20)
    parser.add_argument("--keep", action="store_true", help="do not delete the machines at the end")


class Backend:
    """One queued resource, and the job on all its workers."""

    def __init__(self, args: argparse.Namespace, shell: Shell):
        self.args, self.shell, self.name = args, shell, args.name
        self.commands = QueuedResource(args.name, args.project, args.zone)
        self.machines = Machines(self.commands, getattr(args, "slices", 1), shell)
        self.files = f"runs/launch/{self.name}/{self.name}"

    # The verbs.

    def up(self, job: Job) -> int:
        """Runs the job to its end, on new machines where the old are lost.

        Returns: 0 done, 1 failed, 2 the user's mistake.
        """
        script = render("worker.sh.j2", job=job, accelerator="tpu", bucket=True, venv=".venv")
        self.shell.write(f"{self.files}.sh", script)
        if self.shell.run(source.archive_command(f"{self.files}.tar.gz")):
            raise JobError("the code could not be packed")
        try:
            code = self.run(job)
        except Blind as error:
            raise Blind(
                f"{error}; the machines are left, and the same command joins them"
            ) from error
        except JobError as error:
            self.shell.say(str(error))
            code = 1
        if self.args.keep:
            self.shell.say(f"{self.name} is kept, and costs until: {self.down_line()}")
        elif self.down():
            code = code or 1
        return code

    def status(self) -> int:
        """Tells of request, slices and workers."""
        state, complaint = self.machines.state()
        self.shell.say(f"{self.name}: {state}{complaint}")
        for node in self.machines.nodes() if state == "ACTIVE" else ():
            count = len(node.get("networkEndpoints", []))
            self.shell.say(f"{basename(node)}: {node['state']}, {count} workers")
        for worker, answer in self.machines.workers() if state == "ACTIVE" else ():
            self.shell.say(f"{worker}: {answer}")
        return 0 if state != "absent" else 1

    def logs(self) -> int:
        """The end of every worker's log."""
        return self.shell.run(self.commands.script(f"log {self.args.lines}"))

    def down(self) -> int:
        """Deletes request and machines; nothing to delete is no failure."""
        if self.machines.state()[0] == "absent":
            self.shell.say(f"{self.name}: there is nothing to delete")
            return 0
        if self.shell.run(self.commands.delete()) == 0:
            self.shell.say(f"{self.name} is deleted")
            return 0
        self.shell.say(f"{self.name} was not deleted and costs until: {self.down_line()}")
        return 1

    # The run.

    def run(self, job: Job) -> int:
        """Starts the job as often as it takes; returns the job's own last word, 0, 1 or 2."""
        for restart in range(self.args.max_restarts + 1):
            if restart:
                self.shell.say(f"restart {restart} of at most {self.args.max_restarts}")
            try:
                if self.provision(job) or not self.running():
                    self.start()
                code = self.follow()
            except Lost as lost:
                self.shell.say(str(lost))
                if self.down():
                    raise JobError("new machines need the old name") from lost
                continue
            if code in (0, 1, 2):
                meaning = ("is done", "failed", "was given something that is not right")[code]
                self.shell.say(f"{self.name} {meaning} (exit code {code})")
                if code:
                    self.logs()
                return code
            self.shell.say(f"{self.name} was stopped (exit code {code})")
        raise JobError(f"{self.name} was restarted {self.args.max_restarts} times; gave up")

    def provision(self, job: Job) -> bool:
        """Waits until every slice is ready, having asked for them where nobody has.

        Returns: whether they are new.

        Raises:
          JobError: the request was refused.
          Lost: the request was granted and taken back, or some slices do not get ready.
        """
        new = self.machines.state(Answer(1, "", "NOT_FOUND"))[0] == "absent"
        if new:
            answer = self.shell.ask(self.commands.create(self.args, job.all_labels), Answer(0, ""))
            if answer.code:
                raise JobError(f"{self.name} was not created: {answer.complaint}")
        else:
            self.shell.say(f"{self.name} is there already")
        self.shell.comment(f"every {self.shell.poll:g} s, until it is ACTIVE")
        told = ""
        while (state := self.machines.state())[0] in WAITING:
            if state[0] != told:
                self.shell.say(f"{self.name}: {state[0]}")
            told = state[0]
            self.shell.wait()
        if state[0] == "FAILED":
            raise JobError(f"{self.name} was refused{state[1]}")
        for _ in range(PATIENCE):
            unready = self.machines.unready()
            if not unready:
                return new
            self.shell.say(f"{self.name}: {unready}")
            self.shell.wait()
        raise Lost(f"{self.name}: {unready} for too long")

    def running(self) -> bool:
        """Whether the job runs, so that it is joined and not started."""
        return any(answer == "running" for _, answer in self.machines.workers())

    def start(self) -> None:
        """Copies, installs, starts, each on all workers at once.

        Raises:
          JobError: the code does not install.
          Lost: a slice is taken back, or a worker cannot be reached.
        """
        files = f"{self.files}.tar.gz", f"{self.files}.sh"
        self.machines.on_all_workers(self.commands.copy(*files))
        self.machines.on_all_workers(self.commands.script("install"))
        self.machines.on_all_workers(self.commands.script("start"))

    def follow(self) -> int:
        """Looks at machines and workers until the job has an exit code.

        Raises:
          Lost: a slice is taken back, or some workers cannot be reached.
          Blind: no worker can be reached.
        """
        unready, silent = 0, 0
        while unready < PATIENCE and silent < TRIES:
            self.shell.comment(f"from here on every {self.shell.poll:g} s, until the job has ended")
            self.shell.wait()
            if trouble := self.machines.unready():  # under maintenance, say
                unready += 1
                continue
            answers = self.machines.answers()
            expected = self.machines.expected
            trouble = f"{len(answers)} of {expected} workers answer"
            unready, silent = 0, silent + 1 if len(answers) < expected else 0
            code = verdict(answers)
            if code == 1:
                self.shell.wait()
                self.machines.unready()  # raises Lost where it failed since machines went
            if code == 2 or (code is not None and not silent):
                return code
        raise Lost(f"{self.name}: {trouble} for too long")

    def down_line(self) -> str:
        """The command that deletes."""
        place = f"--project {self.args.project} --zone {self.args.zone}"
        return f"python -m launch tpu down --name {self.name} {place}"


def verdict(states: list[str]) -> int | None:
    """What the workers' exit codes say of the job; None while it runs.

    A mistake is one at once. Else none may be running: a save counts over the failures of those
    who lost their peers in it, and a failure over the deaths that follow from it. A worker that
    was never started counts as killed.
    """
    if "2" in states:
        return 2
    if "running" in states:
        return None
    codes = {KILLED if state == "new" else int(state) for state in states}
    if STOPPED_AFTER_SAVING in codes:
        return STOPPED_AFTER_SAVING
    failed = any(0 < code < 128 for code in codes)
    return 1 if failed else max(codes)
