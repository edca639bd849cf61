"""Commands that make, change and check an index."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsr.cli.arguments import CorpusArgument, IndexArgument, SkipBadOption
from lsr.cli.errors import user_errors
from lsr.cli.terminal import say

if TYPE_CHECKING:
    from lsr.building.build import Build
    from lsr.building.live import Live
    from lsr.corpus.corpus import Corpus


class DenseKind(StrEnum):
    """`lsr.indexes.approximate.Kind`, as a choice on the command line."""

    AUTO = "auto"
    FLAT = "flat"
    HNSW = "hnsw"
    IVF_PQ = "ivf-pq"


LanguageOption = Annotated[
    str,
    typer.Option(
        help="The language of the texts, whose words are stemmed: an ISO 639 code such as de, "
        "standard for words as they are written, or auto to detect it."
    ),
]


def index(
    corpus: CorpusArgument,
    out: Annotated[Path, typer.Option(help="The directory of the index.")],
    encoder: Annotated[
        str,
        typer.Option(
            help="What makes the learned terms: default (the trained model that ships), bm25 "
            "(nothing: words alone), grafted (BM25 in WordPieces and an untrained expansion), "
            "lexical (BM25 in WordPieces), the directory of a checkpoint, or its name on the "
            "Hugging Face hub."
        ),
    ] = "default",
    top_k: Annotated[
        int, typer.Option(min=1, help="The number of expansion terms that are kept of a document.")
    ] = 256,
    dense: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Add dense vectors, made by default (all-MiniLM-L6-v2) or by another "
            "sentence-transformers model, a directory or a hub name.",
        ),
    ] = None,
    dense_kind: Annotated[
        DenseKind,
        typer.Option(help="How faiss searches the dense vectors; auto decides by their number."),
    ] = DenseKind.AUTO,
    language: LanguageOption = "en",
    skip_bad: SkipBadOption = False,
) -> None:
    """Build an index of a corpus. A build that was killed goes on where it stopped."""
    from lsr.building.build import build_index
    from lsr.cli.display import progress_bar
    from lsr.corpus.corpus import open_corpus

    with user_errors():
        documents = open_corpus(corpus, skip_bad=skip_bad)
        with progress_bar() as progress:
            build = build_index(
                documents,
                out,
                encoder,
                top_k=top_k,
                dense=dense,
                dense_kind=dense_kind.value,
                language=language,
                progress=progress,
            )
    _report(build, documents, f"indexed into {out}")


def add(directory: IndexArgument, corpus: CorpusArgument, skip_bad: SkipBadOption = False) -> None:
    """Add documents to an index, or replace those of the same id, while searches go on."""
    from lsr.building.build import add_documents
    from lsr.cli.display import progress_bar
    from lsr.corpus.corpus import open_corpus

    with user_errors():
        documents = open_corpus(corpus, skip_bad=skip_bad)
        with progress_bar() as progress:
            build = add_documents(documents, directory, progress=progress)
    _report(build, documents, f"added to {directory}")


def delete(
    directory: IndexArgument,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="The ids of the documents.")
    ] = None,
    condition: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="EXPR",
            help="In place of ids: all documents that match, such as 'year < 1990'. contains(...) "
            "asks for synonyms too, where the index has some.",
        ),
    ] = None,
) -> None:
    """Delete documents by id or by filter, while searches go on.

    With an unknown id, none is deleted.
    """
    if bool(ids) == (condition is not None):
        raise typer.BadParameter("give ids of documents, or --filter")
    from lsr.building.build import delete_documents, delete_matching
    from lsr.building.synonyms import stored_synonyms
    from lsr.filter import Contains, conditions
    from lsr.filter_text import parse

    with_synonyms = False
    with user_errors():
        if condition is not None:
            parsed = parse(condition)
            n = delete_matching(directory, parsed)
            if any(
                isinstance(one, Contains) and one.match == "words" for one in conditions(parsed)
            ):
                with_synonyms = stored_synonyms(directory) is not None
        else:
            delete_documents(directory, ids or [])
            n = len(ids or [])
    if with_synonyms:
        say("notice: contains(...) asked for the synonyms of its words too", err=True)
    say(f"deleted {n:,} {'document' if n == 1 else 'documents'} from {directory}", err=True)


def metadata(
    directory: IndexArgument,
    doc_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The id of a document.")
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE...]",
            help="What to set. VALUE is JSON, or else a string: status=closed, year=2026, "
            '\'tags=["a", "b"]\'. KEY=null takes a key away.',
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="JSONL",
            help='In place of these: a file of lines {"id": …, "metadata": {…}}. With an unknown '
            "id, nothing is changed.",
        ),
    ] = None,
) -> None:
    """Change metadata of documents, while searches go on. Nothing is encoded anew.

    Keys that are not named stay as they are.
    """
    if (file is None) == (doc_id is None) or (doc_id is not None and not pairs):
        raise typer.BadParameter("give the id of a document and KEY=VALUE, or --file")
    from lsr.building.metadata import change_metadata
    from lsr.cli.display import progress_bar
    from lsr.corpus.records import read_changes
    from lsr.documents import change_of

    with user_errors():
        if file is not None:
            changes = read_changes(file)
        else:
            changes = [change_of(doc_id or "", _values(pairs or []))]
        with progress_bar() as progress:
            n = change_metadata(directory, changes, progress=progress)
    say(f"changed {n:,} {'document' if n == 1 else 'documents'} of {directory}", err=True)


def _values(pairs: list[str]) -> dict[str, object]:
    """Values by key from "KEY=VALUE", where VALUE is JSON or else a string."""
    values: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ValueError(f"a value of metadata must be KEY=VALUE, got {pair!r}")
        if key in values:
            raise ValueError(f"{key} is given twice")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return values


def merge(directory: IndexArgument) -> None:
    """Merge an index into one segment, which is searched fastest, once all documents are in it."""
    from lsr.building.build import merge_index
    from lsr.cli.display import progress_bar

    with user_errors(), progress_bar() as progress:
        n_documents = merge_index(directory, progress=progress)
    say(f"{n_documents:,} documents of {directory} are in one segment", err=True)


def upgrade(directory: IndexArgument, language: LanguageOption = "en") -> None:
    """Bring an index of an older version of lsr to this one. Nothing is encoded anew."""
    from lsr.building.upgrade import upgrade_index
    from lsr.cli.display import progress_bar

    with user_errors(), progress_bar() as progress:
        upgraded = upgrade_index(directory, language, progress=progress)
    if upgraded is None:
        say(f"{directory} has the format of this version already", err=True)
        return
    if upgraded.notice:
        say(upgraded.notice, err=True)
    say(f"{upgraded.n_documents:,} documents of {directory} upgraded", err=True)


def doctor(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="An index to check as well.")
    ] = None,
) -> None:
    """Show which Java is used and why, and check an index if one is given."""
    from lsr.indexes.jvm import anserini_jar, find_runtime, find_runtimes

    with user_errors():
        chosen = find_runtime()
        for runtime in find_runtimes():
            state = f"rejected: {runtime.rejected}" if runtime.rejected else "suitable"
            mark = "→" if runtime.home == chosen.home else " "
            say(
                f"{mark} Java {runtime.version} at {runtime.home} ({runtime.source}; "
                f"vector module: {'yes' if runtime.has_vector else 'no'}; {state})"
            )
        say(f"  Lucene from {anserini_jar()}")
        if directory is None:
            return
        problems = _check(directory)
    for problem in problems:
        say(problem)
    if problems:
        sys.exit(1)


def _check(directory: Path) -> list[str]:
    """Print what an index is, and find what is wrong with it."""
    from dataclasses import asdict

    from lsr.building.live import open_live
    from lsr.building.writer import capped

    with open_live(directory) as live:
        clean, report = live.index.check()
        say(f"{directory}: {live.index.n_docs:,} documents")
        for key, value in asdict(live.manifest).items():
            say(f"  {key}: {value}")
        for sentence in _truncation(live):
            say(f"  {sentence}")
        # An index from before impacts had a cap does not say it.
        if (n_capped := live.index.user_data.get("n_capped")) is not None:
            say(f"  {capped(int(n_capped), live.manifest.impact_scale)}")
        if live.index.synonyms:
            say(f"  synonyms: {_rules(live.index.synonyms)}")
        problems = [] if clean else [report]
        if live.dense:
            live.dense.check()
            say(
                f"  dense side: {live.manifest.dense}, {live.dense.kind}, {len(live.dense):,} "
                f"vectors of {live.dense.dimension} numbers, {live.dense.size_bytes / 1e6:,.1f} MB"
            )
            apart = sorted(set(live.index.matching()) ^ set(live.dense.ids))
            if apart:
                problems.append(
                    f"{len(apart)} documents are on one side only, such as {apart[0]!r}"
                )
            else:
                say("  both sides hold the same documents")
    if clean:
        say("  CheckIndex: clean")
    return problems


def _rules(rules: str) -> str:
    from lsr.building.synonym_rules import count_rules

    n = count_rules(rules)
    return "1 rule" if n == 1 else f"{n:,} rules"


def synonyms(
    directory: IndexArgument,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Rules in Solr's format: a line 'car, automobile' for words that stand for each "
            "other, and 'colour => color' for words that are replaced."
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the synonyms.")] = False,
) -> None:
    """Store synonyms, print or remove them; nothing is indexed anew.

    The words of queries have them, and so has contains(...) in filters, also of `lsr delete`.
    """
    if file and remove:
        raise typer.BadParameter("give FILE or --remove")
    from lsr.building.synonyms import change_synonyms, stored_synonyms

    with user_errors():
        if file:
            try:
                rules = file.read_text(encoding="utf-8-sig")
                notices = change_synonyms(directory, rules)
            except UnicodeDecodeError as error:
                raise ValueError(f"{file} is not UTF-8: {error}") from error
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
            for notice in notices:
                say(f"notice: {file}: {notice}", err=True)
            say(f"{_rules(rules)} stored with {directory}", err=True)
            return
        try:
            stored = stored_synonyms(directory)
        except ValueError:
            if not remove:
                raise
            change_synonyms(directory, None)
            say(f"the synonyms, which could not be read, removed from {directory}", err=True)
            return
        if stored is None:
            say(f"{directory} has no synonyms", err=True)
        elif remove:
            change_synonyms(directory, None)
            say(f"{_rules(stored)} removed from {directory}", err=True)
        else:
            typer.echo(stored, nl=not stored.endswith("\n"))


def _truncation(live: Live) -> list[str]:
    """Return sentences on the tokens of documents that the models of an index did not read."""
    from lsr.building.truncation import of_commit, sentences

    user_data = live.index.user_data
    found = of_commit(user_data)
    if not found and live.encoder.document_limit.tokens is not None:
        return ["how many documents are cut is not known: the index is older than this count"]
    told = sentences(found, live.manifest.encoder, live.manifest.dense, quiet=False)
    if told:
        counted = max(of.documents for of in found.values())
        if counted < int(user_data["n_documents"]):
            told.append("(documents that an older version of lsr added are not counted)")
        if counted > live.index.n_docs:
            told.append("(documents that were replaced or deleted since are counted too)")
    return told


def show_notices(build: Build) -> None:
    """Print on stderr what a build wants its caller to know."""
    for notice in build.notices:
        say(notice, err=True)


def _report(build: Build, corpus: Corpus, what: str) -> None:
    # A corpus is read more than once. Each bad line is printed once.
    bad_lines = sorted(set(corpus.bad_lines))
    for bad in bad_lines:
        say(f"skipped {bad.path}:{bad.line}: {bad.reason}", err=True)
    from lsr.building.build import IMPACT_SCALE
    from lsr.building.writer import capped

    show_notices(build)
    parts = [f"{build.n_documents:,} documents {what}"]
    if build.quantisation_loss:  # else there are no learned terms
        parts.append(f"encoded at {build.n_documents / build.encode_seconds:,.0f} documents/s")
        parts.append(f"quantisation loss {build.quantisation_loss:.2%}")
    if build.n_empty:
        parts.append(f"{build.n_empty} without a term (no query finds them)")
    if build.n_capped:
        parts.append(capped(build.n_capped, IMPACT_SCALE))
    if bad_lines:
        parts.append(f"{len(bad_lines)} bad lines were skipped")
    say("; ".join(parts), err=True)
