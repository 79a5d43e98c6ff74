"""Fine-tunes a causal language model of transformers with DITTO and unlikelihood.

    python examples/train_against_repetition.py MODEL_FOLDER TEXT_FILE OUT_FOLDER

Half of the batches are text, with cross-entropy and token unlikelihood; half are repeated sentences. The losses take
hidden states and the LM head's weight, so that no logits are ever whole in memory.
"""

import sys
from pathlib import Path

import transformers

from pyllmdecode import losses


class RepetitionTrainer(transformers.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inner = model.get_decoder()
        states = inner(inputs["input_ids"], attention_mask=inputs.get("attention_mask"), use_cache=False)
        hidden, weight = states.last_hidden_state, model.get_output_embeddings().weight
        if "sentence_lengths" in inputs:
            sizes = inputs["sentence_lengths"], inputs["prefix_lengths"]
            loss = losses.linear_ditto(hidden, weight, inputs["input_ids"], *sizes, penalty=0.5)
        else:
            loss = losses.linear_unlikelihood(hidden[:, :-1], weight, inputs["labels"][:, 1:], alpha=0.5)
        return (loss, states) if return_outputs else loss


def paragraphs(path: str) -> list[dict[str, str]]:
    return [{"text": one} for one in Path(path).read_text().split("\n\n") if len(one) > 200]


def train(folder: str, text: str, out: str, **options) -> transformers.Trainer:
    """options: of transformers.TrainingArguments."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    settings = {"per_device_train_batch_size": 4, "learning_rate": 5e-5, "num_train_epochs": 1, "save_strategy": "no"}
    arguments = transformers.TrainingArguments(out, remove_unused_columns=False, report_to=[], **settings | options)
    collator = losses.Collator(tokenizer, max_length=256, ditto_share=0.5)
    trainer = RepetitionTrainer(model, arguments, train_dataset=paragraphs(text), data_collator=collator)
    trainer.train()
    return trainer


if __name__ == "__main__":
    train(*sys.argv[1:4]).save_model(sys.argv[3])
