"""Answers questions: from the user's own records, from the catalogue, from documents, or not at all."""

from __future__ import annotations

import re

from admiralty.runtime.providers.extractive import lexicon
from admiralty.runtime.providers.extractive.arguments import MOST_CHOICES
from admiralty.runtime.providers.extractive.catalogue import catalogue_answer
from admiralty.runtime.providers.extractive.entities import find_ids, find_person, says_only_who
from admiralty.runtime.providers.extractive.facts import Record, references
from admiralty.runtime.providers.extractive.lookups import lookup
from admiralty.runtime.providers.extractive.passages import from_documents, in_other_words
from admiralty.runtime.providers.extractive.phrases import otherwise, possible
from admiralty.runtime.providers.extractive.records import describe_records
from admiralty.runtime.providers.extractive.schema import Toolbox
from admiralty.runtime.providers.extractive.speech import (
    asks_about_acting,
    inquiries,
    is_question,
    is_small_talk,
    says_no,
    split_requests,
)
from admiralty.runtime.providers.extractive.text import has_phrase, humanize, listed, sentences, words
from admiralty.runtime.providers.extractive.transcript import Transcript
from admiralty.runtime.providers.extractive.world import Do, Say, Step, World
from admiralty.tools.confirmation import is_affirmation

_RULES = (
    "policy", "policies", "how long", "allowed", "what happens", "rules", "do you accept", "conditions",
    "terms", "possible to",
    "guarantee", "warranty", "deadline", "eligible", "how do i", "how can i", "how does",
    "how do returns", "do i have to",
    "do i need", "what do you need", "refund take", "days", "fee", "fees", "can customers",
    "can a customer", "can people",
    "what can you do", "which reasons", "valid reasons", "in which cases", "am i able to",
)  # fmt: skip
_ABILITIES = (
    "what can you do",
    "how can you help",
    "what do you do",
    "what are you able to",
    "can you help me",
)
_GREETING = re.compile(r"^\W*(hi|hello|hey|good (morning|afternoon|evening|day)|greetings)\b", re.IGNORECASE)


def inquiry(transcript: Transcript, tools: Toolbox, *, only_questions: bool = False) -> str:
    """Return what the present message asks to be told, with what it leaves unsaid taken from before.

    An answer to ``who are you?`` asks again what was asked before it. Empty if nothing is asked.
    With ``only_questions``, nothing but plain questions counts.
    """
    _, questions, rest = split_requests(transcript.current.text, tools.own_verbs)
    if questions:
        return " ".join(questions) + (f" . {rest}" if rest and not _is_identification(rest) else "")
    if only_questions:
        return ""
    told = " ".join(part for part in sentences(rest) if not says_only_who(part))
    if told and (_topics(told) or (_ids(told, tools) and not _is_identification(told))):
        return told
    if rest and _is_identification(rest):
        for turn in reversed(transcript.turns[:-1]):
            requests, questions, before = split_requests(turn.text, tools.own_verbs)
            if requests:
                return ""
            if questions or _topics(before):
                return f"{' '.join(questions) or before} . {rest if _ids(rest, tools) else ''}"
    return ""


def _ids(text: str, tools: Toolbox) -> bool:
    return any(find_ids(text, pattern) for pattern in tools.patterns.values())


def _topics(text: str) -> list[str]:
    return [topic for topic, said in lexicon.TOPICS.items() if has_phrase(text, said)]


def _is_identification(text: str) -> bool:
    """Return whether a message mainly says who someone is."""
    return "@" in text or find_person([text]) is not None or re.search(r"#|\b\d{5}\b", text) is not None


def answer(question: str, world: World) -> Step:
    """Return the answer to ``question``, part by part, or the call that it needs first."""
    if not question:
        return _without_question(world.transcript.current.text, world)
    if is_small_talk(question):
        return Say(text=_abilities(world, "Hello, I am fine! How can I help you?"), confidence=0.8)
    parts = inquiries(question)
    if len({_asks_records(part, world) for part in parts}) < 2:
        parts = [question]
    said: list[Say] = []
    for part in parts:
        step = _answer(part, world)
        if isinstance(step, Do):
            return step
        said.append(step)
    known = [step for step in said if step.confidence >= 0.5] or said[:1]
    return Say(
        text="\n\n".join(step.text for step in known),
        citations=tuple(citation for step in known for citation in step.citations),
        confidence=min(step.confidence for step in said),
    )


def _asks_records(question: str, world: World) -> bool:
    """Return whether a question is about the user's own records, rather than about what holds for all."""
    named = any(find_ids(question, pattern) for pattern in world.tools.patterns.values())
    return (named or _is_own(question, world)) and not _asks_rules(question, world)


def _asks_rules(question: str, world: World) -> bool:
    if "#" in question:
        return False
    return has_phrase(question, _RULES) or asks_about_acting(in_other_words(question), world.tools.own_verbs)


def _answer(question: str, world: World) -> Step:
    if _asks_rules(question, world) and world.tools.knowledge:
        step = _from_documents(question, world)
        if isinstance(step, Do) or step.confidence >= 0.5:
            return step
    named = any(find_ids(question, pattern) for pattern in world.tools.patterns.values())
    if (named or _is_own(question, world)) and world.tools.finders:
        return _from_records(question, world)
    if has_phrase(question, _ABILITIES):
        return Say(text=_abilities(world, "I am glad to help."), confidence=0.7)
    if found := _from_catalogue(question, world):
        return found
    if not world.tools.finders and (found := lookup(question, world)):
        return found
    return _from_documents(question, world)


def _from_documents(question: str, world: World) -> Step:
    return from_documents(question, world) or unknown(world)


def _is_own(question: str, world: World) -> bool:
    if has_phrase(question, lexicon.OWN_THINGS):
        return True
    about_me = bool(set(words(question)) & lexicon.OWN_WORDS) or has_phrase(
        question, ("the order", "that order", "it", "they", "the items")
    )
    return (
        about_me
        and bool(_topics(question))
        and (bool(world.facts.identified) or has_phrase(question, ("my",)))
    )


def _without_question(text: str, world: World) -> Step:
    said = set(words(text))
    if world.facts.identified and _is_identification(text):
        return Say(text=f"Thank you. {_abilities(world, 'How can I help you?')}", confidence=0.7)
    if said & lexicon.THANKS and len(said) <= 8:
        return Say(text="You are welcome. Have a good day!", confidence=0.9)
    if is_affirmation(text) and len(said) <= 6:
        start = "There is nothing at present that waits for your yes. What can I do for you?"
        return Say(text=_abilities(world, start), confidence=0.6)
    if says_no(text):
        return Say(text="All right. Have a good day!", confidence=0.8)
    if (_GREETING.match(text) and len(said) <= 8) or is_small_talk(text):
        return Say(text=_abilities(world, "Hello! How can I help you?"), confidence=0.9)
    if _is_identification(text) and world.tools.finders:
        me = world.me()
        if isinstance(me, Do | Say):
            return me
    return unknown(world)


def _abilities(world: World, start: str) -> str:
    own = {spec.finds for spec in world.tools.finders}
    kinds = [
        f"{humanize(spec.required[0].kind)}s" if spec.required[0].kind not in own else "your profile"
        for spec in world.tools.reads
        if len(spec.required) == 1 and spec.required[0].is_entity
    ]
    can = [f"look up {listed(kinds)}"] if kinds else []
    if world.tools.writes:
        can.append(possible(world.tools.writes, world.tools))
    return f"{start} I can {'; '.join(can)}." if can else start


def unknown(world: World) -> Say:
    """Return the honest answer to what was not understood or is not known."""
    if has_phrase(world.transcript.current.text, lexicon.COMPLAINTS):
        start = "I am sorry that this has been a trouble to you. Please tell me what went wrong."
        human = " Or ask for a human, and I hand you over." if world.tools.human else ""
        return Say(text=otherwise(_abilities(world, start) + human, world), confidence=0.4)
    start = "I am sorry, I do not know that, or I did not understand it. Please put it in other words."
    return Say(text=otherwise(_abilities(world, start), world), confidence=0.2)


# -- the user's own records --------------------------------------------------------------


def _from_records(question: str, world: World) -> Step:
    me = world.me()
    if isinstance(me, Do | Say):
        return me
    if me is None:
        return unknown(world)
    me_now = world.read(me.kind, me.id, fresh=True)
    if isinstance(me_now, Do):
        return me_now
    me = me_now if isinstance(me_now, Record) else me
    records: list[Record] = []
    problems: list[str] = []
    for kind, key, is_named in _wanted(question, me, world):
        found = world.read(kind, key, fresh=is_named)
        if isinstance(found, Do):
            return found
        if isinstance(found, Record):
            records.append(found)
        else:
            problems.append(found.text)
    text = describe_records(question, me, records, named=_named_ids(question, world))
    return Say(text="\n".join([*problems, *([text] if text else [])]) or unknown(world).text, confidence=0.85)


def _named_ids(question: str, world: World) -> list[tuple[str, str]]:
    found = []
    for kind, pattern in world.tools.patterns.items():
        if world.tools.detail_of(kind) and kind not in world.facts.identified:
            found += [(kind, key) for key, _ in find_ids(question, pattern)]
    return found


def _wanted(question: str, me: Record, world: World) -> list[tuple[str, str, bool]]:
    """Return the records to read: those named, those spoken of before, or else all that the user has."""
    if named := _named_ids(question, world):
        return [(kind, key, True) for kind, key in named]
    if _is_about_profile(question):
        return []
    if has_phrase(question, ("it", "this order", "that order", "the order", "they", "them")):
        for turn in reversed(world.transcript.turns[:-1]):
            if earlier := _named_ids(turn.text, world):
                return [(*earlier[-1], True)]
    result: list[tuple[str, str, bool]] = []
    for spec in world.tools.reads:
        primary = spec.primary
        if primary and primary.kind != me.kind:
            result += [(primary.kind, key, False) for key in references(me.data, primary.kind)]
    return result[:MOST_CHOICES]


def _is_about_profile(question: str) -> bool:
    if has_phrase(
        question,
        (
            "balance",
            "my email",
            "my profile",
            "my account",
            "payment methods",
            "my default",
            "on file",
            "my name",
            "my zip",
            "on my gift card",
        ),
    ):
        return True
    return has_phrase(question, ("my address", "my home address", "my payment")) and not has_phrase(
        question, ("order", "package")
    )


# -- the catalogue and the documents -----------------------------------------------------


def _from_catalogue(question: str, world: World) -> Step | None:
    """Return an answer about what there is in general; ``None`` if the question names nothing of it."""
    listing = world.tools.listing
    if listing is None or not (is_question(question) or _topics(question)):
        return None
    if not world.facts.listing:
        step = Do(name=listing.name, arguments={})
        if world.can_call(step):
            return step
    return catalogue_answer(question, world)
