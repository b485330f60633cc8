"""A repository to launch from, and a cloud of folders and small programs to launch into."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAKES = Path(__file__).parent / "fakes"
RECORDED = ("docker", "sky", "sbatch", "squeue", "scancel", "srun", "scontrol")
SECRET = "hunter2-of-the-environment"


class Cloud:
    """What `python -m launch` sees: its own git repository, and fakes first on the PATH."""

    def __init__(self, folder: Path):
        self.repo, self.state, self.bin = folder / "repo", folder / "cloud", folder / "bin"
        shutil.copytree(
            ROOT / "launch", self.repo / "launch", ignore=shutil.ignore_patterns("__pycache__")
        )
        (self.repo / "configs").mkdir()
        (self.repo / "configs/demo.py").write_text("# a config\n")
        (self.repo / "pyproject.toml").write_text("[project]\n")
        (self.repo / ".gitignore").write_text("runs/\n__pycache__/\n")
        self.git("init", "--quiet")
        self.commit()
        self.state.mkdir()
        shutil.copytree(FAKES / "worker", self.bin / "worker")
        for script in (self.bin / "worker").iterdir():
            script.chmod(0o755)
        for name in ("gcloud", "kubectl", *RECORDED):
            source = FAKES / (name if name not in RECORDED else "record")
            (self.bin / name).write_text(f"#!{sys.executable} -S\n{source.read_text()}")
            (self.bin / name).chmod(0o755)

    def git(self, *argv: str) -> None:
        """git, with nobody's own settings."""
        who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        subprocess.run(["git", *who, *argv], cwd=self.repo, check=True)

    def commit(self) -> None:
        """All there is."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=all")

    def launch(self, *argv: str, **scenario) -> subprocess.CompletedProcess[str]:
        """`python -m launch` to its end; `**scenario` is what the fakes play."""
        if scenario:
            self.play(**scenario)
        done = subprocess.run(
            [sys.executable, "-m", "launch", *argv], cwd=self.repo, env=self.environment(),
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert SECRET not in done.stdout + done.stderr
        return done

    def play(self, **scenario) -> None:
        """Gives the fakes their script."""
        (self.state / "scenario.json").write_text(json.dumps(scenario))

    def environment(self, **more: str) -> dict[str, str]:
        """Fakes first, and a secret that has no business in any output."""
        path = f"{self.bin}:/usr/local/bin:/usr/bin:/bin"
        return {
            **os.environ, "PATH": path, "FAKE_CLOUD": str(self.state), "HF_TOKEN": SECRET,
            "PYTHONDONTWRITEBYTECODE": "1", **more,
        }  # fmt: skip

    def calls(self) -> list[list[str]]:
        """Every call of a fake so far."""
        path = self.state / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> list[str]:
        """The calls of gcloud on TPUs in short: create, list, scp, ssh install, delete."""
        short = []
        for call in self.calls():
            if call[:3] == ["gcloud", "compute", "tpus"]:
                command = next((a for a in call if a.startswith("--command=")), "")
                script = command.rpartition(".sh ")[2].split() if ".sh " in command else []
                short.append(" ".join([call[4], *script[:1]]))
        return short
