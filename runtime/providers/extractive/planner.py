"""Decides the next step of an agent: which tool to call, or what to say. Pure; the same call, the same step.

Works from a model call alone: the tools' schemas, the messages, the results in them. Knows no domain.
"""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import BaseMessage

from admiralty.runtime.providers.extractive import lexicon
from admiralty.runtime.providers.extractive.arguments import fill, target
from admiralty.runtime.providers.extractive.choice import candidates, choose, in_state, possible_for, refusal
from admiralty.runtime.providers.extractive.compose import (
    confirmation,
    done,
    failed,
    plain_result,
    policy_query,
)
from admiralty.runtime.providers.extractive.facts import Record, gather
from admiralty.runtime.providers.extractive.passages import rule_about
from admiralty.runtime.providers.extractive.phrases import about, otherwise, possible, verb_of
from admiralty.runtime.providers.extractive.questions import answer, inquiry
from admiralty.runtime.providers.extractive.requests import Goal, follow
from admiralty.runtime.providers.extractive.schema import Toolbox, ToolSpec
from admiralty.runtime.providers.extractive.text import clean, has_phrase
from admiralty.runtime.providers.extractive.transcript import Transcript, read_transcript
from admiralty.runtime.providers.extractive.world import Do, Say, Step, World

SURE_BESIDE = 0.75
"""Confidence from which an answer is given beside what a request came to."""
_ANYTHING_ELSE = "Is there anything else?"


def plan(messages: Sequence[BaseMessage], tools: Toolbox) -> Step:
    """Return the next step for an agent with ``tools`` after ``messages``."""
    transcript = read_transcript(messages)
    history = gather(transcript, tools)
    world = World(tools=tools, transcript=transcript, facts=history[-1])
    if step := _to_human(world):
        return step

    def blocked(goal: Goal, seen: int) -> bool:
        return refusal(goal, tools, history[min(seen, len(history) - 1)]) is not None

    goals = follow(transcript, tools, blocked)
    return _work(goals, world)


def _work(goals: Sequence[Goal], world: World) -> Step:
    """Go through the requests in order: tell what became of each, and work on the first open one."""
    now = len(world.transcript.turns) - 1
    if not any(goal.touched == now for goal in goals):  # a question in between, or a courtesy
        goals = ()
    parts: list[str] = []
    citations: tuple[str, ...] = ()
    confidence = 0.9
    for goal in goals:
        step = _report(goal, world, now) if not goal.is_open else _serve(goal, world, now)
        if step is None:
            continue
        if isinstance(step, Do):
            return step
        parts.append(otherwise(step.text, world) if goal.is_open else step.text)
        citations += step.citations
        confidence = min(confidence, step.confidence)
        if goal.is_open and not _is_refused(goal, world):
            return _with_answer(parts, citations, confidence, world, ends=False)
    return _with_answer(parts, citations, confidence, world, ends=True)


def _with_answer(
    parts: list[str], citations: tuple[str, ...], confidence: float, world: World, *, ends: bool
) -> Step:
    """Add the answer to what the message asked besides."""
    asked = inquiry(world.transcript, world.tools, only_questions=bool(parts))
    if parts and not asked:
        text = "\n\n".join([*parts, _ANYTHING_ELSE] if ends else parts)
        return Say(text=text, citations=citations, confidence=confidence)
    step = answer(asked, world)
    if isinstance(step, Do) or not parts:
        return step
    if step.confidence < SURE_BESIDE:  # better nothing than a guess beside what was done
        return Say(text="\n\n".join(parts), citations=citations, confidence=confidence)
    return Say(
        text="\n\n".join([step.text, *parts]),
        citations=(*step.citations, *citations),
        confidence=min(confidence, step.confidence),
    )


def _report(goal: Goal, world: World, now: int) -> Step | None:
    """Return what became of a request in the present turn."""
    if goal.touched != now:
        return None
    if goal.status == "declined":
        return Say(text=_dropped(goal, world), confidence=0.95)
    spec = world.tools.get(goal.call.name) if goal.call else None
    if spec is None or goal.call is None:
        return None
    if goal.status == "failed":
        return _with_rule(failed(spec, goal.call, world.facts), spec, world)
    return Say(text=done(spec, goal.call, world.facts), confidence=0.95)


def _dropped(goal: Goal, world: World) -> str:
    spec = world.tools.get(goal.call.name) if goal.call else None
    if spec and goal.call:
        return f"All right, nothing was changed: I will not {about(spec, goal.call, world.facts)}."
    return f"All right, nothing was changed; I drop the request to {goal.verb}."


def _serve(goal: Goal, world: World, now: int) -> Step | None:
    """Return the next step towards an open request; ``None`` where it was refused before."""
    specs = candidates(goal, world.tools)
    if not specs:
        return _elsewhere(goal, world)
    if goal.status == "asked" and goal.touched == now and goal.call:
        spec = world.tools.get(goal.call.name)
        return _ask_confirmation(spec, goal, world) if spec else None
    if goal.status == "confirmed" and goal.call:
        return Do(name=goal.call.name, arguments=goal.call.arguments)
    me = world.me()
    if isinstance(me, Do | Say):
        return me
    spec = choose(goal, specs, world.facts)
    alike = [spec] + [other for other in specs if other is not spec and _same_primary(other, spec)]
    record = target(goal, alike, me, world)
    if not isinstance(record, Record):
        return record
    actual = in_state(spec, record, world.tools)
    if actual is None:
        return _refuse(goal, spec, record, world)
    arguments = fill(goal, actual, record, world)
    if isinstance(arguments, Do | Say):
        return arguments
    step = Do(name=actual.name, arguments=arguments)
    if not world.can_call(step):
        return Say(text=f"I could not {verb_of(actual)} that.", confidence=0.3)
    return step


def _same_primary(left: ToolSpec, right: ToolSpec) -> bool:
    return bool(left.primary and right.primary and left.primary.kind == right.primary.kind)


def _ask_confirmation(spec: ToolSpec, goal: Goal, world: World) -> Step | None:
    if goal.call is None:
        return None
    if step := _look_up(policy_query(spec), world):
        return step
    text, citations = confirmation(spec, goal.call, world.facts)
    return Say(text=text, citations=citations, confidence=0.9)


def _refuse(goal: Goal, spec: ToolSpec, record: Record, world: World) -> Step | None:
    told = refusal(
        Goal(verb=goal.verb, texts=goal.texts, context=goal.context, target=record.id, turn=goal.turn),
        world.tools,
        world.facts,
    )
    if told is None or _was_told(told[0], world.transcript):
        return None
    text = told[0]
    if others := possible_for(record, world.tools):
        text += f" What I can do: {possible(others, world.tools, 'it')}."
    return _with_rule(text, spec, world)


def _was_told(text: str, transcript: Transcript) -> bool:
    return any(text in said for turn in transcript.turns for _, said in turn.answers)


def _is_refused(goal: Goal, world: World) -> bool:
    return refusal(goal, world.tools, world.facts) is not None


def _with_rule(text: str, spec: ToolSpec, world: World) -> Step:
    """Add the rule that stands behind a refusal, once it has been looked up."""
    query = policy_query(spec)
    if step := _look_up(query, world):
        return step
    rule, citation = rule_about(query, world.facts)
    if not citation:
        return Say(text=text, confidence=0.9)
    return Say(text=f"{text} {rule} {citation}", citations=(citation,), confidence=0.9)


def _look_up(query: str, world: World) -> Do | None:
    knowledge = world.tools.knowledge
    if knowledge is None or query in world.facts.passages:
        return None
    step = Do(name=knowledge.name, arguments={knowledge.required[0].name: query})
    return step if world.can_call(step) else None


# -- others who can help ----------------------------------------------------------------------------------


def _elsewhere(goal: Goal, world: World) -> Step | None:
    """Hand a request on that no tool here serves, or say so."""
    for spec in sorted(world.tools.handoffs, key=lambda spec: -_serves(goal, spec)):
        step = Do(
            name=spec.name, arguments={param.name: clean(goal.texts[0], 300) for param in spec.required}
        )
        if world.can_call(step):
            return step
    writes = world.tools.writes
    can = f" What I can do is: {possible(writes, world.tools)}." if writes else ""
    text = f"I cannot {goal.verb} that here.{can}"
    return None if _was_told(text, world.transcript) else Say(text=text, confidence=0.6)


def _serves(goal: Goal, spec: ToolSpec) -> int:
    return int(has_phrase(spec.description, [goal.verb])) + int(
        has_phrase(spec.description, ["change", "changes", "actions"])
    )


def _to_human(world: World) -> Step | None:
    """Bring a human in where the user asks for one."""
    current = world.transcript.current
    human = world.tools.human
    if not has_phrase(current.text, lexicon.HUMAN_WORDS):
        return None
    if human is None:
        handoff = next(iter(world.tools.handoffs), None)
        if handoff is None:
            return Say(text="I cannot bring a human in from here.", confidence=0.7)
        step = Do(name=handoff.name, arguments={param.name: "asks for a human" for param in handoff.required})
        return step if world.can_call(step) else None
    step = Do(name=human.name, arguments={param.name: _summary(world) for param in human.required})
    if world.can_call(step):
        return step
    made = [call for call in current.calls if call.name == human.name]
    if made and made[-1].status == "error":
        return Say(text=f"I could not hand you over: {clean(made[-1].error, 200)}", confidence=0.8)
    result = plain_result(made[-1].content) if made else ""
    return Say(text=f"I am handing you over to a human agent. {result}".strip(), confidence=0.95)


def _summary(world: World) -> str:
    said = " / ".join(clean(text, 160) for text in world.transcript.user_texts[-4:])
    known = ", ".join(f"{kind} {key}" for kind, key in world.facts.identified.items())
    return f"{known}: {said}" if known else said
