"""Data and models of `--tiny`: a generated collection of synonyms to be learned, small models.

Each concept of the collection has several words. A document uses all but one of them, a query names
two of its concepts by the one left: matching words finds little, and only training finds more.
"""

from __future__ import annotations

import json
import random
from itertools import chain, product
from pathlib import Path
from typing import Any

# The collection as `data.source`, and what the names of small models begin with, as "tiny-bert".
GENERATED, MODEL = "generated", "tiny-"
CONCEPTS, SYNONYMS, FILLERS = 24, 3, 20
DOCUMENTS, TRAIN_QUERIES, DEV_QUERIES = 300, 1500, 100
CONSONANTS, VOWELS = "bdfgklmnprst", "aeiou"


def words() -> tuple[list[list[str]], list[str]]:
    """The words of each concept, and those without meaning; all differ, none is a part of another.

    Words have six letters, always the same.
    """
    generator = random.Random(0)
    syllables = ["".join(pair) for pair in product(CONSONANTS, VOWELS)]
    made = sorted({"".join(generator.choices(syllables, k=3)) for _ in range(1000)})
    generator.shuffle(made)
    concepts = [made[i * SYNONYMS : (i + 1) * SYNONYMS] for i in range(CONCEPTS)]
    return concepts, made[CONCEPTS * SYNONYMS : CONCEPTS * SYNONYMS + FILLERS]


def write_collection(folder: Path, seed: int = 0) -> Path:
    """Write a BEIR folder with splits train and dev, and scores.tsv, a teacher that knows.

    scores.tsv has a line for each training query and document: ids and the number of the query's
    concepts that the document holds, separated by tabs.
    """
    generator = random.Random(seed)
    concepts, fillers = words()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "qrels").mkdir(exist_ok=True)
    held, used = [], []
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for number in range(DOCUMENTS):
            chosen = generator.sample(range(CONCEPTS), 3)
            said = {c: generator.sample(concepts[c], SYNONYMS - 1) for c in chosen}
            text = [*chain(*said.values()), *generator.choices(fillers, k=6)]
            generator.shuffle(text)
            held.append(set(chosen))
            used.append(said)
            line = {"_id": f"d{number}", "title": "", "text": " ".join(text)}
            file.write(json.dumps(line) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as queries:
        for split, count in (("train", TRAIN_QUERIES), ("dev", DEV_QUERIES)):
            scores = (folder / "scores.tsv").open("w") if split == "train" else None
            with (folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8") as qrels:
                qrels.write("query-id\tcorpus-id\tscore\n")
                for number in range(count):
                    document = generator.randrange(DOCUMENTS)
                    pair = generator.sample(sorted(held[document]), 2)
                    text = [
                        word for c in pair for word in concepts[c] if word not in used[document][c]
                    ]
                    query = f"{split}{number}"
                    queries.write(json.dumps({"_id": query, "text": " ".join(text)}) + "\n")
                    for other in range(DOCUMENTS):
                        overlap = len(held[other] & set(pair))
                        if overlap == 2:
                            qrels.write(f"{query}\td{other}\t1\n")
                        if scores:
                            scores.write(f"{query}\td{other}\t{overlap}\n")
            if scores:
                scores.close()
    return folder


def write_model(folder: Path, architecture: str, seed: int = 0) -> Path:
    """Write a small random language model over the collection's words, with its tokenizer.

    Args:
        folder: it is made.
        architecture: "bert", a masked LM; "llama", "mistral" or "qwen", causal ones.
        seed: of its weights.

    Raises:
        ValueError: for any other architecture.
    """
    import torch

    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    model = _model(architecture, len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    concepts, fillers = words()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *(word for concept in concepts for word in concept), *fillers]
    ids = {word: index for index, word in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
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
        model_max_length=64,
    )


def _model(architecture: str, n_terms: int) -> Any:
    import transformers

    shared = {
        "vocab_size": n_terms,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 160,
        "initializer_range": 0.05,
        "pad_token_id": 0,
    }
    if architecture == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(**shared))
    decoder = shared | {"num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
    if architecture == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**decoder))
    if architecture == "mistral":
        return transformers.MistralForCausalLM(transformers.MistralConfig(**decoder))
    if architecture == "qwen":
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**decoder, head_dim=16))
    raise ValueError(
        f"`architecture` must be 'bert', 'llama', 'mistral' or 'qwen', got {architecture!r}"
    )
