"""The page of a report in a browser: sorting, opening queries, texts that look like code."""

import pytest

from lsr.documents import Document, Query
from lsr.eval.datasets import Dataset
from lsr.eval.measures import evaluate
from lsr.eval.publish import publish
from lsr.eval.results import Cost, Result
from lsr.run import Run
from lsr.search.explanation import Contribution

CODE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
N = 12


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Two systems, of which the second finds the document of query n at rank n mod 4 + 1."""
    queries = [Query(f"q{n}", f"question {n} {CODE if n == 3 else 'of wings'}") for n in range(N)]
    data = Dataset("cran", "test", queries, {query.id: {f"d{query.id}": 1} for query in queries})
    other = data._replace(name=f"a longer name of a dataset {CODE}")
    first = {q.id: [("x", 2.0), (f"d{q.id}", 1.0)] for q in queries}
    second = {
        q.id: [*((f"y{rank}", 9.0 - rank) for rank in range(n % 4)), (f"d{q.id}", 1.0)]
        for n, q in enumerate(queries)
    }
    results = []
    for system, rankings in (
        (f"base {CODE}", first),
        ("a system with a name of some length", second),
    ):
        run = Run(rankings)
        cost = Cost(1_000, 1_000_000, 10.0, 100.0, 500.0, 1.0 + len(results), 9.0)
        for dataset in (data, other):
            measured = evaluate(run, data.qrels, ["RR@10", "R@100"])
            results.append(Result(system, dataset, run, measured, cost))

    def documents(_, ids):
        return {doc_id: Document(doc_id, f"Title {CODE}", f"Text {CODE}") for doc_id in ids}

    def explain(system, dataset, query_id, doc_id):
        return [Contribution(CODE, 1.0, 1.0, 0.5, 1.0, False, True)]

    folder = tmp_path_factory.mktemp("report")
    return publish(results, folder, documents=documents, explain=explain).as_uri()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide", "phone"])
def page(browser, url, request):
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    opened = context.new_page()
    problems = []
    opened.on("console", lambda message: problems.append(message.text))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda asked: problems.append(asked.url) if asked.url != url else None)
    opened.goto(url)
    yield opened
    assert no_overflow(opened)
    assert opened.title().startswith("Evaluation: base <img")
    assert opened.locator("script").count() == 2 and opened.locator("img").count() == 0
    # The browser's console reports violations of the content security policy.
    assert [text for text in problems if not text.startswith("data:")] == []
    context.close()


def no_overflow(page):
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def column(page, table, number):
    return page.locator(f"{table} tbody tr:visible > :nth-child({number})").all_inner_texts()


def test_the_policy_is_enforced(browser, url):
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    found = page.evaluate(
        """() => new Promise((resolve) => {
            addEventListener("securitypolicyviolation", (told) => resolve(told.effectiveDirective));
            new Image().src = "https://example.invalid/x.png";
        })"""
    )
    assert found == "img-src"
    context.close()


def test_a_table_is_sorted_by_click_and_keyboard(page):
    table = "#quality .scroll:first-of-type table"
    heading = page.locator(f"{table} thead th").nth(1)
    names = column(page, table, 1)
    # RR: the base 1/2, the other (1 + 1/2 + 1/3 + 1/4) / 4.
    assert [text[:6] for text in column(page, table, 2)] == ["0.5000", "0.5208"]
    assert heading.get_attribute("aria-sort") is None
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert [text[:6] for text in column(page, table, 2)] == ["0.5208", "0.5000"]
    assert column(page, table, 1) == names[::-1]
    heading.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(page, table, 1) == names
    page.locator(f"{table} thead button").first.focus()
    page.keyboard.press("Space")
    assert column(page, table, 1) == sorted(names)
    assert heading.get_attribute("aria-sort") is None


def test_queries_are_sorted_filtered_and_chosen(page):
    table = "#query-table"
    differences = column(page, table, 3)
    assert differences == ["+0.5000"] * 3 + ["0.0000"] * 3 + ["−0.1667"] * 3 + ["−0.2500"] * 3
    page.locator(f"{table} thead button").first.click()
    assert column(page, table, 1) == [f"q{n}" for n in range(N)]
    page.get_by_label("Filter").fill("QUESTION 1")
    assert column(page, table, 1) == ["q1", "q10", "q11"]
    assert page.locator("#count").inner_text().startswith("3 of 12 queries.")
    page.get_by_label("Filter").fill("")
    page.get_by_role("combobox", name="Measure").select_option("R@100")
    # The chosen order stays.
    assert column(page, table, 1) == [f"q{n}" for n in range(N)]
    assert set(column(page, table, 3)) == {"0.0000"}
    assert page.locator("[data-dataset='0']").is_visible()
    page.get_by_role("combobox", name="Dataset").select_option("1")
    assert page.locator("[data-dataset='1']").is_visible()
    assert page.locator("[data-dataset='0']").is_hidden()


def test_a_query_opens_by_click_with_texts_as_text(page):
    page.locator("#query-table tr", has_text="question 3").locator(".text").click()
    dialog = page.get_by_role("dialog")
    assert dialog.locator("h2").inner_text() == f"question 3 {CODE}"
    assert CODE in dialog.locator(".lists section").nth(0).inner_text()
    second = dialog.locator(".lists section").nth(1)
    assert second.locator("li").count() == 4
    assert second.locator("li.relevant").count() == 1
    last = second.locator("li").nth(3)
    assert "relevant, grade 1" in last.inner_text()
    assert last.locator("summary").count() == 0  # explanations for the first three only
    first = second.locator("li").first
    assert "grade" not in first.inner_text()
    first.locator("summary").click()
    assert f"{CODE}\nnot in the query" in first.locator(".reasons table").inner_text()
    ranks = dialog.get_by_role("region", name="Ranks of relevant documents")
    assert ranks.locator("tbody td").all_inner_texts() == ["1", "2", "4"]
    assert "ranks among the first 4" in ranks.inner_text()
    assert no_overflow(page)


def test_a_query_opens_by_keyboard_and_gives_the_focus_back(page):
    page.locator("#query-table .open").nth(1).focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.locator("h2").inner_text() == "question 4 of wings"
    assert dialog.locator("mark").count() == 0  # the texts hold no word of the query
    dialog.get_by_role("button", name="Next").click()
    assert dialog.locator("h2").inner_text() == "question 8 of wings"
    dialog.get_by_role("button", name="Previous").click()
    dialog.get_by_role("button", name="Previous").click()
    assert dialog.get_by_role("button", name="Previous").is_disabled()
    page.keyboard.press("Escape")
    assert dialog.count() == 0
    # The dialog's close event comes after it is closed, and the focus moves then.
    page.wait_for_function("document.activeElement.textContent === 'q0'", timeout=5000)
