"""Equal blocks of a sequence of numbers, found by whole arrays."""

import numpy as np


def equal_to_earlier(tokens: np.ndarray, distance: int) -> np.ndarray:
    """Bool [T - distance]: whether a token equals the one `distance` before it. Negative ones equal nothing."""
    equal = tokens[distance:] == tokens[:-distance]
    return equal & (tokens[distance:] >= 0) if tokens.min(initial=0) < 0 else equal


def grams(tokens: np.ndarray, n: int) -> np.ndarray:
    """int64 [T - n + 1]: a number for each n-gram, equal where they are. One with a negative token equals no other."""
    codes, length = np.unique(tokens, return_inverse=True)[1].astype(np.int64), 1
    if (bad := np.flatnonzero(tokens < 0)).size:
        codes[bad] = tokens.size + np.arange(bad.size)
        codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    # Two overlapping spans name a longer one, so that the length doubles. Ranks are below T, and pairs fit into int64.
    while length < n:
        step = min(length, n - length)
        pairs = codes[:-step] * tokens.size + codes[step:]
        codes = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
        length += step
    return codes


def tandem(tokens: np.ndarray, sizes: range, min_count: int) -> list[tuple[int, int, int]]:
    """Blocks that stand `min_count` times and more in a row: (begin, size, how many times), by size, then place.

    Each is as long as it can be; blocks of several sizes may lie over each other.
    """
    found = []
    for size in sizes:
        if size * min_count > tokens.size:
            break
        equal = equal_to_earlier(tokens, size)
        need = size * (min_count - 1)
        if np.count_nonzero(equal) < need:
            continue
        edges = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]])))
        begins, ends = edges[::2], edges[1::2]
        long = ends - begins >= need
        found += [(int(at), size, int(end - at) // size + 1) for at, end in zip(begins[long], ends[long])]
    return found
