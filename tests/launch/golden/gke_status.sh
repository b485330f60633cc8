kubectl get jobset pretrain --output=wide --namespace=default
kubectl get pods \
  --selector=jobset.sigs.k8s.io/jobset-name=pretrain \
  --output=wide \
  --namespace=default
