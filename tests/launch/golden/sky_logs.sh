sky jobs logs --name=pretrain --no-follow --tail=100
