"""`sample` and `process_logits` in compiled functions return what the calls themselves return."""

import copy
import subprocess
import sys

import pytest
import torch
from cases import assert_equal, hard_params, normal
from compiling import (  # noqa: F401
    COMPILERS,
    EACH,
    FULL,
    HISTORY,
    HOT,
    Counting,
    V,
    assert_identical,
    cloned,
    compiled,
    histories,
    new_sampler,
    nothing_compiled,
    pytestmark,
)
from hypothesis import given, settings
from strategies import sampling_params

import pyllmdecode as pld
from pyllmdecode import SamplingParams, ops
from pyllmdecode.params import from_text


def test_opcheck(backend):
    ops = torch.ops.pyllmdecode
    logits, history = backend.move(normal(3, V)), backend.move(HISTORY)
    lines = "".join(one._text + "\n" for one in EACH).replace('{"temperature":0.0}', '{"temperature":0.0,"seed":1}')
    numbers = torch.tensor([0, 1, 2])
    rows = [history[0], history[1, :1], history[2, :0]]
    for arguments, rest in (
        ((logits, FULL._text, None, None, None), (None, None, None, 0, backend.name, False, 0)),
        ((logits, lines, history, None, numbers), (numbers, numbers, "raw", 2, backend.name, False, 0)),
        ((logits.bfloat16(), lines, None, rows, None), (None, None, "processed", 0, backend.name, True, 0)),
    ):
        torch.library.opcheck(ops.sample_step.default, (*arguments, *rest))
        torch.library.opcheck(ops.process_logits.default, (*arguments, backend.name))
    # Calls are compared with one another, and a greedy slot without penalties draws the same at every step.
    sampler = new_sampler(backend, [EACH[1]] * 3)
    slots = torch.tensor([2, 0])
    for arguments in ((logits, None, None, None, 0, False), (logits[:2], slots, numbers[:2], "raw", 3, True)):
        torch.library.opcheck(ops.sampler_step.default, (sampler._handle, *arguments))


@pytest.mark.thorough("triton", "reference")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_compiled(backend, compiler):
    """Everything at once, as inductor takes seconds: work before and after, rows with a stride of their own."""
    name = backend.name

    def step(x, history, sampler):
        logits = (x + 1.0)[:, :V]
        first = pld.sample(logits, FULL, history, logprobs="raw", top_logprobs=3, backend=name)
        second = pld.sample(
            logits,
            EACH,
            [[1, 2, -1], history[1], []],
            prompt_lengths=[1, 0, 0],
            positions=(5, 6, 2**63 - 1),
            uniforms=[2**64 - 1, 0, 2**63],
            backend=name,
        )
        scores = pld.process_logits(logits, EACH, history, prompt_lengths=[1, 1, 1], backend=name)
        sampler.step(logits)
        third = sampler.step(scores, logprobs="processed", top_logprobs=2)
        fourth = sampler.step(logits[:2] + 1.0, [2, 0], uniforms=second.token_ids[:2])
        return first, second, cloned(third), fourth, scores, first.token_ids + second.token_ids * 2

    x, history = backend.move(normal(3, V + 9)), backend.move(HISTORY)
    torch.manual_seed(0)
    sampler = new_sampler(backend)
    expected = step(x, history, sampler)
    torch.manual_seed(0)
    other = new_sampler(backend)
    got = compiled(step, compiler)(x, history, other)
    for one, wanted in zip(got[:4], expected):
        assert_identical(one, wanted)
    assert_equal(got[4], expected[4], "scores")
    assert_equal(got[5], expected[5], "sum")
    assert histories(other) == histories(sampler)


def test_out(backend):
    def process(x, out):
        return pld.process_logits(x, FULL, out=out, backend=backend.name)

    x = backend.move(normal(3, V))
    expected = pld.process_logits(x, FULL, backend=backend.name)
    into = compiled(process)
    for out in (torch.zeros_like(x), torch.zeros(3, V + 7, device=x.device)[:, :V], x.clone()):
        assert into(x, out) is out
        assert_equal(out, expected, "out")
    logits = x.clone()
    assert into(logits, logits) is logits
    assert_equal(logits, expected, "out is the logits")
    for wrong in (x.half(), x[:2].clone()):
        with pytest.raises(Exception, match="out: got"):
            into(x, wrong)


def test_dynamic_shapes(backend):
    """One graph for all sizes from 2 on."""

    def draw(x, history):
        out = pld.sample(x, FULL, history, top_logprobs=2, backend=backend.name)
        return out, pld.process_logits(x, FULL, history, backend=backend.name)

    counting = Counting()
    dynamic = compiled(draw, counting, dynamic=True)
    for batch, vocab, length in ((2, 40, 5), (3, 41, 4), (5, 64, 9), (4, 5, 2)):
        x, history = backend.move(normal(batch, vocab)), backend.move(torch.arange(batch * length).view(batch, -1) % 5)
        got, expected = dynamic(x, history), draw(x, history)
        assert_identical(got[0], expected[0])
        assert_equal(got[1], expected[1], "scores")
    assert counting.graphs == 1
    assert len(dynamic(x[:0], history[:0])[0].token_ids) == 0


@pytest.mark.parametrize("compiler", ["eager", "aot_eager_decomp_partition"])
def test_fresh_seeds(backend, compiler):
    """At every call, also of two that are the same, and those that the call itself would draw.

    The gradient is there because then torch looks for equal calls to make one of.
    """

    def draw(x, weight):
        logits = x * weight
        seeds = [HOT, FULL]
        outs = [pld.sample(logits, one, backend=backend.name).token_ids for one in (HOT, HOT, seeds, seeds, FULL)]
        return logits.sum(), *outs

    x, weight = backend.move(torch.zeros(2, V)), backend.move(torch.ones(V)).requires_grad_()
    function = compiled(draw, compiler)
    torch.manual_seed(1)
    got = [function(x, weight)[1:] for _ in range(2)]
    torch.manual_seed(1)
    expected = [draw(x, weight)[1:] for _ in range(2)]
    for one, wanted in zip(got, expected):
        assert all(torch.equal(a, b) for a, b in zip(one, wanted))
    free = [out.tolist() for outs in got for out in outs[:2]]
    assert len({tuple(tokens) for tokens in free}) == 4
    assert torch.equal(got[0][4], got[1][4])


def test_parameters_are_guarded(backend):
    counting = Counting()
    draw = compiled(lambda x, params: pld.sample(x, params, backend=backend.name).token_ids, counting)
    x = backend.move(normal(3, V))
    greedy = EACH[1]
    for params in (FULL, copy.copy(FULL), EACH[2], EACH, list(EACH), [EACH[2], greedy, FULL], greedy):
        assert_equal(draw(x, params), pld.sample(x, params, backend=backend.name).token_ids, "token_ids")
    assert counting.graphs == 5  # one for each that differs from those before

    def inside(x):
        params = SamplingParams(temperature=0.7, logit_bias={1: 2.0}, bad_words_ids=[[1, 2]], eos_token_ids=3, seed=5)
        return pld.sample(x, params, backend=backend.name).token_ids

    assert_equal(compiled(inside)(x), inside(x), "token_ids")


def test_text_stands_for_the_parameters():
    for params in (SamplingParams(), *hard_params(50).values()):
        assert from_text(params._text) == params

    @given(sampling_params(50))
    @settings(max_examples=100)
    def check(params):
        assert from_text(params._text) == params and "\n" not in params._text

    check()


def test_errors_of_the_run(backend):
    """They are those of the call itself."""
    x, name = backend.move(normal(3, V)), backend.name
    sampler = new_sampler(backend)
    nan = x.clone()
    nan[1, 0] = float("nan")
    calls = [
        lambda: pld.sample(x.double(), FULL, backend=name),
        lambda: pld.sample(x[0], FULL, backend=name),
        lambda: pld.sample(x, [FULL, FULL], backend=name),
        lambda: pld.sample(x[:, :3], FULL, backend=name),
        lambda: pld.sample(x, FULL, HISTORY[:2], backend=name),
        lambda: pld.sample(x, FULL, [[1], [2]], backend=name),
        lambda: pld.sample(x, FULL, positions=torch.zeros(3), backend=name),
        lambda: pld.sample(x, FULL, prompt_lengths=[0, 0, 1], backend=name),
        lambda: pld.sample(x, FULL, backend="nothing"),
        lambda: pld.sample(nan, FULL, backend=name, check=True),
        lambda: pld.process_logits(x.to(torch.int32), FULL, backend=name),
        lambda: sampler.step(x[:2]),
        lambda: sampler.step(x, [0, 1, 1]),
        lambda: sampler.step(x, [0, 1, 9]),
    ]
    for index, call in enumerate(calls):
        with pytest.raises((ValueError, TypeError)) as expected:
            call()
        with pytest.raises((ValueError, TypeError)) as got:
            compiled(call)()
        assert (type(got.value), str(got.value)) == (type(expected.value), str(expected.value)), index


def test_errors_of_the_trace():
    """What no operator can be handed: their message is in the compiler's error."""
    x, sampler = normal(3, V), pld.Sampler(V, 4, 30)
    for slot in range(3):
        sampler.add(FULL, [slot])
    for call in (
        lambda x: pld.sample([1.0], FULL),
        lambda x: pld.sample(x, {"seed": 1}),
        lambda x: pld.sample(x, [FULL, 3, FULL]),
        lambda x: pld.sample(x, FULL, "abc"),
        lambda x: pld.sample(x, FULL, 3),
        lambda x: pld.sample(x, FULL, positions=3),
        lambda x: pld.sample(x, FULL, logprobs="all"),
        lambda x: pld.sample(x, FULL, top_logprobs=-1),
        lambda x: pld.sample(x, FULL, top_logprobs=True),
        lambda x: sampler.step(x, top_logprobs=1.5),
    ):
        with pytest.raises((ValueError, TypeError)) as expected:
            call(x)
        with pytest.raises(Exception) as got:
            compiled(call)(x)
        assert str(expected.value) in str(got.value).replace("\\'", "'")
    for call in (
        lambda x: sampler.add(FULL, [1]),
        lambda x: sampler.fork(0),
        lambda x: sampler.remove(0),
        lambda x: sampler.history(0),
    ):
        with pytest.raises(Exception, match=r"Sampler\.\w+ in a compiled function"):
            compiled(call)(x)
    assert sampler.slots == (0, 1, 2)


def test_no_operator_in_eager_calls(backend, monkeypatch):
    called = []
    for name in ("sample", "process_logits", "sampler_step"):
        monkeypatch.setattr(ops, name, lambda *_, name=name: called.append(name))
    x, sampler = backend.move(normal(3, V)), new_sampler(backend)
    pld.sample(x, FULL, backend=backend.name)
    pld.process_logits(x, FULL, backend=backend.name)
    sampler.step(x)
    assert not called


@pytest.mark.parametrize("strict", [True, False])
def test_export(backend, strict, tmp_path):
    """What is saved stands for itself: parameters are text in it."""

    class Step(torch.nn.Module):
        def forward(self, x, history):
            out = pld.sample(x, FULL, history, logprobs="processed", backend=backend.name)
            return tuple(out[:2]), pld.process_logits(x, FULL, history, backend=backend.name)

    batch = torch.export.Dim("batch", min=2, max=64)
    arguments = backend.move([normal(3, V), HISTORY])
    exported = torch.export.export(Step(), tuple(arguments), dynamic_shapes=({0: batch}, {0: batch}), strict=strict)
    torch.export.save(exported, tmp_path / "step.pt2")
    loaded = torch.export.load(tmp_path / "step.pt2").module()
    x, history = backend.move([normal(5, V, seed=2), torch.arange(20).view(5, 4)])
    (tokens, logprobs), scores = loaded(x, history)
    (expected, wanted), exact = Step()(x, history)
    assert_equal(tokens, expected, "token_ids")
    assert_equal(logprobs, wanted, "logprobs")
    assert_equal(scores, exact, "scores")


def test_the_package_does_not_import_the_compiler():
    """That takes a second."""
    code = "import pyllmdecode, sys; print('torch._dynamo' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "False", result.stderr
