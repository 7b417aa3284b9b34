"""Every key of configs/base.py with its default and comment, for reference/config.md.

configs/base.py is the only place where a key is described. This file reads it, and
conf.py calls it when the site is built. A key's description is what stands above its
line and behind it.
"""

import ast
import dataclasses
import io
import re
import tokenize
from pathlib import Path

BASE = Path(__file__).resolve().parents[1] / "configs" / "base.py"


@dataclasses.dataclass(frozen=True)
class Key:
    """A key, or a section of keys.

    Attributes:
      name: with its sections, such as "data.shapes.seed".
      default: Python, as it stands in the file; "" for a section.
      text: what the comments say; may be "".
    """

    name: str
    default: str
    text: str

    @property
    def is_section(self) -> bool:
        return not self.default


def read_keys(source: str) -> list[Key]:
    """Returns the keys of a config file's `get_config`, in its order.

    Args:
      source: assignments such as ``data.flip = 0.5  # comment`` and
        ``data = config.data = ConfigDict()``, each with comments above and behind it.
    """
    comments = _comments(source)
    (function,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)
    )
    sections = {}  # variable -> its section's name
    keys = []
    for node in _assignments(function.body, sections):
        attributes = [t for t in node.targets if isinstance(t, ast.Attribute)]
        names = [t.id for t in node.targets if isinstance(t, ast.Name)]
        if not attributes:
            sections |= dict.fromkeys(names, "")  # config itself
            continue
        name = _name_of(attributes[0], sections)
        sections |= dict.fromkeys(names, name)
        default = ast.get_source_segment(source, node.value)
        text = _text_of(comments, node)
        is_section = default == "ConfigDict()"
        keys.append(Key(name, "" if is_section else default, text))
    order = ["", *(key.name for key in keys if key.is_section)]
    return sorted(keys, key=lambda key: order.index(_section_of(key)))


def _assignments(body: list[ast.stmt], sections: dict[str, str]):
    """Yields the assignments; those of a loop over sections once for each."""
    for node in body:
        if isinstance(node, ast.Assign):
            yield node
        elif isinstance(node, ast.For):
            for section in node.iter.elts:
                sections[node.target.id] = _name_of(section, sections)
                yield from _assignments(node.body, sections)


def _name_of(node: ast.Attribute, sections: dict[str, str]) -> str:
    first, *rest = ast.unparse(node).split(".")
    if first not in sections:
        raise ValueError(f"configs/base.py, line {node.lineno}: whose key is that?")
    return ".".join(filter(None, (sections[first], *rest)))


def _section_of(key: Key) -> str:
    return key.name if key.is_section else key.name.rpartition(".")[0]


def page(keys: list[Key]) -> str:
    """Returns MyST Markdown: a heading a section, an entry a key."""
    out = []
    for key in keys:
        if key.is_section:
            level = "#" * (2 + key.name.count("."))
            out.append(f"{level} `{key.name}`\n\n{_markdown(key.text)}\n")
        else:
            out.append(
                f"```{{confval}} {key.name}\n:no-contents-entry:\n\n"
                f"Default `{key.default}`\\\n{_markdown(key.text)}\n```\n"
            )
    return "\n".join(out)


def _comments(source: str) -> dict[int, tuple[bool, str]]:
    """Line -> whether the comment has it for itself, and its words."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            found[token.start[0]] = alone, token.string.lstrip("#").strip()
    return found


def _text_of(comments: dict, node: ast.Assign) -> str:
    words = []
    line = node.lineno - 1
    while comments.get(line, (False, ""))[0]:
        words.insert(0, comments[line][1])
        line -= 1
    for line in range(node.lineno, node.end_lineno + 1):
        if line in comments:
            words.append(comments[line][1])
    return " ".join(words)


def _markdown(text: str) -> str:
    """Escapes what Markdown would read as its own."""
    return re.sub(r"([*_<\[\]|\\])", r"\\\1", text)
