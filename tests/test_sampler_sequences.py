"""Any sequence of calls of a `Sampler`, on every backend, against the model of it."""

import hypothesis.stateful as stateful
from cases import INF, LISTS, normal
from hypothesis import settings
from hypothesis import strategies as st
from sampler_model import Mirror
from strategies import sampling_params


class SamplerMachine(stateful.RuleBasedStateMachine):
    def __init__(self, backend):
        super().__init__()
        self.mirror = Mirror(backend, vocab=9, max_batch=3, max_length=14)

    def slot(self, data):
        return data.draw(st.sampled_from(sorted(self.mirror.requests)))

    @stateful.precondition(lambda self: self.mirror.free)
    @stateful.rule(params=sampling_params(9), prompt=st.lists(st.integers(-2, 10), max_size=14))
    def add(self, params, prompt):
        self.mirror.add(params, prompt)

    @stateful.precondition(lambda self: self.mirror.requests and self.mirror.free)
    @stateful.rule(data=st.data(), params=st.none() | sampling_params(9))
    def fork(self, data, params):
        self.mirror.fork(self.slot(data), params)

    @stateful.precondition(lambda self: self.mirror.requests)
    @stateful.rule(data=st.data())
    def remove(self, data):
        self.mirror.remove(self.slot(data))

    @stateful.precondition(lambda self: self.mirror.requests)
    @stateful.rule(data=st.data(), params=sampling_params(9))
    def update(self, data, params):
        self.mirror.update(self.slot(data), params)

    @stateful.precondition(lambda self: self.mirror.requests)
    @stateful.rule(data=st.data(), ids=st.lists(st.integers(-2, 10), max_size=9), as_prompt=st.booleans())
    def append(self, data, ids, as_prompt):
        slot = self.slot(data)
        room = self.mirror.max_length - len(self.mirror.requests[slot].tokens)
        self.mirror.append(slot, ids[:room], as_prompt)

    @stateful.precondition(lambda self: self.mirror.requests)
    @stateful.rule(data=st.data(), n=st.integers(0, 15))
    def rewind(self, data, n):
        self.mirror.rewind(self.slot(data), n)

    @stateful.precondition(lambda self: self.mirror.requests)
    @stateful.rule(data=st.data(), ids=st.lists(st.integers(0, 8), max_size=5))
    def force(self, data, ids):
        self.mirror.force(self.slot(data), ids)

    @stateful.precondition(lambda self: self.mirror.requests and self.mirror.free)
    @stateful.rule(data=st.data(), name=st.sampled_from(["reference", "cpu"]))
    def restore(self, data, name):
        self.mirror.restore(self.slot(data), name)

    @stateful.rule(data=st.data(), seed=st.integers(0, 99), options=st.sampled_from(LISTS), all_slots=st.booleans())
    def step(self, data, seed, options, all_slots):
        slots = data.draw(st.sampled_from([self.mirror.with_room(), sorted(self.mirror.requests)]))
        count = len(slots)
        if all_slots and count == len(self.mirror.requests):
            slots = None
        else:
            slots = data.draw(st.permutations(slots))[: data.draw(st.integers(0, count))]
            count = len(slots)
        logits = normal(count, 9, seed=seed).round(decimals=seed % 2)
        logits[seed % 5 :: 3, : seed % 10] = -INF
        self.mirror.step(logits, slots, **options)


def test_any_sequence_of_calls(backend):
    stateful.run_state_machine_as_test(
        lambda: SamplerMachine(backend), settings=settings(max_examples=backend.fewer(40, 8), stateful_step_count=30)
    )
