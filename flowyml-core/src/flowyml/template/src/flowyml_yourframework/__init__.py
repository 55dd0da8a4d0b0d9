"""The yourframework adapter of flowyml, which finds it by its entry point.

There is nothing to import for everyday use. Python runs this file before `plugin`, so it doesn't
import the framework either.
"""
