from __future__ import annotations

import re
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admiralty.memory import split_passages
from admiralty.memory.passages import LONGEST, SHORTEST

_words = st.text(alphabet="abc defg. é", min_size=1, max_size=40)
_body = st.one_of(
    st.sampled_from(["", "", "  ", "```", "~~~", "    indented", "| a | b |"]),
    st.builds(lambda text: f"- {text}", _words),
    st.builds(lambda text, times: text * times, _words, st.integers(1, 60)),
)
_heading = st.one_of(
    st.builds(lambda level, title: f"{'#' * level} {title}", st.integers(1, 6), _words),
    st.sampled_from(["#", "\nTitle\n====="]),
)
_odd = st.sampled_from(["---", "===", "#######", "#nothing", "> # quoted"])


def _documents(*kinds: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lines = st.lists(st.one_of(*kinds), max_size=25)
    return st.builds(lambda found, end: end.join(found), lines, st.sampled_from(["\n", "\r\n"]))


@pytest.mark.requirement("memory.passages")
@given(_documents(_body, _heading, _odd))
def test_a_passage_is_the_text_between_its_offsets(text: str) -> None:
    end = 0
    for passage in split_passages("doc.md", text):
        assert text[passage.start : passage.end] == passage.text
        assert passage.text == passage.text.strip() != ""
        assert passage.start >= end
        assert len(passage.text) <= LONGEST + SHORTEST
        end = passage.end


@pytest.mark.requirement("memory.passages")
@given(_documents(_body, _heading))
def test_nothing_but_headings_and_blanks_is_left_out(text: str) -> None:
    left, at = "", 0
    for passage in split_passages("doc.md", text):
        left += text[at : passage.start] + "\n"
        at = passage.end
    left += text[at:]
    for line in filter(str.strip, left.splitlines()):
        assert line.startswith("#") or line in ("Title", "=====")


@pytest.mark.requirement("memory.passages")
def test_passages_carry_the_headings_above_them() -> None:
    text = dedent("""\
        Before any heading.

        # Library
        General words.

        ## Loans ##
        Three weeks.

        ### Renewals
        Twice at most.

        Fees
        ----
        Ten cents a day.
        """)
    assert [(found.heading, found.text) for found in split_passages("rules.md", text)] == [
        ("", "Before any heading."),
        ("Library", "General words."),
        ("Library > Loans", "Three weeks."),
        ("Library > Loans > Renewals", "Twice at most."),
        ("Library > Fees", "Ten cents a day."),
    ]


@pytest.mark.requirement("memory.passages")
def test_a_heading_inside_a_code_block_is_no_heading() -> None:
    text = "# Setup\n\n```sh\n# install it\n\npip install admiralty\n```\n"
    (passage,) = split_passages("setup.md", text)
    assert passage.heading == "Setup"
    assert "# install it\n\npip install" in passage.text


@pytest.mark.requirement("memory.passages")
def test_front_matter_is_no_heading() -> None:
    (passage,) = split_passages("page.md", "---\ntitle: Rules\n---\n\nBe kind.\n")
    assert passage.heading == ""
    assert passage.text.endswith("Be kind.")


@pytest.mark.requirement("memory.passages")
def test_a_heading_with_nothing_below_it_is_a_passage() -> None:
    found = split_passages("hours.md", "# Hours\n## Open 9 to 17\n## Closed on Sundays\n")
    assert [passage.text for passage in found] == ["## Open 9 to 17", "## Closed on Sundays"]


@pytest.mark.requirement("memory.passages")
def test_long_sections_are_split_between_paragraphs_and_short_rests_joined() -> None:
    paragraphs = [f"{number} " + "word " * 60 for number in range(5)] + ["The end."]
    found = split_passages("long.txt", "\n\n".join(paragraphs))
    assert [re.findall(r"\d", passage.text) for passage in found] == [["0", "1"], ["2", "3"], ["4"]]
    assert found[-1].text.endswith("The end.")


@pytest.mark.requirement("memory.passages")
@pytest.mark.parametrize("seam", ["\n- ", ". ", " ", ""])
def test_a_long_paragraph_is_split_at_the_coarsest_seam_it_has(seam: str) -> None:
    text = seam.join(["abcdefghi"] * 400)
    found = split_passages("doc.md", text)
    assert len(found) > 3
    assert all(len(passage.text) <= LONGEST for passage in found[:-1])
    if seam:
        assert all(passage.text.strip("- .").endswith("abcdefghi") for passage in found)


@pytest.mark.parametrize("text", ["", "\n\n  \n", "---\n"])
def test_a_document_without_words_is_no_trouble(text: str) -> None:
    assert all(passage.text for passage in split_passages("empty.md", text))
