"""How much a caller may ask for, and for how long."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    body: int = 32 << 20  # of one request
    held: int = 512 << 20  # of all request bodies that are in memory
    picture: int = 10 << 20  # of one encoded picture; its pixels are limited by `data.images`
    many: int = 64  # pictures, or texts, of one request
    rows: int = 256  # pictures times texts that are accepted and not answered yet
    cache: int = 256 << 20  # of image tokens
    decoders: int = 2  # pictures that are decoded at once
    max_batch: int = 8  # rows of one run of a program
    max_wait: float = 0.004  # for a batch to fill up
    request: float = 30.0  # from the end of the body to the answer
    receive: float = 20.0  # for the body to come
    headers: float = 10.0  # for the headers to come
