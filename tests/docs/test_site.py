"""The docs site builds without a warning, has every page, and loads nothing from other hosts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [path.relative_to(ROOT / "docs") for path in sorted(ROOT.glob("docs/**/*.md"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a link to nowhere, or a page outside the navigation, is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_every_page_is_in_the_site_and_loads_nothing_from_other_hosts(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>")
    for page in PAGES:
        html = (site / page.with_suffix(".html")).read_text(encoding="utf-8")
        assert loads.findall(html) == [], page


def test_diagrams_are_drawn_by_the_script_of_the_site(site: Path) -> None:
    html = (site / "architecture.html").read_text(encoding="utf-8")
    assert '<pre class="diagram"><code>flowchart' in html
    assert 'class="mermaid"' not in html  # the theme would load a script from another host for it
