"""The page in a browser, against the API with real indexes behind it."""

import json
import re
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from lsr.service import assets as served_page
from lsr.service.app import create_app
from lsr.service.settings import Settings

BROKEN = "document.title='broken'"
CODE = f'</style></script><img src=x onerror="{BROKEN}"><script>{BROKEN}</script> \U0001f600 wing'
METADATA = {
    "by": {"name": "N", "n": 2**53 + 1},
    "tags": ["a", "b"],
    "sizes": [1, 2.5, 2**63 - 1],
    "ok": [True],
    "none": [],
}
KEY = "a-key-for-reading-only"
FILES = Path(served_page.__file__).parent / "page"
QUERY = "heat flow wing"
ALL = "words,learned,sparse,dense,hybrid,feedback"


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """An index without a dense side, whose documents contain markup and code."""
    from lsr.building.build import build_index
    from lsr.corpus.corpus import open_corpus

    folder = tmp_path_factory.mktemp("code")
    documents = [
        {"_id": "a/b?c#<i>", "title": CODE, "text": f"heat {CODE} heat", f"<b>{CODE}": CODE},
        {"_id": "long", "title": "", "text": "heat " + "unbroken" * 60},
        {"_id": "plain", "title": "Plain", "text": "pressure nose cone"} | {"metadata": METADATA},
    ]
    lines = "".join(json.dumps(document) + "\n" for document in documents)
    (folder / "corpus.jsonl").write_text(lines)
    build_index(open_corpus(folder / "corpus.jsonl"), folder / "code", "lexical")
    return folder / "code"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, corpus_of):
    """An index of words alone."""
    from lsr.building.build import build_index
    from lsr.corpus.corpus import open_corpus

    folder = tmp_path_factory.mktemp("alone")
    corpus = open_corpus(corpus_of(folder / "corpus.jsonl", 50))
    build_index(corpus, folder / "alone", "bm25")
    return folder / "alone"


@pytest.fixture(scope="module")
def url(built, code, alone, serving):
    with serving(create_app([built, code, alone], Settings())) as (host, port):
        yield f"http://{host}:{port}/"


@pytest.fixture(scope="module")
def locked(code, serving):
    """The address of a service that needs a key."""
    with serving(create_app([code], Settings(read_key=KEY))) as (host, port):
        yield f"http://{host}:{port}/"


@pytest.fixture
def expect(browser):
    from playwright.sync_api import expect

    expect.set_options(timeout=10_000)
    return expect


@pytest.fixture
def visit(browser, url):
    """A function that opens the page; after the test, the page must have had no errors."""
    with ExitStack() as checks:

        def go(address=None, width=1280, scheme="light", refused=(), clock=False, **state):
            """`refused`: the statuses of refusals that the test expects."""
            address = address or url
            context = browser.new_context(
                viewport={"width": width, "height": 844},
                color_scheme=scheme,
                reduced_motion="reduce",
            )
            page = context.new_page()
            problems = []
            # The browser's console reports violations of the content security policy.
            page.on("console", lambda message: problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on(
                "request",
                lambda asked: asked.url.startswith(address) or problems.append(asked.url),
            )

            def check():
                told = [f"the server responded with a status of {status} " for status in refused]
                assert [text for text in problems if not any(one in text for one in told)] == []
                assert page.locator("script").count() == 2
                assert page.locator("img, iframe, object, embed, style").count() == 0
                assert page.title() != "broken"
                context.close()

            checks.callback(check)
            if clock:
                page.clock.install(time=0)
                page.clock.pause_at(1000)
            page.goto(address + (f"?{urlencode(state, safe=',')}" if state else ""))
            return page

        yield go


@pytest.fixture
def api(url):
    """A function that calls the API directly: `api("search", query=…)`."""

    def ask(what, index="wings", **body):
        answer = httpx.post(f"{url}indexes/{index}/{what}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask


def ids(answer):
    return [hit["id"] for hit in answer["hits"]]


def column(page, name="sparse"):
    return page.locator(f"[data-column={name}]")


def shown(page, name="sparse"):
    """The ids of a column's hits."""
    hits = column(page, name).locator(".hit")
    return hits.evaluate_all("hits => hits.map((hit) => hit.dataset.id)")


def settled(expect, page, *names):
    """Wait until all columns have their answers."""
    for name in names:
        expect(column(page, name)).to_be_visible()
    expect(page.locator(".column[aria-busy]")).to_have_count(0)


def numbers(text):
    return [float(part) for part in re.findall(r"\d+\.\d+", text)]


def overflows(page):
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


# The files and headers that are sent.


def test_what_the_page_is_made_of(url):
    with httpx.Client(base_url=url) as client:
        start = client.get("/")
        names = {*re.findall(r'(?:src|href)="page/([^"]+)"', start.text)}
        for name in [*names]:
            names |= {*re.findall(r'from "\./([^"]+)"', client.get(f"/page/{name}").text)}
        assert names | {"index.html"} == {path.name for path in FILES.iterdir()}
        for path in ("/", *(f"/page/{name}" for name in names)):
            answer = client.get(path)
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            tag = answer.headers["etag"]
            for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
                again = client.get(path, headers={"If-None-Match": known})
                assert (again.status_code, again.content) == (304, b"")
                assert again.headers["etag"] == tag
            assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
            head = client.head(path)
            assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/page/index.html", "/page/none.js", "/page/..%2fpage.py", "/page/%2e%2e/page.py"]
)
def test_nothing_else_is_sent(url, path):
    answer = httpx.get(url.rstrip("/") + path)
    assert answer.status_code == 404 and "error" in answer.json()


def test_texts_are_never_made_into_markup():
    """The scripts never parse texts as HTML, and the policy allows nothing inline."""
    for path in FILES.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text
        )
    html = (FILES / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|https?:", html)


def test_the_policy_is_enforced(browser, url):
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    found = page.evaluate(
        """() => new Promise((resolve) => {
            addEventListener("securitypolicyviolation", (told) => resolve(told.effectiveDirective));
            document.body.append(document.createElement("style"));
            document.querySelector("style").textContent = "p { color: red }";
        })"""
    )
    assert found == "style-src-elem"
    context.close()


# Searching.


def test_the_start_tells_of_the_index(visit, expect):
    page = visit()
    expect(page.locator(".facts")).to_contain_text("200")
    expect(page.get_by_label("Search", exact=True)).to_be_focused()
    expect(page.locator("#terms")).to_be_hidden()


def test_search_as_you_type(visit, expect, api):
    page = visit(clock=True)
    expect(page.locator(".start")).to_be_visible()
    asked = []
    page.on(
        "request",
        lambda request: request.method == "POST" and asked.append(request.url.rpartition("/")[2]),
    )
    field = page.get_by_label("Search", exact=True)
    field.press_sequentially("heat")
    page.clock.run_for(140)
    field.press_sequentially(" flow")
    page.clock.run_for(140)
    assert asked == []
    page.clock.run_for(20)
    expect(column(page, "hybrid").locator(".hit")).to_have_count(10)
    assert sorted(asked) == ["expand", "search"]
    assert shown(page, "hybrid") == ids(api("search", query="heat flow"))
    assert column(page, "hybrid").locator("mark.own").count() > 0
    expect(page.locator("#told")).to_have_text("Hybrid: 10 hits")
    # Enter searches at once.
    field.press_sequentially(" wing")
    field.press("Enter")
    expect(page).to_have_title("heat flow wing – lsr")
    settled(expect, page)
    assert shown(page, "hybrid") == ids(api("search", query="heat flow wing"))


def test_an_answer_that_comes_late_is_dropped(visit, expect, api):
    page = visit()
    held = []

    def hold(route):
        if route.request.post_data_json["query"] == "heat":
            held.append(route)
        else:
            route.continue_()

    page.route("**/search", hold)
    gone = []
    page.on("requestfailed", lambda request: gone.append(request.post_data_json["query"]))
    field = page.get_by_label("Search", exact=True)
    field.fill("heat")
    expect(column(page, "hybrid")).to_have_attribute("aria-busy", "true")
    field.fill("shock")
    settled(expect, page)
    expect(column(page, "hybrid").locator(".hit")).to_have_count(10)
    assert held and gone == ["heat"]
    assert shown(page, "hybrid") == ids(api("search", query="shock"))


def test_more_hits_follow(visit, expect, api):
    page = visit(q=QUERY, index="wings", columns="sparse")
    expect(column(page).locator(".hit")).to_have_count(10)
    page.get_by_role("button", name="More").click()
    expect(column(page).locator(".hit")).to_have_count(20)
    assert shown(page) == ids(api("search", query=QUERY, k=20, mode="sparse"))
    expect(column(page).locator(".open").nth(10)).to_be_focused()


def test_nothing_found(visit, expect):
    page = visit(q="zzz", index="wings", columns="sparse")
    expect(column(page)).to_contain_text("No document matches.")


def test_the_address_holds_the_state(visit, expect):
    page = visit(q="heat", index="wings", columns="sparse,hybrid")
    settled(expect, page, "sparse", "hybrid")
    field = page.get_by_label("Search", exact=True)
    expect(field).to_have_value("heat")
    page.get_by_role("button", name="Sparse").click()
    expect(page).to_have_url(re.compile(r"\?q=heat&index=wings$"))
    # The last ranking cannot be turned off.
    page.get_by_role("button", name="Hybrid").click()
    expect(page.get_by_role("button", name="Hybrid")).to_have_attribute("aria-pressed", "true")
    field.fill("shock wing")
    expect(page).to_have_url(re.compile(r"\?q=shock\+wing&index=wings$"))
    page.go_back()
    expect(field).to_have_value("heat")
    page.go_back()
    expect(column(page)).to_be_visible()
    page.go_forward()
    page.go_forward()
    expect(field).to_have_value("shock wing")
    settled(expect, page, "hybrid")
    page.get_by_label("Index").select_option("code")
    expect(page).to_have_url(re.compile(r"index=code$"))
    expect(page.locator("#facts")).to_contain_text("3 documents")
    settled(expect, page, "sparse")
    assert shown(page) == ["a/b?c#<i>"]


def test_the_header_follows_the_index(visit, expect, url):
    page = visit()
    expect(page.locator("#facts")).to_contain_text("200 documents · generation 1")
    known = httpx.get(f"{url}indexes/wings").json()

    def newer(route):
        answer = route.fetch().json()
        route.fulfill(json={**answer, "state": {**answer["state"], "generation": 7}})

    page.route("**/search", newer)
    page.route(
        "**/indexes/wings",
        lambda route: route.fulfill(json={**known, "generation": 7, "documents": 1}),
    )
    page.get_by_label("Search", exact=True).fill("heat")
    expect(page.locator("#facts")).to_contain_text("1 document · generation 7")


def test_rankings_side_by_side(visit, expect, api):
    page = visit(q=QUERY, index="wings", columns="sparse,hybrid")
    settled(expect, page, "sparse", "hybrid")
    sparse = ids(api("search", query=QUERY, mode="sparse"))
    hybrid = ids(api("search", query=QUERY, mode="hybrid"))
    assert (shown(page), shown(page, "hybrid")) == (sparse, hybrid)
    places = [f"hybrid {hybrid.index(i) + 1}" if i in hybrid else "hybrid >10" for i in sparse]
    assert column(page).locator(".places").all_inner_texts() == places
    left, right = (column(page, name).bounding_box() for name in ("sparse", "hybrid"))
    assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]


def test_without_a_dense_side(visit, expect, api):
    page = visit(q="heat", index="code", columns="sparse,hybrid,feedback")
    settled(expect, page, "sparse", "feedback")
    assert column(page, "hybrid").count() == 0
    for name in ("Dense", "Hybrid"):
        button = page.get_by_role("button", name=name)
        expect(button).to_be_disabled()
        expect(button).to_have_accessible_description(re.compile("built with --dense"))
    fed = api("expand", index="code", query="heat", feedback={})
    added = [term["term"] for term in fed["terms"] if term["from_feedback"]]
    assert added
    chips = page.locator(".feedback-terms .chip")
    expect(chips).to_have_count(len(added))


def test_an_index_of_words_alone(visit, expect, api):
    page = visit(q=QUERY, index="alone")
    settled(expect, page, "sparse")
    found = api("search", index="alone", query=QUERY, mode="words")
    assert shown(page) == ids(found) and ids(found)
    expect(page.locator("#terms")).to_be_hidden()
    expect(page.get_by_role("button", name="Learned")).to_be_disabled()
    expect(page.get_by_role("button", name="Words")).to_be_enabled()
    assert column(page).bounding_box()["width"] > 600
    column(page).locator(".open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".total")).to_contain_text(f"{found['hits'][0]['score']:.3f}")
    assert {*dialog.locator(".terms .field").all_inner_texts()} == {"word"}


# Explanations.


def read_terms(dialog):
    """Return query weight, document weight and contribution from each row of the table."""
    rows = dialog.locator(".terms tbody tr").all_inner_texts()
    return [numbers(row) for row in rows]


def test_an_explanation_by_click(visit, expect, api):
    page = visit(q=QUERY, index="wings", columns="sparse")
    settled(expect, page, "sparse")
    column(page).locator(".snippet").nth(1).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".terms")).to_be_visible()
    doc_id = shown(page)[1]
    why = api("explain", query=QUERY, id=doc_id, mode="sparse")["why"]
    lines = read_terms(dialog)
    assert lines == [
        [round(term[part], 3) for part in ("query_weight", "document_weight", "contribution")]
        for term in why["terms"]
    ]
    for query_weight, document_weight, contribution in lines:
        assert query_weight * document_weight == pytest.approx(contribution, rel=2e-3)
    (score,) = numbers(dialog.locator(".total").inner_text())
    assert (
        score == round(why["score"], 3) == pytest.approx(sum(line[2] for line in lines), abs=2e-3)
    )
    # Each line says whether it is a word or a learned term.
    fields = dialog.locator(".terms .field").all_inner_texts()
    kinds = {"learned": "learned", "words": "word"}
    assert fields == [kinds[term["field"]] for term in why["terms"]]
    assert {*fields} == {"learned", "word"}
    # A bar's length is proportional to its share.
    rails, bars = (
        dialog.locator(which).evaluate_all("all => all.map((one) => one.clientWidth)")
        for which in (".rail", ".rail .bar")
    )
    for rail, bar, term in zip(rails, bars, why["terms"], strict=True):
        assert bar == pytest.approx(rail * term["share"], abs=2)
    expect(dialog).to_contain_text("Rank 2 in sparse")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(column(page).locator(".open").nth(1)).to_be_focused()


def test_an_explanation_by_keyboard(visit, expect):
    page = visit(q=QUERY, index="wings", columns="sparse,hybrid")
    settled(expect, page, "sparse", "hybrid")
    page.get_by_label("Search", exact=True).press("ArrowDown")
    for key in ("ArrowDown", "ArrowRight", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    expect(column(page, "hybrid").locator(".open").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".terms")).to_be_visible()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    for _ in range(8):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body"
            " || document.activeElement.closest('#explanation') !== null"
        )
    dialog.get_by_role("button", name="Close").press("Enter")
    expect(column(page, "hybrid").locator(".open").nth(1)).to_be_focused()
    # The browser goes back to the address without the hit, which may take the focus.
    page.wait_for_url(lambda address: "hit=" not in address)
    page.keyboard.press("/")
    expect(page.get_by_label("Search", exact=True)).to_be_focused()


@pytest.mark.parametrize("name", ["hybrid", "feedback"])
def test_the_sides_of_an_explanation_add_up(visit, expect, api, name):
    page = visit(q=QUERY, index="wings", columns=name)
    settled(expect, page, name)
    settings = {"mode": "hybrid"} | ({"feedback": {"side": "both"}} if name == "feedback" else {})
    ranked = ids(api("search", query=QUERY, **settings))
    assert shown(page, name) == ranked
    column(page, name).locator(".open").nth(2).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".of-sides")).to_be_visible()
    why = api("explain", query=QUERY, id=ranked[2], **settings)["why"]
    sparse, dense = why["sides"]
    assert (sparse["side"], dense["side"]) == ("sparse", "dense")
    *shares, score = numbers(dialog.locator(".sum").inner_text())
    assert shares == [round(part["share"], 4) for part in why["sides"]]
    assert score == round(why["score"], 4) == pytest.approx(sum(shares), abs=2e-4)
    before = numbers(dialog.locator(".of-sides").inner_text())
    assert before[0] == round(sparse["score"], 3) and before[2] == round(dense["score"], 4)
    assert numbers(dialog.locator(".total").inner_text()) == [round(sparse["score"], 3)]
    parts = dialog.locator(".split .bar").evaluate_all("all => all.map((one) => one.clientWidth)")
    assert parts[0] / sum(parts) == pytest.approx(sparse["share"] / why["score"], abs=0.02)
    marked = dialog.locator(".terms small.feedback").count()
    assert marked == sum(term["from_feedback"] for term in why["terms"])
    assert (marked > 0) == (name == "feedback")


def asking(page, what, **settings):
    """Give all requests of the page to one path of the API these settings."""

    def ask(route):
        route.continue_(post_data=json.dumps(route.request.post_data_json | settings))

    page.route(f"**/{what}", ask)


def test_words_are_a_ranking(visit, expect, api):
    query = "heated flows, the 17"
    page = visit(q=query, index="wings", columns="words")
    settled(expect, page, "words")
    found = api("search", query=query, mode="words")
    assert shown(page, "words") == ids(found) and ids(found)[0] == "d17"
    asking(page, "explain", words={"title": 0.5})
    column(page, "words").locator(".open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Rank 1 in words")
    why = api("explain", query=query, id="d17", mode="words", words={"title": 0.5})["why"]
    names = dialog.locator(".terms tbody .term").all_inner_texts()
    fields = dialog.locator(".terms .field").all_inner_texts()
    kinds = {"words": "word", "title": "word of the title"}
    assert [*zip(names, fields, strict=True)] == [
        (term["term"], kinds[term["field"]]) for term in why["terms"]
    ]
    assert {("heated", "word"), ("flows", "word"), ("17", "word of the title")} <= {
        *zip(names, fields, strict=True)
    }
    assert dialog.locator("thead th").first.inner_text() == "word"
    assert numbers(dialog.locator(".total").inner_text()) == [round(why["score"], 3)]


def test_words_and_learned_terms_add_up_to_a_sparse_score(visit, expect):
    page = visit(q=QUERY, index="wings", columns="sparse")
    settled(expect, page, "sparse")
    (score,) = numbers(column(page).locator(".score").first.inner_text())
    column(page).locator(".open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".terms")).to_have_count(1)
    parts = {}
    for field in ("words", "learned"):
        rows = dialog.locator(f".terms tbody tr:has(.field.{field})")
        parts[field] = [numbers(row)[-1] for row in rows.all_inner_texts()]
    assert min(map(len, parts.values())) > 1
    assert sum(map(sum, parts.values())) == pytest.approx(score, abs=4e-3)
    assert dialog.locator(".rail .bar.words").count() == len(parts["words"])
    assert dialog.locator(".rail .bar.learned").count() == len(parts["learned"])


def test_three_sides_are_explained_one_by_one(visit, expect, api):
    sides = ["words", "learned", "dense"]
    how = {"interpolation": {"method": "rrf", "sides": sides}}
    page = visit(index="wings", columns="hybrid")
    asking(page, "search", **how)
    asking(page, "explain", **how)
    page.get_by_label("Search", exact=True).fill(QUERY)
    settled(expect, page, "hybrid")
    (hit, *_) = api("search", query=QUERY, mode="hybrid", explain=True, **how)["hits"]
    of_hit = column(page, "hybrid").locator(".hit").first.locator(".sides")
    expected = [f"{part['side']} {part['share']:.4f}" for part in hit["why"]["sides"]]
    expect(of_hit).to_have_text(" + ".join(expected))
    assert of_hit.locator(".bar").count() == 3
    column(page, "hybrid").locator(".open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".of-sides tbody tr")).to_have_count(3)
    assert dialog.locator(".of-sides tbody th").all_inner_texts() == sides
    assert dialog.locator("h4").all_inner_texts() == [
        f"What made the {part['side']} side’s {part['score']:.3f}"
        for part in hit["why"]["sides"][:2]
    ]
    for part in hit["why"]["sides"][:2]:
        table = dialog.locator(f".terms[data-side={part['side']}]")
        kind = {"words": "word", "learned": "learned"}[part["side"]]
        assert {*table.locator(".field").all_inner_texts()} == {kind}
        assert numbers(table.locator(".total").inner_text()) == [round(part["score"], 3)]


def test_long_explanations_show_the_first_terms(visit, expect, api):
    query = "heat flow wing plate layer pressure shock nose cone cylinder boundary theory"
    why = api("explain", query=query, id="d0", mode="learned")["why"]
    many = [{**why["terms"][0], "term": f"t{n}", "contribution": 0.1} for n in range(30)]
    sides = [{"side": "learned", "share": 3.0, "score": 3.0}]
    whole = {"terms": many, "score": 3.0, "sides": sides}
    page = visit(q=query, index="wings", columns="learned")

    def answer(route):
        body = {**route.fetch().json(), "why": whole}
        route.fulfill(json=body)

    page.route("**/explain", answer)
    settled(expect, page, "learned")
    column(page, "learned").locator(".open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".terms tbody tr")).to_have_count(20)
    assert "10 more lines" in dialog.locator("tfoot").inner_text()
    assert numbers(dialog.locator("tfoot").inner_text()) == [1.0, 3.0]
    dialog.get_by_role("button", name="Show all").click()
    expect(dialog.locator(".terms tbody tr")).to_have_count(30)


# The opened hit in the address.


@pytest.mark.slow
def test_the_opened_hit_survives_a_reload(visit, expect, api):
    page = visit(q=QUERY, index="wings", columns="sparse,hybrid")
    settled(expect, page, "sparse", "hybrid")
    second = shown(page, "hybrid")[1]
    dialog = page.get_by_role("dialog")
    column(page, "hybrid").locator(".open").nth(1).click()
    expect(page).to_have_url(re.compile(f"columns=sparse,hybrid&hit={second}&of=hybrid$"))
    expect(dialog).to_contain_text("Rank 2 in hybrid")
    page.reload()
    expect(dialog).to_contain_text("Rank 2 in hybrid")
    why = api("explain", query=QUERY, id=second)["why"]
    expect(dialog.locator(".of-sides tfoot")).to_contain_text(f"{why['score']:.4f}")


def test_back_closes_the_opened_hit_and_forward_opens_it(visit, expect):
    page = visit(q=QUERY, index="wings", columns="sparse,hybrid")
    settled(expect, page, "sparse", "hybrid")
    third = shown(page, "hybrid")[2]
    dialog = page.get_by_role("dialog")
    column(page, "hybrid").locator(".open").nth(1).click()
    expect(dialog).to_contain_text("Rank 2 in hybrid")
    page.go_back()
    expect(dialog).to_have_count(0)
    expect(page).to_have_url(re.compile("columns=sparse,hybrid$"))
    page.go_forward()
    expect(dialog).to_contain_text("Rank 2 in hybrid")
    # To close it is to go back: the next one that is opened takes its place in the history.
    entries = page.evaluate("history.length")
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile("columns=sparse,hybrid$"))
    expect(column(page, "hybrid").locator(".open").nth(1)).to_be_focused()
    column(page, "hybrid").locator(".open").nth(2).click()
    expect(page).to_have_url(re.compile(f"hit={third}&of=hybrid$"))
    expect(dialog).to_contain_text("Rank 3 in hybrid")
    assert page.evaluate("history.length") == entries


def test_what_is_opened_while_the_history_goes_back(visit, expect):
    """A hit is opened, and a text is typed, before closing another has brought the history back."""
    page = visit(q=QUERY, index="wings")
    settled(expect, page, "hybrid")
    first, second = shown(page, "hybrid")[:2]
    dialog = page.get_by_role("dialog")
    column(page, "hybrid").locator(".open").first.click()
    expect(dialog.locator(".of-sides")).to_be_visible()
    page.evaluate(
        """() => {
          const dialog = document.getElementById("explanation");
          const next = document.querySelectorAll(".open")[1];
          dialog.addEventListener("close", () => next.click(), { once: true });
          dialog.close();
        }"""
    )
    expect(dialog).to_contain_text("Rank 2 in hybrid")
    expect(page).to_have_url(re.compile(f"hit={second}$"))
    page.go_back()
    expect(dialog).to_have_count(0)
    expect(page).to_have_url(re.compile("q=heat.flow.wing&index=wings$"))


def test_a_link_to_a_hit_opens_it(visit, expect, api):
    (*_, last) = ids(api("search", query=QUERY, k=30, mode="sparse"))
    page = visit(q=QUERY, index="wings", columns="sparse", hit=last)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Not among the first 10 of sparse")
    why = api("explain", query=QUERY, id=last, mode="sparse")
    expect(dialog.locator("h2")).to_have_text(why["document"]["title"])
    expect(dialog.locator(".total")).to_contain_text(f"{why['why']['score']:.3f}")
    # There is no list to go back to.
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile("columns=sparse$"))
    expect(column(page).locator(".hit")).to_have_count(10)
    assert page.evaluate("history.length") == 2


def test_a_link_to_what_is_not_there_says_so(visit, expect):
    page = visit(q=QUERY, index="wings", columns="sparse", hit="<i>", refused=[404])
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("no document '<i>'")
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile("columns=sparse$"))


# Weights.


def weight(page, term):
    return page.get_by_label(f"weight of {term}", exact=True)


def test_weights_move_the_ranking(visit, expect, api):
    page = visit(q=QUERY, index="wings", columns="learned,hybrid")
    settled(expect, page, "learned", "hybrid")
    before, hybrid = shown(page, "learned"), shown(page, "hybrid")
    terms = {term["term"]: term["weight"] for term in api("expand", query=QUERY)["terms"]}
    assert {*terms} == {"heat", "flow", "wing"}
    expect(weight(page, "heat")).to_be_visible()
    weight(page, "heat").press("Home")
    weight(page, "wing").press("End")
    expect(page.locator(".weights li.out")).to_have_text(re.compile("heat"))
    settled(expect, page, "learned")
    expect(page.locator("#told")).to_have_text(re.compile(r"Learned: 10 hits, \d+ moved, \d+ new"))
    edited = {"flow": terms["flow"], "wing": 2 * max(terms.values())}
    after = ids(api("search", query=edited))
    assert after != before and shown(page, "learned") == after
    for place, doc_id in enumerate(after):
        hit = column(page, "learned").locator(f".hit[data-id={doc_id}]")
        if doc_id not in before:
            expect(hit.locator(".move")).to_have_text("new")
        elif move := before.index(doc_id) - place:
            expect(hit.locator(".move [aria-hidden]")).to_have_text(
                f"{'▲' if move > 0 else '▼'}{abs(move)}"
            )
        else:
            expect(hit.locator(".move")).to_have_count(0)
    # Words of the query's text still count as its own; the explanation is of the edited query.
    assert column(page, "learned").locator("mark.expanded").count() == 0
    column(page, "learned").locator(".open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".total")).to_be_visible()
    why = api("explain", query=edited, id=after[0])["why"]
    assert numbers(dialog.locator(".total").inner_text()) == [round(why["score"], 3)]
    page.keyboard.press("Escape")
    # A hybrid search needs a text.
    assert shown(page, "hybrid") == hybrid
    expect(column(page, "hybrid").locator(".held")).to_contain_text(
        "neither words nor a dense vector"
    )
    page.get_by_role("button", name="Reset").click()
    expect(page.locator(".move")).to_have_count(0)
    settled(expect, page, "learned")
    assert shown(page, "learned") == before
    assert column(page, "hybrid").locator(".held").count() == 0


def test_an_answer_to_older_weights_is_dropped(visit, expect, api):
    page = visit(q=QUERY, index="wings", columns="learned")
    settled(expect, page, "learned")
    held = []

    def hold(route):
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/search", hold)
    gone = []
    page.on("requestfailed", lambda request: gone.append(request.post_data_json["query"]))
    with page.expect_request("**/search"):
        weight(page, "heat").press("Home")
    weight(page, "wing").press("Home")
    expect(page.locator("#told")).to_contain_text("moved")
    (flow,) = (term for term in api("expand", query=QUERY)["terms"] if term["term"] == "flow")
    assert shown(page, "learned") == ids(api("search", query={"flow": flow["weight"]}))
    (older,) = gone
    assert {*older} == {"flow", "wing"}


def test_terms_are_added_and_left_out(visit, expect, api):
    page = visit(q="heat", index="wings", columns="learned", refused=[400])
    settled(expect, page, "learned")
    field = page.get_by_label("Term to add")
    field.fill("not<b>aword")
    field.press("Enter")
    expect(page.locator("#add-problem")).to_contain_text("'not<b>aword'")
    field.fill("shock")
    page.get_by_role("button", name="Add").click()
    expect(weight(page, "shock")).to_be_visible()
    expect(page.locator("#add-problem")).to_be_hidden()
    (heat,) = api("expand", query="heat")["terms"]
    both = {"heat": heat["weight"], "shock": heat["weight"]}
    expect(column(page, "learned").locator(".move").first).to_be_visible()
    settled(expect, page, "learned")
    assert shown(page, "learned") == ids(api("search", query=both))
    page.get_by_role("button", name="leave shock out").click()
    page.get_by_role("button", name="leave heat out").click()
    expect(column(page, "learned")).to_contain_text("Every term is left out")
    # Another text resets the weights.
    page.get_by_label("Search", exact=True).fill("nose")
    expect(weight(page, "nose")).to_be_visible()
    expect(page.locator(".weights li")).to_have_count(1)
    settled(expect, page, "learned")
    assert shown(page, "learned") == ids(api("search", query="nose", mode="learned"))
    expect(page.get_by_role("button", name="Reset")).to_be_disabled()


# Texts that look like code.


@pytest.mark.parametrize("width", [1280, 390])
def test_texts_stay_texts(visit, expect, width):
    page = visit(q=CODE, index="code", columns="sparse,feedback", width=width)
    settled(expect, page, "sparse", "feedback")
    expect(column(page).locator(".open").first).to_have_text(CODE)
    expect(column(page).locator(".snippet").first).to_have_text(f"heat {CODE} heat")
    # Marks after a character of two UTF-16 units are at the right place.
    assert "wing" in column(page).locator(".snippet mark").all_inner_texts()
    column(page).locator(".open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".text")).to_have_text(f"heat {CODE} heat")
    expect(dialog.locator("h2")).to_have_text(CODE)
    expect(dialog.locator(".metadata dt")).to_have_text(f"<b>{CODE}")
    expect(dialog.locator(".metadata dd")).to_have_text(CODE)
    assert not overflows(page)


def test_nested_metadata_lists_and_large_integers_are_shown(visit, expect):
    page = visit(q="pressure", index="code")
    settled(expect, page, "sparse")
    column(page).locator(".open").first.click()
    metadata = page.get_by_role("dialog").locator(".metadata")
    expect(metadata.locator("dt")).to_have_text(["by.name", "by.n", "tags", "sizes", "ok", "none"])
    values = ["N", str(2**53 + 1), "a, b", f"1, 2.5, {2**63 - 1}", "true", ""]
    expect(metadata.locator("dd")).to_have_text(values)


def test_errors_are_texts_in_their_place(visit, expect):
    page = visit(refused=[400])
    expect(page.locator(".start")).to_be_visible()
    page.route("**/search", lambda route: route.fulfill(status=400, json={"error": CODE}))
    page.get_by_label("Search", exact=True).fill("heat")
    expect(column(page, "hybrid").locator(".problem")).to_contain_text(CODE)
    expect(page.locator("#told")).to_contain_text(CODE)


# Keys, and a service that is busy.


def test_a_key_is_asked_for(visit, expect, locked):
    page = visit(locked, q="heat", refused=[401])
    dialog = page.get_by_role("dialog")
    field = dialog.get_by_label("Key")
    expect(field).to_be_focused()
    assert field.get_attribute("type") == "password"
    page.keyboard.press("Escape")
    expect(page.locator(".problem")).to_contain_text("a key is needed")
    page.get_by_role("button", name="Enter a key").click()
    field.fill("wrong")
    field.press("Enter")
    expect(dialog.locator(".error")).to_contain_text("not one of this service")
    field.fill(KEY)
    dialog.get_by_role("button", name="Use the key").click()
    settled(expect, page, "sparse")
    assert sorted(shown(page)) == ["a/b?c#<i>", "long"]
    expect(dialog).to_have_count(0)
    assert page.evaluate("Object.values(sessionStorage)") == [KEY]
    assert page.evaluate("[Object.values(localStorage).length, document.cookie]") == [0, ""]
    assert KEY not in page.url and KEY not in page.content()
    page.reload()
    settled(expect, page, "sparse")
    page.get_by_role("button", name="Forget the key").click()
    expect(dialog).to_be_visible()
    assert page.evaluate("Object.values(sessionStorage)") == []


def test_a_busy_service_is_asked_once_more(visit, expect):
    page = visit(refused=[429, 503], clock=True)
    expect(page.locator(".start")).to_be_visible()
    answers = [429, None, 503, 503]

    def busy(route):
        if status := answers.pop(0):
            headers = {"Retry-After": "2"}
            route.fulfill(status=status, headers=headers, json={"error": "the queue is full"})
        else:
            route.continue_()

    page.route("**/search", busy)
    field = page.get_by_label("Search", exact=True)
    field.fill("heat")
    field.press("Enter")
    notice = page.locator("#notice")
    expect(notice).to_have_text("the queue is full. Trying again in 2 s.")
    page.clock.run_for(1990)
    assert answers == [None, 503, 503]
    page.clock.run_for(20)
    expect(column(page, "hybrid").locator(".hit")).to_have_count(10)
    expect(notice).to_be_hidden()
    field.fill("flow")
    field.press("Enter")
    expect(notice).to_be_visible()
    page.clock.run_for(2010)
    expect(column(page, "hybrid").locator(".problem")).to_contain_text("the queue is full")
    assert answers == []
    page.unroute("**/search")
    page.get_by_role("button", name="Try again").click()
    expect(column(page, "hybrid").locator(".hit")).to_have_count(10)


# Appearance.


@pytest.mark.parametrize("columns", ["sparse", ALL])
def test_a_phone_needs_no_sideways_scrolling(visit, expect, columns):
    page = visit(q=QUERY, index="wings", columns=columns, width=390, scheme="dark")
    settled(expect, page, *columns.split(","))
    assert not overflows(page)
    page.locator("#terms summary").click()
    expect(weight(page, "heat")).to_be_visible()
    assert not overflows(page)
    boxes = [column(page, name).bounding_box() for name in columns.split(",")]
    assert len({box["x"] for box in boxes}) == 1
    column(page, columns.rpartition(",")[2]).locator(".open").first.click()
    expect(page.get_by_role("dialog").locator(".terms")).to_be_visible()
    assert not overflows(page)
    body = page.get_by_role("dialog").locator(".body")
    assert body.evaluate("one => one.scrollWidth <= one.clientWidth")


def test_a_long_word_does_not_widen_a_phone(visit, expect):
    page = visit(q="heat", index="code", width=390)
    settled(expect, page, "sparse")
    column(page).locator(".open", has_text="long").click()
    expect(page.get_by_role("dialog").locator(".text")).to_be_visible()
    assert not overflows(page)


# Texts whose contrast with their background is below 4.5.
CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = channels(getComputedStyle(each).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
    throw new Error("nothing behind");
  };
  const within = document.querySelector("dialog[open]") ?? document.body;
  const found = [];
  for (const element of within.querySelectorAll("*")) {
    const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!text || element.disabled || !element.checkVisibility()) continue;
    const both = [channels(getComputedStyle(element).color), behind(element)].map(luminance);
    const ratio = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    found.push([ratio, element.className, element.textContent.slice(0, 30)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_size(visit, expect, scheme):
    page = visit(q=QUERY, index="wings", columns=ALL, scheme=scheme)
    settled(expect, page, *ALL.split(","))
    expect(page.locator(".feedback-terms")).to_be_visible()
    weight(page, "heat").press("Home")
    expect(page.locator(".move").first).to_be_visible()
    settled(expect, page)
    seen = page.evaluate(CONTRAST)
    small = page.locator("button:visible:not(.open)").evaluate_all(
        "all => all.filter((one) => one.clientHeight < 38 || one.clientWidth < 38)"
        ".map((one) => one.textContent)"
    )
    column(page, "feedback").locator(".open").first.click()
    expect(page.get_by_role("dialog").locator(".terms")).to_be_visible()
    seen += page.evaluate(CONTRAST)
    assert len(seen) > 200
    assert [each for each in seen if each[0] < 4.5] == []
    assert small == []


def test_the_scheme_is_chosen_and_kept(visit, expect):
    page = visit(scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Dark colours").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Light colours").click()
    assert page.evaluate(ground) == light


def test_what_a_screen_reader_finds(visit, expect):
    page = visit(q=QUERY, index="wings", columns="sparse,hybrid")
    settled(expect, page, "sparse", "hybrid")
    for role, name in (
        ("banner", None),
        ("main", None),
        ("search", None),
        ("complementary", "Query terms"),
        ("group", "Rankings, side by side if several"),
        ("region", "Results"),
        ("region", "Sparse"),
        ("region", "Hybrid"),
        ("slider", "weight of heat"),
    ):
        expect(page.get_by_role(role, name=name, exact=True)).to_have_count(1)
    assert column(page).get_by_role("listitem").count() == 10
    assert column(page).get_by_role("heading", level=3).count() == 10


# Filters and facets.


def test_values_of_metadata_are_counted_and_picked(visit, expect, api):
    page = visit(q="heat", index="wings", columns="sparse,words")
    settled(expect, page, "sparse", "words")
    facets = page.get_by_role("complementary", name="Metadata")
    expect(facets.locator(".count")).to_have_text("200 documents")
    counted = api("search", query="heat", facets=["kind: 6", "year: 6"])["facets"]
    lists = facets.locator("section")
    expect(lists.locator("h3")).to_have_text([facet["key"] for facet in counted])
    for number, facet in enumerate(counted):
        told = [f"{of['value']}{of['documents']}" for of in facet["values"]]
        expect(lists.nth(number).locator("button")).to_have_text(told)
    kind = facets.get_by_role("button", name="k1", exact=False)
    kind.click()
    expect(page).to_have_url(re.compile(r"pick=%5B%22kind%22,%22k1%22%5D$"))
    found = api("search", query="heat", mode="words", filter="kind = k1", facets=["year: 6"])
    expect(facets.locator(".count")).to_have_text(f"{found['total']} documents")
    settled(expect, page, "sparse", "words")
    assert shown(page, "words") == ids(found)
    expect(kind).to_have_attribute("aria-pressed", "true")
    expect(kind).to_be_focused()
    year = found["facets"][0]["values"][0]["value"]
    facets.get_by_role("button", name=str(year), exact=False).first.click()
    both = api("search", query="heat", mode="words", filter=f"kind = k1 and year = {year}")
    expect(facets.locator(".count")).to_have_text(re.compile(f"^{both['total']} document"))
    settled(expect, page, "sparse", "words")
    assert shown(page, "words") == ids(both)
    page.go_back()
    expect(facets.locator(".count")).to_have_text(f"{found['total']} documents")
    kind.click()
    expect(facets.locator(".count")).to_have_text("200 documents")
    expect(page).to_have_url(re.compile("columns=words,sparse$"))


def test_a_filter_and_a_phrase_in_the_address(visit, expect, api):
    filters = {"filter": "year >= 1960 or kind = k2"}
    picks = {"pick": '["kind","k1"]'}
    asked = {"q": 'wing "heat flow"', "index": "wings", "columns": "words"}
    page = visit(refused=(400,), **asked, **filters, **picks)
    settled(expect, page, "words")
    expect(page.get_by_label("Filter")).to_have_value("year >= 1960 or kind = k2")
    found = api(
        "search",
        query='wing "heat flow"',
        mode="words",
        filter="(year >= 1960 or kind = k2) and kind = k1",
    )
    assert shown(page, "words") == ids(found) != []
    facets = page.get_by_role("complementary", name="Metadata")
    expect(facets.locator(".count")).to_have_text(re.compile(f"^{found['total']} document"))
    texts = [api("explain", query="heat", id=hit)["document"]["text"] for hit in ids(found)]
    assert all("heat flow" in text for text in texts)
    field = page.get_by_label("Filter")
    field.fill("nothing = 3")
    field.press("Enter")
    expect(column(page, "words").locator(".problem")).to_contain_text("under the key 'nothing'")
    field.fill("")
    field.press("Enter")
    settled(expect, page, "words")
    alone = api("search", query='wing "heat flow"', mode="words", filter="kind = k1")
    assert shown(page, "words") == ids(alone)


def test_odd_keys_and_values_are_picked(visit, expect, api):
    page = visit(q="heat pressure", index="code", columns="words")
    settled(expect, page, "words")
    # Each value is in one document alone, so none is listed: the address may still hold them.
    picks = [[f"<b>{CODE}", CODE], ["by.n", str(2**53 + 1)], ["ok", True], ["tags", "b"]]
    for key, value in picks:
        page = visit(
            q="heat pressure", index="code", columns="words", pick=json.dumps([key, value])
        )
        settled(expect, page, "words")
        assert shown(page, "words") == (["a/b?c#<i>"] if "<b>" in key else ["plain"])
    page = visit(q="heat pressure", index="code", columns="words", pick="[1, {}]")
    settled(expect, page, "words")
    assert len(shown(page, "words")) == 3


def test_hits_are_ordered_by_metadata(visit, expect, api):
    page = visit(q="heat", index="wings", columns="words")
    settled(expect, page, "words")
    page.get_by_label("Order").select_option("year, descending")
    expect(page).to_have_url(re.compile("sort=-year$"))
    found = api("search", query="heat", mode="words", sort=["-year"])
    settled(expect, page, "words")
    assert shown(page, "words") == ids(found)
    column(page, "words").get_by_role("button", name="More").click()
    expect(column(page, "words").locator(".hit")).to_have_count(20)
    assert shown(page, "words") == ids(
        api("search", query="heat", mode="words", sort=["-year"], k=20)
    )
    page.reload()
    settled(expect, page, "words")
    expect(page.get_by_label("Order")).to_have_value("-year")
    assert shown(page, "words") == ids(found)
    page.go_back()
    expect(page.get_by_label("Order")).to_have_value("")
