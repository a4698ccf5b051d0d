"""Every code block of the documentation is run by a test, or says why it cannot be."""

import pytest

from tests import documents
from tests.documents import ALLOTTED, NOT_RUN, ROOT, Block, Share, blocks, blocks_in, reader_of, reasons_of


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.place)
def test_every_block_is_run_by_a_test_or_says_why_not(block: Block):
    assert reader_of(block) or reasons_of(block), "give it to a test in tests/documents.py"


@pytest.mark.parametrize("entry", NOT_RUN, ids=" ".join)
def test_every_reason_is_of_one_block(entry: tuple[str, str]):
    page, begins = entry
    found = [block for block in blocks() if block.page == page and block.text.startswith(begins)]
    assert len(found) == 1


@pytest.mark.parametrize("file", ALLOTTED)
def test_every_share_is_of_a_test_and_has_blocks(file: str):
    assert (ROOT / file).name.startswith("test_")
    assert (ROOT / file).is_file()
    for share in ALLOTTED[file]:
        assert any(share.has(block) and reader_of(block) == file for block in blocks()), share


def test_no_page_is_without_a_look():
    pages = set(map(documents.name_of, documents.pages()))
    assert {
        "README.md",
        "docs/tutorial/first-turn.md",
        "clients/python/README.md",
        "bench/README.md",
    } <= pages
    assert len(blocks()) > 50


def test_blocks_are_found_with_their_headings_and_without_their_indentation():
    page = "# One\n```sh\na\n```\n## Two\n1. x\n\n   ```ini\n   [b]\n     c\n   ```\n~~~\n```\n# no heading\n~~~\n"
    assert blocks_in(page, "p") == [
        Block("p", 2, "One", "sh", "a\n"),
        Block("p", 8, "Two", "ini", "[b]\n  c\n"),
        Block("p", 12, "Two", "", "```\n# no heading\n"),
    ]
    with pytest.raises(AssertionError, match="ends within a block"):
        blocks_in("```sh\na\n", "p")


def test_what_a_file_did_not_take_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "_taken", set())
    (block,) = (one for one in blocks() if one.page == "docs/howto/monitor.md" and one.language == "yaml")
    file = ROOT / "tests" / "unit" / "test_operate.py"
    assert documents.untaken(file) == [block.place]
    block.take()
    assert documents.untaken(file) == []
    assert documents.untaken(ROOT / "tests" / "unit" / "test_docs.py") == []


def test_a_share_is_chosen_by_page_language_heading_and_first_words():
    block = Block("docs/a.md", 1, "Try it", "sh", "make run\n")
    assert Share("docs/*.md", "sh", heading="Try it", begins="make").has(block)
    for other in (
        Share("docs/b.md", "sh"),
        Share("docs/*.md", "ini"),
        Share("docs/*.md", "sh", heading="Run it"),
        Share("docs/*.md", "sh", begins="made"),
    ):
        assert not other.has(block)
