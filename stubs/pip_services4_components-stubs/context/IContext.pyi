from abc import ABC
from typing import Any

class IContext(ABC):
    def get(self, key: str) -> Any: ...
