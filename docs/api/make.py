"""The API pages, from the docstrings: ``python docs/api/make.py [DIRECTORY]`` (``make docs``).

Whatever pdoc warns of is an error here, and so is a public name without a docstring, a reference that leads
nowhere, and markup that came out as text.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pdoc
import pdoc.doc

MODULES = (
    "echosched",
    "echosched.app.background",
    "echosched.app.definitions",
    "echosched.events",
    "echosched.testing",
    "echosched.model",
    "echosched.protocols",
    "echosched.errors",
)
ROOT = Path(__file__).resolve().parents[2]
ROLE = re.compile(r":(class|meth|func|attr|mod|data|exc):`~?([\w.]+)`")


def build(directory: Path) -> list[str]:
    """Write the pages to *directory*; return everything that is wrong with them."""
    for name in MODULES:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            getattr(module, public)  # the package imports its names when first used: use them
    problems: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdoc.render.configure(
            docformat="restructuredtext",
            footer_text="EchoSched",
            show_source=False,
        )
        pdoc.pdoc(*MODULES, output_directory=directory)
        for name in MODULES:
            problems += undocumented(pdoc.doc.Module(importlib.import_module(name)))
    problems += [f"warning: {warning.message}" for warning in caught]
    for page in sorted(directory.rglob("*.html")):
        # pdoc follows a reference such as :class:`~a.b.C`, but leaves the tilde in front of it.
        text = page.read_text("utf-8").replace(">~echosched", ">echosched")
        page.write_text(text, "utf-8")
        problems += [f"{page.name}: {left}" for left in leftovers(text)]
    return problems


def undocumented(module: pdoc.doc.Module) -> Iterator[str]:
    """Yield public names without a docstring, and references to names that do not exist."""
    waiting: list[pdoc.doc.Doc[Any]] = [module]
    while waiting:
        item = waiting.pop()
        if item.name.startswith("_") or not item.is_inherited:
            yield from bad_references(item)
        if isinstance(item, pdoc.doc.Class | pdoc.doc.Function) and not item.docstring.strip():
            if not item.name.startswith("_") and not item.is_inherited:
                yield f"{item.fullname}: no docstring"
        if isinstance(item, pdoc.doc.Namespace):
            waiting += [m for m in item.own_members if m.modulename.startswith("echosched")]


def bad_references(item: pdoc.doc.Doc[Any]) -> Iterator[str]:
    """Yield references in a docstring that name nothing."""
    for _, target in ROLE.findall(item.docstring):
        if not any(resolves(f"{prefix}{target}") for prefix in prefixes(item)):
            yield f"{item.fullname}: {target} names nothing"


def prefixes(item: pdoc.doc.Doc[Any]) -> list[str]:
    """Return what may be left out in front of a name: as in the docstring's own module and class."""
    module, qualified = item.taken_from
    outer = [f"{module}.{qualified}.", f"{module}.{qualified.rpartition('.')[0]}.", f"{module}."]
    return ["", *outer, "echosched.app.library.", "echosched."]


def resolves(name: str) -> bool:
    """Tell whether a dotted name leads somewhere."""
    words = [word for word in name.split(".") if word]
    for count in range(len(words), 0, -1):
        try:
            found: object = importlib.import_module(".".join(words[:count]))
        except ImportError:
            continue
        for word in words[count:]:
            if word in getattr(found, "__annotations__", {}) or has_attribute(found, word):
                return True
            if not hasattr(found, word):
                return False
            found = getattr(found, word)
        return True
    return False


def has_attribute(found: object, word: str) -> bool:
    """Tell whether a class gives its objects the attribute *word*."""
    return isinstance(found, type) and f"self.{word}" in inspect.getsource(found)


def leftovers(html: str) -> Iterator[str]:
    """Yield markup that reached the page as text."""
    text = re.sub(r"<[^>]+>", "", html)
    for pattern in (r":(?:class|meth|func|attr|mod|data|exc):\S*", r"^\.\. \w+::", r"object at 0x[0-9a-f]+"):
        yield from {f"markup left in the text: {match[0]}" for match in re.finditer(pattern, text, re.M)}


def main() -> int:
    """Build; tell what is wrong."""
    sys.path.insert(0, str(ROOT))
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "api"
    problems = build(directory)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    if not problems:
        sys.stdout.write(f"{directory / 'index.html'}: {len(MODULES)} modules\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
