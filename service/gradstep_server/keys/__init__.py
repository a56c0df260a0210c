"""Who may use the service: what a key looks like, and the file that says which there are."""

from gradstep_server.keys.file import KeyFile, KeysError
from gradstep_server.keys.key import ANYONE, NAME, TENANT, Holder, Key, Role
from gradstep_server.keys.keyring import Keyring

__all__ = [
    "ANYONE",
    "NAME",
    "TENANT",
    "Holder",
    "Key",
    "KeyFile",
    "Keyring",
    "KeysError",
    "Role",
]
