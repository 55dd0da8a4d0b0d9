"""flowyml's adapter for scikit-learn: estimators and pipelines, described and saved.

There is nothing to import from here: once installed, ``flowyml.Model.from_sklearn`` works.
"""
