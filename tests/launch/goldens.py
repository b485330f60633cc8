"""Dry runs that are kept as files. Rendered anew by: PYTHONPATH=. python tests/launch/goldens.py"""

import contextlib
import io
from pathlib import Path
from unittest import mock

from launch import cli, source

FOLDER = Path(__file__).parent / "golden"
TRAIN = "-- train --config configs/demo.py"
CLOUD = "--name pretrain --project my-project --zone us-east5-b"
IMAGE = "--image us-docker.pkg.dev/my-project/blip/blip-jax"
# Every flag is in one of them.
CASES = {
    "tpu_up": f"tpu up {CLOUD} --accelerator v6e-16 --workdir gs://bucket/runs/one {TRAIN}",
    "tpu_up_all": f"tpu up {CLOUD} --accelerator v5litepod-256 --slices 4 --spot --keep --poll 60 "
    "--service-account trainer@my-project.iam.gserviceaccount.com --label team=vision --lines 20 "
    f"--max-restarts 100 --workdir gs://bucket/runs/one {TRAIN}:smoke --config.pretrain.steps=7",
    "tpu_up_reserved": f"tpu up {CLOUD} --accelerator v5p-8 --reserved -- embed --model M a.png",
    "tpu_status": f"tpu status {CLOUD}",
    "tpu_logs": f"tpu logs {CLOUD} --lines 20",
    "tpu_down": f"tpu down {CLOUD}",
    "gke_up": f"gke up --name pretrain {IMAGE} --accelerator v5p --topology 2x2x4 "
    f"--workdir gs://bucket/runs/one {TRAIN}",
    "gke_up_all": f"gke up --name pretrain {IMAGE}:stable --accelerator v6e --topology 2x4 "
    "--chips-per-host 8 --slices 2 --spot --service-account trainer --queue multislice-queue "
    "--context my-cluster --namespace training --label team=vision --max-restarts 100 --keep "
    f"--workdir gs://bucket/runs/one {TRAIN}",
    "gke_up_reserved": f"gke up --name pretrain {IMAGE}:stable --accelerator tpu7x "
    f"--topology 2x2x2 --reservation mine --workdir gs://bucket/runs/one {TRAIN}",
    "gke_status": "gke status --name pretrain",
    "gke_logs": "gke logs --name pretrain",
    "gke_down": "gke down --name pretrain",
    "slurm_up": f"slurm up --name pretrain --workdir /shared/one --nodes 4 {TRAIN}",
    "slurm_up_all": "slurm up --name pretrain --workdir /shared/one --nodes 2 --gpus-per-node 4 "
    "--time 2-00:00:00 --partition gpu --account vision --label team=vision --max-restarts 3 "
    f"{TRAIN}",
    "slurm_status": "slurm status --name pretrain --workdir /shared/one",
    "slurm_logs": "slurm logs --name pretrain --workdir /shared/one",
    "slurm_down": "slurm down --name pretrain --workdir /shared/one",
    "sky_up_tpu": "sky up --name pretrain --accelerators tpu-v6e-16 --zone us-east5-b --spot "
    f"--label team=vision --workdir gs://bucket/runs/one {TRAIN}",
    "sky_up_gpu": "sky up --name pretrain --accelerators H100:8 --workdir gs://bucket/runs/one "
    f"{TRAIN}",
    "sky_status": "sky status --name pretrain",
    "sky_logs": "sky logs --name pretrain",
    "sky_down": "sky down --name pretrain",
    # What a shell, YAML and sed might trip over.
    "tpu_up_quoting": [
        *f"tpu up {CLOUD} --accelerator v4-8 --workdir gs://bucket/runs/one {TRAIN}".split(),
        "--config.prompt=it's \"a\" $(picture) of `x` & \\n; #1: {{y}}",
    ],
    "gke_up_quoting": [
        *f"gke up --name true {IMAGE}:1 --accelerator v4 --topology 2x2x1 "
        f"--workdir gs://bucket/runs/one {TRAIN}".split(),
        "--config.prompt=it's \"a\" $(picture) of `x` & \\n; #1: {{y}} é",
    ],
}  # fmt: skip


def dry_run(case: str) -> str:
    """What a case prints, as if the tree were commit 0123456789ab with nothing changed."""
    words = CASES[case]
    argv = words.split() if isinstance(words, str) else list(words)
    at = argv.index("--") if "--" in argv else len(argv)
    out = io.StringIO()
    with (
        mock.patch.object(source, "commit", lambda: "0123456789abcdef0123456789abcdef01234567"),
        mock.patch.object(source, "uncommitted", list),
        contextlib.redirect_stdout(out),
    ):
        assert cli.main([*argv[:at], "--dry-run", *argv[at:]]) in (0, 1)
    return out.getvalue()


if __name__ == "__main__":
    for name in CASES:
        (FOLDER / f"{name}.sh").write_text(dry_run(name), encoding="utf-8")
