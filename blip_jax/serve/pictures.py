"""Pictures as callers send them, opened in a bounded pool."""

import asyncio
import base64
import binascii
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from blip_jax.data.images import ImageError, image_form, open_image, resize_square
from blip_jax.serve.fetch import Fetcher
from blip_jax.serve.limits import Limits
from blip_jax.serve.metrics import Metrics
from blip_jax.serve.refusal import Refusal

Picture = str | bytes  # base64, a data URI or an address; or the file itself


class Pictures:
    """Reads and decodes pictures, `limits.decoders` at once."""

    def __init__(self, limits: Limits, metrics: Metrics, fetcher: Fetcher | None) -> None:
        """Without a `fetcher` no address is looked up."""
        self.limits = limits
        self.metrics = metrics
        self.fetcher = fetcher
        self.pool = ThreadPoolExecutor(limits.decoders, thread_name_prefix="pictures")

    async def read(self, picture: Picture) -> tuple[bytes, bytes]:
        """The encoded picture and its SHA-256. Nothing that is sent is taken for a path.

        Raises:
          Refusal: no base64, an address that may not be looked up, too long, no picture.
        """
        return await asyncio.get_running_loop().run_in_executor(self.pool, self._read, picture)

    async def pixels(self, content: bytes, size: int) -> np.ndarray:
        """An encoded picture as uint8 [size, size, 3].

        Raises:
          Refusal: damaged, or of too many pixels.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, self._decode, content, size)

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, picture: Picture) -> tuple[bytes, bytes]:
        content = picture if isinstance(picture, bytes) else self._from_text(picture)
        if len(content) > self.limits.picture:
            raise self._too_long()
        try:
            image_form(content)
        except ImageError as error:
            raise Refusal(
                415, "unsupported_picture", "A picture is no JPEG, PNG or WebP."
            ) from error
        return content, hashlib.sha256(content).digest()

    def _from_text(self, text: str) -> bytes:
        if text.startswith(("http://", "https://")):
            if self.fetcher is None:
                raise Refusal(
                    400,
                    "addresses_refused",
                    "Pictures are sent as base64 or as a data URI; this service looks up no "
                    "addresses.",
                )
            return self.fetcher.fetch(text)
        encoded = text.partition(",")[2] if text.startswith("data:") else text
        if len(encoded) > self.limits.picture * 4 // 3 + 4:
            raise self._too_long()
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refusal(
                422, "invalid_picture", "A picture is neither base64 nor a data URI of it."
            ) from error

    def _too_long(self) -> Refusal:
        mebibytes = self.limits.picture / (1 << 20)
        return Refusal(413, "picture_too_large", f"A picture has more than {mebibytes:g} MiB.")

    def _decode(self, content: bytes, size: int) -> np.ndarray:
        start = time.monotonic()
        try:
            return np.asarray(resize_square(open_image(content), size))
        except ImageError as error:
            code, status = "damaged_picture", 422
            if "more than" in str(error):
                code, status = "too_many_pixels", 413
            message = str(error).replace("The given bytes", "A picture")
            raise Refusal(status, code, message) from error
        finally:
            self.metrics.decode.observe(time.monotonic() - start)
