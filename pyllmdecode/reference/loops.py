"""Whether generated tokens end in a loop (docs/contract.md, section 9): the definition, written to be read."""

from collections.abc import Sequence

from ..detection import RepetitionDetection


def find_loop(generated: Sequence[int], detection: RepetitionDetection) -> tuple[int, bool]:
    """-> the smallest size of a block that the tokens end with so often in a row, 0 for none; and whether LOOP is set.

    An id outside the vocabulary is -1, and equals no other.
    """
    if len(generated) < detection.min_tokens:
        return 0, False
    period = smallest_block(generated, detection)
    return period, period > 0 or is_alarm(generated, detection)


def smallest_block(generated: Sequence[int], detection: RepetitionDetection) -> int:
    for size in range(detection.min_pattern_size, detection.max_pattern_size + 1):
        length = size * detection.min_count
        if length > len(generated):
            break
        tail = list(generated[len(generated) - length :])
        if min(tail) >= 0 and tail[size:] == tail[:-size]:
            return size
    return 0


def is_alarm(generated: Sequence[int], detection: RepetitionDetection) -> bool:
    window, n = detection.window, detection.n
    if not window or len(generated) < window:
        return False
    recent = list(generated[len(generated) - window :])
    grams = [tuple(recent[i : i + n]) for i in range(window - n + 1)]
    seen, repeated = set(), 0
    for gram in grams:
        repeated += gram in seen
        if min(gram) >= 0:
            seen.add(gram)
    return repeated >= detection.repeats
