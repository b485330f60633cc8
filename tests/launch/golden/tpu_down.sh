gcloud compute tpus queued-resources describe pretrain \
  --format=json \
  --project=my-project \
  --zone=us-east5-b
gcloud compute tpus queued-resources delete pretrain \
  --force \
  --quiet \
  --project=my-project \
  --zone=us-east5-b
