"""Load, batching, fuzz and memory of `blip-jax serve`, against a service that runs.

    blip-jax serve --model runs/demo/round1/pretrain/model &
    python benchmarks/serving.py load  --images runs/demo/world/images/val --seconds 300
    python benchmarks/serving.py batch --images runs/demo/world/images/val --seconds 20
    python benchmarks/serving.py fuzz  --images runs/demo/world/images/val --count 2000 --pid PID

`load` asks for captions and matches and holds every answer against the one to the same request
alone. `batch` compares one client with 64. `fuzz` sends broken bodies and pictures and watches
the memory of the process. Each prints JSON, and ends with 1 where something was wrong.
"""

import argparse
import base64
import collections
import http.client
import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TEXTS = ("a red star", "a blue ring above a green square", "two pink circles", "nothing at all")
Question = tuple[str, bytes]
JSON = {"content-type": "application/json"}


class Line:
    """One connection, opened again where it was closed."""

    def __init__(self, url: str) -> None:
        self.place = urlsplit(url).netloc
        self.http = http.client.HTTPConnection(self.place, timeout=120)

    def ask(
        self, path: str, body: bytes | None, headers: dict[str, str] = JSON
    ) -> tuple[int, bytes, Any]:
        """Status, content and headers."""
        try:
            self.http.request("GET" if body is None else "POST", path, body, headers)
            answer = self.http.getresponse()
            return answer.status, answer.read(), answer.headers
        except (OSError, http.client.HTTPException):
            self.http.close()
            raise


def questions(images: Path, method: str) -> list[Question]:
    """Captions and matches of the pictures of a folder."""
    asked = []
    for file in sorted(images.glob("*"))[:48]:
        picture = base64.b64encode(file.read_bytes()).decode()
        for path, more in (
            ("/v1/captions", {"method": method}),
            ("/v1/match", {"text": TEXTS}),
        ):
            asked.append((path, json.dumps({"image": picture, **more}).encode()))
    return asked


def content(answer: bytes) -> Any:
    """What must be the same alone and under load: texts, and numbers but for their last digits."""

    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 3)
        if isinstance(value, list):
            return [rounded(one) for one in value]
        if isinstance(value, dict):
            return {key: rounded(one) for key, one in value.items()}
        return value

    return rounded(json.loads(answer)["results"])


def alone(url: str, asked: list[Question]) -> dict[int, Any]:
    """What each question has for an answer when nothing else is asked."""
    line, found = Line(url), {}
    for number, (path, body) in enumerate(asked):
        status, answer, _ = line.ask(path, body)
        if status != 200:
            raise RuntimeError(f"{path} alone: {status} {answer[:200]!r}")
        found[number] = content(answer)
    return found


def crowd(
    url: str, asked: list[Question], clients: int, seconds: float, expected: dict[int, Any]
) -> dict[str, Any]:
    """So many clients that ask one question after another; their counts and times."""
    counts: collections.Counter[str] = collections.Counter()
    times: list[float] = []
    lock = threading.Lock()
    end = time.monotonic() + seconds

    def client(seed: int) -> None:
        line, draw = Line(url), random.Random(seed)
        while time.monotonic() < end:
            number = draw.randrange(len(asked))
            start = time.monotonic()
            try:
                status, answer, headers = line.ask(*asked[number])
            except (OSError, http.client.HTTPException) as error:
                status, answer, headers = 0, type(error).__name__.encode(), {}
            took = time.monotonic() - start
            with lock:
                counts[str(status)] += 1
                if status == 200:
                    times.append(took)
                    counts["another's result"] += content(answer) != expected[number]
                elif status != 429:
                    counts[f"{status}: {answer[:80]!r}"] += 1
            if status == 429:
                time.sleep(float(headers["retry-after"]))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(clients)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    wall = time.monotonic() - start
    return {
        "clients": clients,
        "seconds": round(wall, 1),
        "answered per second": round(len(times) / wall, 1),
        "p50 ms": round(1000 * times[len(times) // 2], 1),
        "p99 ms": round(1000 * times[int(len(times) * 0.99)], 1),
        **{key: count for key, count in sorted(counts.items()) if count},
    }


def load(args: argparse.Namespace) -> bool:
    """Many clients; nothing but 200 and 429, and everybody's own result."""
    asked = questions(args.images, args.method)
    found = crowd(args.url, asked, args.clients, args.seconds, alone(args.url, asked))
    print(json.dumps(found, indent=1))
    wrong = {key for key in found if ":" in key or key == "another's result"}
    return not wrong


def batch(args: argparse.Namespace) -> bool:
    """Captions a second of one client and of many; their ratio is what batches are worth."""
    asked = [one for one in questions(args.images, args.method) if one[0] == "/v1/captions"]
    expected = alone(args.url, asked)
    one, many = (
        crowd(args.url, asked, clients, args.seconds, expected) for clients in (1, args.clients)
    )
    ratio = many["answered per second"] / one["answered per second"]
    print(json.dumps({"one": one, "many": many, "ratio": round(ratio, 2)}, indent=1))
    return not any("another's result" in found for found in (one, many))


def broken(draw: random.Random, whole: list[bytes]) -> tuple[str, bytes, dict[str, str]]:
    """A path, a body that is wrong somewhere, and its type."""
    picture = bytearray(draw.choice(whole))
    for _ in range(draw.randrange(1, 20)):
        picture[draw.randrange(len(picture))] = draw.randrange(256)
    cut = bytes(picture[: draw.randrange(len(picture))])
    names = ("captions", "match", "answers", "embeddings", "explanations", "chat/completions")
    path = f"/v1/{draw.choice(names)}"
    values: list[Any] = [
        None, 1, -1, 1e308, "", "a", "\0", "\ud800", [], {}, [[]], True, "x" * 5000, ["a"] * 100,
        base64.b64encode(cut).decode(), base64.b64encode(bytes(picture)).decode(),
    ]  # fmt: skip
    keys = ("image", "text", "question", "model", "method", "prompt", "seed", "messages", "n")
    body = {key: draw.choice(values) for key in draw.sample(keys, draw.randrange(1, 6))}
    kinds: list[tuple[bytes, str]] = [
        (json.dumps(body).encode(), "application/json"),
        (json.dumps(body).encode()[: draw.randrange(1, 60)], "application/json"),
        (draw.randbytes(draw.randrange(2000)), "application/json"),
        (cut, "image/png"),
        (bytes(picture), "image/jpeg"),
        (draw.randbytes(300), "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n" + cut
         + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"),
    ]  # fmt: skip
    content, kind = draw.choice(kinds)
    return path, content, {"content-type": kind}


def resident(pid: int) -> float:
    """MiB of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no memory of {pid}")


def fuzz(args: argparse.Namespace) -> bool:
    """Broken requests: no 5xx but 503 and 504, no traceback, memory that stays."""
    whole = [file.read_bytes() for file in sorted(args.images.glob("*"))[:16]]
    counts: collections.Counter[str] = collections.Counter()
    line, draw, memory = Line(args.url), random.Random(args.seed), []
    wrong = 0
    for number in range(args.count):
        if number % max(1, args.count // 10) == 0 and args.pid:
            memory.append(round(resident(args.pid), 1))
        status, answer, _ = line.ask(*broken(draw, whole))
        counts[str(status)] += 1
        wrong += status >= 500 and status not in (503, 504)
        wrong += b"Traceback" in answer or (status >= 400 and "error" not in json.loads(answer))
    if args.pid:
        memory.append(round(resident(args.pid), 1))
    told = {"requests": args.count, "wrong": wrong, "memory MiB": memory, **counts}
    print(json.dumps(told, indent=1))
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["load", "batch", "fuzz"])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--method", choices=["beam", "greedy", "nucleus"], default="beam")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pid", type=int, help="of the service, to watch its memory")
    args = parser.parse_args()
    sys.exit(0 if {"load": load, "batch": batch, "fuzz": fuzz}[args.what](args) else 1)


if __name__ == "__main__":
    main()
