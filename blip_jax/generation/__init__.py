"""Text decoding over a static cache: greedy, nucleus and beam, one `lax.while_loop` each.

Call them inside `jax.jit`, with a `decode` that closes over the model and what it reads.
B rows, K beams or samples of a row, P prompt slots, T new tokens, V vocabulary.
"""

from blip_jax.generation.beam import beam
from blip_jax.generation.greedy import Generated, greedy
from blip_jax.generation.nucleus import nucleus

__all__ = ["Generated", "beam", "greedy", "nucleus"]
