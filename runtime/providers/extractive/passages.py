"""Answers from passages of documents: the sentences that say most on a question, each with its citation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from admiralty.runtime.providers.extractive import lexicon
from admiralty.runtime.providers.extractive.facts import Facts, Json
from admiralty.runtime.providers.extractive.schema import ToolSpec
from admiralty.runtime.providers.extractive.speech import asks_about_acting, inquiries
from admiralty.runtime.providers.extractive.text import clean, has_phrase, sentences, singular, words
from admiralty.runtime.providers.extractive.world import Do, Say, Step, World

RELEVANT = 0.34
"""Share of a question's telling words that a passage must have to count as an answer."""

_COMMON = frozenset({
    "the", "a", "an", "of", "to", "and", "or", "is", "in", "on", "for", "be", "will", "it", "this", "that",
    "your", "you", "i", "my", "with", "by", "at", "as", "not", "can", "do", "does", "are", "if", "how",
    "what", "when", "which", "any", "there", "their", "they", "user", "users",
})  # fmt: skip
"""Words that tell nothing of what a text is about."""
_EXPECTED = (
    (
        ("how long", "how many days", "how soon", "how fast", "when do", "when will", "deadline", "days"),
        re.compile(r"\b(?:days?|weeks?|hours?|months?|at once|immediately)\b"),
    ),
    (("how much", "fee", "fees", "cost"), re.compile(r"[$€£%]|\b(?:free|fee)\b")),
    (("where", "to which", "how do i get"), re.compile(r"\b(?:goes|go|sent|paid) (?:back )?to\b")),
    (("why",), re.compile(r"\b(?:because|so that|needed|in order to)\b")),
)
"""What an answer has in it, by what the question asks for."""


def rule_about(query: str, facts: Facts, spec: ToolSpec | None = None) -> tuple[str, str]:
    """Return the sentences of the found passages that say most on ``query``, and their citation."""
    passages = facts.passages.get(query, ())
    state = spec.words if spec else ()
    best: tuple[float, str, str] = (0.0, "", "")
    for rank, passage in enumerate(passages):
        heading = words(str(passage.get("heading", "")))
        for sentence in passage_sentences(str(passage.get("text", ""))):
            found = set(_stems(sentence))
            score = len(found & set(_stems(query))) + 0.5 * len(
                set(_stems(" ".join(heading))) & set(_stems(query))
            )
            score += 1.5 * ("confirmation" in words(sentence) or "refund" in words(sentence)) if spec else 0
            score += 0.1 * len(found & set(state)) - 0.3 * rank
            if score > best[0]:
                best = (score, sentence, citation_of(passage))
    return clean(best[1], 400), best[2]


def passage_sentences(text: str) -> list[str]:
    """Return a passage's sentences without list marks and headings."""
    lines = [re.sub(r"^\s*(?:[-*+]|\d+[.)])\s+", "", line) for line in text.splitlines()]
    kept = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return [sentence for sentence in sentences("\n".join(kept)) if len(words(sentence)) > 3]


def citation_of(passage: Json) -> str:
    """Return how to cite a passage; may be empty."""
    if passage.get("citation"):
        return clean(passage["citation"])
    source = passage.get("source")
    return f"[{clean(source)}]" if source else ""


def _stems(text: str) -> list[str]:
    return [_stem(word) for word in words(text) if word not in _COMMON]


def _stem(word: str) -> str:
    word = singular(word)
    for ending in ("ation", "ing", "led", "ed", "ment", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word


def from_documents(question: str, world: World) -> Step | None:
    """Return the sentences that answer ``question``, the search that finds them, or ``None``."""
    knowledge = world.tools.knowledge
    if knowledge is None:
        return None
    asked = _with_what_it_means(question, world)
    query = clean(asked, 300)
    if query not in world.facts.passages:
        step = Do(name=knowledge.name, arguments={knowledge.required[0].name: query})
        return step if world.can_call(step) else None
    passages = world.facts.passages[query]
    best: list[_Scored] = []
    for part in inquiries(asked):
        found = _best_sentences(part, asked, passages, world.tools.own_verbs)
        best += [item for item in found if item.sentence not in [other.sentence for other in best]]
    if not best:
        return None
    citations = tuple(dict.fromkeys(item.citation for item in best if item.citation))
    confidence = min(0.9, 0.4 + max(item.score for item in best) / 2)
    return Say(text=_quoted(best), citations=citations, confidence=confidence)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scored:
    score: float
    place: int
    sentence: str
    citation: str


def _best_sentences(part: str, whole: str, passages: Sequence[Json], verbs: tuple[str, ...]) -> list[_Scored]:
    asked = set(_stems(in_other_words(part)))
    around = set(_stems(in_other_words(whole))) - asked
    texts = [f"{passage.get('heading', '')} {passage.get('text', '')}" for passage in passages]
    if asks_about_acting(in_other_words(part), verbs):  # what is told around it is in no document
        asked &= {stem for text in texts for stem in _stems(text)}
    expected = [pattern for said, pattern in _EXPECTED if has_phrase(part, said)]
    scored: list[_Scored] = []
    for rank, passage in enumerate(passages):
        heading = str(passage.get("heading", "")).rsplit(" > ", 1)[-1]
        for sentence in passage_sentences(str(passage.get("text", ""))):
            own, both = set(_stems(sentence)), set(_stems(f"{heading} {sentence}"))
            score = _share(asked, both) + 0.2 * _share(asked, own) - 0.05 * rank
            score += 0.15 * _share(around, both)
            score += (
                0.35 * any(pattern.search(sentence) for pattern in expected) if score > RELEVANT / 2 else 0
            )
            scored.append(
                _Scored(
                    score=score,
                    place=len(scored),
                    sentence=clean(sentence, 400),
                    citation=citation_of(passage),
                )
            )
    scored.sort(key=lambda item: (-item.score, item.place))
    if not asked or not scored or scored[0].score < RELEVANT:
        return []
    return [item for item in scored[:3] if item.score >= max(RELEVANT, 0.75 * scored[0].score)]


def _share(asked: set[str], found: set[str]) -> float:
    return len(asked & found) / len(asked) if asked else 0.0


def in_other_words(question: str) -> str:
    """Return a question with everyday phrases in the words that documents use."""
    for meaning, said in lexicon.MEANINGS.items():
        question = re.sub(rf"\b(?:{said})\b", meaning, question, flags=re.IGNORECASE)
    return question


def _with_what_it_means(question: str, world: World) -> str:
    """Add what was said last to a question that only points at it: ``why do you need that?``."""
    if len(_stems(question)) > 2 or not has_phrase(question, ("that", "this", "it", "so")):
        return question
    answers = [text for turn in world.transcript.turns[:-1] for _, text in turn.answers]
    return f"{question} {sentences(answers[-1])[-1]}" if answers else question


def _quoted(best: Sequence[_Scored]) -> str:
    """Let sentences of one passage share its citation, in the order in which they stand there."""
    lines = []
    for citation in dict.fromkeys(item.citation for item in best):
        of_one = sorted((item for item in best if item.citation == citation), key=lambda item: item.place)
        lines.append(f"{' '.join(item.sentence for item in of_one)} {citation}".strip())
    return " ".join(lines)
