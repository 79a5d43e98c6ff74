"""Text from a causal language model of transformers, decoded with `Sampler`. Needs the extra `demo`."""

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

import pyllmdecode as pld

DEFAULT_NEW_TOKENS = 128


@dataclass
class Generation:
    """What `generate` made. The eos id that stopped a row is the last of its token ids.

    Why rows ended: "eos"; "stop", where `on_token` said so; "length"; "empty", where nothing could be drawn;
    "loop", where the policy said so.
    """

    prompt_ids: list[list[int]]
    token_ids: list[list[int]]
    finish_reasons: list[str | None]
    model_seconds: float = 0.0
    sampler_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return sum(map(len, self.token_ids))


@torch.inference_mode()
def generate(
    model,
    tokenizer,
    prompts: Sequence[str | Sequence[int]],
    params: pld.SamplingParams | Sequence[pld.SamplingParams],
    *,
    max_new_tokens: int | None = None,
    backend: str = "auto",
    on_token: Callable[[int, int], object] | None = None,
    on_end: Callable[[int, str], object] | None = None,
    on_logits: Callable[[list[int], torch.Tensor], object] | None = None,
    on_step: Callable[[list[int], pld.SampleOutput], object] | None = None,
    on_rewind: Callable[[int, int], object] | None = None,
    policy: pld.LoopPolicy | None = None,
) -> Generation:
    """Continue each prompt (a text, or token ids) as one batch, until its eos or `max_new_tokens`.

    params: one for all prompts or one for each. max_new_tokens: None is 128, or less where the model has room for less.
    A row stops at its `eos_token_ids`; where these are None, at the eos of the model's generation config or the
    tokenizer's, which then also hold for `min_new_tokens`. A row that can draw nothing stops.
    on_token(prompt, id) is called for each drawn token, and stops the row where it returns True; on_end(prompt, reason)
    for each row that has stopped; on_logits(prompts, logits [rows, V]) before each draw, with the indices of the
    prompts that are still running; on_step(prompts, output) after it. None of them counts in the timing.
    policy: what to do about loops; on_rewind(prompt, n) is called where it drops a prompt's last n tokens.
    Raises ValueError for parameters or sizes that are not accepted, before the model runs, and for a model that keeps
    no keys and values.
    """
    params = [params] * len(prompts) if isinstance(params, pld.SamplingParams) else list(params)
    if len(params) != len(prompts):
        raise ValueError(f"params: got {len(params)}; accepted: one for all {len(prompts)} prompts or one for each")
    params = [p if p.eos_token_ids else replace(p, eos_token_ids=_eos_ids(model, tokenizer)) for p in params]
    params = [policy.watched(one) for one in params] if policy else params
    prompt_ids = [encode(tokenizer, index, prompt) for index, prompt in enumerate(prompts)]
    lengths = new_tokens(model.config, prompt_ids, max_new_tokens)
    result = Generation(prompt_ids, [[] for _ in prompts], [None for _ in prompts])
    if not prompts:
        return result
    width, device = max(map(len, prompt_ids)), model.device
    longest = max(len(ids) + length for ids, length in zip(prompt_ids, lengths, strict=True))
    vocab_size = model.config.get_text_config().vocab_size
    sampler = pld.Sampler(vocab_size, len(prompts), longest, device=device, backend=backend)
    slots = [sampler.add(p, ids) for p, ids in zip(params, prompt_ids, strict=True)]
    # Padding stands on the left, so that the last column is every row's newest token.
    tokens = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompt_ids], device=device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    takes = inspect.signature(model.forward).parameters
    if "past_key_values" not in takes:
        raise _keeps_nothing(model)
    # A prompt of 500 tokens needs one row of logits, not 500.
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    calls = on_token, on_end, on_logits, on_step, on_rewind
    on_token, on_end, on_logits, on_step, on_rewind = (call or (lambda *_: None) for call in calls)
    running, cache = list(range(len(prompts))), None
    while running:
        start = _now(device)
        placed = {"position_ids": positions} if "position_ids" in takes else {}  # ALiBi counts by the mask
        out = model(tokens, attention_mask=mask, past_key_values=cache, use_cache=True, **placed, **last_only)
        logits, cache = out.logits[:, -1], out.past_key_values
        if cache is None:
            raise _keeps_nothing(model)
        logits = logits.float() if logits.dtype == torch.float64 else logits
        result.model_seconds += _now(device) - start
        on_logits(running, logits)
        start = _now(device)
        rows = [slots[row] for row in running]
        output = sampler.step(logits, slots=rows)
        drawn = output.token_ids.tolist()
        answers = policy.after(sampler, rows, output) if policy else {}
        result.sampler_seconds += _now(device) - start
        on_step(running, output)

        staying, dropped = [], [0] * len(running)
        for place, (row, token) in enumerate(zip(running, drawn, strict=True)):
            made, eos = result.token_ids[row], params[row].eos_token_ids or ()
            reason = "empty"
            if token >= 0:
                made.append(token)
                told = on_token(row, token)
                reason = "eos" if token in eos else "stop" if told is True else None
                if reason is None and (answer := answers.get(slots[row])):
                    dropped[place] = answer.rewind
                    del made[len(made) - answer.rewind :]
                    on_rewind(row, answer.rewind)
                    reason = "loop" if answer.stop else None
                reason = reason or ("length" if len(made) >= lengths[row] else None)
            if reason is None:
                staying.append(place)
                continue
            sampler.remove(slots[row])
            if policy:
                policy.forget(slots[row])
            result.finish_reasons[row] = reason
            on_end(row, reason)
        positions = positions[:, -1:] + 1
        if any(dropped):
            # Hides dropped tokens where they stand in the cache, as its rows are of one length, and the one before,
            # which comes again: the last token that was drawn is not there yet.
            gone = torch.tensor(dropped, dtype=torch.long, device=device)[:, None]
            mask = torch.where(mask.flip(1).cumsum(1).flip(1) <= gone, 0, mask)
            positions = positions - gone
        if len(staying) < len(running):
            running = [running[place] for place in staying]
            kept = torch.tensor(staying, dtype=torch.long, device=device)
            cache.batch_select_indices(kept)
            mask, positions = mask[kept], positions[kept]
        last = [(result.token_ids[row] or prompt_ids[row])[-1:] for row in running]
        tokens = torch.tensor(last, device=device)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return result


def encode(tokenizer, index: int, prompt: str | Sequence[int]) -> list[int]:
    """The token ids of a prompt, at least one: where it has none, the one that begins a text."""
    ids = list(tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt)
    if not ids and tokenizer.bos_token_id is None:
        raise ValueError(f"prompts[{index}]: got no tokens; accepted: at least one")
    return ids or [tokenizer.bos_token_id]


def new_tokens(config, prompt_ids: Sequence[Sequence[int]], max_new_tokens: int | None) -> list[int]:
    """How many tokens each prompt may get from the model of this config; ValueError where it cannot take the prompt."""
    if max_new_tokens is not None and max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: got {max_new_tokens}; accepted: an integer of at least 1")
    config = config.get_text_config()
    vocab_size, limit = config.vocab_size, getattr(config, "max_position_embeddings", None)  # unknown for some models
    lengths = []
    for index, ids in enumerate(prompt_ids):
        if outside := [token for token in ids if not 0 <= token < vocab_size]:
            raise ValueError(f"prompts[{index}]: got token id {outside[0]}; accepted by the model: [0, {vocab_size})")
        length = DEFAULT_NEW_TOKENS if max_new_tokens is None else max_new_tokens
        if limit and len(ids) >= limit:
            raise ValueError(f"prompts[{index}]: got {len(ids)} tokens; accepted by the model: fewer than {limit}")
        if limit and len(ids) + length > limit:
            if max_new_tokens is not None:
                where = f"got {length} after a prompt of {len(ids)}"
                raise ValueError(f"max_new_tokens: {where}; accepted: {limit} in all, prompt included")
            length = limit - len(ids)
        lengths.append(length)
    return lengths


def _keeps_nothing(model) -> ValueError:
    name = type(model).__name__
    return ValueError(f"model: got {name}, which returns no past_key_values; accepted: causal language models that do")


def _eos_ids(model, tokenizer) -> int | list[int] | None:
    """The model's own answer first: a chat model may have several, of which the tokenizer knows one."""
    eos = getattr(model.generation_config, "eos_token_id", None)
    return tokenizer.eos_token_id if eos is None else eos


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
