"""What needs PyTorch: twins of our systems, and what holds the two to each other."""
