"""The documentation builds without a dead link, fetches nothing from elsewhere, and its notebooks run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import hiper

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
OUTSIDE = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {"docs", ".venv", "build", "node_modules", ".git"} & set(path.relative_to(ROOT).parts)
)
"""What people read on GitHub and in the package, and the site does not build."""
_FETCHING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
_NOT_FETCHED = ("canonical", "next", "prev")


class _Fetches(HTMLParser):
    """Collects the addresses that a browser asks for when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        address = values.get(_FETCHING.get(tag, ""))
        if address and values.get("rel") not in _NOT_FETCHED:
            self.addresses.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a dead link or a name that the code does not have fails the build."""
    folder = tmp_path_factory.mktemp("site")
    status, printed = build(folder)
    assert status == 0, printed
    return folder


def build(folder: Path, config: Path = ROOT / "mkdocs.yml") -> tuple[int, str]:
    """Build the site of a configuration; not quietly, for --strict counts the warnings that are shown."""
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return built.returncode, built.stdout + built.stderr


@pytest.mark.slow
def test_every_page_of_the_site_is_complete_without_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        parser = _Fetches()
        parser.feed(page.read_text(encoding="utf-8"))
        elsewhere = [address for address in parser.addresses if "//" in address]
        assert elsewhere == [], page


@pytest.mark.slow
def test_dead_links_fail_the_build(tmp_path: Path) -> None:
    """By our own settings, in a site of one page."""
    links = ("gone.md", "index.md#gone-too", "#gone-as-well", "/gone/absolutely.md")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n" + "\n".join(f"[dead]({link})" for link in links))
    (tmp_path / "mkdocs.yml").write_text(
        "INHERIT: " + str(ROOT / "mkdocs.yml") + "\nplugins: []\nhooks: []\nnav: [index.md]\ndocs_dir: docs\n"
    )
    status, printed = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert status == 1
    assert [link for link in links if link.strip("/").rpartition("#")[2] not in printed] == []


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_pages_outside_of_the_site_have_no_dead_link(path: Path) -> None:
    """Files of the repository, and headings of its pages, as GitHub names them."""
    links = re.findall(r"\]\(([^)\s]+)\)", _without_code(path))
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    for link in local:
        file, _, heading = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not heading or heading in _anchors(target), link


def test_links_are_looked_at() -> None:
    assert sum(len(re.findall(r"\]\(", path.read_text(encoding="utf-8"))) for path in OUTSIDE) > 10


def _without_code(path: Path) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def _anchors(path: Path) -> set[str]:
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL), re.M
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.slow
def test_the_references_know_the_commands_and_the_code(site: Path) -> None:
    commands = (site / "reference" / "cli" / "index.html").read_text(encoding="utf-8")
    assert "Usage: hiper bench run [OPTIONS] {SUITE}" in commands
    assert "--caption" in commands
    example = (site / "how-to" / "own-method" / "index.html").read_text(encoding="utf-8")
    assert "OffsetOptions" in example  # the file itself, not the mark that includes it
    python = (site / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    assert "hiper.inference.editing.edit" in python
    assert "picture i depends on seed i only" in python


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebooks_run(path: Path) -> None:
    """Cell by cell, in this process: a kernel would load the libraries once more."""
    names: dict[str, Any] = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)


def test_there_are_notebooks_and_they_hold_no_output() -> None:
    assert len(NOTEBOOKS) >= 2
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        assert all(not cell.get("outputs") for cell in cells), path


@pytest.mark.slow
def test_the_method_of_the_documentation_learns_and_edits(sd1: Any) -> None:
    from docs.examples.offset import Offset

    from tests import tiny

    subject = hiper.Subject.from_image(tiny.picture(), caption="a dog")
    before = sd1.weights_sha256()
    method = Offset()
    artifact = method.fit(sd1, subject, method.options(num_train_steps=30, learning_rate=0.1, batch=20))
    assert artifact.figures["loss_after"] < artifact.figures["loss_before"]
    with method.attach(sd1, artifact, 0.5) as attached:
        moved = attached.encode("a cat").token_embeddings - sd1.encode("a cat").token_embeddings
    assert torch.allclose(moved, 0.5 * artifact.tensors["offset"].expand(1, 77, -1), atol=1e-6)
    assert sd1.weights_sha256() == before
