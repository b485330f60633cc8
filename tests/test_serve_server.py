"""The HTTP server: slow and long senders, and the end by SIGTERM."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import serving
import tiny
from serving import picture, text

from blip_jax import cli
from blip_jax.inference.results import CaptionResult
from blip_jax.model import save
from blip_jax.serve.client import Client, ServiceError
from blip_jax.serve.guard import Guard
from blip_jax.serve.limits import Limits
from blip_jax.serve.metrics import Metrics

ROOT = Path(__file__).resolve().parents[1]


async def echo(scope, receive, send):
    """An application that says how long the body was."""
    if scope["type"] == "http":
        content = str(len((await receive())["body"])).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": content})


def listening(limits):
    """The guard and the protocol before `echo`; gives the port."""
    return serving.listening(Guard(echo, limits, Metrics()), limits, "off")


def talk(port, content, seconds=5.0):
    """Sends bytes; gives all that comes until the other side closes, and how long it took."""
    start, found = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as line:
        line.sendall(content)
        with contextlib.suppress(ConnectionResetError):
            while part := line.recv(65536):
                found += part
    return found, time.monotonic() - start


def test_slow_headers_are_dropped_and_slow_bodies_told():
    with listening(Limits(headers=0.3, receive=0.3)) as port:
        assert talk(port, b"")[0] == b""
        assert talk(port, b"POST / HTTP/1.1\r\nHost: a\r\n")[0] == b""
        begun = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345"
        answer, seconds = talk(port, begun)
        assert b" 408 " in answer and b'"too_slow"' in answer and seconds < 5
        twice = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n12POST / HT"
        assert talk(port, twice)[0].count(b"HTTP/1.1 200") == 1


def test_headers_that_trickle_do_not_gain_time():
    with (
        listening(Limits(headers=0.3)) as port,
        socket.create_connection(("127.0.0.1", port), timeout=5) as line,
    ):
        start = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in b"GET / HTTP/1.1\r\nHost: somewhere" * 10:
                line.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - start < 3


def test_a_body_of_200_mb_is_refused_while_it_comes():
    chunk = bytes(1 << 20)
    with listening(Limits(body=1 << 20)) as port:
        for header, frame in (
            (b"Content-Length: 200000000", lambda part: part),
            (b"Transfer-Encoding: chunked", lambda part: b"100000\r\n" + part + b"\r\n"),
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
                line.sendall(b"POST / HTTP/1.1\r\nHost: a\r\n" + header + b"\r\n\r\n")
                line.sendall(frame(chunk) * 2)
                answer = line.recv(65536)
            assert b" 413 " in answer and b"connection: close" in answer.lower()
        whole = (
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 7\r\n\r\n1234567"
        )
        assert b"\r\n7\r\n" in talk(port, whole)[0]


def test_what_all_bodies_may_hold_together():
    with listening(Limits(held=1000, receive=5)) as port:
        begun = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n" + bytes(800)
        with socket.create_connection(("127.0.0.1", port)) as line:
            line.sendall(begun)
            time.sleep(0.2)
            assert b" 429 " in talk(port, begun)[0]
            line.sendall(bytes(100))
            assert b" 200 " in line.recv(65536)
        short = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
        assert b" 200 " in talk(port, short)[0]


@contextlib.contextmanager
def service(folder, *flags):
    """`blip-jax serve` in a process of its own; gives it, its address and its log when it ends."""
    command = [sys.executable, "-m", "blip_jax", "serve", f"--model=tiny={folder}", "--port=0"]
    process = subprocess.Popen(
        [*command, "--max_batch=1", *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    told = []
    try:
        for line in process.stderr:
            told.append(line)
            if found := re.search(r"listening at (http://\S+)", line):
                break
        else:
            pytest.fail("".join(told))
        reader = threading.Thread(target=lambda: told.extend(process.stderr), daemon=True)
        reader.start()
        yield process, found[1], lambda: reader.join(20) or "".join(told)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("serve") / "tiny"
    save(tiny.model(), place)
    return place


def test_a_service_from_its_start_to_sigterm_under_load(folder):
    with service(folder, "--timeout=300") as (process, address, told):
        client = Client(address, timeout=300)
        client.wait_until_ready(300)
        ((best,),) = client.caption(picture())
        expected = tiny.model().caption([tiny.images(1)[0]])[0][0]
        assert isinstance(best, CaptionResult) and best.text == expected.text
        with pytest.raises(ServiceError, match="cannot answer|can answer") as refusal:
            client.answer(picture(), "is it red?")
        assert refusal.value.code == "task_not_supported"
        (row,) = client.match([picture()], ["a red star", "two dogs"])
        assert len(row) == 2 and 0 <= row[0].itm <= 1
        vectors = client.embed([picture()], ["a red star"])
        assert abs(sum(x * x for x in vectors.images[0]) - 1) < 1e-3

        bodies = [json.dumps({"image": text(picture(seed))}).encode() for seed in range(12)]

        def ask(number):
            url = f"{address}/v1/captions"
            headers = {"content-type": "application/json"}
            request = urllib.request.Request(url, bodies[number], headers)
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:
                    return json.load(answer)["results"][0][0]["text"]
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                return None  # it came when nobody listened any more

        alone = [ask(number) for number in range(12)]
        with ThreadPoolExecutor(12) as pool:
            waiting = [pool.submit(ask, number % 12) for number in range(48)]
            time.sleep(0.15)
            process.send_signal(signal.SIGTERM)
            answers = [one.result() for one in waiting]
        assert process.wait(60) == 0
        answered = [(i, answer) for i, answer in enumerate(answers) if answer is not None]
        assert answered and all(answer == alone[i % 12] for i, answer in answered)
        lines = told()
        assert "all that was accepted is answered" in lines and "Traceback" not in lines
        counted = lines.count("POST /v1/captions 200")
        assert counted == len(answered) + len(alone) + 1


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(["serve", *map(str, argv)])
    return stop.value.code, capsys.readouterr().err.strip()


def test_mistakes_are_told_in_a_sentence(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("BLIP_JAX_TOKEN", raising=False)
    model = f"--model={folder}"
    code, error = fails(capsys, model, "--host=0.0.0.0")
    assert code == 2 and "token is needed" in error and "\n" not in error
    short = tmp_path / "token"
    short.write_text("short\n")
    code, error = fails(capsys, model, f"--token_file={short}")
    assert code == 2 and "16 or more" in error and "short\n" not in error
    code, error = fails(capsys, model, f"--model={tmp_path}/tiny")
    assert code == 2 and "two models are called tiny" in error
    code, error = fails(capsys, f"--model={tmp_path}/none")
    assert code == 2 and "none" in error
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, error = fails(capsys, model, f"--port={taken.getsockname()[1]}")
    assert code == 1 and "in use" in error
