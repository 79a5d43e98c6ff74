"""A GRPO-like loss whose ratios are those of the distribution that was sampled from.

    python examples/grpo_with_replay.py

Under top-k and top-p tokens are drawn from a part of the vocabulary, with larger probabilities than the model's own. A
ratio of new to old probabilities in which one side knows of that and the other does not is biased: it is below 1 where
nothing has been learned yet. So the step's log-probabilities and the tokens that it kept are recorded, and the new ones
are replayed among the same tokens. Which rewards make the advantages does not matter here; these are made up.
"""

import dataclasses

import torch

import pyllmdecode as pld
from pyllmdecode import losses

PARAMS = pld.SamplingParams(temperature=0.8, top_k=8, top_p=0.9)


def rollouts(model, prompt: list[int], count: int, new_tokens: int) -> dict[str, torch.Tensor]:
    """token_ids [count, new_tokens], their log-probabilities, and the ids that were kept, padded with -1."""
    sampler = pld.Sampler(model.config.vocab_size, count, len(prompt) + new_tokens)
    for seed in pld.seeds(1, count):
        sampler.add(dataclasses.replace(PARAMS, seed=seed), prompt)
    ids, steps = torch.tensor([prompt] * count), []
    for _ in range(new_tokens):
        with torch.inference_mode():
            logits = model(ids).logits[:, -1].float()
        step = sampler.step(logits, logprobs="processed", top_logprobs=2 * PARAMS.top_k)  # ties with the last one stay
        steps.append((step.token_ids, step.logprobs, step.top_ids))
        ids = torch.cat([ids, step.token_ids[:, None]], 1)
    tokens, logprobs, kept = (torch.stack(some, 1) for some in zip(*steps))
    return {"ids": ids, "token_ids": tokens, "logprobs": logprobs, "kept_ids": kept}


def grpo_loss(model, prompt_length: int, made: dict[str, torch.Tensor], advantages: torch.Tensor, clip: float = 0.2):
    """The clipped surrogate of Shao et al. 2024 (arXiv 2402.03300), and the ratios [count, new_tokens]."""
    logits = model(made["ids"][:, :-1]).logits[:, prompt_length - 1 :]
    count, length, vocab = logits.shape
    logprobs = losses.replay_logprobs(
        logits.reshape(-1, vocab),
        made["token_ids"].reshape(-1),
        kept_ids=made["kept_ids"].reshape(count * length, -1),
        temperature=PARAMS.temperature,
    ).view(count, length)
    ratios = (logprobs - made["logprobs"]).exp()
    gains = torch.minimum(ratios * advantages[:, None], ratios.clamp(1 - clip, 1 + clip) * advantages[:, None])
    return -gains.mean(), ratios


def main() -> None:
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.5)
    model = transformers.LlamaForCausalLM(config)
    prompt = [1, 2, 3]
    made = rollouts(model, prompt, count=8, new_tokens=12)
    rewards = (made["token_ids"] % 2 == 0).float().mean(1)  # made up: even tokens are better
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
    for step in range(4):
        loss, ratios = grpo_loss(model, len(prompt), made, advantages)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss:+.4f}, ratios {ratios.min():.4f} to {ratios.max():.4f}")


if __name__ == "__main__":
    main()
