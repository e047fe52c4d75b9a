"""Policy: who may do what, decided by Cedar over a bundle of files, and recorded."""

from admiralty.runtime.policy.bundle import Bundle, load_bundle
from admiralty.runtime.policy.conversations import ConversationFacts
from admiralty.runtime.policy.engine import CedarPolicy
from admiralty.runtime.policy.gate import PolicyGate
from admiralty.runtime.policy.log import DecisionLog

__all__ = ["Bundle", "CedarPolicy", "ConversationFacts", "DecisionLog", "PolicyGate", "load_bundle"]
