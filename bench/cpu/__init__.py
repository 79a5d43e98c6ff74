"""The CPU backend beside others, under pytest: `make bench`; and a commit beside another: `make bench-check`."""
