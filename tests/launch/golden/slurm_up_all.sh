squeue --me --name=pretrain --noheader
mkdir -p /shared/one/launch/pretrain
cat >/shared/one/launch/pretrain/install.sh <<'END_OF_FILE'
#!/usr/bin/env bash
set -e
cd /shared/one/launch/pretrain/code
export PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || python3 -m pip install --quiet --user uv
uv venv --quiet --allow-existing --python 3.12 .venv
uv pip install --quiet --python .venv/bin/python --editable . 'jax[cuda12]'
END_OF_FILE
mkdir -p /shared/one/launch/pretrain
cat >/shared/one/launch/pretrain/job.sh <<'END_OF_FILE'
#!/usr/bin/env bash
#SBATCH --job-name=pretrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --time=2-00:00:00
#SBATCH --partition=gpu
#SBATCH --account=vision
#SBATCH --comment=team=vision,blip_jax=pretrain,commit=0123456789ab
#SBATCH --output=/shared/one/launch/pretrain/logs/job.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
# One process a GPU, which is what jax.distributed expects of Slurm. SIGTERM comes two minutes
# before the time is up; the job saves, exits with 42, and is queued again.
set -euo pipefail
cd /shared/one/launch/pretrain/code
export BLIP_JAX_DISTRIBUTED=1
export JAX_COMPILATION_CACHE_DIR=/shared/one/xla

code=0
# shellcheck disable=SC2016  # the arguments are as they were given
srun --wait=120 --open-mode=append --output=/shared/one/launch/pretrain/logs/task-%t.log \
  .venv/bin/blip-jax train --config configs/demo.py --workdir=/shared/one || code=$?

if [[ $code -eq 42 ]]; then
  if [[ ${SLURM_RESTART_COUNT:-0} -lt 3 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
  echo "pretrain was restarted 3 times; it is not queued again" >&2
fi
exit "$code"
END_OF_FILE
rm -rf /shared/one/launch/pretrain/code
mkdir -p /shared/one/launch/pretrain/code /shared/one/launch/pretrain/logs
git archive --output=/shared/one/launch/pretrain/code.tar.gz HEAD
tar -xzf /shared/one/launch/pretrain/code.tar.gz -C /shared/one/launch/pretrain/code
bash /shared/one/launch/pretrain/install.sh
sbatch /shared/one/launch/pretrain/job.sh
