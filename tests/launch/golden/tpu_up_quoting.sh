mkdir -p runs/launch/pretrain
cat >runs/launch/pretrain/pretrain.sh <<'END_OF_FILE'
#!/usr/bin/env bash
# One worker of the blip-jax job pretrain, commit 0123456789ab.
set -euo pipefail
folder="$HOME/blip_jax-pretrain"

install() { # unpacks and installs the code that was copied to the home folder
  rm -rf "$folder/code"
  mkdir -p "$folder/code"
  tar -xzf "$HOME/pretrain.tar.gz" -C "$folder/code"
  cd "$folder/code"
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || python3 -m pip install --quiet --user uv
  uv venv --quiet --allow-existing --python 3.12 .venv
  uv pip install --quiet --python .venv/bin/python --editable . 'jax[tpu]' gcsfs
}

start() { # in the background, so that it outlives the connection; once, however often asked
  cd "$folder"
  if alive; then return; fi
  rm -f exit
  nohup setsid bash "$HOME/pretrain.sh" run >>log 2>&1 </dev/null &
  echo $! >pid
}

run() { # the job itself; the exit code is written last, since the machine goes when it is read
  cd "$folder/code"
  export BLIP_JAX_DISTRIBUTED=1
  export JAX_COMPILATION_CACHE_DIR=gs://bucket/runs/one/xla
  # shellcheck disable=SC2016  # the arguments are as they were given
  .venv/bin/blip-jax train --config configs/demo.py '--config.prompt=it'"'"'s "a" $(picture) of `x` & \n; #1: {{y}}' --workdir=gs://bucket/runs/one &
  child=$!
  trap 'kill -TERM "$child" 2>/dev/null || true' TERM
  code=0
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do # SIGTERM ended the wait, not the job
    code=0
    wait "$child" || code=$?
  done
  timeout 60 gcloud storage cp --quiet "$folder/log" \
    "gs://bucket/runs/one/logs/pretrain/$(hostname)-$(date -u +%Y%m%dT%H%M%SZ).log" || true
  echo "$code" >"$folder/exit.partial"
  mv "$folder/exit.partial" "$folder/exit"
}

alive() { # a pid alone may be another program's by now
  [[ -f $folder/pid ]] && grep -qs "pretrain.sh" "/proc/$(cat "$folder/pid")/cmdline"
}

state() { # HOST new | running | EXIT CODE
  if [[ -f $folder/exit ]]; then
    answer=$(cat "$folder/exit")
  elif alive; then
    answer=running
  elif [[ -f $folder/pid ]]; then
    answer=137 # it is gone and left no code: the machine was rebooted, or it was killed
  else
    answer=new
  fi
  echo "$(hostname) $answer"
}

log() { tail -n "$1" "$folder/log" | sed "s/^/$(hostname): /"; }

case $1 in
  install) install ;;
  start) start ;;
  run) run ;;
  state) state ;;
  log) log "$2" ;;
esac
exit # bash reads no further, so the file may be copied anew while it runs
END_OF_FILE
git archive --output=runs/launch/pretrain/pretrain.tar.gz HEAD
gcloud compute tpus queued-resources describe pretrain \
  --format=json \
  --project=my-project \
  --zone=us-east5-b
gcloud compute tpus queued-resources create pretrain \
  --node-id=pretrain \
  --accelerator-type=v4-8 \
  --runtime-version=tpu-ubuntu2204-base \
  --scopes=https://www.googleapis.com/auth/cloud-platform \
  --labels=blip_jax=pretrain,commit=0123456789ab \
  --project=my-project \
  --zone=us-east5-b
# every 30 s, until it is ACTIVE
gcloud compute tpus queued-resources describe pretrain \
  --format=json \
  --project=my-project \
  --zone=us-east5-b
gcloud compute tpus queued-resources describe pretrain \
  --format=json \
  --project=my-project \
  --zone=us-east5-b
gcloud compute tpus tpu-vm list \
  --filter=labels.blip_jax=pretrain \
  --format=json \
  --project=my-project \
  --zone=us-east5-b
gcloud compute tpus queued-resources scp runs/launch/pretrain/pretrain.tar.gz runs/launch/pretrain/pretrain.sh pretrain: \
  --node=all \
  --worker=all \
  --quiet \
  --project=my-project \
  --zone=us-east5-b
gcloud compute tpus queued-resources ssh pretrain \
  --node=all \
  --worker=all \
  --quiet \
  '--command=bash pretrain.sh install' \
  --project=my-project \
  --zone=us-east5-b
gcloud compute tpus queued-resources ssh pretrain \
  --node=all \
  --worker=all \
  --quiet \
  '--command=bash pretrain.sh start' \
  --project=my-project \
  --zone=us-east5-b
# from here on every 30 s, until the job has ended
sleep 30
gcloud compute tpus queued-resources describe pretrain \
  --format=json \
  --project=my-project \
  --zone=us-east5-b
gcloud compute tpus tpu-vm list \
  --filter=labels.blip_jax=pretrain \
  --format=json \
  --project=my-project \
  --zone=us-east5-b
gcloud compute tpus queued-resources ssh pretrain \
  --node=all \
  --worker=all \
  --quiet \
  '--command=bash pretrain.sh state' \
  --project=my-project \
  --zone=us-east5-b
gcloud compute tpus queued-resources describe pretrain \
  --format=json \
  --project=my-project \
  --zone=us-east5-b
gcloud compute tpus queued-resources delete pretrain \
  --force \
  --quiet \
  --project=my-project \
  --zone=us-east5-b
