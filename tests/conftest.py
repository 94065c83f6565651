"""Puts this folder on the path, so that tests in folders below find its helpers; one thread for arithmetic."""

import torch

torch.set_num_threads(1)
