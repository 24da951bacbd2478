"""The embedded store: one SQLite file, used by one server process. See docs/decisions/0002."""

from limen.adapters.store_sqlite.backup import backup, restore
from limen.adapters.store_sqlite.lanes import StoreOptions
from limen.adapters.store_sqlite.store import SqliteStore, open_store

__all__ = ["SqliteStore", "StoreOptions", "backup", "open_store", "restore"]
