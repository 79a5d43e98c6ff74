"""Sentences that were seen before, exactly or nearly."""

from collections.abc import Sequence

SHINGLE = 4  # characters or ids in a row
NUM_PERM, SEED = 128, 1  # of MinHash: the error of a share is about 1 / sqrt(NUM_PERM)


class Seen:
    """share: the least Jaccard index of near ones; None: only equal ones count."""

    def __init__(self, share: float | None):
        self._ids: set[int] = set()
        self._share, self._index = share, None
        if share is not None:
            try:
                import rensa
            except ImportError as error:
                raise ImportError(f"near: pip install 'pyllmdecode[dedupe]' ({error})") from error
            # Of b bands of r rows, one is equal with probability 1 - (1 - s^r)^b: bands small enough that a pair at
            # the share itself is missed by one in some hundreds, as the candidates are counted anyway.
            bands = next(b for b in (8, 16, 32, 64, 128) if b == 128 or (1 - share ** (NUM_PERM // b)) ** b < 0.005)
            self._minhash = rensa.RMinHash
            self._index = rensa.RMinHashLSH(threshold=share, num_perm=NUM_PERM, num_bands=bands)
        self._sentences: list[str | Sequence[int]] = []  # sets of all their shingles would take a hundred times as much

    def reason(self, number: int, sentence: str | Sequence[int]) -> str | None:
        """ "sentence" or "near" where one like it was seen; otherwise it has been seen from now on.

        number: the same for equal sentences, and only for these.
        """
        if number in self._ids:
            return "sentence"
        if self._index is not None:
            shingles = _shingles(sentence)
            hashed = self._minhash(num_perm=NUM_PERM, seed=SEED)
            hashed.update(list(shingles))
            for other in self._index.query(hashed):
                others = _shingles(self._sentences[other])
                common = len(shingles & others)
                if common >= self._share * (len(shingles) + len(others) - common):
                    return "near"
            self._index.insert(len(self._sentences), hashed)
            self._sentences.append(sentence)
        self._ids.add(number)
        return None


def _shingles(sentence: str | Sequence[int]) -> set[str]:
    if isinstance(sentence, str):
        text = " ".join(sentence.split()).casefold().encode(errors="replace").decode()  # of half surrogate pairs
        return {text[at : at + SHINGLE] for at in range(max(1, len(text) - SHINGLE + 1))}
    return {str(sentence[at : at + SHINGLE]) for at in range(max(1, len(sentence) - SHINGLE + 1))}
