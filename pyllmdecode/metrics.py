"""The repetition metrics under their short name, `pyllmdecode.metrics`; they live in repetition/metrics.py."""

from .repetition.metrics import diversity, rep_n, rep_w, seq_rep_n, uniq_seq, wrep_w

__all__ = ["diversity", "rep_n", "rep_w", "seq_rep_n", "uniq_seq", "wrep_w"]
