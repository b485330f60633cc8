"""`capfilt run` killed at random moments, against a run that was not: are the files the same bytes?

    python benchmarks/killed.py CORPUS --model MODEL --workdir runs/killed --kills 20

One process does the corpus undisturbed. Then one, two and four processes share it by leases, and
at random moments one of them is killed with SIGKILL and started again, `--kills` times in all; the
last ones finish. The corpus must be large enough for that: a kill after the last shard counts for
nothing and fails the run. Ends with an error if any file differs (of the markers, which hold
seconds, all but those).
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

LEASE = 5  # seconds
PROCESSES = (1, 2, 4)
LONGEST = 12  # seconds between two kills of one process; of more, a third more for each


def start(args: argparse.Namespace, out: Path, *more: str) -> subprocess.Popen[bytes]:
    """A process of the run; what it says goes to a file beside its results."""
    flags = [f"--captioner={args.model}", f"--filter={args.model}", "--num_captions=4"]
    flags.append(f"--batch_size={args.batch_size}")
    command = [sys.executable, "-m", "blip_jax", "capfilt", "run", args.corpus, str(out)]
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen([*command, *flags, *more], stdout=log, stderr=log)


def contents(out: Path) -> dict[str, bytes]:
    """Every file that is not hidden; of the markers all but where the time went."""
    found = {}
    for path in out.rglob("*"):
        name = str(path.relative_to(out))
        if path.is_dir() or "/." in f"/{name}":
            continue
        found[name] = path.read_bytes()
        if name.endswith("_stats.json"):
            marker = json.loads(found[name])
            del marker["seconds"]
            found[name] = json.dumps(marker).encode()
    return found


def done(out: Path) -> int:
    """Finished shards."""
    return len(list((out / "scores").glob("*_stats.json")))


def kill(args: argparse.Namespace, out: Path, shards: int) -> None:
    """Runs by one, two and four processes, and `args.kills` kills among them."""
    rng, killed = random.Random(args.seed), 0
    for number, processes in enumerate(PROCESSES):
        running = [start(args, out, f"--lease={LEASE}") for _ in range(processes)]
        while killed < args.kills * (number + 1) // len(PROCESSES):
            time.sleep(rng.uniform(1, LONGEST * (1 + processes / 3)))
            victim = running.pop(rng.randrange(processes))
            if victim.poll() is not None or done(out) == shards:
                raise SystemExit(f"the run was over after {killed} kills: take a larger corpus")
            victim.kill()
            victim.wait()
            killed += 1
            print(f"kill {killed}, one of {processes}: {done(out)} of {shards} shards", flush=True)
            running.append(start(args, out, f"--lease={LEASE}"))
        if processes != PROCESSES[-1]:
            for process in running:
                process.send_signal(signal.SIGTERM)
                process.wait()
    if any(process.wait() for process in running):
        raise SystemExit(f"a process failed: see {out.with_suffix('.log')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--model", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.workdir.mkdir(parents=True, exist_ok=True)
    whole, out = args.workdir / "whole", args.workdir / "killed"
    if start(args, whole).wait():
        raise SystemExit(f"the undisturbed run failed: see {whole.with_suffix('.log')}")
    kill(args, out, done(whole))
    ours, theirs = contents(out), contents(whole)
    if differ := sorted(n for n in ours | theirs if ours.get(n) != theirs.get(n)):
        raise SystemExit(f"{len(differ)} of {len(theirs)} files differ, the first is {differ[0]}")
    print(f"{len(theirs)} files, the same bytes")


if __name__ == "__main__":
    main()
