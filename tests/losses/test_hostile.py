"""The losses under conditions that callers bring along, and errors that name what was wrong."""

import pickle
import threading

import pytest
import torch
from plain import VOCABULARY, batch

from pyllmdecode import SamplingParams, losses

V, L = 9, 8
CASES = [batch(name, 2, L, V, 1, **options[0]) for name, options in VOCABULARY.items()]
each = pytest.mark.parametrize("case", CASES, ids=str)


def logits():
    return torch.randn(2, L, V, generator=torch.Generator().manual_seed(3)).requires_grad_()


def states():
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(*shape, generator=generator).requires_grad_() for shape in ((2, L, 4), (V, 4), (V,))]


def results(case):
    """Loss and gradients, of logits and of hidden states."""
    x, some = logits(), states()
    loss, linear = case.of_logits(x), case.of_linear(*some)
    return [loss, linear, *torch.autograd.grad(loss, x), *torch.autograd.grad(linear, some)]


def replayed():
    x = logits()[0]
    tokens = torch.arange(L)
    found = [
        losses.replay_logprobs(
            x, tokens, params=SamplingParams(top_k=V - 1, repetition_penalty=1.2), histories=[[1]] * L
        ),
        losses.replay_logprobs(x, tokens, kept_ids=[[n, (n + 1) % V] for n in range(L)], temperature=0.5),
        losses.simctg(states()[0], torch.ones(2, L).bool()),
    ]
    return [*found, *torch.autograd.grad(found[0].exp().sum() + found[1].sum(), x)] if x.requires_grad else found


STATES = {
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), lambda: torch.set_default_dtype(torch.float32)),
    "default device": (lambda: torch.set_default_device("meta"), lambda: torch.set_default_device(None)),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.use_deterministic_algorithms(False),
    ),
    "one thread": (lambda: torch.set_num_threads(1), lambda: torch.set_num_threads(2)),
}


@pytest.mark.parametrize("state", STATES)
def test_states_of_the_process(state, threads):
    case_results = [results(case) for case in CASES]
    expected, inputs = [*case_results, replayed()], (logits(), states())
    begin, end = STATES[state]
    original = globals()["logits"], globals()["states"]
    globals()["logits"] = lambda: inputs[0].detach().clone().requires_grad_()
    globals()["states"] = lambda: [one.detach().clone().requires_grad_() for one in inputs[1]]
    begin()
    try:
        if state == "default device":  # what the test itself makes lies elsewhere then
            found, expected = [results(case) for case in CASES], expected[:-1]
        else:
            found = [*(results(case) for case in CASES), replayed()]
    finally:
        end()
        globals()["logits"], globals()["states"] = original
    for pair in zip(found, expected):
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) and a.dtype == b.dtype for a, b in zip(*pair))


@each
def test_without_gradients(case):
    expected = case.of_logits(logits()).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(case.of_logits(logits()), expected) and not case.of_linear(*states()).requires_grad
    x, some = logits(), states()
    some[0].requires_grad_(False)
    assert torch.autograd.grad(case.of_linear(*some), some[1:])
    before = x.detach().clone()
    case.of_logits(x).backward()
    assert torch.equal(x, before)


@each
def test_autocast(case):
    """Losses are computed in float32; the multiplication is done as a linear layer does it there."""
    x, (hidden, weight, bias) = logits(), states()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(case.of_logits(x), case.of_logits(x.clone())) and case.of_logits(x).dtype == torch.float32
        made = case.of_linear(hidden, weight, bias)
        whole = case.of_logits(torch.nn.functional.linear(hidden, weight, bias))
    assert torch.allclose(made, whole, rtol=1e-5)
    grads = torch.autograd.grad(made, (hidden, weight, bias))
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


@pytest.mark.thorough
@each
def test_compiled(case):
    """In a compiled function a loss is a break of the graph, and what it was without."""
    x = logits()
    expected = torch.autograd.grad(case.of_logits(x * 2), x)[0]
    compiled = torch.compile(lambda x: case.of_logits(x * 2), backend="aot_eager")
    assert torch.allclose(torch.autograd.grad(compiled(x), x)[0], expected)


@each
def test_views(case):
    """Negative views, and tensors whose rows are not neighbours in memory."""
    x = logits().detach()
    expected = case.of_logits(x)
    negative = torch._neg_view(-x)
    assert negative.is_neg() and torch.allclose(case.of_logits(negative), expected)
    every_other = torch.stack([x, x.new_zeros(x.shape)], 3)[..., 0]
    assert every_other.stride(2) == 2 and torch.equal(case.of_logits(every_other), expected)
    hidden, weight, bias = states()
    assert torch.allclose(case.of_linear(hidden, weight.T.contiguous().T, bias), case.of_linear(hidden, weight, bias))


def test_threads_side_by_side():
    expected, found = [results(case) for case in CASES], {}

    def work(number):
        for _ in range(5):
            found[number] = [results(case) for case in CASES]

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    for made in found.values():
        assert all(torch.allclose(*pair) for case, wanted in zip(made, expected) for pair in zip(case, wanted))


def test_types_of_ids():
    x, ids = logits(), torch.tensor([[1, 2, 3, 1, 2, 3, 1, 2]] * 2)
    expected = losses.unlikelihood(x, ids)
    for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        assert torch.equal(losses.unlikelihood(x, ids.to(dtype)), expected)
    assert torch.equal(losses.unlikelihood(x, ids.masked_fill(ids == 3, -1), ignore_index=-1),
                       losses.unlikelihood(x, ids.masked_fill(ids == 3, -100)))  # fmt: skip
    assert torch.equal(losses.unlikelihood(x, ids, ignore_index=3),
                       losses.unlikelihood(x, ids.masked_fill(ids == 3, -100)))  # fmt: skip


def gone():
    x = torch.randn(2, 4, V)
    x.untyped_storage().resize_(0)
    return x


X, IDS = torch.randn(2, 4, V), torch.zeros(2, 4, dtype=torch.int64)
H, W = torch.randn(2, 4, 3), torch.randn(V, 3)
ROWS, TOKENS = torch.randn(4, V), torch.zeros(4, dtype=torch.int64)
ONE = torch.ones(2, dtype=torch.int64)
WRONG = [
    (lambda: losses.unlikelihood([1.0], IDS), TypeError, "logits: got list"),
    (lambda: losses.unlikelihood(X.int(), IDS), TypeError, "logits: got dtype torch.int32"),
    (lambda: losses.unlikelihood(X[0], IDS), ValueError, r"logits: got shape \[4, 9\]; accepted: \[B, L, V\]"),
    (lambda: losses.unlikelihood(X[..., :0], IDS), ValueError, "a vocabulary of 0"),
    (lambda: losses.unlikelihood(X.to_sparse(), IDS), TypeError, "logits: got layout torch.sparse_coo"),
    (lambda: losses.unlikelihood(gone(), IDS), ValueError, "logits: got a tensor that has no memory"),
    (lambda: losses.unlikelihood(X, IDS.float()), TypeError, "targets: got dtype torch.float32"),
    (lambda: losses.unlikelihood(X, IDS.bool()), TypeError, "targets: got dtype torch.bool"),
    (lambda: losses.unlikelihood(X, IDS[:, 1:]), ValueError, r"targets: got shape \[2, 3\]; accepted: \[2, 4\]"),
    (lambda: losses.unlikelihood(X, IDS.tolist()), TypeError, "targets: got list"),
    (lambda: losses.unlikelihood(X, IDS.to("meta")), ValueError, "targets: got device meta"),
    (
        lambda: losses.unlikelihood(X, IDS + V),
        ValueError,
        r"row 0, position 0: targets: got 9; accepted: ids in \[0, 9\)",
    ),
    (lambda: losses.unlikelihood(X, IDS - 1), ValueError, "targets: got -1.* or -100"),
    (lambda: losses.unlikelihood(X, IDS, alpha=-1), ValueError, "alpha: got -1"),
    (lambda: losses.unlikelihood(X, IDS, alpha=float("nan")), ValueError, "alpha: got nan"),
    (lambda: losses.unlikelihood(X, IDS, alpha="1"), TypeError, "alpha: got '1'"),
    (lambda: losses.unlikelihood(X, IDS, label_smoothing=1.5), ValueError, "label_smoothing: got 1.5"),
    (lambda: losses.unlikelihood(X, IDS, ignore_index=0.5), TypeError, "ignore_index: got 0.5"),
    (lambda: losses.unlikelihood(X, IDS, reduction="batchmean"), ValueError, "reduction: got 'batchmean'"),
    (lambda: losses.linear_unlikelihood(H, W.T, IDS), ValueError, "weight: got shape"),
    (lambda: losses.linear_unlikelihood(H, W.double(), IDS), TypeError, "weight: got dtype torch.float64"),
    (lambda: losses.linear_unlikelihood(H, W, IDS, bias=W[:2, 0]), ValueError, "bias: got shape"),
    (lambda: losses.linear_unlikelihood(H[0], W, IDS), ValueError, "hidden: got shape"),
    (lambda: losses.scalegrad(X, IDS, gamma=0), ValueError, "gamma: got 0"),
    (lambda: losses.sequence_unlikelihood(X, IDS, ONE, n=0), ValueError, "n: got 0"),
    (
        lambda: losses.sequence_unlikelihood(X, IDS, ONE * 0),
        ValueError,
        "row 0: prompt_lengths: got 0; accepted: 1 to 4",
    ),
    (lambda: losses.sequence_unlikelihood(X, IDS, ONE * 5), ValueError, "row 0: prompt_lengths: got 5"),
    (lambda: losses.ditto(X, IDS, ONE * 0, ONE), ValueError, "row 0: sentence_lengths: got 0"),
    (lambda: losses.ditto(X, IDS, ONE, ONE, penalty=2), ValueError, "penalty: got 2"),
    (
        lambda: losses.ditto(X, torch.arange(8).view(2, 4), ONE, ONE),
        ValueError,
        "position 2: token_ids: got 2; accepted: what",
    ),
    (lambda: losses.ditto_repeat([], 5), ValueError, "ids: got no tokens"),
    (lambda: losses.ditto_repeat([1, 2], 2), ValueError, "max_length: got 2"),
    (lambda: losses.simctg(H, IDS[:, 1:]), ValueError, "mask: got shape"),
    (lambda: losses.simctg(H, IDS, margin=2), ValueError, "margin: got 2"),
    (lambda: losses.simctg(H, IDS.float()), TypeError, "mask: got dtype"),
    (lambda: losses.replay_logprobs(X, TOKENS), ValueError, "logits: got shape"),
    (lambda: losses.replay_logprobs(ROWS, TOKENS - 100), ValueError, "row 0: token_ids: got -100"),
    (lambda: losses.replay_logprobs(ROWS, TOKENS, kept_ids=[[0]] * 3), ValueError, "kept_ids: got 3 rows"),
    (
        lambda: losses.replay_logprobs(ROWS, TOKENS, kept_ids=[[0, 0]] * 4),
        ValueError,
        "kept_ids: got 0; accepted: each id once",
    ),
    (lambda: losses.replay_logprobs(ROWS, TOKENS, kept_ids=[[0, 9]] * 4), ValueError, "kept_ids: got 9"),
    (lambda: losses.replay_logprobs(ROWS, TOKENS, bitmask=ROWS > 0, kept_ids=[[0]] * 4), ValueError, "got both"),
    (lambda: losses.replay_logprobs(ROWS, TOKENS, bitmask=ROWS[:, :3] > 0), ValueError, "bitmask: got shape"),
    (lambda: losses.replay_logprobs(ROWS, TOKENS, bitmask=ROWS), TypeError, "bitmask: got dtype"),
    (lambda: losses.replay_logprobs(ROWS, TOKENS, temperature=0), ValueError, "temperature: got 0"),
    (
        lambda: losses.replay_logprobs(ROWS, TOKENS, temperature=ROWS[:, 0].abs() * 0),
        ValueError,
        "row 0: temperature: got 0",
    ),
    (lambda: losses.replay_logprobs(ROWS, TOKENS, temperature=ROWS[:2, 0]), ValueError, "temperature: got shape"),
    (
        lambda: losses.replay_logprobs(ROWS, TOKENS, histories=[[1]] * 4),
        ValueError,
        "histories: got some without params",
    ),
    (lambda: losses.replay_logprobs(ROWS, TOKENS, params=3), TypeError, "params: got int"),
    (lambda: losses.replay_logprobs(ROWS, TOKENS, params=SamplingParams(), temperature=1.0), ValueError, "temperature"),
    (lambda: losses.replay_logprobs(ROWS.double(), TOKENS, params=SamplingParams()), TypeError, "logits: got dtype"),
    (
        lambda: losses.replay_logprobs(ROWS, TOKENS, params=SamplingParams(), histories=[[1]]),
        ValueError,
        "history: got 1",
    ),
]


@pytest.mark.parametrize("call, kind, message", WRONG, ids=range(len(WRONG)))
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert type(caught.value) is kind and str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
