"""Puts a blip-jax command on Cloud TPU VMs, GKE, Slurm or SkyPilot: rendered first, then run."""
