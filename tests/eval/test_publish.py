"""Reports on a few results, with numbers worked out by hand."""

import json
import re
from html.parser import HTMLParser

import pytest

from lsr.documents import Document, Query
from lsr.eval.datasets import Dataset
from lsr.eval.drilldown import DEPTH, EXPLAINED, LISTS, SNIPPET, TERMS, chosen, snippet, words
from lsr.eval.grid import Grid, arrange
from lsr.eval.measures import Evaluation
from lsr.eval.plots import pareto
from lsr.eval.publish import publish
from lsr.eval.results import Cost, Result
from lsr.eval.tables import Cell, Table, costs, latex, latex_text, markdown, markdown_text
from lsr.run import Run
from lsr.search.explanation import Contribution

COST = Cost(1_400, 2_500_000, 43.4, 450.0, 1234.6, 1.25, 3.5)
AWKWARD = "a_b & 50% | <b>$x$</b> [é] \\ 日本"


def dataset(name="cran", n=8, **fields):
    ids = [f"q{number}" for number in range(n)]
    queries = [Query(query_id, f"text of {query_id}") for query_id in ids]
    return Dataset(name, "test", queries, {query_id: {"d1": 1} for query_id in ids}, **fields)


def result(system, values, data=None, *, cost=COST, measure="RR@10", run=None):
    data = data or dataset()
    per_query = {query.id: values[number] for number, query in enumerate(data.queries)}
    run = run or Run({query_id: [("d1", 2.0), ("d2", 1.0)] for query_id in per_query})
    evaluation = Evaluation(
        {measure: per_query}, {measure: sum(per_query.values()) / len(per_query)}
    )
    return Result(system, data, run, evaluation, cost)


# Better on 8 of 8 queries, worse on 8 of 8, and equal on all but one.
BASE, BETTER, WORSE, SAME = [0.5] * 8, [0.75] * 8, [0.25] * 8, [1.0] + [0.5] * 7


def systems(data=None, **fields):
    pairs = (("base", BASE), ("better", BETTER), ("worse", WORSE), ("same", SAME))
    return [result(name, values, data, **fields) for name, values in pairs]


class _Cells(HTMLParser):
    """Return the rows of a page's tables by caption, and all ids."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.ids, self._part = {}, [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.ids += [value for key, value in attributes if key == "id"]
        if tag == "caption":
            self._part, self._caption = tag, ""
        elif tag == "tr":
            self._row = []
        elif tag in ("th", "td"):
            self._part = tag
            self._row.append("")

    def handle_endtag(self, tag):
        if tag == "caption":
            self.tables[self._caption.strip()] = []
        if tag == "tr" and self.tables:
            self.tables[self._caption.strip()].append([cell.strip() for cell in self._row])
        if tag in ("caption", "th", "td"):
            self._part = None

    def handle_data(self, text):
        if self._part == "caption":
            self._caption += text
        elif self._part:
            self._row[-1] += text


def page_of(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def data_of(folder):
    (found,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page_of(folder)
    )
    return json.loads(found)


def test_the_numbers_in_every_form(tmp_path):
    assert publish(systems(), tmp_path) == tmp_path / "report.html"
    # Exact tests of 8 signs: p = 2/256, by Holm over three systems 3 · 2/256 = 0.0234.
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert "**cran, 8 queries**" in lines
    assert "| system | RR@10 |" in lines and "| --- | ---: |" in lines
    for line in ("| base | 0.5000 |", "| better | **0.7500**† |", "| worse | 0.2500‡ |"):
        assert line in lines
    assert "| same | 0.5625 |" in lines
    assert any("Holm's method over the 3 systems" in line for line in lines)
    tex = (tmp_path / "report.tex").read_text(encoding="utf-8")
    assert r"better & \textbf{0.7500}$^{\dagger}$ \\" in tex
    assert r"worse & 0.2500$^{\ddagger}$ \\" in tex
    tables = _Cells(page_of(tmp_path)).tables
    assert tables["cran, 8 queries"] == [
        ["system", "RR@10"],
        ["base", "0.5000"],
        ["better", "0.7500†"],
        ["worse", "0.2500‡"],
        ["same", "0.5625"],
    ]
    _, better, worse, same = tables["RR@10: difference from base, cran"]
    assert better[1:5] == ["0.7500", "+0.2500†", "+0.2500 to +0.2500", "0.0234"]
    assert better[5:] == ["8", "0", "0"]
    assert worse[2] == "−0.2500‡" and worse[5:] == ["0", "8", "0"]
    assert same[4:] == ["1.0000", "1", "0", "7"]
    assert tables["RR@10 and what it costs, cran"][1][2:] == [
        *("2.5", "1,235", "450", "1.25", "3.50", "43")
    ]


def test_several_datasets_have_a_mean_that_counts_groups_once(tmp_path):
    sets = [dataset("a"), dataset("g/1", group="g"), dataset("g/2", group="g")]
    values = {"base": (0.5, 0.25, 0.75), "other": (0.25, 1.0, 1.0)}
    publish(
        [
            result(name, [value] * 8, data)
            for name, each in values.items()
            for data, value in zip(sets, each, strict=True)
        ],
        tmp_path,
    )
    table = _Cells(page_of(tmp_path)).tables["RR@10"]
    assert table[0] == ["system", "a", "g/1", "g/2", "mean"]
    # (0.5 + (0.25 + 0.75) / 2) / 2 and (0.25 + 1) / 2
    assert table[1] == ["base", "0.5000", "0.2500", "0.7500", "0.5000"]
    assert table[2] == ["other", "0.2500‡", "1.0000†", "1.0000†", "0.6250"]
    assert "In the mean g counts as one dataset." in page_of(tmp_path)


def test_measures_that_differ_in_the_relevant_grade_share_a_table(tmp_path):
    graded = dataset("dl19", relevant_grade=2)
    publish(
        [result("base", BASE), result("base", BETTER, graded, measure="RR(rel=2)@10")], tmp_path
    )
    assert "| base | 0.5000 | 0.7500 | 0.6250 |" in (tmp_path / "report.md").read_text("utf-8")
    assert list(_Cells(page_of(tmp_path)).tables)[0] == "RR@10"
    # The only relevant document has grade 1.
    assert data_of(tmp_path)["datasets"][1]["queries"][0]["relevant"] == []


def test_the_same_results_give_the_same_bytes(tmp_path):
    for name in ("first", "second"):
        publish(systems(), tmp_path / name, documents=lambda _, ids: {})
    first = sorted(path for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert len(first) == 3
    for path in first:
        other = tmp_path / "second" / path.relative_to(tmp_path / "first")
        assert path.read_bytes() == other.read_bytes()


def test_one_system_without_cost_and_a_query_without_hits(tmp_path):
    run = Run({"q0": [("d1", 1.0)]})
    publish([result("only", BASE, cost=None, run=run)], tmp_path)
    page = page_of(tmp_path)
    assert "<svg" not in page and 'id="cost"' not in page and 'id="differences"' not in page
    assert (tmp_path / "report.md").read_text("utf-8").endswith("| only | 0.5000 |\n")
    queries = data_of(tmp_path)["datasets"][0]["queries"]
    assert queries[0]["hits"] == [[["d1", 1.0]]] and queries[1]["hits"] == [[]]
    assert queries[1]["relevant"] == [["d1", 1, [None]]]


def test_one_query_is_not_tested(tmp_path):
    data = dataset(n=1)
    publish([result("base", [0.5], data), result("other", [1.0], data, cost=None)], tmp_path)
    assert "| other | **1.0000** |" in (tmp_path / "report.md").read_text("utf-8")
    tables = _Cells(page_of(tmp_path)).tables
    assert tables["RR@10 and what it costs, cran"][2][1:] == ["1.0000", *["–"] * 6]


def test_awkward_names_stay_text(tmp_path):
    data = dataset(AWKWARD)
    publish([result(AWKWARD, BASE, data), result("_other$", BETTER, data)], tmp_path)
    escaped = r"a\_b &amp; 50% &#124; &lt;b&gt;\$x\$&lt;/b&gt; \[é\] \\ 日本"
    assert f"| {escaped} | 0.5000 |" in (tmp_path / "report.md").read_text("utf-8")
    tex = (tmp_path / "report.tex").read_text("utf-8")
    assert (
        r"    a\_b \& 50\% \textbar{} \textless{}b\textgreater{}\$x\$\textless{}/b\textgreater{} "
        r"{[}é{]} \textbackslash{} 日本 & 0.5000 \\"
    ) in tex
    page = page_of(tmp_path)
    assert "<b>" not in page
    parsed = _Cells(page)
    assert parsed.tables[f"{AWKWARD}, 8 queries"][1][0] == AWKWARD
    assert len(parsed.ids) == len(set(parsed.ids))
    assert "href" not in "".join(re.findall(r'href="(?!#|data:,)', page))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a--b", "a-{}-b"),
        ("*", "{*}"),
        ("``q''", r"\textasciigrave{}\textasciigrave{}q'{}'"),
        ("{x}^~#", r"\{x\}\textasciicircum{}\textasciitilde{}\#"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_text(text, expected):
    assert latex_text(text) == expected


def test_markdown_text():
    assert markdown_text("*a*\n`b` ~c~") == r"\*a\* \`b\` \~c\~"


def test_signs_and_missing_values_in_latex_and_markdown():
    table = Table("c", ["x_1", "n"], 1, [[Cell("r"), Cell("–")], [Cell("s"), Cell("-0.1", -0.1)]])
    tex = latex(table, "tab:x", [])
    assert r"\label{tab:x}" in tex and r"x\_1 & n \\" in tex
    assert r"r & -- \\" in tex and r"s & $-$0.1 \\" in tex
    assert markdown(table).endswith("| r | – |\n| s | -0.1 |\n")


def test_documents_and_reasons_of_single_queries(tmp_path):
    text = "</script><script>alert(1)</script> text"
    asked = []

    def documents(name, ids):
        assert name == "cran" and list(ids) == [*(f"d{n}" for n in range(DEPTH)), "d99"]
        return {"d0": Document("d0", "Title", text)}

    def explain(system, name, query_id, doc_id):
        asked.append((system, query_id, doc_id))
        return [
            Contribution(f"t{n}", 1.0, 1.0, 0.5, 0.125, n > 0, n != 1) for n in range(TERMS + 2)
        ]

    data = dataset()
    data.qrels["q0"].update({"d99": 2, "d0": 0})
    run = Run({"q0": [(f"d{n}", 100.0 - n) for n in range(100)]})
    publish([result("only", BASE, data, run=run)], tmp_path, documents=documents, explain=explain)
    query = data_of(tmp_path)["datasets"][0]["queries"][0]
    assert asked == [("only", "q0", f"d{n}") for n in range(EXPLAINED)]
    assert query["documents"] == {"d0": ["Title", text]}
    assert query["grades"] == {"d0": 0, "d1": 1}
    assert query["relevant"] == [["d99", 2, [100]], ["d1", 1, [2]]]
    reasons = query["reasons"][0]["d0"]
    assert reasons[0] == ["t0", 0.5, 0.125, "query"] and reasons[1][3] == "document"
    assert reasons[TERMS] == ["2 more", 1.0, 0.25, ""]
    assert "alert(1)</script>" not in page_of(tmp_path)


def test_the_queries_shown_are_those_that_differ_most():
    n = LISTS // 2 + 5
    base, other = [0.5] * n, [0.5] * n
    other[3], other[n - 1], base[7] = 1.0, 0.0, 0.25
    other[7] = 0.25
    grid = arrange([result(name, v, dataset(n=n)) for name, v in (("a", base), ("b", other))])
    shown = [query.id for query in chosen(grid, 0)]
    assert len(shown) == LISTS // 2
    assert {"q3", f"q{n - 1}", "q7"} <= set(shown)
    assert shown == [query.id for query in grid.datasets[0].queries if query.id in set(shown)]


def test_snippet():
    assert words("How does the Wing, the tail move?") == ["wing", "tail", "move"]
    text = f"start {'filler ' * 100}the wing and the tail {'filler ' * 100}"
    cut = snippet(text, "wing tail")
    assert "wing and the tail" in cut and cut.startswith("… filler") and cut.endswith("filler …")
    assert len(cut) <= SNIPPET + 4
    assert snippet(text, "absent").startswith("start filler")
    assert snippet(" short \n text ", "x") == "short text"


def test_pareto():
    assert pareto([]) == []
    # The last is as fast as the second, but worse; of equal ones both are kept.
    assert pareto([(1, 0.5), (2, 0.6), (1, 0.5), (2, 0.4)]) == [0, 2, 1]


@pytest.mark.slow
def test_a_page_of_many_queries_stays_below_5_megabytes(tmp_path):
    data = dataset(n=1_500)
    text = " ".join(f"word{number}" for number in range(200))

    def documents(_, ids):
        return {
            doc_id: Document(doc_id, "A title of usual length for a paper", text) for doc_id in ids
        }

    def results():
        for system in range(5):
            run = Run(
                {
                    query.id: [
                        (f"{query.id}-{(rank + 5 * system) % 25}", 9.0 - rank / 10)
                        for rank in range(10)
                    ]
                    for query in data.queries
                }
            )
            yield result(f"system{system}", [0.1 * system] * 1_500, data, run=run)

    def explain(*_):
        return [Contribution("aerodynamics", 1.0, 1.0, 0.5, 0.125, False, False)] * 20

    page = publish(list(results()), tmp_path, documents=documents, explain=explain)
    assert 1_000_000 < page.stat().st_size < 5_000_000
    assert "240 of 1,500 of cran." in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "at least one result, got none"),
        ([result("a", BASE), result("a", BASE)], "a: two results on cran, split 'test'"),
        (
            [result("a", BASE), result("a", BASE, dataset("x")), result("b", BASE)],
            "b: no result on x, split 'test'",
        ),
        (
            [result("a", BASE), result("b", BASE, measure="AP")],
            r"b on cran: measured by AP, a by RR@10",
        ),
        (
            [result("a", BASE), result("a", BASE, dataset("x"), measure="AP")],
            "measured by RR@10 and by AP: they must be the same but for rel",
        ),
    ],
)
def test_errors(tmp_path, results, message):
    with pytest.raises(ValueError, match=message):
        publish(results, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_labels_tell_datasets_apart():
    sets = [dataset("a"), dataset("a")._replace(split="dev"), dataset("b")]
    grid = arrange([result("s", BASE, data) for data in sets])
    assert isinstance(grid, Grid) and grid.labels == ["a (test)", "a (dev)", "b (test)"]
    assert costs(grid).headings[:2] == ["dataset", "system"]
