"""Train a tiny GPT-2 with the Hugging Face `Trainer` and `ngopt.NGOptimizer`; nothing is downloaded.

    python examples/hf_trainer.py --steps 100

The task: continue sequences that count upwards from a random start, modulo the size of the vocabulary. The Trainer is
given the optimizer and a scheduler, so the optimizer leaves the learning rate to the scheduler (``schedule="user"``).
Saving and resuming go through the Trainer's own checkpoints.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, get_cosine_schedule_with_warmup

import ngopt

VOCABULARY, LENGTH = 17, 12


class Counting(Dataset):
    """Sequences ``s, s + 1, s + 2, ...`` modulo the vocabulary, labels included."""

    def __init__(self, size: int) -> None:
        starts = torch.randint(VOCABULARY, (size, 1), generator=torch.Generator().manual_seed(0))
        self.sequences = (starts + torch.arange(LENGTH)) % VOCABULARY

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.sequences[index], "labels": self.sequences[index]}


def main(argv: Sequence[str] | None = None) -> Trainer:
    """Train, print the loss as it falls, and return the Trainer."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", help="where the Trainer writes its checkpoints; default: a temporary folder")
    parser.add_argument("--resume", help="a checkpoint folder of the Trainer to go on from")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 4}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))

    optimizer = ngopt.NGOptimizer(model, schedule="user", weight_decay=0.01)
    scheduler = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=5, num_training_steps=options.steps)

    with tempfile.TemporaryDirectory() as temporary:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=options.output or temporary,
                max_steps=options.steps,
                per_device_train_batch_size=16,
                logging_steps=max(1, options.steps // 10),
                save_strategy="steps" if options.output else "no",
                save_steps=max(1, options.steps // 2),
                report_to=[],
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
            ),
            train_dataset=Counting(512),
            optimizers=(optimizer, scheduler),
        )
        trainer.train(resume_from_checkpoint=options.resume)
    return trainer


if __name__ == "__main__":
    main()
