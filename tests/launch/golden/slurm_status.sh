squeue --me --name=pretrain --long
