from __future__ import annotations

import time
from itertools import product

import pytest

from admiralty.core.errors import DefinitionError
from admiralty.core.ports import Embedder
from admiralty.memory import HashingEmbedder, IntentClassifier

EXAMPLES = {
    "status": [
        "where is my order",
        "has my parcel been shipped yet",
        "when will the package arrive",
        "track my delivery",
        "what is the status of order 4411",
        "my order still has not come",
    ],
    "cancel": [
        "cancel my order",
        "I want to cancel the lamp I bought",
        "I ordered by mistake, please cancel it",
        "stop the order, I no longer need it",
        "please call off my purchase",
        "can I still cancel",
    ],
    "return": [
        "I want to return the shoes",
        "how do I send this back",
        "return the jacket, it does not fit",
        "I would like to give the item back for a refund",
        "the vase arrived broken, I want to return it",
        "start a return for two items",
    ],
}
UNSEEN = [
    ("could you tell me where my order is", "status"),
    ("when does my package arrive", "status"),
    ("please cancel the order I made by mistake", "cancel"),
    ("cancel, I no longer need the lamp", "cancel"),
    ("I would like to return these shoes", "return"),
    ("I want to send the jacket back", "return"),
]


@pytest.mark.requirement("memory.classify")
@pytest.mark.parametrize(("text", "label"), UNSEEN)
async def test_a_text_gets_the_label_of_the_examples_that_it_resembles(
    embedder: Embedder, text: str, label: str
) -> None:
    classifier = await IntentClassifier.fit(embedder, EXAMPLES)
    assert (await classifier.predict(text)).label == label


@pytest.mark.requirement("memory.classify")
@pytest.mark.parametrize("text", ["where is my order", "the weather is fine", "", "cancel or return?"])
async def test_a_prediction_ranks_every_label_by_probability(embedder: Embedder, text: str) -> None:
    prediction = await (await IntentClassifier.fit(embedder, EXAMPLES)).predict(text)
    labels, probabilities = zip(*prediction.ranking, strict=True)
    assert sorted(labels) == sorted(EXAMPLES)
    assert list(probabilities) == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1.0)
    assert (prediction.label, prediction.confidence) == prediction.ranking[0]
    assert prediction.margin == pytest.approx(probabilities[0] - probabilities[1])


@pytest.mark.requirement("memory.classify")
async def test_a_clear_text_is_surer_than_one_between_two_labels(embedder: Embedder) -> None:
    classifier = await IntentClassifier.fit(embedder, EXAMPLES)
    clear = await classifier.predict("please cancel my order, I ordered it by mistake")
    torn = await classifier.predict("cancel or return, whichever works")
    assert clear.confidence > 0.7
    assert clear.margin > torn.margin


@pytest.mark.requirement("memory.classify")
async def test_a_label_with_many_examples_does_not_swallow_the_others() -> None:
    many = [
        f"{verb} {what}" for verb, what in product(["track", "where is", "find"], ["order", "parcel", "box"])
    ]
    examples = EXAMPLES | {
        "status": [*EXAMPLES["status"], *(f"{text} {n}" for text in many for n in range(9))]
    }
    classifier = await IntentClassifier.fit(HashingEmbedder(), examples)
    assert [(await classifier.predict(text)).label for text, _ in UNSEEN] == [label for _, label in UNSEEN]


@pytest.mark.requirement("memory.classify")
async def test_the_same_examples_give_the_same_classifier() -> None:
    first, second = [await IntentClassifier.fit(HashingEmbedder(), EXAMPLES) for _ in range(2)]
    assert await first.predict("where is it") == await second.predict("where is it")


async def test_fitting_a_few_hundred_examples_takes_no_noticeable_time() -> None:
    embedder = HashingEmbedder()
    examples = {f"{label} {copy}": texts for copy in range(8) for label, texts in EXAMPLES.items()}
    await embedder.embed([text for texts in examples.values() for text in texts])
    started = time.process_time()
    await IntentClassifier.fit(embedder, examples)
    assert time.process_time() - started < 5.0  # about 0.2 s; the rest is for busy machines


@pytest.mark.requirement("memory.classify")
@pytest.mark.parametrize(
    ("examples", "named"),
    [
        ({}, "at least two labels"),
        ({"only": ["one"]}, "at least two labels"),
        ({"a": ["text"], "b": []}, r"examples\['b'\]"),
        ({"a": ["text"], "b": "text"}, r"examples\['b'\]"),
    ],
)
async def test_examples_that_teach_nothing_are_refused(examples: dict[str, list[str]], named: str) -> None:
    with pytest.raises(DefinitionError, match=named):
        await IntentClassifier.fit(HashingEmbedder(), examples)
