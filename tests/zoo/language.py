"""Language models of transformers, in tiny configurations of the real classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.registry import layers, model


def words(vocabulary: int = 17, length: int = 5) -> Tensor:
    """A batch of token sequences."""
    return torch.randint(vocabulary, (2, length))


ATTENTION = {"heads": (3, 1), "query-key dims": (4, 3), "value dims": (4, 3)}


@model(
    "gpt2",
    needs="transformers",
    expected={"stream": (12, 1), **layers(2, ATTENTION | {"mlp": (10, 1)})},
)
def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=17, n_positions=9, n_embd=12, n_layer=2, n_head=3, n_inner=10)
    return GPT2LMHeadModel(config), (words(),)


GROUPED = {"kv-groups": (2, 1), "query heads of a group": (3, 2), "value dims": (4, 2)}
SIZES = {
    "vocab_size": 17,
    "hidden_size": 12,
    "head_dim": 4,
    "intermediate_size": 7,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 9,
}


@model("llama", needs="transformers", expected={"stream": (12, 1), **layers(2, GROUPED | {"mlp": (7, 1)})})
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, **SIZES)), (words(),)


@model("qwen3", needs="transformers", expected={"stream": (12, 1), **GROUPED, "mlp": (7, 1)})
def qwen3():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=1, tie_word_embeddings=True, **SIZES)), (words(),)


# The router picks experts by the order of their scores, which freezes them; within each expert all is free.
@model(
    "mixtral",
    needs="transformers",
    expected={"stream": (12, 1), **GROUPED} | layers(4, {"expert": (7, 1)}),
)
def mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(num_hidden_layers=1, num_local_experts=4, num_experts_per_tok=2, **SIZES)
    config._experts_implementation = "eager"
    return MixtralForCausalLM(config), (words(),)


BERT = {
    "vocab_size": 17,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 9,
}


@model(
    "bert",
    needs="transformers",
    expected={"stream": (12, 1), "pooler": (12, 1), **layers(2, ATTENTION | {"mlp": (10, 1)})},
)
def bert():
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(num_hidden_layers=2, num_labels=3, **BERT)
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
    return BertForSequenceClassification(config), (), {"input_ids": words(), "attention_mask": mask}


# The bare model returns its stream and its pooled state, which freezes both.
@model("bert_stream_is_output", needs="transformers", expected=ATTENTION | {"mlp": (10, 1)})
def bert_stream_is_output():
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(num_hidden_layers=1, **BERT)), (words(),)


# One layer is applied twice: its heads and dims are the same in both.
@model(
    "albert",
    needs="transformers",
    expected={"embedding": (6, 1), "stream": (12, 1), "pooler": (12, 1), **ATTENTION, "mlp": (10, 1)},
)
def albert():
    from transformers import AlbertConfig, AlbertForSequenceClassification

    config = AlbertConfig(embedding_size=6, num_hidden_layers=2, num_labels=3, **BERT)
    return AlbertForSequenceClassification(config), (words(),)


class Logits(nn.Module):
    """The logits alone: otherwise the model also returns the encoder's stream, which freezes it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.body(**inputs).logits


DIMS = {"query-key dims": (3, 4), "value dims": (3, 4)}


# One table of relative distances serves every layer of a stack, which ties their heads; cross-attention has none. The
# embedding is shared by both stacks and the output, so there is one stream.
@model(
    "t5",
    needs="transformers",
    expected={
        "stream": (10, 1),
        "encoder heads": (4, 1),
        "decoder heads": (4, 1),
        **{f"encoder {name}": s for name, s in layers(2, DIMS | {"mlp": (14, 1)}).items()},
        **{f"decoder {name}": s for name, s in layers(2, DIMS | {"mlp": (14, 1)}).items()},
        **{f"cross {name}": s for name, s in layers(2, DIMS | {"heads": (4, 1)}).items()},
    },
)
def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 17, "d_model": 10, "d_kv": 3, "d_ff": 14, "num_layers": 2, "num_heads": 4}
    config = T5Config(**sizes, relative_attention_num_buckets=8, decoder_start_token_id=0)
    return Logits(T5ForConditionalGeneration(config)), (), {"input_ids": words(), "decoder_input_ids": words(17, 3)}


@model(
    "mamba",
    needs="transformers",
    expected={"stream": (6, 1), "inner": (12, 1), "states": (5, 1), "rank of the time step": (3, 1)},
)
def mamba():
    from transformers import MambaConfig, MambaForCausalLM

    sizes = {"vocab_size": 17, "hidden_size": 6, "state_size": 5, "time_step_rank": 3, "num_hidden_layers": 1}
    return MambaForCausalLM(MambaConfig(**sizes, expand=2, conv_kernel=3)), (words(),)
