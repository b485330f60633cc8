"""What one does with a trained model: the jitted programs, and batches to feed them."""
