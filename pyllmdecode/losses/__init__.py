"""Training against repetition, and with the probabilities that tokens were drawn with. See docs/losses.md.

Every loss is a function of logits, and as `linear_...` one of hidden states and the LM head's weight, in which the
logits are never whole in memory.
"""

from .collator import Collator
from .ditto import Repetition, ditto, ditto_repeat, linear_ditto
from .replay import linear_replay_logprobs, replay_logprobs
from .scalegrad import linear_scalegrad, scalegrad
from .sentences import split_sentences
from .sequence_unlikelihood import linear_sequence_unlikelihood, sequence_unlikelihood
from .simctg import simctg
from .unlikelihood import linear_unlikelihood, unlikelihood

__all__ = [
    "Collator",
    "Repetition",
    "ditto",
    "ditto_repeat",
    "linear_ditto",
    "linear_replay_logprobs",
    "linear_scalegrad",
    "linear_sequence_unlikelihood",
    "linear_unlikelihood",
    "replay_logprobs",
    "scalegrad",
    "sequence_unlikelihood",
    "simctg",
    "split_sentences",
    "unlikelihood",
]
