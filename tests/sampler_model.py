"""A plain model of `Sampler`: lists of tokens, and the stateless reference with them."""

import dataclasses

import torch
from cases import INF, assert_same

import pyllmdecode as pld
from pyllmdecode import HISTORY_FULL, LOOP, SamplingParams
from pyllmdecode.logprobs import wanted

VOCAB = 40


@dataclasses.dataclass
class Request:
    params: SamplingParams
    tokens: list[int]
    prompt: int
    forced: list[int] = dataclasses.field(default_factory=list)


class Mirror:
    """A sampler and its model; every step is compared. All parameters must have seeds."""

    def __init__(self, backend, vocab=VOCAB, max_batch=4, max_length=64):
        self.vocab, self.max_batch, self.max_length = vocab, max_batch, max_length
        self.sampler = backend.sampler(vocab, max_batch, max_length)
        self.requests: dict[int, Request] = {}

    @property
    def free(self):
        return [slot for slot in range(self.max_batch) if slot not in self.requests]

    def with_room(self):
        return [slot for slot, request in sorted(self.requests.items()) if len(request.tokens) < self.max_length]

    def add(self, params, prompt):
        slot = self.sampler.add(params, prompt)
        assert slot == self.free[0]
        tokens = [token if 0 <= token < self.vocab else -1 for token in list(prompt)]
        self.requests[slot] = Request(params, tokens, len(tokens))
        self.check()
        return slot

    def fork(self, slot, params=None):
        copy, source = self.sampler.fork(slot, params), self.requests[slot]
        assert copy == self.free[0]
        self.requests[copy] = Request(params or source.params, list(source.tokens), source.prompt, source.forced)
        self.check()
        return copy

    def remove(self, slot):
        self.sampler.remove(slot)
        del self.requests[slot]
        self.check()

    def update(self, slot, params):
        self.sampler.update(slot, params)
        self.requests[slot].params = params
        self.check()

    def append(self, slot, ids, as_prompt=False):
        self.sampler.append(slot, ids, as_prompt=as_prompt)
        request = self.requests[slot]
        request.tokens += [token if 0 <= token < self.vocab else -1 for token in ids]
        if as_prompt:
            request.prompt = len(request.tokens)
        self.check()

    def rewind(self, slot, n):
        self.sampler.rewind(slot, n)
        request = self.requests[slot]
        del request.tokens[max(len(request.tokens) - n, 0) :]
        request.prompt = min(request.prompt, len(request.tokens))
        if n:
            request.forced = []
        self.check()

    def force(self, slot, ids):
        self.sampler.force(slot, ids)
        self.requests[slot].forced = list(ids)
        self.check()

    def restore(self, slot, backend):
        """A snapshot that a sampler of another backend has taken up and given on."""
        between = pld.Sampler(self.vocab, 1, self.max_length, backend=backend)
        data = between.snapshot(between.restore(self.sampler.snapshot(slot)))
        copy, source = self.sampler.restore(data), self.requests[slot]
        assert copy == self.free[0] and data == self.sampler.snapshot(slot)
        self.requests[copy] = Request(source.params, list(source.tokens), source.prompt, source.forced)
        self.check()

    def step(self, logits, slots=None, **options):
        rows = sorted(self.requests) if slots is None else [int(slot) for slot in slots]
        requests = [self.requests[slot] for slot in rows]
        logits_there = logits.to(self.sampler.device)
        expected = self.expected(logits, requests, **options)
        for row, request in enumerate(requests):
            if len(request.tokens) == self.max_length:
                expected.token_ids[row] = -1
                expected.status[row] = (expected.status[row] & ~LOOP) | HISTORY_FULL
                if expected.loop_period is not None:
                    expected.loop_period[row] = 0
                for values in (expected.logprobs, expected.raw_logprobs):
                    if values is not None and not values[row].isnan():
                        values[row] = -INF
                if expected.ranks is not None:
                    expected.ranks[row] = 0
        got = self.sampler.step(logits_there, slots, **options)
        assert_same(got._replace(**{name: t.cpu() for name, t in got._asdict().items() if t is not None}), expected)
        for request, token in zip(requests, expected.token_ids.tolist(), strict=True):
            if token >= 0:
                request.tokens.append(token)
                request.forced = request.forced[1:]
        self.check()
        return expected

    def expected(self, logits, requests, *, logprobs=None, top_logprobs=0, uniforms=None, check=False):
        params = [request.params for request in requests]
        out = pld.reference.sample_step(
            logits,
            params,
            [torch.tensor(request.tokens, dtype=torch.int64) for request in requests],
            [request.prompt for request in requests],
            [len(request.tokens) for request in requests],
            [one.seed or 0 for one in params],
            uniforms,
            wanted(logprobs, top_logprobs, params),
            [request.forced[0] if request.forced else None for request in requests],
        )
        if out.loop_period is None and any(request.params.watched for request in self.requests.values()):
            out = out._replace(loop_period=torch.zeros_like(out.status))
        return out

    def check(self):
        assert self.sampler.slots == tuple(sorted(self.requests))
        for slot, request in self.requests.items():
            history = self.sampler.history(slot)
            assert history.dtype == torch.int64 and history.tolist() == request.tokens, slot
