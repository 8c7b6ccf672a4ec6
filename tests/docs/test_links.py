"""What a document links to is there, and what the guide lists is what the code has."""

import re
from pathlib import Path

import pytest

from mari_cli.report.card import MEANINGS

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "mari_cli/docs/guide"
DOCUMENTS = sorted(
    file.relative_to(ROOT)
    for file in [
        *ROOT.glob("*.md"),
        *(ROOT / "mari_cli/docs").rglob("*.md"),
        *(ROOT / "experiments").rglob("*.md"),
    ]
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_files_that_a_document_links_to_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    inside = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in inside if not (ROOT / document.parent / link).exists()] == []


def test_readme_leads_to_every_page_of_the_guide_and_the_two_to_every_experiment():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = sorted(GUIDE.glob("*.md"))
    assert [page.name for page in pages if f"guide/{page.name})" not in readme] == []
    text = readme + "".join(page.read_text(encoding="utf-8") for page in pages)
    experiments = [page.parent.name for page in sorted((ROOT / "experiments").glob("*/README.md"))]
    assert [name for name in experiments if f"experiments/{name}/README.md" not in text] == []


def test_the_guide_gives_each_verdict_of_the_audit_its_meaning():
    rows = re.findall(r"^\| \*(.+?)\* \| (.+?) \|$", (GUIDE / "audit.md").read_text(), re.MULTILINE)
    assert dict(rows) == MEANINGS
