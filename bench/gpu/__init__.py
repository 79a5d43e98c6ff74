"""The GPU backends beside others: `python -m bench.gpu`, which `make gpu` runs."""
