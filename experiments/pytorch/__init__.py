"""What needs PyTorch: twins of our systems, and the comparison with them."""
