"""``ask_person``: an agent's own question to a person, whose answer is the tool's result.

Nothing is decided here: the run waits, as for any call that a person must allow.
"""

from __future__ import annotations

from admiralty.core.errors import ApprovalRequired
from admiralty.tools.context import ToolContext
from admiralty.tools.tool import ToolError, tool

MAX_QUESTION = 4000


@tool(effect="read")
def ask_person(question: str, ctx: ToolContext) -> str:
    """Ask a person of the team, and wait for the answer: for what you may not decide or cannot know.

    It may take hours. Ask once, with all that the person needs to answer: they see nothing else.

    Args:
        question: The question in plain words, with the facts that it depends on.
    """
    asked = question.strip()
    if not asked or len(asked) > MAX_QUESTION:
        raise ToolError(f"Ask a question of at most {MAX_QUESTION} characters.")
    if not ctx.approved or ctx.approval is None:
        raise ApprovalRequired(asked, kind="agent")
    return ctx.approval.reason or "Yes."
