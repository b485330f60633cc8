sky jobs queue
