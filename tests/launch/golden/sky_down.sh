sky jobs cancel --yes --name=pretrain
