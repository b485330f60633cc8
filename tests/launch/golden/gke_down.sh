kubectl delete jobset pretrain --ignore-not-found --namespace=default
