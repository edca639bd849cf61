"""lsr/training/recipe.py: shipped recipes, recipe files, and settings that are refused."""

import pytest

from lsr.training.recipe import Recipe, load_recipe, names

SMALL = """
paper = "P"
deviations = "D"
expected = "E"
[model]
base = "default"
[objective]
infonce = 1.0
[training]
batch_size = 8
[tiny.training]
batch_size = 2
"""


# Added to SMALL, these make a recipe that compares all queries and documents of a batch.
NEIGHBOURS = {
    "data.neighbours": "64",
    "data.negatives": "2",
    "model.queries": "idf",
    "objective.kl": "1.0",
    "teachers.names": '["dense:X", "bm25"]',
    "teachers.weights": "[2, 1]",
}


@pytest.fixture
def file(tmp_path):
    def write(text=SMALL):
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_all_recipes_of_the_papers_ship_in_both_forms():
    assert set(names()) == {
        *("splade-pp", "splade-doc", "inference-free", "echo-mistral", "bidirectional-llm", "csr"),
        *("pretrain-scratch", "cocondenser", "adapt", "finetune", "default"),
    }
    for name in names():
        whole, small = load_recipe(name), load_recipe(name, tiny=True)
        assert whole.name == small.name == name
        assert "arXiv" in whole.paper and whole.deviations and whole.expected
        assert small.data.source in ("generated", "pydoc")
        assert small.training.max_steps < whole.training.max_steps


@pytest.mark.parametrize(
    ("name", "key"),
    [("splade-doc", "model.base"), ("echo-mistral", "decoder.base"), ("finetune", "model.base")],
)
def test_the_tiny_forms_of_generated_data_take_no_other(name, key):
    message = f"{key} 'tiny-.*' knows only the words of data.source 'generated', got data.source"
    with pytest.raises(ValueError, match=f"{message} 'x.jsonl': leave out --tiny"):
        load_recipe(name, tiny=True, settings={"data.source": "x.jsonl"})
    changed = {"data.source": "x.jsonl", key: "default"}
    if name == "finetune":
        with pytest.raises(ValueError, match="teachers.names 'scores:generated' knows only"):
            load_recipe(name, tiny=True, settings=changed)
    for other in ("adapt", "csr"):
        assert load_recipe(other, tiny=True, settings={"data.source": "x.jsonl"})


def test_a_file_and_settings_over_it(file):
    recipe = load_recipe(file())
    assert isinstance(recipe, Recipe)
    assert (recipe.name, recipe.training.batch_size, recipe.training.seed) == ("mine", 8, 0)
    assert load_recipe(file(), tiny=True).training.batch_size == 2
    changed = load_recipe(
        file(),
        tiny=True,
        settings={
            "training.batch_size": "4",
            "data.source": "corpus.jsonl",
            "data.miners": '["dense"]',
            "objective.document_terms": "90",
        },
    )
    assert changed.training.batch_size == 4
    assert changed.data.source == "corpus.jsonl"
    assert changed.data.miners == ("dense",)
    assert changed.objective.document_terms == 90


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training.batchsize": "4"}, "training.batchsize: Unexpected keyword argument"),
        ({"training.batch_size": "many"}, "training.batch_size: .*integer.* got 'many'"),
        ({"objective.regulariser": "l7"}, "objective.regulariser: .*'flops'.* got 'l7'"),
        ({"model.queries": "none"}, "model.*queries"),
        ({"objective.kl": "1.0"}, "objective.kl and objective.margin_mse need teachers.names"),
        ({"teachers.live": "true"}, "teachers.live needs teachers.names, got none"),
        (
            {
                "teachers.names": '["bm25"]',
                "teachers.combine": "affine",
                "teachers.live": "true",
            },
            "teachers.live excludes teachers.combine 'affine'",
        ),
        (
            {"objective.document_terms": "9", "objective.document_weight": "0.1"},
            "objective.document_terms and objective.document_weight exclude each other",
        ),
        ({"data.held_out": "1.0"}, r"data.held_out must be in \[0, 1\), got 1.0"),
        ({"data.miners": '["neighbours"]'}, "'neighbours' needs data.neighbours, got 0"),
        ({"decoder.base": "x"}, r"exactly one of \[model\], \[decoder\] and \[autoencoder\]"),
        ({"name.of": "x"}, "name"),
    ],
)
def test_settings_that_cannot_be_used(file, settings, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(file(), settings=settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"data.neighbours": "7"},
            "data.neighbours must be at least training.batch_size, 8, got 7",
        ),
        ({"data.negatives": "0"}, "data.neighbours needs data.negatives"),
        ({"data.pseudo_queries": "1"}, "with data.pseudo_queries excludes objective.infonce"),
        ({"model.queries": "same"}, "needs model.queries of binary, idf, learned-idf"),
        ({"objective.kl": "0"}, "needs objective.kl, and excludes margin_mse"),
        ({"objective.margin_mse": "1"}, "needs objective.kl, and excludes margin_mse"),
        ({"teachers.live": "true"}, "data.neighbours excludes teachers.live"),
        (
            {"teachers.combine": "affine", "teachers.weights": "[]"},
            "data.neighbours excludes teachers.live and teachers.combine 'affine'",
        ),
        (
            {"teachers.names": '["bm25", "scores:X"]'},
            "needs teachers of dense, bm25, sparse, got 'scores:X'",
        ),
        ({"teachers.weights": "[1.0]"}, r"one for each of 2 teachers, got \(1.0,\)"),
        ({"teachers.weights": "[1, 0]"}, r"must be positive and finite, got \(1.0, 0.0\)"),
        ({"teachers.combine": "affine"}, "teachers.weights excludes teachers.combine 'affine'"),
    ],
)
def test_neighbours_and_weights_that_cannot_be_used(file, settings, message):
    assert load_recipe(file(), settings=NEIGHBOURS).teachers.weights == (2.0, 1.0)
    with pytest.raises(ValueError, match=message):
        load_recipe(file(), settings=NEIGHBOURS | settings)


def test_all_problems_are_named_at_once(file):
    with pytest.raises(ValueError) as error:
        load_recipe(file(), settings={"training.batch_size": "x", "training.seed": "y"})
    assert "training.batch_size" in str(error.value) and "training.seed" in str(error.value)


def test_errors(file):
    with pytest.raises(FileNotFoundError, match="no recipe 'splade': .* adapt, bidirectional-llm"):
        load_recipe("splade")
    with pytest.raises(ValueError, match="mine.toml: not valid TOML"):
        load_recipe(file("[model"))
    with pytest.raises(ValueError, match=r"the recipe has no \[tiny\] settings"):
        load_recipe(file(SMALL.split("[tiny")[0]), tiny=True)
