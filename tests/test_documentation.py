"""Every public name documents arguments, results and errors; the API pages build without dead links."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import pytest

from accel.training import checkpoint

ROOT = Path(__file__).parent.parent
# The packages with API pages, read from the text, since the program needs pdoc.
PUBLIC = ast.literal_eval(re.search(r"^PUBLIC = (\(.*?^\))", (ROOT / "docs" / "build.py").read_text(), re.M | re.S)[1])
# (B, N, h, w), (N·D, k), (B,) … or a tensor that has no axes.
SHAPE = re.compile(r"\(([A-Z]|count|images|elements)[^()]*,[^()]*\)|0-d|scalar")


def ours(thing):
    return thing.__module__.split(".")[0] in ("accel", "reference")


def function_of(attribute):
    """The function behind a method, class method or property; None for anything else."""
    function = attribute.fget if isinstance(attribute, property) else getattr(attribute, "__func__", attribute)
    return function if inspect.isfunction(function) else None


def public_names():
    """{name: class, function or method} for every public name of the packages, including inherited methods."""
    found = {}
    for room in PUBLIC:
        module = importlib.import_module(room)
        for name in module.__all__:
            thing = getattr(module, name)
            found[f"{thing.__module__}.{thing.__qualname__}"] = thing
            for owner in filter(ours, inspect.getmro(thing) if inspect.isclass(thing) else ()):
                methods = {name: function_of(value) for name, value in vars(owner).items() if name[0] != "_"}
                found |= {f"{f.__module__}.{f.__qualname__}": f for f in methods.values() if f is not None}
    return found


NAMES = public_names()
FUNCTIONS = [name for name, thing in NAMES.items() if inspect.isfunction(thing)]


def raises(function):
    """Whether its own body raises an error, other than for a method that a subclass must implement."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    errors = [ast.unparse(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    return any(error != "NotImplementedError" for error in errors)


def test_public_names_are_found():
    wanted = ("accel.models.patchvae.PatchVAE.forward", "accel.models.pretrained.Pretrained.from_pretrained",
              "accel.ops.bottleneck.patch_bottleneck", "accel.training.loop.train", "reference.noise.Noise",
              "accel.models.patchvae.PatchVAE.distribution")  # fmt: skip
    assert set(wanted) <= NAMES.keys()


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_docstring_of_its_own(name):
    thing = NAMES[name]
    text = thing.__doc__ or ""
    assert len(text.split()) >= 3
    assert not text.startswith(f"{thing.__name__}(")  # what dataclasses and named tuples write by themselves


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_says_that_it_raises(name):
    if raises(NAMES[name]):
        assert "Error" in NAMES[name].__doc__


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.startswith("accel.")])
def test_it_is_annotated_and_says_the_shapes_of_tensors(name):
    function = NAMES[name]
    annotations = inspect.get_annotations(inspect.unwrap(function))
    code = function.__code__
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    assert {*parameters, "return"} - {"self", "cls"} <= annotations.keys()
    if any("Tensor" in str(kind) for kind in annotations.values()):
        assert SHAPE.search(function.__doc__)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if re.fullmatch(r"reference\.\w+\.\w+", name)])
def test_the_specification_says_shapes(name):
    assert SHAPE.search(NAMES[name].__doc__)


class Page(HTMLParser):
    """The ids and references of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src"):
                self.links.append((tag, value))


def dead_links(folder):
    """Links of the pages in the folder to missing files or anchors, and anything that a page loads from elsewhere."""
    pages = {path.resolve(): Page(path.read_text()) for path in folder.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for tag, link in page.links:
            if re.match(r"\w+:", link):
                if tag != "a" and not link.startswith("data:"):
                    found.append(f"{path.name} loads {link}")
                continue
            file, _, place = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if not target.is_file() or (place and place not in pages[target].ids):
                found.append(f"{path.name}: {link}")
    return found


def test_api_pages_build_and_no_link_is_dead(tmp_path):
    pytest.importorskip("pdoc")
    command = [sys.executable, "-W", "error::UserWarning:pdoc", ROOT / "docs" / "build.py", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warn" not in done.stderr
    assert dead_links(tmp_path) == []
    for name in PUBLIC:
        text = (tmp_path / f"{name.replace('.', '/')}.html").read_text()
        assert all(f'id="{public}"' in text for public in importlib.import_module(name).__all__)


@pytest.mark.parametrize(
    "link", ['<a href="#there">', '<a href="no.html">', '<a href="two.html#no">', '<script src="https://x/y.js">']
)
def test_planted_dead_link_is_found(tmp_path, link):
    (tmp_path / "one.html").write_text(
        f'<p id="here"><a href="two.html#two"><a href="#here"><a href="https://x">{link}'
    )
    (tmp_path / "two.html").write_text('<p id="two"><img src="data:image/png;base64,">')
    assert len(dead_links(tmp_path)) == 1


def paths_named_in(text):
    """The names in backticks that look like files or folders of the repository."""
    return {
        word for word in re.findall(r"`([\w./-]+)`", text) if "/" in word and not word.startswith(("build/", "runs/"))
    }


def anchors(text):
    """The anchors that GitHub gives to the headings of a text in Markdown."""
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links_of(path):
    """Links in a Markdown file to missing files of the repository or to missing headings of them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:", link)]
    found = []
    for link in links:
        file, _, place = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists() or (place and place not in anchors(target.read_text())):
            found.append(link)
    return found


DOCUMENTS = [
    path
    for path in ROOT.rglob("*.md")
    if not any(part in ("build", "runs") or part.startswith(".") for part in path.relative_to(ROOT).parts)
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_link_of_a_document_is_dead(path):
    assert dead_links_of(path) == []


@pytest.mark.parametrize("link", ["[a](no.md)", "[a](#no)", "[a](one.md#no)", "![a](no.png)"])
def test_planted_dead_link_in_a_document_is_found(tmp_path, link):
    page = tmp_path / "one.md"
    page.write_text(f"# A title, with 2 signs\n[a](#a-title-with-2-signs) [a](one.md) [a](https://x) {link}")
    assert dead_links_of(page) == [link.partition("(")[2][:-1]]


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_paths_that_a_document_names_exist(document):
    words = paths_named_in((ROOT / document).read_text()) - {"model/"}
    assert [word for word in sorted(words) if not (ROOT / word).exists()] == []


def test_names_of_code_in_contributing_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    names = {name for name in re.findall(r"`([A-Za-z_]+)`", text) if name not in ("reference", "pack", "mypy", "tests")}
    code = "".join(path.read_text() for room in ("accel", "reference", "tests") for path in (ROOT / room).rglob("*.py"))
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", code)] == []


def test_every_format_of_checkpoints_is_in_the_changelog():
    text = (ROOT / "CHANGELOG.md").read_text()
    named = sorted(int(number) for number in re.findall(r"Checkpoint format (\d+)\.", text))
    assert named == list(range(2, int(checkpoint.FORMAT.split()[-1]) + 1))


def test_citations_name_the_paper_and_its_authors():
    for name in ("CITATION.cff", "CITATION.bib"):
        text = (ROOT / name).read_text().replace("{PatchVAE}", "PatchVAE")
        assert "PatchVAE: Learning Local Latent Codes for Recognition" in text
        authors = re.findall(r"Gupta|Singh|Shrivastava", text)
        assert authors[:3] == ["Gupta", "Singh", "Shrivastava"]
