from typing import Any

from pip_services4_components.context import IContext

from .IClosable import IClosable

class IOpenable(IClosable):
    def is_open(self) -> bool: ...
    def open(self, context: IContext | None) -> Any: ...
