"""A tokenizer of 300 terms, texts in its words, and small random masked LMs of several kinds."""

import random

import pytest
import torch

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}


@pytest.fixture(scope="session")
def words():
    """Words "w0" … "w294" of 300 terms, special tokens as in BERT."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    terms = [*SPECIAL, *(f"w{number}" for number in range(295))]
    backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(terms)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def texts():
    """Eighty texts of 3 to 30 words, rarer words with higher numbers."""
    generator = random.Random(5)
    return [
        " ".join(
            f"w{int(295 * generator.random() ** 2)}" for _ in range(generator.randrange(3, 31))
        )
        for _ in range(80)
    ]


def config_of(kind, n_terms, initializer_range):
    import transformers

    of = {"vocab_size": n_terms, "initializer_range": initializer_range, "pad_token_id": 0}
    if kind == "distilbert":
        return transformers.DistilBertConfig(dim=32, n_heads=2, n_layers=2, hidden_dim=64, **of)
    name = {
        "bert": "Bert",
        "roberta": "Roberta",
        "mpnet": "MPNet",
        "modernbert": "ModernBert",
        "albert": "Albert",
    }[kind]
    if kind == "albert":
        of["embedding_size"] = 32
    if kind == "modernbert":
        of |= {"initializer_cutoff_factor": 3.0, "bos_token_id": 2, "eos_token_id": 3}
        of |= {"cls_token_id": 2, "sep_token_id": 3}
    return getattr(transformers, f"{name}Config")(intermediate_size=64, **SIZES, **of)


@pytest.fixture
def save_model(tmp_path, words):
    """A function that saves a random model of a kind, with or without head; returns the path."""
    from transformers import AutoModel, AutoModelForMaskedLM

    def save(kind="bert", head=True, n_terms=None, initializer_range=0.5, seed=0, **changes):
        torch.manual_seed(seed)
        config = config_of(kind, n_terms or len(words), initializer_range)
        for name, value in changes.items():
            setattr(config, name, value)
        model = (AutoModelForMaskedLM if head else AutoModel).from_config(config)
        with torch.no_grad():  # LayerNorms as after training, not all 1 and 0
            for name, parameter in model.named_parameters():
                if "norm" in name.lower():
                    parameter.add_(torch.randn_like(parameter) * 0.3)
        path = tmp_path / f"{kind}-{'masked-lm' if head else 'trunk'}-{seed}"
        model.save_pretrained(path)
        words.save_pretrained(path)
        return str(path)

    return save
