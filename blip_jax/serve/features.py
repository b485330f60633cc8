"""Image tokens by the content of the picture, bounded in bytes."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from blip_jax.serve.metrics import Metrics
from blip_jax.serve.programs import Features

Key = tuple[str, bytes]  # model, SHA-256 of the encoded picture


class FeatureCache:
    """The features used last. What several callers want at once is computed once."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        """Holds at most `limit` bytes."""
        self.limit = limit
        self.metrics = metrics
        self.size = 0
        self._held: OrderedDict[Key, Features] = OrderedDict()
        self._coming: dict[Key, asyncio.Task[Features]] = {}

    async def get(self, key: Key, compute: Callable[[], Awaitable[Features]]) -> Features:
        """The features of a key. A caller who gives up does not take them from the others."""
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
            self.metrics.cache_hits.inc()
            return found
        task = self._coming.get(key)
        if task is None:
            self.metrics.cache_misses.inc()
            task = asyncio.ensure_future(self._add(key, compute))
            self._coming[key] = task
            task.add_done_callback(lambda done: self._came(key, done))
        return await asyncio.shield(task)

    async def _add(self, key: Key, compute: Callable[[], Awaitable[Features]]) -> Features:
        features = await compute()
        if features.nbytes <= self.limit:
            self._held[key] = features
            self.size += features.nbytes
        while self.size > self.limit:
            self.size -= self._held.popitem(last=False)[1].nbytes
        self.metrics.cache_bytes.set(self.size)
        return features

    def _came(self, key: Key, task: asyncio.Task[Any]) -> None:
        del self._coming[key]
        if not task.cancelled():
            task.exception()  # seen, even where every caller has gone
