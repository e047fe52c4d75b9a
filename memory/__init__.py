"""Memory: embeddings, passages of documents and their index, and a classifier on embeddings.

Above: agents (types only) and the runtime. Below: core. Heavy libraries (torch, FAISS) are
imported when something that needs them is built, never with the package.
"""

from admiralty.memory.classifier import IntentClassifier, Prediction
from admiralty.memory.embedders import (
    HashingEmbedder,
    MiniLMEmbedder,
    SentenceTransformerEmbedder,
    open_embedder,
)
from admiralty.memory.index import VectorIndex, open_index
from admiralty.memory.knowledge import Knowledge
from admiralty.memory.passages import split_passages

__all__ = [
    "HashingEmbedder",
    "IntentClassifier",
    "Knowledge",
    "MiniLMEmbedder",
    "Prediction",
    "SentenceTransformerEmbedder",
    "VectorIndex",
    "open_embedder",
    "open_index",
    "split_passages",
]
