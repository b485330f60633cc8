"""A service of tiny models, and what the tests of it send; skips them where it cannot be."""

import asyncio
import base64
import contextlib
import dataclasses
import io
import socket
import struct
import threading
import zlib

import numpy as np
import pytest
import tiny
from PIL import Image

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("multipart", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

import httpx
import uvicorn

from blip_jax.serve.app import build_app
from blip_jax.serve.limits import Limits
from blip_jax.serve.server import protocol_of
from blip_jax.serve.service import Service

LIMITS = Limits(max_batch=1, rows=20, body=1 << 20, picture=200_000, decoders=1)


def png(array) -> bytes:
    """An array as a PNG."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def picture(seed: int = 0) -> bytes:
    """Noise as a PNG."""
    return png(tiny.images(1, seed)[0])


def text(content: bytes) -> str:
    """As base64."""
    return base64.b64encode(content).decode()


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A small PNG that says it has 3.6 gigapixels."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@contextlib.contextmanager
def client(models=None, fetcher=None, token=None, hosts=None, **limits):
    """Asks a ready service in this process: a function (method, path, **httpx) -> response."""
    service = Service(
        models or {"tiny": tiny.model()}, dataclasses.replace(LIMITS, **limits), fetcher
    )
    application = build_app(service, token, hosts)
    with asyncio.Runner() as runner:

        async def start():
            service.start()
            while not service.engine.ready:
                assert service.engine.failure is None
                await asyncio.sleep(0.01)

        async def send(*args, **kwargs):
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                return await http.request(*args, **kwargs)

        runner.run(start())
        try:
            yield lambda *args, **kwargs: runner.run(send(*args, **kwargs))
        finally:
            service.stop()


@contextlib.contextmanager
def listening(application, limits, lifespan="on"):
    """Serves an application in a thread; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    http = protocol_of(limits)
    config = uvicorn.Config(application, http=http, ws="none", lifespan=lifespan, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def code(response) -> tuple[int, str]:
    """Status and code of a refusal, whose form is checked."""
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message", "request_id"}
    assert body["error"]["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return response.status_code, body["error"]["code"]


def noise(count: int, seed: int) -> bytes:
    """Bytes of no meaning."""
    return np.random.default_rng(seed).bytes(count)
