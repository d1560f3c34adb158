"""The deciding wing: holds keys, and releases them to hosts that every owner agreed to."""

from svetovid.manager.app import make_app
from svetovid.manager.core import Settings
from svetovid.manager.door import Door, admit, door_of
from svetovid.manager.rootkey import PassphraseSealer, RootKey, RootSealer
from svetovid.manager.server import Home, open_home, open_manager, serve
from svetovid.manager.service import Manager

__all__ = [
    "Door",
    "Home",
    "Manager",
    "PassphraseSealer",
    "RootKey",
    "RootSealer",
    "Settings",
    "admit",
    "door_of",
    "make_app",
    "open_home",
    "open_manager",
    "serve",
]
