"""cutaway's collector: OTLP in, scores, ClickHouse or embedded chDB, and the trace-search UI.

    receive -> decode -> spool -> batch -> score -> store -> search -> web

Nouns (columns, blocks, settings, errors, contracts) are imported by the verbs named above; verbs never import each other;
`pipeline` and `web` run them in order; `app` chooses which ones, once.
"""
