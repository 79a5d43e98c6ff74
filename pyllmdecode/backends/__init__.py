"""The implementations of a decoding step, a file of its name each, and the state that a `Sampler` keeps for them.

`choice` says which of them can run here. Nothing is imported before it is asked for: see there.
"""
