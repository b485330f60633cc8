mkdir -p runs/launch/pretrain
cat >runs/launch/pretrain/sky.yaml <<'END_OF_FILE'
name: "pretrain"
workdir: .
resources:
  infra: "gcp/*/us-east5-b"
  accelerators: "tpu-v6e-16"
  accelerator_args:
    runtime_version: "v2-alpha-tpuv6e"
  use_spot: true
  labels:
    team: "vision"
    blip_jax: "pretrain"
    commit: "0123456789ab"
  job_recovery:
    max_restarts_on_errors: 0
    recover_on_exit_codes: [42] # stopped by SIGTERM after saving
setup: |
  set -e
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || python3 -m pip install --quiet --user uv
  uv venv --quiet --allow-existing --python 3.12 .venv
  uv pip install --quiet --python .venv/bin/python --editable . 'jax[tpu]' gcsfs
run: |
  export BLIP_JAX_DISTRIBUTED=1
  export JAX_COMPILATION_CACHE_DIR=gs://bucket/runs/one/xla
  exec .venv/bin/blip-jax train --config configs/demo.py --workdir=gs://bucket/runs/one
END_OF_FILE
sky jobs launch --yes --detach-run --name=pretrain runs/launch/pretrain/sky.yaml
