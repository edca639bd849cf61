"""Prints as JSON what Anserini's BM25 finds in an index: DIRECTORY K1 B K, and queries on stdin."""

import json
import os
import sys

os.environ.setdefault("OPENAI_API_KEY", "unused")


def main(folder, k1, b, k):
    from lsr.indexes import jvm

    def search():
        from pyserini.search.lucene import LuceneSearcher

        searcher = LuceneSearcher(folder)
        searcher.set_bm25(float(k1), float(b))
        hits = [searcher.search(query, int(k)) for query in json.load(sys.stdin)]
        return [[(hit.docid, hit.score) for hit in of_query] for of_query in hits]

    # Our VM is started first: pyserini's own needs a module that not every runtime has.
    jvm.call(jvm.engine_class)
    print(json.dumps(jvm.call(search)))


if __name__ == "__main__":
    main(*sys.argv[1:])
