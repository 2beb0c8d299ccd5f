"""Register, list and remove the texts that answers are compared with: what a model must not repeat word for word.

Fingerprints and names of documents are kept, no text. A running collector compares the next window with what is registered then.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from cutaway_collector.directories import private_directory, state_directory
from cutaway_collector.errors import SettingsError
from cutaway_collector.settings import Settings
from cutaway_collector.windows import corpora


def add_arguments(to: argparse.ArgumentParser, add_settings: Callable[[argparse.ArgumentParser], None]) -> None:
    """`corpus add`, `corpus list` and `corpus remove`, each with the settings that say where the collector keeps its state."""
    actions = to.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="register files as a corpus")
    add.add_argument("name", metavar="NAME", help="what it is called where an answer repeats it")
    add.add_argument("files", metavar="FILE", nargs="+", type=Path, help="a text in UTF-8, or .jsonl with a document a line")
    add.add_argument("--field", default="text", help="where a line of .jsonl has its text (default: text); `id` names the document")
    add.add_argument("--tenant", default="", help="whose answers are compared with it; left out, everybody's, who see its names")
    remove = actions.add_parser("remove", help="forget a corpus")
    remove.add_argument("name", metavar="NAME")
    for one in (add, actions.add_parser("list", help="names, documents, words and tenants"), remove):
        add_settings(one)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Does it, in the folder that a collector with the same settings looks into."""
    folder = state_directory(settings) / corpora.FOLDER
    if arguments.action == "add":
        for path in arguments.files:
            if path.is_dir():
                raise SettingsError(f"a corpus is made of files, {path} is a folder: name the files in it")
        private_directory(folder)
        texts = corpora.documents(arguments.files, arguments.field)
        print(_said(corpora.add(folder, arguments.name, texts, tenant=arguments.tenant)))
    elif arguments.action == "remove":
        corpora.remove(folder, arguments.name)
        print(f"removed {arguments.name}")
    else:
        found = corpora.listed(folder)
        for about in found:
            print(_said(about))
        if not found:
            print(f"no corpora in {folder}: `cutaway corpus add NAME FILE...` registers one")
    return 0


def _said(about: corpora.About) -> str:
    documents = "1 document" if about.documents == 1 else f"{about.documents} documents"
    whose = f"tenant {about.tenant}" if about.tenant else "every tenant"
    return f"{about.name}  {documents}  {about.words} words  {whose}  {about.created}"
