"""Structured output without a model: an embedding classifier on examples, and rules for follow-ups.

A field of the output schema may say how it follows from another: ``"x-depends": {"intent":
{"cancel": "reasoning"}}``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from admiralty.core.ports import Embedder, Memory
from admiralty.core.values import ModelCall
from admiralty.memory.classifier import IntentClassifier, Prediction
from admiralty.runtime.providers.extractive.entities import says_only_who
from admiralty.runtime.providers.extractive.speech import says_no, split_requests
from admiralty.runtime.providers.extractive.spelling import corrected
from admiralty.runtime.providers.extractive.text import sentences, words
from admiralty.runtime.providers.extractive.transcript import text_of
from admiralty.tools.confirmation import is_affirmation

SURE = 0.1
"""Margin over the next label below which a message in a conversation stays with who answered last."""
_SHORT = 4
_ID = re.compile(r"\S*@\S+|#?\b[A-Za-z_]*\d{3,}\b")
Examples = Mapping[str, Mapping[str, Sequence[str]]]


class StructuredAnswers:
    """Fills output schemas. Classifiers are fitted once for each agent, at its first call."""

    def __init__(self, embedder: Embedder | Memory, examples: Examples) -> None:
        self._embedder = embedder
        self._examples = examples
        self._classifiers: dict[str, IntentClassifier] = {}
        self._lock = asyncio.Lock()

    async def answer(self, call: ModelCall) -> tuple[dict[str, Any], float]:
        """Return a value that fits ``call.output_schema``, and how sure the classification is, 0 to 1."""
        schema = call.output_schema or {}
        agent = call.caller.agent
        examples = self._examples.get(agent, {})
        fields = {name: _resolve(field, schema) for name, field in (schema.get("properties") or {}).items()}
        label_field = next(
            (name for name, field in fields.items() if set(_values(field)) & set(examples)), None
        )
        last = _last_agent(call.messages, agent)
        said = [text_of(message) for message in call.messages if isinstance(message, HumanMessage)]
        texts = [corrected(text) for text in said]
        chosen: dict[str, Any] = {}
        confidence = 0.0
        if label_field and len(examples) > 1 and texts:
            classifier = await self._classifier(agent, examples)
            prediction, stays = await _predict(classifier, texts, has_last=last is not None)
            confidence = prediction.confidence
            chosen[label_field] = prediction.label
            if stays and last:
                chosen |= {name: last for name, field in fields.items() if last in _values(field)}
        for name, field in fields.items():
            if name not in chosen:
                chosen[name] = _fill(name, field, chosen, confidence)
        return {name: chosen[name] for name in fields}, round(confidence, 3)

    async def _classifier(self, agent: str, examples: Mapping[str, Sequence[str]]) -> IntentClassifier:
        async with self._lock:
            if agent not in self._classifiers:
                embedder = cast("Embedder", self._embedder)  # of either, only embed() is used
                known = {label: [_without_ids(text) for text in texts] for label, texts in examples.items()}
                self._classifiers[agent] = await IntentClassifier.fit(embedder, known)
            return self._classifiers[agent]


async def _predict(
    classifier: IntentClassifier, texts: Sequence[str], *, has_last: bool
) -> tuple[Prediction, bool]:
    """Return what the conversation is about, and whether the last message only continues it."""
    bare = has_last and is_follow_up(texts[-1])
    for text in reversed(texts):
        if not is_follow_up(text) or text is texts[0]:
            prediction = await _of_message(classifier, text)
            if text is texts[-1] and has_last and not bare:
                unsure = prediction.margin < SURE and not split_requests(text)[0]
                bare = unsure or _is_short_answer(text)
            return prediction, bare
    return await _of_message(classifier, texts[-1]), bare


async def _of_message(classifier: IntentClassifier, text: str) -> Prediction:
    """Predict each sentence that says more than who is speaking, and keep the surest."""
    telling = [part for part in sentences(text) if not is_follow_up(part)] or [text]
    predictions = [await classifier.predict(_without_ids(part)) for part in telling]
    return max(predictions, key=lambda item: item.confidence)


def _without_ids(text: str) -> str:
    """Return ``text`` without ids and the like: which one is meant says nothing of what is wanted."""
    return _ID.sub("", text).strip() or text


def is_follow_up(text: str) -> bool:
    """Return whether a message says nothing without what went before: a yes, an id, an email, a name."""
    if is_affirmation(text) and len(words(text)) <= 2 * _SHORT:
        return True
    if says_no(text):
        return True
    requests, questions, _ = split_requests(text)
    if requests or questions:
        return False
    return says_only_who(text)


def _is_short_answer(text: str) -> bool:
    """Return whether a message is so short, asking nothing, that it answers what was asked before."""
    requests, questions, _ = split_requests(text)
    return not requests and not questions and len(words(text)) <= 2 * _SHORT


def _last_agent(messages: Sequence[BaseMessage], own: str) -> str | None:
    """Return who answered last in text, other than the agent itself."""
    for message in reversed(messages):
        if (
            isinstance(message, AIMessage)
            and message.name
            and message.name != own
            and text_of(message).strip()
        ):
            return message.name
    return None


def _resolve(field: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a field's schema with its reference or the non-null part of its union in place."""
    result = dict(field)
    for option in [*field.get("anyOf", ()), *field.get("allOf", ())]:
        if option.get("type") != "null":
            result = {**_resolve(option, schema), **result}
    if "$ref" in field:
        target = schema.get("$defs", {}).get(str(field["$ref"]).rsplit("/", 1)[-1], {})
        result = {**target, **result}
    return result


def _values(field: Mapping[str, Any]) -> list[str]:
    values = list(field.get("enum", ()))
    return [*values, field["const"]] if "const" in field else values


def _fill(name: str, field: Mapping[str, Any], chosen: Mapping[str, Any], confidence: float) -> Any:
    for other, mapping in (field.get("x-depends") or {}).items():
        if chosen.get(other) in mapping:
            return mapping[chosen[other]]
    if values := _values(field):
        return values[0]
    if "default" in field:
        return field["default"]
    if any(option.get("type") == "null" for option in field.get("anyOf", ())):
        return None
    kind = field.get("type")
    if kind in ("number", "integer"):
        return round(confidence, 3) if kind == "number" else 0
    return {"boolean": False, "array": [], "object": {}}.get(str(kind), f"{name}: by similarity to examples")
