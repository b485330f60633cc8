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
