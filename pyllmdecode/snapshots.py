"""A request as bytes, for `Sampler.snapshot` and `restore`. Nothing in them is run or trusted: all is checked.

MAGIC, then little-endian: uint16 version, uint32 size of the header, the header (JSON), the history as int32, and the
BLAKE2b digest (16 bytes) of all before it, against damage.
"""

import hashlib
import json
import struct

import numpy as np
import torch
from torch import Tensor

from . import checks
from .params import SamplingParams, from_text

MAGIC = b"pyllmdecode\0"
VERSION = 1
_SIZES = struct.Struct("<HI")
_DIGEST = 16
_FIELDS = {"vocab_size": int, "seed": int, "prompt_length": int, "length": int, "params": str, "forced": list}


def write(
    vocab_size: int, params: SamplingParams, seed: int, history: Tensor, prompt_length: int, forced: list[int]
) -> bytes:
    """history: int64 [length] on the CPU, ids outside the vocabulary as -1. seed: the one in use."""
    values = vocab_size, seed, prompt_length, len(history), params._text, forced
    header = json.dumps(dict(zip(_FIELDS, values)), separators=(",", ":")).encode()
    tokens = history.numpy().astype("<i4").tobytes()
    body = MAGIC + _SIZES.pack(VERSION, len(header)) + header + tokens
    return body + _digest(body)


def read(data: bytes, vocab_size: int) -> tuple[SamplingParams, int, Tensor, int, list[int]]:
    """-> parameters, seed, history int64 [length], prompt length, forced ids. ValueError, or TypeError for no bytes."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"data: got {type(data).__name__}; accepted: bytes that Sampler.snapshot made")
    data = bytes(data)
    if not data.startswith(MAGIC) or len(data) < len(MAGIC) + _SIZES.size + _DIGEST:
        raise ValueError(f"data: got {data[:24]!r}; accepted: bytes that Sampler.snapshot made")
    version, size = _SIZES.unpack_from(data, len(MAGIC))
    if version != VERSION:
        raise ValueError(f"data: got version {version} of a snapshot; accepted: version {VERSION}")
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if _digest(body) != digest:
        raise ValueError(f"data: got {len(data)} bytes that are damaged; accepted: all that Sampler.snapshot made")
    begin = len(MAGIC) + _SIZES.size
    header, tokens = _header(body[begin : begin + size]), body[begin + size :]
    if header["vocab_size"] != vocab_size:
        raise ValueError(f"data: got a request of a vocabulary of {header['vocab_size']}; accepted: {vocab_size}")
    if len(tokens) != 4 * header["length"] or not 0 <= header["prompt_length"] <= header["length"]:
        raise ValueError(
            f"data: got a history of {len(tokens)} bytes; accepted: 4 for each of {header['length']} tokens"
        )
    try:
        params = from_text(header["params"])
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"data: got parameters that are none: {error}") from None
    for token in header["forced"]:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise ValueError(f"data: got {token!r} as a forced id; accepted: a token id in [0, {vocab_size})")
    ids = torch.from_numpy(np.frombuffer(tokens, "<i4").astype(np.int64))
    return params, checks.seed("data: seed", header["seed"]) % 2**64, ids, header["prompt_length"], header["forced"]


def _header(text: bytes) -> dict:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or any(type(header.get(name)) is not kind for name, kind in _FIELDS.items()):
        raise ValueError(f"data: got the header {text[:60]!r}; accepted: one that Sampler.snapshot made")
    return header


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST).digest()
