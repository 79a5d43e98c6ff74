"""What a generation loop does where a text has become a loop: it asks a `LoopPolicy` after each step."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .checks import integer
from .detection import RepetitionDetection
from .output import SampleOutput
from .params import SamplingParams
from .sampler import Sampler
from .tables import LOOP

# A block of 4 to 64 tokens three times in a row: "ha ha ha" and three empty lines are none, twelve of one token are. Or
# half of the 4-grams of the last 96 tokens seen before, for loops whose copies differ a little, as in a list whose
# numbers count on.
DETECTION = RepetitionDetection(64, min_pattern_size=4, min_count=3, window=96, n=4, threshold=0.5)


class Loop(NamedTuple):
    """A loop that a step has seen."""

    slot: int
    params: SamplingParams  # those that the request came with
    period: int  # size of its block; 0: the alarm was raised
    again: int  # how many tokens at the end repeat what is before them: all but the first block, or half of the window
    generated: int  # tokens, these included
    tries: int  # how many loops this request has been in, this one included


@dataclass(frozen=True)
class Response:
    """What to do about it, in this order."""

    stop: bool = False  # the request, after `rewind`
    rewind: int = 0  # tokens to drop
    params: SamplingParams | None = None  # from now on
    tokens: int | None = None  # for so many; None: for good
    force: Sequence[int] = ()  # the next tokens


Respond = Callable[[Loop], Response]


def stop(loop: Loop) -> Response:
    """The text ends where it began to repeat itself."""
    return Response(stop=True, rewind=loop.again)


def regenerate(tokens: int = 48, tries: int = 4, harder: Callable[[SamplingParams, int], SamplingParams] | None = None):
    """Back to before the repetition, then other parameters for so many tokens, harder ones at each try, then `stop`.

    harder(params, try): the parameters of a try, from 1 on. None: see `harder_parameters`.
    """
    harder = harder or harder_parameters
    tokens, tries = integer("tokens", tokens, "an integer >= 1", 1), integer("tries", tries, "an integer >= 0")

    def respond(loop: Loop) -> Response:
        if loop.tries > tries:
            return stop(loop)
        return Response(rewind=loop.again, params=harder(loop.params, loop.tries), tokens=tokens)

    return respond


def harder_parameters(params: SamplingParams, tries: int) -> SamplingParams:
    """No 4-gram again, and at each try a temperature that is 0.3 higher, from 0.6 on, over the nucleus of 0.95."""
    return dataclasses.replace(
        params,
        temperature=max(params.temperature, 0.3) + 0.3 * tries,
        top_p=min(params.top_p, 0.95),
        no_repeat_ngram_size=params.no_repeat_ngram_size or 4,
        seed=_other_seed(params, tries),
    )


def resample(tries: int = 8):
    """Back to before the repetition, and on with other random numbers; after so many tries, or if greedy, `stop`."""
    tries = integer("tries", tries, "an integer >= 0")

    def respond(loop: Loop) -> Response:
        if loop.tries > tries or loop.params.temperature == 0:
            return stop(loop)
        params = dataclasses.replace(loop.params, seed=_other_seed(loop.params, loop.tries))
        return Response(rewind=loop.again, params=params)

    return respond


def escape(ids: Sequence[int], tries: int = 1):
    """Back to before the repetition, then these tokens, such as the end of a reasoning section; later loops `stop`."""
    ids, tries = tuple(ids), integer("tries", tries, "an integer >= 0")

    def respond(loop: Loop) -> Response:
        return stop(loop) if loop.tries > tries else Response(rewind=loop.again, force=ids)

    return respond


class LoopPolicy:
    """Watches requests of a `Sampler` for loops and answers them.

    respond: `stop`, `regenerate()`, `resample()`, `escape(ids)`, or a function of a `Loop` that returns a `Response`.
    detection: what is a loop, where a request's own parameters do not say so.

        policy = pld.LoopPolicy(pld.policies.regenerate())
        slot = sampler.add(policy.watched(params), prompt_ids)
        ...
        out = sampler.step(logits, slots)
        for slot, done in policy.after(sampler, slots, out).items():
            ...  # drop done.rewind tokens from the text and from the model's cache; done.stop: sampler.remove(slot)

    Call `forget(slot)` where a request leaves.
    """

    def __init__(self, respond: Respond | None = None, detection: RepetitionDetection = DETECTION):
        self.respond = regenerate() if respond is None else respond
        self.detection = detection
        self._requests: dict[int, _Request] = {}

    def watched(self, params: SamplingParams) -> SamplingParams:
        """The parameters, with the detection where they have none."""
        return params if params.watched else dataclasses.replace(params, repetition_detection=self.detection)

    def forget(self, slot: int) -> None:
        self._requests.pop(slot, None)

    def after(self, sampler: Sampler, slots: Sequence[int], output: SampleOutput) -> dict[int, Response]:
        """What has been done about the loops that a step of these slots has seen, by slot. Waits for the device.

        Rewinding, parameters and forced tokens have taken effect on the sampler; to stop a request is left to the
        caller, and so is all that is not the sampler's.
        """
        done = {}
        drawn, status = output.token_ids.tolist(), output.status.tolist()
        periods = [0] * len(drawn) if output.loop_period is None else output.loop_period.tolist()
        for slot, token, flags, period in zip(slots, drawn, status, periods, strict=True):
            request = self._requests.get(slot)
            if request is None:
                request = self._requests[slot] = _Request(sampler.params(slot))
            request.generated += token >= 0
            if flags & LOOP:
                done[slot] = self._answer(sampler, slot, request, period)
            elif request.until is not None and request.generated >= request.until:
                sampler.update(slot, request.params)
                request.until = None
        return done

    def _answer(self, sampler: Sampler, slot: int, request: "_Request", period: int) -> Response:
        request.tries += 1
        detection = request.params.repetition_detection
        again = period * (detection.min_count - 1) if period else detection.window // 2
        loop = Loop(slot, request.params, period, min(again, request.generated), request.generated, request.tries)
        response = self.respond(loop)
        if not isinstance(response, Response):
            raise TypeError(f"respond: returned {type(response).__name__}; accepted: a Response")
        dropped = min(integer("rewind", response.rewind, "an integer >= 0"), request.generated)
        sampler.rewind(slot, dropped)
        request.generated -= dropped
        if response.params is not None:
            sampler.update(slot, self.watched(response.params))
            if response.tokens is None:
                request.params, request.until = sampler.params(slot), None
            else:
                request.until = request.generated + response.tokens
        if response.force:
            sampler.force(slot, response.force)
        return dataclasses.replace(response, rewind=dropped)


@dataclass
class _Request:
    params: SamplingParams
    generated: int = 0  # tokens since the first call
    tries: int = 0
    until: int | None = None  # so many tokens, others hold


def _other_seed(params: SamplingParams, tries: int) -> int:
    """Far from the seeds that people count through."""
    return ((params.seed or 0) + tries * 0x9E3779B97F4A7C15) % 2**64
