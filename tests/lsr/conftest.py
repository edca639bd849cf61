"""Fixtures for tests in several folders: small random decoder LLMs, and training on one thread."""

import pytest

SENTENCES = [
    "The Wing of a plane, and wing theory. Wings and THE tail",
    "Heat transfer in the boundary layer: heat, Transfer, Boundary Layer",
    "the small aspect ratio of slender bodies Small Aspect",
    "a Mach number below one; the number above",
]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@pytest.fixture(scope="module")
def one_thread():
    """One thread of torch: small tensors gain nothing from two, and tests may run in parallel."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sentences():
    """The texts that the byte-level tokenizer was trained on."""
    return list(SENTENCES)


@pytest.fixture(scope="session")
def byte_level():
    """A function that makes a cased byte-level tokenizer; `template` adds special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def make(template="<s> $A"):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=420,
            min_frequency=1,
            special_tokens=["<s>", "</s>", "<|reserved|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(SENTENCES, trainer)
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<s>", eos_token="</s>", model_max_length=512
        )

    return make


@pytest.fixture
def save_decoder(tmp_path, byte_level):
    """A function that saves a random decoder of a kind with its tokenizer; returns the path."""
    import torch
    import transformers

    def save(kind="Llama", template="<s> $A", extra_rows=4, dtype=torch.float32, **changes):
        tokenizer = byte_level(template)
        sizes = SIZES | {"max_position_embeddings": 256, "vocab_size": len(tokenizer) + extra_rows}
        if kind == "Qwen3":
            sizes["head_dim"] = 8
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**(sizes | changes))
        model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype)
        with torch.no_grad():  # norms as after training, not all 1
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        path = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        return str(path)

    return save


@pytest.fixture
def failing_after():
    """A function that makes the lexical encoder fail at its n-th batch."""
    from lsr.encoders.lexical import LexicalEncoder

    def fail(patch, n):
        real = LexicalEncoder.encode_documents
        calls = iter(range(1000))

        def encode_documents(self, *arguments):
            if next(calls) >= n:
                raise KeyboardInterrupt
            return real(self, *arguments)

        patch.setattr(LexicalEncoder, "encode_documents", encode_documents)

    return fail


@pytest.fixture
def small_steps(monkeypatch):
    """A commit after every ten documents."""
    from lsr.building import build

    monkeypatch.setattr(build, "SHARD", 10)
    monkeypatch.setattr(build.shards, "__defaults__", (10,))
    monkeypatch.setattr(build, "COMMIT_SECONDS", -1.0)
