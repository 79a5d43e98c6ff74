"""`replay_logprobs`: what the step said when it drew, for each form in which the kept set can come, with gradients."""

from dataclasses import replace

import pytest
import torch
from cases import INF, draws, hard_batch, hard_histories, hard_params, normal
from test_fields import EXAMPLES, HISTORY, LOGITS, PROMPT_LENGTH

import pyllmdecode as pld
from pyllmdecode import SamplingParams
from pyllmdecode.losses import linear_replay_logprobs, processed, replay_logprobs
from pyllmdecode.losses.processed import Processed

V = 400


def drawn_from(logits, params, histories=None, **options):
    """float64 log-probabilities of all tokens, from the scores of the step."""
    scores = pld.process_logits(logits, params, histories, backend="reference", **options)
    return scores.double().log_softmax(1)


@pytest.mark.thorough("triton")
def test_as_the_step_said(backend):
    logits = hard_batch(V, torch.float32)
    rows = list(backend.some(range(len(logits)), 10))
    history, prompts = hard_histories(len(logits), V)
    kinds = list(hard_params(V).values())
    for turn in range(backend.fewer(6, 2)):
        params = [kinds[(5 * row + turn) % len(kinds)] for row in rows]
        given = [history[row] for row in rows]
        lengths = [prompts[row] for row in rows]
        out = backend.sample(
            logits[rows], params, given, uniforms=draws(len(rows), seed=turn), logprobs="processed",
            prompt_lengths=lengths,
        )  # fmt: skip
        tokens = out.token_ids.clamp(min=0)
        found = replay_logprobs(
            backend.move(logits[rows]), backend.move(tokens), params=params, histories=given, prompt_lengths=lengths,
            backend=backend.name,
        ).cpu()  # fmt: skip
        drawn = out.token_ids >= 0
        assert drawn.any() and (found[drawn] - out.logprobs[drawn]).abs().max() <= 1e-5
        assert (found[~drawn] == -INF).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hot_and_cold(dtype):
    """Temperatures at which x / T is so large that float32 does not hold a log-probability of it to 1e-5."""
    logits = (normal(40, V, seed=1) * 20).to(dtype)
    for temperature in (1e-3, 0.1, 1.7, 1e30):
        params = SamplingParams(temperature=temperature, top_p=0.99, seed=3)
        tokens = pld.sample(logits, params, logprobs="processed")
        found = replay_logprobs(logits, tokens.token_ids, params=params)
        assert (found - tokens.logprobs).abs().max() <= 1e-5


PARAMS = SamplingParams(
    temperature=0.7, top_k=40, top_p=0.9, repetition_penalty=1.3, presence_penalty=0.2, frequency_penalty=0.1,
    logit_bias={3: 1.5}, no_repeat_ngram_size=3,
)  # fmt: skip


def test_gradient_of_params():
    """Of a kept token that of its log-softmax, carried through penalties and temperature; of the others none."""
    logits = normal(12, 64, seed=2).requires_grad_()
    histories = [[3, 4, 5, 6 + row % 2, 3, 4] for row in range(12)]
    tokens = torch.tensor(drawn_from(logits.detach(), PARAMS, histories).argmax(1).tolist())
    weight = normal(12, 1, seed=3)[:, 0]
    (replay_logprobs(logits, tokens, params=PARAMS, histories=histories) * weight).sum().backward()
    kept = drawn_from(logits.detach(), PARAMS, histories) > -INF
    x = logits.detach().double().requires_grad_()
    y = x + torch.zeros(64, dtype=torch.float64).index_fill(0, torch.tensor([3]), 1.5)
    seen = torch.zeros(12, 64, dtype=torch.bool)
    for row, ids in enumerate(histories):
        seen[row, ids] = True
    y = torch.where(seen, torch.where(y < 0, y * 1.3, y / 1.3), y)  # histories are prompts, so no other penalty
    expected = (y / 0.7).masked_fill(~kept, -INF).log_softmax(1).gather(1, tokens[:, None])[:, 0]
    (expected * weight).sum().backward()
    assert torch.allclose(logits.grad.double(), x.grad, rtol=1e-4, atol=1e-6)
    assert not logits.grad[~kept].any() and logits.grad[kept].any()


@pytest.mark.parametrize("temperature", [None, 0.6, torch.linspace(0.3, 2, 20, dtype=torch.float64)])
def test_kept_sets(temperature):
    """Recorded as ids, as a bitmask and as booleans: one distribution, that of float64, and its gradient."""
    vocab = 77
    logits = normal(20, vocab, seed=5).double().requires_grad_()
    kept = torch.rand(20, vocab, generator=torch.Generator().manual_seed(1)) < 0.2
    tokens = torch.arange(20) * 3
    kept[range(20), tokens] = True
    scale = 1.0 if temperature is None else torch.as_tensor(temperature, dtype=torch.float64).reshape(-1, 1)
    expected = (logits / scale).masked_fill(~kept, -INF).log_softmax(1)[range(20), tokens]
    (wanted,) = torch.autograd.grad((expected * tokens).sum(), logits)
    lists = [row.nonzero()[:, 0].tolist() for row in kept]
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in lists], batch_first=True, padding_value=-1)
    words = torch.nn.functional.pad(kept, (0, 96 - vocab)).view(20, 3, 32).long() << torch.arange(32)
    words = words.sum(2).where(words.sum(2) < 2**31, words.sum(2) - 2**32).int()
    hidden, weight = normal(20, 6, seed=7).double().requires_grad_(), normal(vocab, 6, seed=8).double().requires_grad_()
    bias = normal(1, vocab, seed=9)[0].double().requires_grad_()
    for given in ({"kept_ids": lists}, {"kept_ids": padded.int()}, {"bitmask": kept}, {"bitmask": words}):
        found = replay_logprobs(logits, tokens, temperature=temperature, **given)
        assert torch.allclose(found, expected, rtol=1e-12)
        (made,) = torch.autograd.grad((found * tokens).sum(), logits)
        assert torch.allclose(made, wanted, rtol=1e-10, atol=1e-13)
        linear = linear_replay_logprobs(hidden, weight, tokens, bias=bias, temperature=temperature, **given)
        whole = replay_logprobs(hidden @ weight.T + bias, tokens, temperature=temperature, **given)
        assert torch.allclose(linear, whole, rtol=1e-12)
        pairs = [torch.autograd.grad((one * tokens).sum(), (hidden, weight, bias)) for one in (linear, whole)]
        assert all(torch.allclose(*pair, rtol=1e-9, atol=1e-12) for pair in zip(*pairs))
    everything = replay_logprobs(logits, tokens, temperature=temperature)
    assert torch.allclose(everything, (logits / scale).log_softmax(1)[range(20), tokens], rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: replay_logprobs(x, tokens[:3], kept_ids=lists[:3]), logits[:3])


def test_what_is_not_kept():
    """-inf, and no gradient; nothing of it reaches other rows."""
    logits = normal(3, 9, seed=1).requires_grad_()
    tokens = torch.tensor([1, 2, 3])
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, 1] = mask[2] = False
    for given in (
        {"kept_ids": [[0, 2], [2, 4], []]},
        {"bitmask": mask},
        {"params": [SamplingParams(allowed_token_ids=ids) for ids in ([0, 2], [2, 4], [])]},
    ):
        found = replay_logprobs(logits, tokens, **given)
        assert found[[0, 2]].tolist() == [-INF, -INF] and found[1].isfinite()
        (grad,) = torch.autograd.grad(found.sum(), logits)
        assert grad.isfinite().all() and not grad[[0, 2]].any() and grad[1].any()


def test_greedy_and_infinite_rows():
    logits = torch.tensor([[1.0, 5.0, 2.0], [INF, INF, 0.0], [torch.nan, 1.0, 1.0], [-INF, -INF, 0.5]]).requires_grad_()
    params = [SamplingParams(temperature=0), *[SamplingParams()] * 3]
    found = replay_logprobs(logits, torch.tensor([1, 0, 2, 2]), params=params)
    assert torch.allclose(found, torch.tensor([0.0, 0.5, 0.5, 1.0]).where(torch.tensor([1, 0, 0, 0]) > 0, torch.tensor(
        [1.0, 0.5, 0.5, 1.0]).log()))  # fmt: skip
    found.sum().backward()
    assert logits.grad.isfinite().all() and not logits.grad[[0, 3]].any()


def test_ratio_of_policies_is_unbiased():
    """Importance weights of what was drawn under top-k have the mean 1 with replay, and another without."""
    generator = torch.Generator().manual_seed(0)
    old, new = torch.randn(1, 30, generator=generator), torch.randn(1, 30, generator=generator)
    params = SamplingParams(top_k=5)
    out = pld.sample(
        old.expand(20000, -1).contiguous(), [replace(params, seed=n) for n in range(20000)], logprobs="processed"
    )
    kept = old.topk(5).indices.expand(20000, -1)
    replayed = replay_logprobs(new.expand(20000, -1), out.token_ids, kept_ids=kept)
    raw = new.log_softmax(1)[0, out.token_ids]
    assert abs((replayed - out.logprobs).exp().mean() - 1) < 0.03
    assert abs((raw - out.logprobs).exp().mean() - 1) > 0.1


WITHOUT_GRADIENT = {"dynatemp_range", "dynatemp_exponent", "penalty_last_n", "repetition_scope", "encoder_ids"}
WITHOUT_GRADIENT |= {"encoder_repetition_penalty", "exponential_decay_length_penalty"}


@pytest.mark.parametrize("field", sorted(EXAMPLES))
@pytest.mark.parametrize("way", ["listed", "in rows", "before division"])
def test_every_field(field, way, monkeypatch):
    """Of all kept tokens, by what a step would say of them, and the gradient by differences of that."""
    if way != "listed":
        monkeypatch.setattr(Processed, "listed", lambda *_: None)
    if way == "before division":
        monkeypatch.setattr(processed, "_ROUNDED", -1.0)
    value, others = EXAMPLES[field]
    others = {"seed": 1} | others
    if field in WITHOUT_GRADIENT:
        with pytest.raises(ValueError, match="row 0: .*accepted with gradients:"):
            given = {"params": SamplingParams(**others | {field: value}), "histories": [HISTORY]}
            replay_logprobs(LOGITS.clone().requires_grad_(), torch.tensor([1]), **given)
        return
    params = SamplingParams(**others | {field: value})
    given = {"prompt_lengths": [PROMPT_LENGTH]}

    def scores(logits):
        return pld.process_logits(logits, params, [HISTORY], **given).double().log_softmax(1)[0]

    expected = scores(LOGITS)
    kept = (expected > -INF).nonzero()[:, 0].tolist()
    for token in range(LOGITS.shape[1]):
        logits = LOGITS.clone().requires_grad_()
        found = replay_logprobs(logits, torch.tensor([token]), params=params, histories=[HISTORY], **given)
        assert found == expected[token] if token not in kept else abs(found - expected[token]) < 1e-5
        found.sum().backward()
        for other in range(LOGITS.shape[1]):
            moved = [LOGITS.clone(), LOGITS.clone()]
            if token in kept and other in kept:
                for logits_, step in zip(moved, (2.0**-8, -(2.0**-8))):
                    logits_[0, other] += step
                ends = [scores(one) for one in moved]
                if all(torch.equal(end > -INF, expected > -INF) for end in ends):
                    assert abs(logits.grad[0, other] - (ends[0] - ends[1])[token] * 2**7) < 1e-3
            else:
                assert logits.grad[0, other] == 0
