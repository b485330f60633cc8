scancel --me --name=pretrain
