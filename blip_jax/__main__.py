"""`python -m blip_jax` is `blip-jax`."""

from blip_jax.cli import main

main()
