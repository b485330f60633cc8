"""The HTTP server: slow senders are dropped, and SIGTERM ends it when all is answered."""

import asyncio
import logging
import signal
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from blip_jax.serve.guard import Guard
from blip_jax.serve.limits import Limits
from blip_jax.serve.service import Service

logger = logging.getLogger("blip_jax.serve")


def protocol_of(limits: Limits) -> type[H11Protocol]:
    """A protocol whose connections are closed where the headers of a request take too long."""

    class Protocol(H11Protocol):
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.timer is not None:
                self.timer.cancel()

        def _watch(self) -> None:
            """Times what stands between requests; what is inside one is the guard's to time."""
            inside = self.cycle is not None and not self.cycle.response_complete
            if inside and self.timer is not None:
                self.timer.cancel()
                self.timer = None
            elif not inside and self.timer is None:
                self.timer = self.loop.call_later(limits.headers, self.transport.close)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

    return Protocol


def run(application: Guard, service: Service, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT; then answers what was accepted.

    Raises:
      RuntimeError: a program could not be compiled.
      OSError: the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    config = uvicorn.Config(
        application,
        http=protocol_of(service.limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(service.limits.receive + service.limits.request) + 1,
    )
    # uvicorn raises the signal once more at its end, for handlers that were there before it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    address = f"[{host}]" if ":" in host else host
    logger.info("listening at http://%s:%d", address, listener.getsockname()[1])
    Server(config, service).run([listener])
    if service.engine.failure is not None:
        raise RuntimeError(f"a program could not be compiled: {service.engine.failure}")
    logger.info("stopped; all that was accepted is answered")


class Server(uvicorn.Server):
    """Ends where there is nothing to serve."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    async def on_tick(self, counter: int) -> bool:
        return self.service.engine.failure is not None or await super().on_tick(counter)
