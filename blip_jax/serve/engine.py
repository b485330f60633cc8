"""One thread that runs programs, on batches of what callers wait for."""

import asyncio
import contextlib
import dataclasses
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from blip_jax.serve.limits import Limits
from blip_jax.serve.metrics import Metrics
from blip_jax.serve.programs import Program
from blip_jax.serve.refusal import Refusal

logger = logging.getLogger("blip_jax.serve")


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A row whose result somebody awaits."""

    row: Any
    result: asyncio.Future[Any]
    arrived: float


class Engine:
    """Gathers rows of a program into batches, and runs the one whose first row is oldest.

    A batch starts when it is full or its first row has waited `limits.max_wait`. A row whose
    caller has gone (its future is cancelled) is left out. Its methods are called from the event
    loop; the thread hands results back there.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self.ready = False
        self.failure: Exception | None = None  # why it will never be ready
        self._admitted = 0
        self._row_seconds = 0.01  # time of a row, lately
        self._waiting: dict[Program, deque[Waiting]] = {}
        self._change = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self, programs: Sequence[Program]) -> None:
        """Begins to compile, then to serve; to be called in the event loop."""
        args = (programs, asyncio.get_running_loop())
        self._thread = threading.Thread(target=self._work, args=args, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread when all that waits is done."""
        with self._change:
            self._closing = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join()

    @contextlib.contextmanager
    def admit(self, rows: int) -> Iterator[None]:
        """Holds room for a request of so many rows.

        Raises:
          Refusal: it will never fit (413), it does not fit now (429), or nothing is compiled yet
            (503).
        """
        if not self.ready:
            raise Refusal(503, "not_ready", "The models are being compiled.", retry_after=5)
        if rows > self.limits.rows:
            raise Refusal(
                413,
                "too_much_at_once",
                f"{rows} pairs of a picture and a text were asked for; {self.limits.rows} are the "
                "most of one request.",
            )
        if self._admitted + rows > self.limits.rows:
            seconds = math.ceil(self._admitted * self._row_seconds)
            retry_after = min(max(1, seconds), int(self.limits.request) or 1)
            raise Refusal(429, "busy", "The queue is full.", retry_after=retry_after)
        self._admitted += rows
        self.metrics.rows.set(self._admitted)
        try:
            yield
        finally:
            self._admitted -= rows
            self.metrics.rows.set(self._admitted)

    async def run(self, program: Program, rows: Iterable[Any]) -> list[Any]:
        """Results of the rows, in their order."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        waiting = [Waiting(row, loop.create_future(), now) for row in rows]
        with self._change:
            self._waiting.setdefault(program, deque()).extend(waiting)
            self._change.notify()
        return await asyncio.gather(*(one.result for one in waiting))

    def _work(self, programs: Sequence[Program], loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._compile(programs)
        except Exception as error:
            logger.exception("a program cannot be compiled")
            self.failure = error
            return
        while (batch := self._next()) is not None:
            self._run(*batch, loop)

    def _compile(self, programs: Sequence[Program]) -> None:
        start = time.monotonic()
        for number, program in enumerate(programs):
            for size in program.sizes:
                if self._closing:
                    return
                program([program.example] * size)
            logger.info("compiled %s (%d of %d)", program.name, number + 1, len(programs))
        self.ready = True
        self.metrics.ready.set(1)
        logger.info("ready after %.1f s", time.monotonic() - start)

    def _next(self) -> tuple[Program, list[Waiting]] | None:
        """Waits for a batch; None at the end."""
        with self._change:
            while True:
                now = time.monotonic()
                if self._waiting:
                    by_age = min(self._waiting.items(), key=lambda item: item[1][0].arrived)
                    patience = by_age[1][0].arrived + self.limits.max_wait - now
                    if patience <= 0 or len(by_age[1]) >= by_age[0].most or self._closing:
                        return by_age[0], self._take(*by_age)
                    self._change.wait(patience)
                elif self._closing:
                    return None
                else:
                    self._change.wait()

    def _take(self, program: Program, queue: deque[Waiting]) -> list[Waiting]:
        """The oldest rows of a program, without those that nobody waits for any more."""
        taken: list[Waiting] = []
        while queue and len(taken) < program.most:
            one = queue.popleft()
            if not one.result.cancelled():
                taken.append(one)
        if not queue:
            del self._waiting[program]
        return taken

    def _run(self, program: Program, batch: list[Waiting], loop: asyncio.AbstractEventLoop) -> None:
        if not batch:
            return
        start = time.monotonic()
        results: Sequence[Any] | Exception
        try:
            results = program([one.row for one in batch])
        except Exception as error:
            results = error
        seconds = time.monotonic() - start
        self._row_seconds += 0.1 * (seconds / len(batch) - self._row_seconds)
        self.metrics.batch.labels(program.name).observe(len(batch))
        self.metrics.filler.labels(program.name).inc(program.filler(len(batch)))
        self.metrics.device.labels(program.name).observe(seconds)
        loop.call_soon_threadsafe(deliver, batch, results)


def deliver(batch: list[Waiting], results: Sequence[Any] | Exception) -> None:
    """Hands results, or why there are none, to those who still wait."""
    for number, one in enumerate(batch):
        if one.result.done():
            continue
        if isinstance(results, Exception):
            one.result.set_exception(results)
        else:
            one.result.set_result(results[number])
