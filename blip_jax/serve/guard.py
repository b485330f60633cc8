"""What stands before every route: who may ask, how long a body may be and may take."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import secrets
import time
import traceback
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blip_jax.serve.limits import Limits
from blip_jax.serve.metrics import Metrics
from blip_jax.serve.refusal import Refusal

logger = logging.getLogger("blip_jax.serve")

OPEN = frozenset({"/", "/docs", "/healthz", "/readyz", "/openapi.json"})
OPEN_FOLDER = "/page/"
LINGER = 2.0  # seconds that a refused sender has to notice
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Guard:
    """Wraps an application. What is logged is method, route, status, time and number alone."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        token: str | None = None,
        hosts: Collection[str] | None = None,
    ) -> None:
        """Takes the bearer token that is asked for, and the names it answers to; None for any."""
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self.token = None if token is None else digest(token.encode())
        self.hosts = hosts
        self.held = 0  # bytes of bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await Exchange(self, scope, receive, send).run()
        else:
            await self.app(scope, receive, send)


class Exchange:
    """One request, and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard = guard
        self.scope = scope
        self.receive = receive
        self.send = send
        self.headers = {name.decode("latin1"): value for name, value in scope["headers"]}
        self.id = secrets.token_hex(8)
        self.status = 0
        self.body = bytearray()
        self.size = 0  # bytes of the body so far
        self.whole = False  # the body has come
        self.given = False  # the application has it

    async def run(self) -> None:
        """Answers, whatever happens."""
        start = time.monotonic()
        self.scope.setdefault("state", {})["request_id"] = self.id
        try:
            await self._answer()
        except Refusal as refusal:
            await self._refuse(refusal)
        except Exception as error:  # the application has answered, or nothing was sent
            log_failure(self.id, error)
            if not self.status:
                await self._refuse(Refusal(500, "internal", "The service has failed."))
        finally:
            self.guard.held -= self.size
            self._tell(time.monotonic() - start)

    async def _answer(self) -> None:
        self._check_caller()
        await self._read_body()
        try:
            async with asyncio.timeout(self.guard.limits.request):
                await self.guard.app(self.scope, self._replay, self._send)
        except TimeoutError as error:
            if not self.status:
                message = "There was no result in time."
                raise Refusal(504, "deadline_exceeded", message, retry_after=1) from error

    def _check_caller(self) -> None:
        """Host, origin and token."""
        host = self.headers.get("host", b"").decode("latin1")
        hosts = self.guard.hosts
        if hosts is not None and host_name(host) not in hosts:
            raise Refusal(403, "host_refused", "The service does not go by that name.")
        origin = self.headers.get("origin")
        if origin is not None and origin.decode("latin1").partition("://")[2] != host:
            raise Refusal(403, "origin_refused", "Other sites may not ask this service.")
        path = self.scope["path"]
        if self.guard.token is None or path in OPEN or path.startswith(OPEN_FOLDER):
            return
        scheme, _, given = self.headers.get("authorization", b"").partition(b" ")
        right = hmac.compare_digest(digest(given.strip()), self.guard.token)
        if scheme.lower() != b"bearer" or not right:
            refusal = Refusal(401, "unauthorized", "A bearer token is needed.")
            refusal.headers["www-authenticate"] = "Bearer"
            raise refusal

    async def _read_body(self) -> None:
        """Takes the body in, as long as it is neither too long nor too slow."""
        declared = self.headers.get("content-length", b"0")
        if not declared.isdigit() or int(declared) > self.guard.limits.body:
            raise self._too_long()
        try:
            async with asyncio.timeout(self.guard.limits.receive):
                while not self.whole:
                    self._take(await self.receive())
        except TimeoutError as error:
            raise Refusal(408, "too_slow", "The body took too long.") from error

    def _take(self, message: Message) -> None:
        """One part of the body."""
        if message["type"] == "http.disconnect":
            raise Refusal(400, "disconnected", "The caller has gone.")
        chunk = message.get("body", b"")
        self.body += chunk
        self.size += len(chunk)
        self.guard.held += len(chunk)
        self.whole = not message.get("more_body", False)
        if self.size > self.guard.limits.body:
            raise self._too_long()
        if self.guard.held > self.guard.limits.held:
            raise Refusal(429, "busy", "Too many bodies are being read.", retry_after=1)

    def _too_long(self) -> Refusal:
        most = self.guard.limits.body / (1 << 20)
        return Refusal(413, "body_too_large", f"The body has more than {most:g} MiB.")

    async def _replay(self) -> Message:
        """The body to the application, then what else comes."""
        if self.given:
            return await self.receive()
        self.given = True
        content = bytes(self.body)
        self.body.clear()
        return {"type": "http.request", "body": content, "more_body": False}

    async def _send(self, message: Message) -> None:
        """Adds the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name for name, _ in message["headers"]}
            added = {**HEADERS, "x-request-id": self.id}
            message["headers"] = [
                *message["headers"],
                *((n.encode(), v.encode()) for n, v in added.items() if n.encode() not in own),
            ]
        await self.send(message)

    async def _refuse(self, refusal: Refusal) -> None:
        """Sends a refusal. Where a body is still coming, its sender gets the time to notice."""
        self.guard.metrics.refused.labels(refusal.code).inc()
        content = json.dumps(refusal.body(self.id)).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(content)),
            **({} if self.whole else {"connection": "close"}),
            **refusal.headers,
        }
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send(
            {"type": "http.response.start", "status": refusal.status, "headers": pairs}
        )
        await self._send({"type": "http.response.body", "body": content, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while not self.whole:
                    message = await self.receive()
                    self.whole = not message.get("more_body", False)
        await self._send({"type": "http.response.body", "body": b""})

    def _tell(self, seconds: float) -> None:
        known = OPEN_FOLDER if self.scope["path"].startswith(OPEN_FOLDER) else "unknown"
        route = getattr(self.scope.get("route"), "path", known)
        self.guard.metrics.requests.labels(route, str(self.status)).inc()
        self.guard.metrics.latency.labels(route).observe(seconds)
        milliseconds = 1000 * seconds
        line = "%s %s %d %.1f ms %s"
        logger.info(line, self.scope["method"], route, self.status, milliseconds, self.id)


def host_name(host: str) -> str | None:
    """A Host header without its port; None where it is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def digest(value: bytes) -> bytes:
    """Values of any length as ones of the same, to compare in constant time."""
    return hashlib.sha256(value).digest()


def log_failure(request_id: str, error: BaseException) -> None:
    """Where something failed. Messages of errors may hold what was asked, and are left out."""
    places = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{place.filename}:{place.lineno}" for place in reversed(places[-5:]))
    logger.error("%s failed with %s at %s", request_id, type(error).__name__, where)
