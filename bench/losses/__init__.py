"""What the losses cost, in time and in memory, beside plain PyTorch and beside cross-entropy alone."""
