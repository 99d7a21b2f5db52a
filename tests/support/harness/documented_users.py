"""The ACL rules of the documented users of the cache, as the documentation has them."""

from __future__ import annotations

from code_blocks import ROOT, blocks_of

PLAIN, BOUNDED, BOUNDED_CLEAR, NEAR, LOADING, COUNTING, LOCKING = (
    block.text.removeprefix("ACL SETUSER shop ").split()
    for block in blocks_of(ROOT / "docs" / "explanation" / "security.md", "text")
)
