"""The pages of docs/: links lead somewhere; keys and functions have their entries."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import agvm_jax
from configs import base

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
PAGES = [page for page in PAGES if "_build" not in page.parts]


@pytest.fixture
def config_keys(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("config_keys")


def flat(config, prefix=""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_every_key_of_a_config_has_its_default_and_a_description(config_keys):
    read = config_keys.read_keys(config_keys.BASE.read_text("utf-8"))
    entries = {key.name: eval(key.default) for key in read if not key.is_section}
    assert entries == dict(flat(base.get_config()))
    assert not [key.name for key in read if len(key.text) < 3]
    text = config_keys.page(read)
    assert text.count("```{confval}") == len(entries)
    assert "## `model`" in text and "### `model.rpn`" in text


def test_a_comment_above_and_one_behind_are_the_description(config_keys):
    source = (
        "def get_config():\n"
        "    config = ConfigDict()\n"
        "    # not of this section\n"
        "\n"
        "    part = config.part = ConfigDict()  # a part\n"
        "    # Above,\n"
        "    # in two lines.\n"
        "    part.size = (  # Behind, 2 * 3.\n"
        "        1,\n"
        "    )\n"
    )
    section, size = config_keys.read_keys(source)
    assert (section.name, section.text, section.is_section) == ("part", "a part", True)
    assert (size.name, eval(size.default)) == ("part.size", (1,))
    assert size.text == "Above, in two lines. Behind, 2 * 3."
    assert "2 \\* 3" in config_keys.page([size])


def anchors_of(page):
    """What GitHub and MyST make of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.S | re.M)
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


def test_every_page_is_in_the_contents():
    index = (DOCS / "index.md").read_text("utf-8")
    listed = re.findall(r"^(?:[^<\n]+ <)?([\w/]+)>?$", index, re.M)
    pages = {
        page.relative_to(DOCS).with_suffix("").as_posix()
        for page in PAGES
        if page.is_relative_to(DOCS)
    }
    assert {*listed, "index"} >= pages


def test_every_public_function_is_on_the_reference_page():
    page = (DOCS / "reference" / "optimizer.md").read_text("utf-8")
    named = re.findall(r"auto(?:function|class):: (\w+)", page)
    assert set(agvm_jax.__all__) <= set(named)


@pytest.mark.slow
def test_the_loops_of_the_tutorial_run_and_learn():
    """All its blocks, in a process of their own; the notebooks run with the site."""
    page = (DOCS / "tutorials" / "own_loop.md").read_text("utf-8")
    blocks = re.findall(r"^```\{code-cell\}\n(.*?)^```", page, re.S | re.M)
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment.pop("JAX_NUM_CPU_DEVICES", None)  # of these tests
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    losses = re.findall(r"loss'?:? ([\d.]+)", done.stdout)
    assert len(losses) == 4 and max(map(float, losses)) < 0.6, done.stdout
    assert re.search(r"head +phi \d\.\d\d  mu 1\.\d", done.stdout), done.stdout


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_no_other_host(tmp_path):
    """Its notebooks are not run here: .github/workflows/docs.yml does that."""
    pytest.importorskip("sphinx_book_theme")
    still = ["-D", "nb_execution_mode=off"]
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", *still]
    subprocess.run([*command, "docs", str(tmp_path)], cwd=ROOT, check=True)
    foreign = re.compile(r"<(?:script|link|img)\b[^>]*?(?:src|href)=.https?:[^>]*>")
    for page in tmp_path.rglob("*.html"):
        assert not foreign.findall(page.read_text("utf-8")), page
    keys = (tmp_path / "reference" / "config.html").read_text("utf-8")
    assert 'id="confval-data.flip"' in keys
