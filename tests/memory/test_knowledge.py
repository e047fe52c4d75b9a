"""Knowledge as the Memory port's in-process adapter: which passage comes first for a question."""

from __future__ import annotations

from textwrap import dedent

import numpy as np
import pytest

from admiralty.core.errors import NotFound
from admiralty.core.ports import Embedder, Memory
from admiralty.memory import HashingEmbedder, Knowledge

RULES = dedent("""\
    # Rules of the library

    The library lends books, films and tools to everybody who lives in the county.

    ## Membership card

    - A card is issued on the spot when you show a passport or driving licence.
    - A lost card is replaced for five dollars.

    ## Borrowing books

    - You may keep up to ten books for three weeks.
    - A loan can be renewed twice, unless somebody else has reserved the book.

    ## Borrowing tools

    - Power drills, saws and ladders are lent for three days to members over eighteen.
    - You sign for the safety instructions first.

    ## Late returns and fines

    - Each day late costs ten cents for a book and two dollars for a tool.
    - Fines over twenty dollars block the account until they are paid.

    ## Meeting rooms

    - Rooms are reserved online, at most two hours a day, and are free for non-profit groups.
    """)

HOURS = "Open from 9 to 17 on weekdays, from 10 to 14 on Saturdays. Closed on Sundays and public holidays."

QUESTIONS = [
    ("I lost my card, what does a new one cost?", "Membership card"),
    ("how many books may I keep", "Borrowing books"),
    ("can I renew a loan twice", "Borrowing books"),
    ("can my son of eighteen get a power drill", "Borrowing tools"),
    ("what is the fine for a book that is a day late", "Late returns and fines"),
    ("reserve a meeting room", "Meeting rooms"),
]
IN_OTHER_WORDS = [
    ("which identification do I need to sign up", "Membership card"),
    ("can I have my novel for another month", "Borrowing books"),
    ("a place for our club to gather in the evening", "Meeting rooms"),
    ("penalty when something comes back overdue", "Late returns and fines"),
]


async def _library(embedder: Embedder) -> Knowledge:
    return await Knowledge.build(
        embedder, {"library": {"rules.md": RULES, "hours.txt": HOURS}, "empty": {}, "blank": {"a.md": " \n"}}
    )


@pytest.mark.requirement("memory.search")
@pytest.mark.parametrize(("question", "section"), QUESTIONS)
async def test_the_section_that_answers_comes_first(embedder: Embedder, question: str, section: str) -> None:
    found = await (await _library(embedder)).search("library", question)
    assert found[0].heading == f"Rules of the library > {section}"


@pytest.mark.requirement("memory.search")
@pytest.mark.parametrize(("question", "section"), IN_OTHER_WORDS)
async def test_a_sentence_model_finds_what_is_said_in_other_words(
    sentence_transformer: Embedder, question: str, section: str
) -> None:
    found = await (await _library(sentence_transformer)).search("library", question)
    assert found[0].heading == f"Rules of the library > {section}"


@pytest.mark.requirement("memory.search")
async def test_passages_say_where_they_stand_and_how_near_they_are(embedder: Embedder) -> None:
    question = "closed on Sundays and public holidays"
    memory: Memory = await _library(embedder)
    first, *others = await memory.search("library", question, limit=3)
    assert len(others) == 2
    assert (first.source, first.heading, first.citation) == ("hours.txt", "", "[hours.txt]")
    assert HOURS[first.start : first.end] == first.text
    vectors = await memory.embed([question, f"\n{first.text}"])
    assert first.score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-4)
    assert all(-1.0 <= other.score < first.score for other in others)


@pytest.mark.requirement("memory.search")
@pytest.mark.parametrize(("limit", "found"), [(0, 0), (2, 2), (100, 7)])
async def test_as_many_passages_are_found_as_asked_for_and_there_are(limit: int, found: int) -> None:
    knowledge = await _library(HashingEmbedder())
    assert len(await knowledge.search("library", "books", limit=limit)) == found


@pytest.mark.requirement("memory.search")
@pytest.mark.parametrize("question", ["", "???", "\ud800", "zzzz qqqq", "x" * 100_000])
async def test_any_question_is_answered_with_passages(embedder: Embedder, question: str) -> None:
    found = await (await _library(embedder)).search("library", question)
    assert len(found) == 4
    assert all(np.isfinite(passage.score) for passage in found)


@pytest.mark.requirement("memory.search")
@pytest.mark.parametrize("corpus", ["empty", "blank"])
async def test_a_corpus_without_text_has_nothing_to_find(corpus: str) -> None:
    assert await (await _library(HashingEmbedder())).search(corpus, "books") == []


@pytest.mark.requirement("memory.search")
async def test_an_unknown_corpus_is_refused_with_the_known_ones() -> None:
    knowledge = await _library(HashingEmbedder())
    with pytest.raises(NotFound, match=r"'museum'.*blank, empty, library"):
        await knowledge.search("museum", "books")
