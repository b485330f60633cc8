mkdir -p runs/launch/pretrain
cat >runs/launch/pretrain/jobset.yaml <<'END_OF_FILE'
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: "pretrain"
  namespace: "training"
  labels:
    team: "vision"
    blip_jax: "pretrain"
    commit: "0123456789ab"
    kueue.x-k8s.io/queue-name: "multislice-queue"
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  ttlSecondsAfterFinished: 43200
  failurePolicy:
    maxRestarts: 100
    rules:
      - action: FailJobSet # what the job itself got wrong is not tried again
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: 2
      template:
        spec:
          parallelism: 1
          completions: 1
          backoffLimit: 0
          podFailurePolicy:
            rules:
              # 1 failed, 2 the user's mistake, 126 and 127 no such program; all else restarts.
              - action: FailJob
                onExitCodes:
                  containerName: blip-jax
                  operator: In
                  values: [1, 2, 126, 127]
          template:
            metadata:
              labels:
                team: "vision"
                blip_jax: "pretrain"
                commit: "0123456789ab"
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 30
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              serviceAccountName: "trainer"
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: tpu-v6e-slice
                cloud.google.com/gke-tpu-topology: "2x4"
                cloud.google.com/gke-spot: "true"
              tolerations:
                - key: google.com/tpu
                  operator: Exists
                - key: cloud.google.com/gke-spot
                  operator: Exists
              containers:
                - name: blip-jax
                  image: "us-docker.pkg.dev/my-project/blip/blip-jax:stable"
                  args:
                    - "train"
                    - "--config"
                    - "configs/demo.py"
                    - "--workdir=gs://bucket/runs/one"
                  env:
                    - name: BLIP_JAX_DISTRIBUTED
                      value: "1"
                    - name: JAX_COMPILATION_CACHE_DIR
                      value: "gs://bucket/runs/one/xla"
                  resources:
                    limits:
                      google.com/tpu: 8
                  volumeMounts:
                    - name: shared-memory
                      mountPath: /dev/shm
              volumes:
                - name: shared-memory
                  emptyDir:
                    medium: Memory
END_OF_FILE
kubectl apply --filename=runs/launch/pretrain/jobset.yaml --context=my-cluster --namespace=training
# every 30 s, until it is Completed or Failed
kubectl get jobset pretrain --output=json --context=my-cluster --namespace=training
