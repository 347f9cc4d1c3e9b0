"""A STOW-RS answer in the Native DICOM Model (PS3.19 A.1, PS3.18 F.3) as the same objects that DICOM JSON gives.

Some peers answer so whatever they are asked for. Parsed by expat with everything off that can grow: no document type,
so no entities, and bounded depth. What is no such document is None.
"""

from __future__ import annotations

from xml.parsers import expat

_DEEPEST = 16


class _Refused(Exception):
    pass


class _Builder:
    """The events of one document; `root` is the dataset."""

    def __init__(self) -> None:
        self.root: dict[str, object] | None = None
        self._stack: list[tuple[str, object]] = []
        self._text: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        name = name.rpartition(":")[2]
        if len(self._stack) >= _DEEPEST:
            raise _Refused
        if not self._stack:
            if name != "NativeDicomModel":
                raise _Refused
            self.root = {}
            self._stack.append((name, self.root))
            return
        parent = self._stack[-1][1]
        made: object = None
        if name == "DicomAttribute" and isinstance(parent, dict):
            made = []
            parent[attributes.get("tag", "")] = {"vr": attributes.get("vr", ""), "Value": made}
        elif name == "Item" and isinstance(parent, list):
            made = {}
            parent.append(made)
        self._stack.append((name, made))
        self._text.clear()

    def end(self, _name: str) -> None:
        """It ends; the text of a Value is one."""
        name, _ = self._stack.pop()
        parent = self._stack[-1][1] if self._stack else None
        if name == "Value" and isinstance(parent, list):
            parent.append("".join(self._text).strip())
        self._text.clear()

    def text(self, data: str) -> None:
        """Characters."""
        self._text.append(data)


def _refuse(*_: object) -> None:
    raise _Refused


def read_native(body: bytes) -> dict[str, object] | None:
    """The dataset of a Native DICOM Model, shaped as DICOM JSON; numbers stay text. `body` is bounded by the caller."""
    builder = _Builder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, _Refused, ValueError):
        return None
    return builder.root
