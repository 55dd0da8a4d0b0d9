"""Faulty: prints when it is loaded, below Python."""

import os

from toy_adapter import *  # noqa: F403

os.write(1, b"Welcome!\n")
