bash -c 'tail -n 100 /shared/one/launch/pretrain/logs/*.log'
