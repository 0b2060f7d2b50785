"""PyTorch on one thread: with more, it stalls on a busy machine of two cores."""

import torch

torch.set_num_threads(1)
