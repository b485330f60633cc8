"""What `blip-jax evaluate` makes of an evaluation: a table, files, a page."""
