"""Ground floor: YAML read as plain texts, so that a file and an environment variable mean the same.

YAML's guesses are switched off: `no`, `0123`, `2024-01-01` and `1e3` stay the texts they are (a
password is never a number), only null is nothing. What goes wrong is told by line, and never by
showing the text, since a secret may stand in it.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from guardproxy.units import shortened

_SURROGATE = re.compile(r"[\ud800-\udfff]")

# The tags left: texts, mappings, lists, nothing. Every other is refused as unknown.
_TAGS = ("null", "str", "map", "seq")


class YamlError(Exception):
    """Every problem of the text as (line or None, what is wrong)."""

    def __init__(self, problems: list[tuple[int | None, str]]) -> None:
        super().__init__("; ".join(what for _, what in problems))
        self.problems = problems


class _TextLoader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.endswith(tuple(f":{name}" for name in _TAGS))
    }

    def __init__(self, text: str | bytes) -> None:
        super().__init__(text)
        self.duplicates: list[tuple[int | None, str]] = []
        self.halves: list[tuple[int | None, str]] = []

    def construct_scalar(self, node: Any) -> Any:
        """A text. JSON writes an emoji as two escapes (`\\ud83d\\ude00`), which are joined."""
        text = super().construct_scalar(node)
        if not isinstance(text, str) or _SURROGATE.search(text) is None:
            return text
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        if _SURROGATE.search(text):
            said = r"half of a character is written here (\ud800 to \udfff); write both halves"
            self.halves.append((node.start_mark.line + 1, said))
        return text

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        self.duplicates.extend(_duplicates(node))
        return node


def _duplicates(node: yaml.MappingNode) -> Iterator[tuple[int | None, str]]:
    first: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in first:
            said = f"stands twice, first in line {first[key.value]}; keep one"
            yield line, f"{shown_key(key.value)} {said}"
        first.setdefault(key.value, line)


def parse(text: str | bytes) -> Any:
    """The text as dicts, lists, texts and None; YamlError with all that is wrong."""
    try:
        loader = _TextLoader(text)
        tree = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError([(mark.line + 1 if mark else None, _unquoted(error))]) from None
    except yaml.YAMLError:  # the reader's: no mark, and its text shows the character
        raise YamlError([(None, "is not UTF-8 text without control characters")]) from None
    except RecursionError:
        raise YamlError([(None, "is nested too deeply")]) from None
    if loader.duplicates or loader.halves:
        raise YamlError(loader.duplicates + loader.halves)
    return _text_keys(tree)


def _text_keys(tree: Any) -> Any:
    """Keys as texts: `~: x` has None as its key, which no setting is called."""
    if isinstance(tree, dict):
        return {"null" if k is None else str(k): _text_keys(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_text_keys(item) for item in tree]
    return tree


def _unquoted(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's words up to what it quotes: `*secret` is an undefined alias, and a password."""
    problem = re.split(r"""["'](?!<)(?=..)""", error.problem or "", maxsplit=1)[0].strip()
    return f"not YAML: {problem or 'unreadable'}; put quotes around a text with special characters"


def shown_key(name: str) -> str:
    """A key as messages show it: `password:hunter2`, its space forgotten, is a key too."""
    word, colon, _ = name.partition(":")
    return shortened(word, quoted=False) + ("…" if colon else "")
