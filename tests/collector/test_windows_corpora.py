"""Registered corpora and what is found of them in answers, against brute force over the words themselves."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import window_helpers as made
from cutaway_collector.cli import main
from cutaway_collector.errors import SettingsError
from cutaway_collector.windows import Answer, corpora, window_scores
from cutaway_collector.windows.answers import words
from cutaway_collector.windows.memory import PLACES_MAX, RUN_SEEN, RUN_WORDS, SHINGLE, WINDOW, Match, longest_run


def _text(seed: int, count: int, *, vocabulary: int = 3000) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(vocabulary)}" for _ in range(count)]


def _longest_common_run(a: list[str], b: list[str]) -> int:
    """Words of the longest common substring, by the textbook's table."""
    best, row = 0, [0] * (len(b) + 1)
    for word in a:
        row = [0, *(row[place] + 1 if word == other else 0 for place, other in enumerate(b))]
        best = max(best, *row)
    return best


@pytest.mark.parametrize("seed", range(40))
def test_a_run_is_as_long_as_brute_force_says_within_its_bound(tmp_path: Path, seed: int) -> None:
    """A passage of any length at any place: seen from RUN_SEEN words on, never too long, never too short by more."""
    rng = random.Random(seed)
    document, answer = _text(seed, 400), _text(seed + 1000, 200)
    length, there, here = rng.randrange(1, 80), rng.randrange(300), rng.randrange(120)
    answer[here : here + length] = document[there : there + length]
    corpora.add(tmp_path, "c", [("other", " ".join(_text(seed + 2000, 300))), ("mine", " ".join(document))])
    found = longest_run(" ".join(answer), corpora.load(tmp_path)[0])
    true = _longest_common_run(answer, document)
    assert found is not None or true < RUN_SEEN
    if found is not None:
        assert true - 2 * (WINDOW - 1) <= found.words <= true
        assert found.document == "mine"
        assert there <= found.position <= there + 2 * (WINDOW - 1)


def test_common_phrases_are_no_memory(tmp_path: Path) -> None:
    """Answers and a corpus made of the same sentences' parts share phrases, and no long run."""
    corpora.add(tmp_path, "c", [("poems", ". ".join(made.healthy(300, seed=77)))])
    scores = {score.name: score for score in window_scores(made.answers(made.healthy(60)), corpora=corpora.load(tmp_path))}
    assert scores["memorised_share"].value == 0
    assert scores["memorised_share"].label == ""
    assert scores["memorised_words"].value < RUN_WORDS


def test_a_memorised_passage_is_named(tmp_path: Path) -> None:
    """Share, label, example and document; the case and punctuation of the copy do not hide it."""
    document = made.healthy(1, seed=5, sentences=30)[0]
    corpora.add(tmp_path, "poems", [("first.txt", "nothing to see here " * 5), ("second.txt", document)])
    texts = made.healthy(20)
    texts[4] = texts[4] + " -- " + ", ".join(document.split()[40:80]).upper()
    scores = {score.name: score for score in window_scores(made.answers(texts), corpora=corpora.load(tmp_path))}
    assert scores["memorised_share"].value == pytest.approx(1 / 20)
    assert scores["memorised_share"].label == "memorised"
    assert scores["memorised_share"].examples == (f"{4:032x}",)
    assert "second.txt in the corpus poems" in scores["memorised_words"].explanation
    assert 34 <= scores["memorised_words"].value <= len(words(" ".join(document.split()[40:80])))


def test_without_a_corpus_or_a_text_nothing_is_said_of_memory(tmp_path: Path) -> None:
    """Not a zero: nobody looked."""
    corpora.add(tmp_path, "c", [("d", " ".join(_text(1, 50)))])
    named = {score.name for score in window_scores([Answer("1")], corpora=corpora.load(tmp_path))}
    assert not named & {"memorised_share", "memorised_words"}
    assert not {score.name for score in window_scores(made.answers(made.healthy(9)))} & {"memorised_share", "memorised_words"}


def test_a_passage_of_every_document_is_found(tmp_path: Path) -> None:
    """What a corpus repeats is what a model memorises first: found however often it stands, in one of its documents."""
    passage = _text(1, 60)
    corpora.add(tmp_path, "c", [(str(number), " ".join([*passage, *_text(number + 50, 40)])) for number in range(PLACES_MAX + 40)])
    found = longest_run(" ".join(passage), corpora.load(tmp_path)[0])
    assert found is not None
    assert 60 - 2 * (WINDOW - 1) <= found.words <= 60


def test_a_corpus_is_kept_without_its_text(tmp_path: Path) -> None:
    """Fingerprints and names: none of the words is in any file."""
    corpora.add(tmp_path, "c", [("d", " ".join(f"secretword{number}" for number in range(50)))])
    assert not any(b"secretword" in path.read_bytes() for path in (tmp_path / "c").iterdir())
    assert (tmp_path / "c").stat().st_mode & 0o077 == 0


def test_texts_and_json_lines_are_documents(tmp_path: Path) -> None:
    """A file is one document; a line of .jsonl is one, named by its id or its number."""
    (tmp_path / "a.txt").write_text("one two three")
    lines = [{"id": "x9", "body": "hello"}, {"body": "again"}]
    (tmp_path / "b.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    found = list(corpora.documents([tmp_path / "a.txt", tmp_path / "b.jsonl"], "body"))
    assert found == [("a.txt", "one two three"), ("x9", "hello"), ("b.jsonl:3", "again")]


@pytest.mark.parametrize("line", ["{", "[]", '"text"', '{"body": 3}', "{}"])
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str) -> None:
    """The file, the number of the line and the way out; not its content."""
    (tmp_path / "b.jsonl").write_text('{"body": "fine"}\n' + line)
    with pytest.raises(SettingsError, match=r"b\.jsonl.*line 2.*--field"):
        list(corpora.documents([tmp_path / "b.jsonl"], "body"))


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "x" * 65, "a b"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    """Neither to add nor to remove."""
    with pytest.raises(SettingsError):
        corpora.add(tmp_path, name, [("d", " ".join(_text(1, 50)))])
    with pytest.raises(SettingsError):
        corpora.remove(tmp_path, name)


def test_a_name_that_a_command_line_takes_for_an_option_is_refused(tmp_path: Path) -> None:
    """With a name that would do; one that was registered before there was this rule can be removed behind --."""
    with pytest.raises(SettingsError, match="name it 'x'"):
        corpora.add(tmp_path, "-x", [("d", " ".join(_text(1, 50)))])
    corpora.add(tmp_path, "x", [("d", " ".join(_text(1, 50)))])
    (tmp_path / "x").rename(tmp_path / "-x")
    corpora.remove(tmp_path, "-x")
    assert corpora.listed(tmp_path) == []


def test_what_cannot_be_a_corpus_leaves_nothing(tmp_path: Path) -> None:
    """Too short, taken, or broken off in the middle: an error, and the folder as it was."""
    corpora.add(tmp_path, "c", [("d", " ".join(_text(1, 50)))])
    with pytest.raises(SettingsError, match="8 words"):
        corpora.add(tmp_path, "short", [("d", " ".join(_text(1, SHINGLE - 1)))])
    with pytest.raises(SettingsError, match="corpus remove c"):
        corpora.add(tmp_path, "c", [("d", " ".join(_text(1, 50)))])
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_damaged_corpus_is_named(tmp_path: Path) -> None:
    """Which one, and what to do; not a crash."""
    corpora.add(tmp_path, "c", [("d", " ".join(_text(1, 50)))])
    (tmp_path / "c" / "hashes.npy").write_bytes(b"x")
    with pytest.raises(SettingsError, match="remove it and add it again"):
        corpora.load(tmp_path)


def test_the_command_adds_lists_and_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`cutaway corpus` from a file to a found run and back; a tenant's corpus is for that tenant."""
    source, data = tmp_path / "book.txt", tmp_path / "data"
    source.write_text(" ".join(_text(1, 500)))
    assert main(["corpus", "add", "book", str(source), "--tenant", "acme", "--data", str(data)]) == 0
    assert main(["corpus", "list", "--data", str(data)]) == 0
    assert "book  1 document  500 words  tenant acme" in capsys.readouterr().out
    (index,) = corpora.load(data / corpora.FOLDER)
    assert index.tenant == "acme"
    assert isinstance(longest_run(" ".join(_text(1, 500)[100:200]), index), Match)
    assert main(["corpus", "remove", "book", "--data", str(data)]) == 0
    assert main(["corpus", "list", "--data", str(data)]) == 0
    assert "cutaway corpus add" in capsys.readouterr().out
    assert corpora.load(data / corpora.FOLDER) == []


def test_the_command_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there, a folder, an unknown corpus: exit 2 and one line on stderr."""
    data = ["--data", str(tmp_path / "data")]
    assert main(["corpus", "add", "x", str(tmp_path / "none.txt"), *data]) == 2
    assert main(["corpus", "add", "x", str(tmp_path), *data]) == 2
    assert main(["corpus", "remove", "x", *data]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_a_damaged_corpus_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    """What can be read is still compared with: one bad disk block must not blind every other corpus."""
    for name in ("a", "b", "c"):
        corpora.add(tmp_path, name, [("d", " ".join(_text(1, 50)))])
    (tmp_path / "b" / "hashes.npy").write_bytes(b"x")
    failed: list[SettingsError] = []
    assert ["a", "c"] == [index.name for index in corpora.load(tmp_path, on_failure=failed.append)]
    (error,) = failed
    assert f"the corpus {tmp_path / 'b'} cannot be read" in str(error)
