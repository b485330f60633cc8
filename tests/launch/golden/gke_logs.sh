kubectl logs \
  --selector=jobset.sigs.k8s.io/jobset-name=pretrain \
  --container=blip-jax \
  --prefix \
  --tail=100 \
  --max-log-requests=1000 \
  --ignore-errors \
  --namespace=default
