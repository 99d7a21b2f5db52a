from .CredentialParams import CredentialParams as CredentialParams
from .CredentialResolver import CredentialResolver as CredentialResolver
from .DefaultCredentialStoreFactory import (
    DefaultCredentialStoreFactory as DefaultCredentialStoreFactory,
)
from .ICredentialStore import ICredentialStore as ICredentialStore
from .MemoryCredentialStore import MemoryCredentialStore as MemoryCredentialStore
