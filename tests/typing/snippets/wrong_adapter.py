"""What the author of an adapter may get wrong, and is told of before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowyml import adapters, hookimpl
from flowyml.interfaces import (
    Extractor,
    LoadOptions,
    Materializer,
    RandomSource,
    Saved,
    SaveOptions,
    SaveResult,
)
from flowyml.testing import AdapterConformance


class Net: ...


class WrongExtractor(Extractor):
    # error: [assignment] / reportAssignmentType
    framework = None
    # error: [assignment] / reportAssignmentType
    modules = "toy"
    # error: [assignment] / reportAssignmentType
    options = ("example_inputs",)

    # error: [override] / reportIncompatibleMethodOverride
    def detect(self, obj: Net) -> bool:
        return True

    # error: [override] / reportIncompatibleMethodOverride
    def extract(self, obj: Any) -> dict[str, Any]:
        return {}

    # error: [override] / reportIncompatibleMethodOverride
    def default_name(self, obj: Any) -> None:
        return None


class WrongMaterializer(Materializer):
    key = "toy.net"
    # error: [assignment] / reportAssignmentType
    formats = "json"

    # error: [override] / reportIncompatibleMethodOverride
    def detect(self, obj: object) -> str:
        return "yes"

    # error: [override] / reportIncompatibleMethodOverride
    def save(self, obj: Any, folder: str, options: SaveOptions) -> SaveResult:
        # error: [arg-type] / reportArgumentType
        return SaveResult(restore="partly")

    # error: [override] / reportIncompatibleMethodOverride
    def load(self, saved: Saved) -> Any:
        # error: [attr-defined] / reportAttributeAccessIssue, reportUnknownMemberType
        assert saved.version


class WithoutSave(Materializer):
    key = "toy.net"
    formats = ("json",)

    def detect(self, obj: object) -> bool:
        return False

    def load(self, saved: Saved, options: LoadOptions) -> Any:
        return options.device


class WithoutExtract(Extractor):
    framework = "toy"

    def detect(self, obj: object) -> bool:
        return False


class WithoutRestore(RandomSource):
    name = "toy"

    def seed(self, seed: int) -> None: ...

    def state(self) -> Any: ...


# error: [abstract] / reportAbstractUsage
WithoutSave()
# error: [abstract] / reportAbstractUsage
WithoutExtract()
# error: [abstract] / reportAbstractUsage
WithoutRestore()


@hookimpl
def flowyml_register_extractors() -> list[Extractor]:
    # error: [list-item] / reportReturnType
    return [Net()]


@hookimpl
def flowyml_register_materializers() -> list[Materializer]:
    # error: [return-value] / reportReturnType
    return WrongMaterializer()


class TestWrong(AdapterConformance):
    # error: [assignment] / reportAssignmentType
    framework = 5
    # error: [assignment] / reportAssignmentType
    expected_failures = ("check_seeds_reproduce",)

    def make_model(self) -> Net:
        return Net()

    # error: [override] / reportIncompatibleMethodOverride
    def change_model(self) -> Net:
        return Net()

    def predict(self, model: Net) -> list[float]:
        return []


def use(options: Mapping[str, Any], path: Path) -> None:
    # error: [call-arg] / reportCallIssue
    adapters.register()
    # error: [arg-type] / reportArgumentType
    adapters.register(Net(), name=5)
    # error: [call-arg] / reportCallIssue
    SaveOptions(form="json")
    # error: [misc] / reportAttributeAccessIssue
    SaveOptions("json").format = "npy"


class WrongPlugin:
    # error: [type-var] / reportArgumentType, reportUntypedFunctionDecorator
    @hookimpl
    def flowyml_register_extractors(self) -> Extractor:
        return WrongExtractor()

    # error: [type-var] / reportArgumentType, reportUntypedFunctionDecorator
    @hookimpl
    def flowyml_register_materializers(self) -> list[type[Materializer]]:
        return [WrongMaterializer]
