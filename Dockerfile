# docker build --tag blip-jax --build-arg JAX=tpu .
# JAX is an extra of jax: cpu, tpu, cuda12 or cuda13. Running needs no network.
FROM python:3.12-slim

ARG JAX=cpu
RUN useradd --create-home --uid 1000 blip
WORKDIR /blip_jax
COPY pyproject.toml setup.py README.md LICENSE ./
COPY blip_jax ./blip_jax
COPY configs ./configs
RUN pip install --no-cache-dir ".[serve]" "jax[${JAX}]" gcsfs

USER blip
ENTRYPOINT ["blip-jax"]
CMD ["--help"]
