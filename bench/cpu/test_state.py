"""What is no table of times: the memory of a request, and decoding with a real model."""

from . import decode, state


def test_state(keep):
    keep("state", state.run)


def test_decode(keep):
    keep("decode", decode.run)
