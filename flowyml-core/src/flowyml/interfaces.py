"""What an adapter implements.

Base classes with defaults: a method that a later core adds doesn't break an older adapter, and
options travel in value objects so that they can grow: a new field comes last and has a default.
`detect` has to answer without importing the framework: whoever holds such an object has imported
it, so ``sys.modules.get(...)`` is enough.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import attrs

from flowyml.trust import Trust

API_VERSION = 3
"""Version of these interfaces and of the hooks: one more whenever something is added to them.

An adapter's plugin names the one that it was written for: ``api_version = 1``.
"""

OLDEST_API_VERSION = 1
"""The oldest version that an adapter may have been written for."""


@attrs.frozen
class Layer:
    """One layer in the outline of a model, with the layers in it.

    Attributes:
        name: its name within the layer above; empty for the model itself.
        type: its type.
        parameters: parameters of it and of what is in it, each counted once.
        trainable: how many of these training changes.
        notes: what else a reader should know, such as a tie.
        children: the layers in it, in order.
    """

    name: str
    type: str
    parameters: int = 0
    trainable: int = 0
    notes: tuple[str, ...] = ()
    children: tuple[Layer, ...] = ()


class Recognizer(ABC):
    """Knows the objects of one framework when it sees them.

    Attributes:
        modules: top-level modules of the framework, as in ``("torch",)``: as long as none of them
            is imported there can be no such object, and `detect` isn't called. Loading the
            adapter must not import them. Empty when objects need no framework.
    """

    modules: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def detect(self, obj: object) -> bool:
        """Tell whether the object is meant, without importing the framework or changing it.

        Any object may come, so ask for its type before anything else of it.
        """


class Extractor(Recognizer):
    """Describes the models of one framework; `detect` tells what is a model.

    Attributes:
        framework: the key, as in ``Model.from_<framework>``; the same as the entry point's name.
        accepts: what it describes, for error messages: ``"a torch.nn.Module"``.
        options: keyword arguments of ``Model.from_<framework>`` that `extract` understands;
            every other keyword argument becomes a property.
        optional: properties that are only known when an option is given.
    """

    framework: ClassVar[str]
    accepts: ClassVar[str] = "a model of the framework"
    options: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def extract(self, obj: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the properties of a model by name; every value has a JSON form.

        Nothing of the model may change.

        Raises:
            UnsupportedObjectError: when an option isn't what it has to be. The user who gives it
                sees this error; any other costs the description, with a warning.
        """

    def outline(self, obj: Any) -> Layer | None:
        """Return the tree of a model's layers, or None when there is none to show."""
        return None

    def default_name(self, obj: Any) -> str:
        """Return the name of a model whose user gave none."""
        return type(obj).__name__

    def environment(self) -> Mapping[str, Any]:
        """Return what results depend on in the framework: versions, threads, modes; JSON-able.

        Asked when a run starts, and only once one of `modules` is imported. Nothing may change.
        """
        return {}


class Group(ABC):
    """The processes that run one function together, as one of them sees them.

    Attributes:
        rank: the number of this process in the group, from 0.
        local_rank: its number among those on the same machine, from 0.
        world_size: how many processes there are.
        device: where this one computes, in the framework's words, such as ``"cuda:1"``.
        restarts: how often the group was started again because one of its processes failed.
        id: tells the group from others, the same in all processes and after a restart.
    """

    rank: int
    local_rank: int
    world_size: int
    device: str
    restarts: int = 0
    id: str = ""

    @abstractmethod
    def exchange(self, data: bytes, channel: str = "") -> list[bytes]:
        """Give everybody's data to everybody; return it in the order of ranks.

        It returns once all have called it. For small data, as it doesn't go by the way that
        tensors do; so it may be called while the framework communicates in another thread.

        Args:
            data: what this process has to say.
            channel: all processes have to call it equally often on each channel. Threads that
                talk at the same time take one each.

        Raises:
            LaunchError: naming the processes that didn't come in time.
        """


class Earlier(ABC):
    """A version that is stored already, whose files a new one may refer to instead of writing."""

    @abstractmethod
    def files(self) -> Mapping[str, int]:
        """Return the sizes in bytes of its files, by path."""

    @abstractmethod
    def details(self) -> Mapping[str, Any]:
        """Return what its materializer noted for loading."""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """Return the bytes of one of its files; None when it is missing or damaged."""

    @abstractmethod
    def open(self, path: str) -> Path | None:
        """Return one of its files as it is on the disk, unchecked; None when it is missing."""

    @abstractmethod
    def keep(self, path: str, *, compared: bool = False) -> bool:
        """Make one of its files a file of the new version too, under the same path.

        Args:
            path: which.
            compared: whether you have compared every byte of the opened file with what it has
                to hold; otherwise they are compared with their digest.

        Returns:
            False, and nothing is done, when the file is missing or damaged.
        """


@attrs.frozen(eq=False)
class SaveOptions:
    """How to save.

    Attributes:
        format: one of the materializer's formats.
        described_with: the extractor's options that the user gave, such as example inputs.
        earlier: may be called for the version before this one, written by the same materializer
            in the same format; None when there is none.
        expect: may be called with the number of bytes that are going to be written.
        done: may be called with the path of a file that is complete: the store takes it in while
            the materializer writes the next. The file must not be touched afterwards.
        group: the processes that save the object together, each its part of it, into one folder
            that all of them see; None when this process saves it alone. See
            `Materializer.is_spread`.
    """

    format: str
    described_with: Mapping[str, Any] = attrs.field(factory=dict)
    earlier: Callable[[], Earlier | None] = lambda: None
    expect: Callable[[int], None] = lambda _: None
    done: Callable[[Path], None] = lambda _: None
    group: Group | None = None


@attrs.frozen
class SaveResult:
    """What a materializer says about the files that it wrote.

    Attributes:
        restore: ``"exact"`` when the object itself comes back, ``"weights"`` when only its
            values do and the caller has to build the object (``into=``).
        reason: why not ``"exact"``, in words that name the part that prevents it.
        required_trust: dotted names that loading needs beyond what is safe anyway.
        details: whatever loading needs to know besides the files; JSON-able.
        content: what makes up the content, in order, where equal content may lie in different
            files: digests, and paths of files, which stand for those of their bytes. None when
            all files together are the content.
    """

    restore: Literal["exact", "weights"] = "exact"
    reason: str | None = None
    required_trust: tuple[str, ...] = ()
    details: Mapping[str, Any] = attrs.field(factory=dict)
    content: tuple[str, ...] | None = None


@attrs.frozen(eq=False)
class Saved:
    """What a materializer finds when it loads.

    Attributes:
        ref: ``"name@version"``, for messages.
        format: the format that it was saved in.
        files: path as it was written → local file to read; read-only, checked already.
        result: what the materializer returned when it saved.
    """

    ref: str
    format: str
    files: Mapping[str, Path]
    result: SaveResult


@attrs.frozen
class Change:
    """How one value in an object differs between two versions of it, such as one tensor.

    Attributes:
        name: where it is in the object, such as ``"conv1.weight"``.
        before: what it is in the first: type and shape, or a short value; None where it isn't.
        after: the same of the second.
        elements: how many numbers it consists of; None where numbers can't be compared, as of
            different shapes.
        different: how many of them differ, NaN being equal to NaN.
        first: the index of the first that differs, in row-major order.
        first_before: that element in the first.
        first_after: that element in the second.
        max_absolute: the largest absolute difference.
        max_relative: the largest difference relative to the magnitude of the element before.
        norm: the L2 norm of the difference.
        norm_before: the L2 norm of the first.
    """

    name: str
    before: str | None = None
    after: str | None = None
    elements: int | None = None
    different: int | None = None
    first: tuple[int, ...] | None = None
    first_before: str | None = None
    first_after: str | None = None
    max_absolute: float | None = None
    max_relative: float | None = None
    norm: float | None = None
    norm_before: float | None = None


@attrs.frozen(eq=False)
class LoadOptions:
    """How to load.

    Attributes:
        trust: what the caller trusts; nothing else may be imported or run.
        into: an object that the caller built, to be filled; None builds one.
        device: where to put the values, in the framework's words; None is where they were.
        format: the form to give it back in, one of the materializer's `conversions`; None is the
            one that it was saved in.
        class_map: classes that take the place of those that the files name, by dotted name.
    """

    trust: Trust = attrs.field(factory=Trust)
    into: Any = None
    device: Any = None
    format: str | None = None
    class_map: Mapping[str, type] = attrs.field(factory=dict)

    def changes_something(self) -> bool:
        """Tell whether loading may change what is there: an object, or what trusted code does."""
        return self.into is not None or bool(self.trust.patterns or self.class_map)


class Materializer(Recognizer):
    """Turns objects of some types into files and back; `detect` tells which objects.

    Attributes:
        key: ``"<adapter>.<what>"``, as in ``"pytorch.module"``: recorded in every manifest, so
            it never changes. The part before the first dot is the adapter's name.
        formats: the formats it writes; the first is the default.
        types: dotted names of the types it handles, for people.
        conversions: other forms in which what was saved in a format can be given back.
        accepts: members of `LoadOptions` that `load` heeds; others are refused when given.
    """

    key: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    types: ClassVar[tuple[str, ...]] = ()
    conversions: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    accepts: ClassVar[frozenset[str]] = frozenset({"into", "device"})

    def can_save(self, obj: Any, format: str, described_with: Mapping[str, Any]) -> bool:
        """Tell whether a format is possible where it is preferred, rather than asked for.

        Args:
            obj: what `detect` recognised.
            format: one of `formats`.
            described_with: as in `SaveOptions`.
        """
        return True

    @abstractmethod
    def save(self, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
        """Write the object as files into an empty folder.

        The same content has to give the same bytes: its digest is the object's identity.
        """

    @abstractmethod
    def load(self, saved: Saved, options: LoadOptions) -> Any:
        """Give the object back. Runs no code from the files, nor any that isn't trusted.

        Raises:
            UntrustedDataError: when it would have to; the error lists all that it needs.
            MaterializationError: when the files can't be turned into the object.
        """

    def is_spread(self, obj: Any) -> bool:
        """Tell whether other processes hold parts of an object, so that all save it together.

        Each of them is then told of the others by `SaveOptions.group`. What `save` returns counts
        where the rank is 0, and there alone files may be handed to `SaveOptions.done`.
        """
        return False

    def digests(self, obj: Any, format: str) -> Sequence[str] | Mapping[str, str] | None:
        """Return what makes up the content of an object, writing nothing; None if that can't be.

        It has to be what `save` would come to: the digests that `SaveResult.content` stands for,
        in order; or, where all files together are the content, their digests by path. Without it
        flowyml saves into a temporary folder to recognise an object, which takes longer.

        Args:
            obj: what `detect` recognised.
            format: one of `formats`.

        Raises:
            MaterializationError: when the object can't be saved in that format.
        """
        return None

    def settings(self, obj: Any) -> Mapping[str, Any]:
        """Return what a record of a run should say about an object besides its content.

        Such as an optimizer's class and learning rate, or a loader's batch size; JSON-able.
        """
        return {}

    def parts(self, obj: Any) -> Collection[Hashable]:
        """Return what tells whether an object has memory or objects in common with another one.

        Such as the ids of the tensors in an optimizer and in its model. Arguments of a step that
        have one of these in common are kept together, or they would have none when a run is
        repeated: as a dict of them, which a materializer has to handle.
        """
        return ()

    def compare(self, before: Saved, after: Saved) -> Sequence[Change] | None:
        """Return how two saved objects differ, value by value; None if that isn't known.

        Both were written by this materializer. Values that are equal are left out. Runs no code
        from the files.
        """
        return None

    def blame(self, saved: Saved, path: str) -> str | None:
        """Name what is lost of the object because one of its files is damaged, or None.

        Nothing about the files is checked here. The framework must not be imported.
        """
        return None


class RandomSource(ABC):
    """One library's random state, which a seed has to reach.

    Attributes:
        name: the library's name.
    """

    name: ClassVar[str]

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Seed the generators; nothing when the library isn't imported."""

    @abstractmethod
    def state(self) -> Any:
        """Return the generators' state, for `restore`."""

    @abstractmethod
    def restore(self, state: Any) -> None:
        """Put the generators back into a state that `state` returned."""

    def pack(self, state: Any) -> bytes | None:
        """Return a state as bytes for a run's record, equal for equal states; None if unknown."""
        return None

    def unpack(self, data: bytes) -> Any:
        """Return the state that `pack` was given. Runs no code from the data.

        Raises:
            ValueError: when it is something else.
        """
        raise ValueError(f"the random source {self.name!r} has no packed states")

    def make_deterministic(self) -> Sequence[str]:
        """Make the library compute the same every time, for good; return in words what changed."""
        return ()


@attrs.frozen(eq=False)
class Job:
    """What a launcher starts in every process of a group.

    Attributes:
        name: the step's name, for messages.
        command: the command line of each process. It joins the group with `Launcher.join` of the
            adapter's registered launcher, so whatever that has to know goes by the environment.
        environment: variables that each process needs besides those of this one.
        folder: a folder that all processes see, and that is removed afterwards.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path


class Launcher(ABC):
    """Runs a step in several processes at once, of which rank 0 returns the result.

    One instance, with defaults, is registered. Users give steps others: ``@step(launcher=...)``.

    Attributes:
        name: the launcher's name.
    """

    name: ClassVar[str]

    @abstractmethod
    def launch(self, job: Job) -> None:
        """Run a job in a new group of processes, and return when all of them have ended.

        Whatever happens to this process, none of them is left.

        Raises:
            LaunchError: when they can't be started, or naming the process that failed first.
        """

    @abstractmethod
    def is_launched(self) -> bool:
        """Tell whether this process was started as one of a group, or has joined one.

        By this launcher, or by another program that starts groups of the same kind. The framework
        must not be imported.
        """

    @abstractmethod
    def join(self) -> AbstractContextManager[Group]:
        """Join the group that this process was started in, for the time of a with block.

        The framework can communicate then, and uses the device. What was set up already before
        stays when the block ends.

        Raises:
            LaunchError: when the others can't be found.
        """

    def group(self) -> Group | None:
        """Return the group that this process has joined; None when there is none.

        The framework must not be imported.
        """
        return None

    def leads(self) -> bool:
        """Tell whether this process keeps the record, of those on several machines that launch."""
        return True

    def unwrapped(self, obj: Any) -> Any:
        """Return an object free of what binds it to the group, where nothing has to be moved.

        Such as the model in what keeps its copies in all processes alike. It is what a step gives
        back in a group that was started before; any other object is returned as it is.
        """
        return obj

    def device(self) -> str | None:
        """Return where a process computes that is alone; None as long as that isn't known.

        The framework must not be imported.
        """
        return None

    def settings(self) -> Mapping[str, Any]:
        """Return what a record should say about how it launches; JSON-able."""
        return {}
