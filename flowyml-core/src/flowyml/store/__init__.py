"""The store: versions of assets in content-addressed files, verified whenever they are read."""

from flowyml.store.store import Store
from flowyml.store.verification import Verification

__all__ = ["Store", "Verification"]
