"""The engine's errors take a trace each where the environment asks for it: not in tests."""

from __future__ import annotations

import os

os.environ["RUST_BACKTRACE"] = os.environ["RUST_LIB_BACKTRACE"] = "0"
