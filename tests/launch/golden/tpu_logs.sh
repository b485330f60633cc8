gcloud compute tpus queued-resources ssh pretrain \
  --node=all \
  --worker=all \
  --quiet \
  '--command=bash pretrain.sh log 20' \
  --project=my-project \
  --zone=us-east5-b
