from abc import ABC
from typing import Any

from pip_services4_components.context import IContext

class IClosable(ABC):
    def close(self, context: IContext | None) -> Any: ...
