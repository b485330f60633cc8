"""Reading, cleaning, augmenting and batching image-text data, on the host with NumPy."""
