"""Signatures and annotations of functions whose annotations name something that does not exist at run time.

Such a name is usually imported for type checkers only. Up to Python 3.13 it has to be quoted, or annotations have to be
texts. From Python 3.14 on, it need not be, and reading the annotations raises NameError (PEP 649).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

__all__ = ["annotations_of", "signature_of"]

if sys.version_info >= (3, 14):  # pragma: no cover  CI has no such interpreter
    from annotationlib import Format, get_annotations

    signature_of: Final[Callable[..., inspect.Signature]] = partial(
        inspect.signature, annotation_format=Format.FORWARDREF
    )

    def annotations_of(function: Any) -> dict[str, Any]:
        """Return the annotations; what cannot be resolved is a ForwardRef."""
        return get_annotations(function, format=Format.FORWARDREF)
else:
    signature_of: Final[Callable[..., inspect.Signature]] = inspect.signature

    def annotations_of(function: Any) -> dict[str, Any]:
        """Return the annotations."""
        annotations: dict[str, Any] = getattr(function, "__annotations__", {})
        return annotations
